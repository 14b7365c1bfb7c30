/* Shares the work of a kernel among threads, by the caller's own means of starting them (`native/threads.py`). */
#ifndef LENGTHWISE_THREADS_H
#define LENGTHWISE_THREADS_H

#include <stdint.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

/* Calls body(data) on `count` threads at once, the calling one among them, and returns when all have ended. */
typedef void (*start_threads)(void (*body)(void *), void *data, unsigned count, unsigned flags);

/* What a kernel is told of threads. `start` may be null where `threads` is 1. */
typedef struct {
    start_threads start;
    int64_t threads;
} team;

/* One piece of work: its index, and the number of the thread, below `threads`, for a scratch of its own. */
typedef void (*piece)(int64_t index, int64_t thread, void *data);

typedef struct {
    piece work;
    void *data;
    int64_t count, next, threads;
} shared_work;

/* Numbers below 1e-38 count as 0 while a kernel runs, for x86 works on them up to a hundred times more slowly. Other
 * processors keep them, at no cost. */
__attribute__((unused)) static unsigned tiny_numbers_are_zero(void)
{
#if defined(__SSE__)
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
    return before;
#else
    return 0;
#endif
}

__attribute__((unused)) static void restore_numbers(unsigned before)
{
#if defined(__SSE__)
    _mm_setcsr(before);
#else
    (void)before;
#endif
}

__attribute__((unused)) static void shared_body(void *data)
{
    unsigned numbers = tiny_numbers_are_zero();
    shared_work *all = data;
    int64_t thread = __atomic_fetch_add(&all->threads, 1, __ATOMIC_RELAXED);
    int64_t index;
    while ((index = __atomic_fetch_add(&all->next, 1, __ATOMIC_RELAXED)) < all->count)
        all->work(index, thread, all->data);
    restore_numbers(numbers);
}

/* Calls work(index) for every index below `count`; each thread takes the next one when it is free. What a piece computes
 * must not depend on the order of the pieces; then the number of threads changes no result. */
__attribute__((unused)) static void share(const team *by, int64_t count, piece work, void *data)
{
    shared_work all = {work, data, count, 0, 0};
    /* All threads or one: a library that is asked for fewer than before ends the others. */
    if (by->threads > 1 && count > 1)
        by->start(shared_body, &all, (unsigned)by->threads, 0);
    else
        shared_body(&all);
}

#endif
