/* Causal depthwise convolution of whole rows, forward and backward, on top of `piece.h`.
 *
 * Rows are cut into parts of BLOCK tokens. Backward a part computes the slope of silu again, also for the W - 1 tokens behind
 * it. A piece of work is a number of parts, at most PIECES of them in all, whatever the number of threads; it has sums of
 * its own for filter and bias, which are added up in order at the end.
 */
#include "numbers.h"
#include "piece.h"
#include "rows.h"
#include "threads.h"

#define BLOCK 256
#define PIECES 64

typedef struct {
    team by;
    int64_t batch, time, channels, taps;
    int64_t x_batch, x_time; /* strides of x */
    int64_t half;            /* whether x, y and their gradients are bfloat16 */
    int64_t silu;
    const void *x;           /* [B, T, C] */
    const float *state;      /* [B, W-1, C] or null */
    const float *weight;     /* [W, C] */
    const float *bias;       /* [C] or null */
    void *y;                 /* [B, T, C] */
    const void *dy;          /* [B, T, C] */
    void *dx;                /* [B, T, C] */
    float *d_state;          /* [B, W-1, C] or null */
    float *sums;             /* for every piece [W + 1, C]: filter, then bias */
    float *scratch;
} conv_job;

static int64_t parts_of(const conv_job *job) { return (job->time + BLOCK - 1) / BLOCK; } /* of a row */

static int64_t pieces_of(const conv_job *job)
{
    int64_t parts = job->batch * parts_of(job);
    return parts < PIECES ? parts : PIECES;
}

/* Inputs of a row from token `first`, which may lie before the row, on: `tokens` rows of C numbers. */
static void inputs(const conv_job *job, int64_t row, int64_t first, int64_t tokens, float *to)
{
    int64_t before = job->taps - 1, channels = job->channels;
    for (; tokens && first < 0; first++, tokens--, to += channels)
        if (job->state)
            memcpy(to, job->state + (row * before + before + first) * channels, (size_t)channels * sizeof(float));
        else
            memset(to, 0, (size_t)channels * sizeof(float));
    take_rows(numbers_at(job->x, job->half, row * job->x_batch + first * job->x_time), job->x_time, tokens, channels, to,
              channels);
}

typedef struct {
    float *input, *y, *slope, *d, *dx;
} desk;

static desk take_desk(room *scratch, const conv_job *job)
{
    int64_t most = job->time < BLOCK ? job->time : BLOCK, before = job->taps - 1, channels = job->channels;
    desk d;
    d.input = take(scratch, (most + 2 * before) * channels);
    d.y = take(scratch, (most + before) * channels);
    d.slope = take(scratch, (most + before) * channels);
    d.d = take(scratch, (most + 2 * before) * channels);
    d.dx = take(scratch, most * channels);
    return d;
}

static int64_t desk_floats(const conv_job *job)
{
    room probe = {0};
    take_desk(&probe, job);
    return probe.used;
}

static void forward_part(const conv_job *job, desk d, int64_t index)
{
    int64_t row = index / parts_of(job), first = index % parts_of(job) * BLOCK, channels = job->channels;
    int64_t tokens = job->time - first < BLOCK ? job->time - first : BLOCK, before = job->taps - 1;
    inputs(job, row, first - before, tokens + before, d.input);
    conv_piece(tokens, channels, job->taps, d.input, channels, job->weight, channels, job->bias, (int)job->silu, d.y,
               channels, 0);
    give_rows(d.y, channels, tokens, channels, numbers_at(job->y, job->half, (row * job->time + first) * channels),
              channels);
}

static void backward_part(const conv_job *job, desk at, int64_t index, float *sum)
{
    int64_t row = index / parts_of(job), first = index % parts_of(job) * BLOCK, channels = job->channels;
    int64_t tokens = job->time - first < BLOCK ? job->time - first : BLOCK, before = job->taps - 1;
    int64_t behind = job->time - first - tokens < before ? job->time - first - tokens : before;
    float *d = at.d + before * channels;
    inputs(job, row, first - before, tokens + behind + before, at.input);
    take_rows(numbers_at(job->dy, job->half, (row * job->time + first) * channels), channels, tokens + behind, channels, d,
              channels);
    memset(at.d, 0, (size_t)(before * channels) * sizeof(float));
    memset(d + (tokens + behind) * channels, 0, (size_t)((before - behind) * channels) * sizeof(float));
    if (job->silu) {
        conv_piece(tokens + behind, channels, job->taps, at.input, channels, job->weight, channels, job->bias, 1, at.y,
                   channels, at.slope);
        for (int64_t i = 0; i < (tokens + behind) * channels; i++)
            d[i] *= at.slope[i];
    }
    conv_piece_input(tokens, channels, job->taps, d, channels, job->weight, channels, at.dx, channels);
    give_rows(at.dx, channels, tokens, channels, numbers_at(job->dx, job->half, (row * job->time + first) * channels),
              channels);
    conv_piece_filter(tokens, channels, job->taps, d, channels, at.input, channels, sum, channels,
                      sum + job->taps * channels);
    if (first == 0 && job->d_state)
        conv_piece_input(before, channels, job->taps, at.d, channels, job->weight, channels,
                         job->d_state + row * before * channels, channels);
}

static void forward_piece(int64_t index, int64_t thread, void *data)
{
    const conv_job *job = data;
    room mine = {job->scratch + thread * desk_floats(job), 0};
    desk d = take_desk(&mine, job);
    int64_t parts = job->batch * parts_of(job), pieces = pieces_of(job);
    for (int64_t part = parts * index / pieces; part < parts * (index + 1) / pieces; part++)
        forward_part(job, d, part);
}

static void backward_piece(int64_t index, int64_t thread, void *data)
{
    const conv_job *job = data;
    room mine = {job->scratch + thread * desk_floats(job), 0};
    desk d = take_desk(&mine, job);
    int64_t parts = job->batch * parts_of(job), pieces = pieces_of(job), floats = (job->taps + 1) * job->channels;
    memset(job->sums + index * floats, 0, (size_t)floats * sizeof(float));
    for (int64_t part = parts * index / pieces; part < parts * (index + 1) / pieces; part++)
        backward_part(job, d, part, job->sums + index * floats);
}

/* Numbers of scratch for all threads, and pieces. */
void conv_sizes(const conv_job *job, int64_t *sizes)
{
    sizes[0] = job->by.threads * desk_floats(job);
    sizes[1] = pieces_of(job);
}

void conv_forward(const conv_job *job) { share(&job->by, pieces_of(job), forward_piece, (void *)job); }

/* The sums of all pieces are added up, in order, in the first. */
void conv_backward(const conv_job *job)
{
    int64_t pieces = pieces_of(job), floats = (job->taps + 1) * job->channels;
    share(&job->by, pieces, backward_piece, (void *)job);
    for (int64_t piece = 1; piece < pieces; piece++)
        for (int64_t i = 0; i < floats; i++)
            job->sums[i] += job->sums[piece * floats + i];
}
