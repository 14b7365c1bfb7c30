/* Chunked SSD of whole rows, forward and backward, on top of `chunk.h`.
 *
 * A piece of work is a row and some heads of one group, chunk after chunk. Where rows and groups are few, a group's heads are
 * cut into `parts`, each of which computes the group's scores for itself; backward, each part then has its own gradient of
 * B and C, and they are added up in order at the end. The number of parts depends on the shapes alone, so the number of
 * threads changes no result.
 */
#include "chunk.h"
#include "numbers.h"
#include "rows.h"
#include "threads.h"

/* A tensor [B, T, ...] whose innermost dimensions are contiguous: strides count numbers. */
typedef struct {
    const void *at;
    int64_t batch, time, half; /* strides, and whether the numbers are bfloat16 */
} stream;

typedef struct {
    team by;
    int64_t batch, time, heads, width, groups, size, chunk, parts;
    stream x, B, C;             /* [B, T, H, P], twice [B, T, G, N] */
    const float *dt, *A, *D;    /* [B, T, H], [H], [H] or null */
    const float *initial;       /* [B, H, P, N] or null */
    stream y;                   /* like x */
    float *final;               /* [B, H, P, N] */
    float *states;              /* [B, chunks, H, N, P padded] before each chunk, without the first where it is zero; or null */
    stream dy, dx;              /* like x */
    const float *d_final;       /* or null */
    float *d_dt, *d_initial;    /* d_initial may be null */
    float *dA, *dD;             /* [B, H] */
    float *dB, *dC;             /* [parts, B, T, G, N] */
    float *scratch;
} ssd_job;

static numbers at_token(const stream *s, int64_t row, int64_t token, int64_t column)
{
    return numbers_at(s->at, s->half, row * s->batch + token * s->time + column);
}

/* The scratch of one thread. */
typedef struct {
    ssd_group group;
    ssd_group_gradient sums;
    ssd_head head;
    float *turned, *dB, *dC;
    float *carry; /* [H, N, P] of the heads of a part */
} desk;

static int64_t heads_of_part(const ssd_job *job)
{
    int64_t heads = job->heads / job->groups;
    return (heads + job->parts - 1) / job->parts;
}

static desk take_desk(room *scratch, const ssd_job *job, int backward)
{
    ssd_shape shape = ssd_shape_of(job->chunk, job->width, job->size);
    desk d = {.group = ssd_group_take(scratch, &shape), .head = ssd_head_take(scratch, &shape, backward)};
    d.turned = take(scratch, shape.size_row * shape.chunk_row);
    d.carry = take(scratch, heads_of_part(job) * job->size * shape.width_row);
    if (backward) {
        d.sums = ssd_group_gradient_take(scratch, &shape);
        d.dB = take(scratch, shape.chunk_row * shape.size_row);
        d.dC = take(scratch, shape.chunk_row * shape.size_row);
    }
    return d;
}

static int64_t desk_floats(const ssd_job *job, int backward)
{
    room probe = {0};
    take_desk(&probe, job, backward);
    return probe.used;
}

/* A piece of work: heads [first, end) of a group in a row. */
typedef struct {
    const ssd_job *job;
    ssd_shape shape;
    desk d;
    int64_t row, group, part, first, end, start; /* start: first token of the chunk at work */
} span;

static span span_of(const ssd_job *job, int64_t index, int64_t thread, int backward)
{
    int64_t heads = job->heads / job->groups;
    room mine = {job->scratch + thread * desk_floats(job, backward), 0};
    span s = {.job = job, .shape = ssd_shape_of(job->chunk, job->width, job->size), .d = take_desk(&mine, job, backward)};
    s.part = index % job->parts;
    s.group = index / job->parts % job->groups;
    s.row = index / job->parts / job->groups;
    s.first = s.group * heads + heads * s.part / job->parts;
    s.end = s.group * heads + heads * (s.part + 1) / job->parts;
    return s;
}

static float *carry_of(const span *s, int64_t head)
{
    return s->d.carry + (head - s->first) * s->job->size * s->shape.width_row;
}

/* Goes to a chunk: B, C and their scores. */
static void enter_chunk(span *s, int64_t chunk)
{
    const ssd_job *job = s->job;
    ssd_group *group = &s->d.group;
    s->start = chunk * job->chunk;
    group->tokens = job->time - s->start < job->chunk ? job->time - s->start : job->chunk;
    group->row = padded(group->tokens);
    take_rows(at_token(&job->B, s->row, s->start, s->group * job->size), job->B.time, group->tokens, job->size, group->B,
              s->shape.size_row);
    take_rows(at_token(&job->C, s->row, s->start, s->group * job->size), job->C.time, group->tokens, job->size, group->C,
              s->shape.size_row);
    ssd_scores(&s->shape, group, s->d.turned);
}

/* The outputs of a head on the chunk at work. */
static void head_output(span *s, int64_t h, const float *state)
{
    const ssd_job *job = s->job;
    for (int64_t i = 0; i < s->d.group.tokens; i++)
        s->d.head.dt[i] = job->dt[(s->row * job->time + s->start + i) * job->heads + h];
    take_rows(at_token(&job->x, s->row, s->start, h * job->width), job->x.time, s->d.group.tokens, job->width, s->d.head.x,
              s->shape.width_row);
    ssd_output(&s->shape, &s->d.group, &s->d.head, job->A[h], job->D ? job->D[h] : 0.0f, state);
}

/* The state before a chunk as the forward pass kept it; null where it is zero. */
static float *kept_state(const span *s, int64_t chunk, int64_t h)
{
    const ssd_job *job = s->job;
    int64_t chunks = (job->time + job->chunk - 1) / job->chunk, skipped = job->initial ? 0 : 1;
    if (chunk < skipped)
        return 0;
    return job->states + ((s->row * (chunks - skipped) + chunk - skipped) * job->heads + h) * job->size *
                             s->shape.width_row;
}

/* A state from the layout outside, [P, N], and back. */
static void enter_state(const span *s, const float *from, int64_t h)
{
    const ssd_job *job = s->job;
    float *to = carry_of(s, h);
    memset(to, 0, (size_t)(job->size * s->shape.width_row) * sizeof(float));
    transpose(job->width, job->size, from + (s->row * job->heads + h) * job->width * job->size, job->size, to,
              s->shape.width_row);
}

static void leave_state(const span *s, float *to, int64_t h)
{
    const ssd_job *job = s->job;
    transpose(job->size, job->width, carry_of(s, h), s->shape.width_row,
              to + (s->row * job->heads + h) * job->width * job->size, job->size);
}

static void forward_piece(int64_t index, int64_t thread, void *data)
{
    const ssd_job *job = data;
    span s = span_of(job, index, thread, 0);
    int64_t width = s.shape.width_row, floats = job->size * width;
    for (int64_t h = s.first; h < s.end && job->initial; h++)
        enter_state(&s, job->initial, h);
    for (int64_t chunk = 0; chunk * job->chunk < job->time; chunk++) {
        enter_chunk(&s, chunk);
        for (int64_t h = s.first; h < s.end; h++) {
            int zero = chunk == 0 && !job->initial;
            float *state = carry_of(&s, h);
            ssd_head *head = &s.d.head;
            if (job->states && !zero)
                memcpy(kept_state(&s, chunk, h), state, (size_t)floats * sizeof(float));
            head_output(&s, h, zero ? 0 : state);
            for (int64_t i = 0; i < s.d.group.tokens; i++)
                for (int64_t p = i * width; p < (i + 1) * width; p += LANES)
                    store(head->y + p, load(head->y + p) + head->own[i] * load(head->x + p));
            give_rows(head->y, width, s.d.group.tokens, job->width, at_token(&job->y, s.row, s.start, h * job->width),
                      job->y.time);
            ssd_advance(&s.shape, &s.d.group, head, state, zero);
        }
    }
    for (int64_t h = s.first; h < s.end; h++)
        leave_state(&s, job->final, h);
}

static void backward_piece(int64_t index, int64_t thread, void *data)
{
    const ssd_job *job = data;
    span s = span_of(job, index, thread, 1);
    int64_t width = s.shape.width_row, chunks = (job->time + job->chunk - 1) / job->chunk;
    for (int64_t h = s.first; h < s.end; h++) {
        job->dA[s.row * job->heads + h] = job->dD[s.row * job->heads + h] = 0.0f;
        if (job->d_final)
            enter_state(&s, job->d_final, h);
    }
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        int behind = job->d_final || chunk + 1 < chunks, before = job->initial || chunk > 0;
        enter_chunk(&s, chunk);
        for (int64_t h = s.first; h < s.end; h++) {
            ssd_head *head = &s.d.head;
            float dA = 0.0f, dD = 0.0f, *state = kept_state(&s, chunk, h);
            head_output(&s, h, state);
            take_rows(at_token(&job->dy, s.row, s.start, h * job->width), job->dy.time, s.d.group.tokens, job->width,
                      head->dy, width);
            ssd_backward(&s.shape, &s.d.group, head, job->A[h], state, carry_of(&s, h), behind, &s.d.sums, h == s.first,
                         &dA, &dD);
            job->dA[s.row * job->heads + h] += dA;
            job->dD[s.row * job->heads + h] += dD;
            give_rows(head->dx, width, s.d.group.tokens, job->width, at_token(&job->dx, s.row, s.start, h * job->width),
                      job->dx.time);
            for (int64_t i = 0; i < s.d.group.tokens; i++)
                job->d_dt[(s.row * job->time + s.start + i) * job->heads + h] = head->d_dt[i];
        }
        ssd_group_backward(&s.shape, &s.d.group, &s.d.sums, behind, before, s.d.dB, s.d.dC);
        int64_t row = job->groups * job->size;
        int64_t at = ((s.part * job->batch + s.row) * job->time + s.start) * row + s.group * job->size;
        give_rows(s.d.dB, s.shape.size_row, s.d.group.tokens, job->size, numbers_at(job->dB, 0, at), row);
        give_rows(s.d.dC, s.shape.size_row, s.d.group.tokens, job->size, numbers_at(job->dC, 0, at), row);
    }
    for (int64_t h = s.first; h < s.end && job->d_initial; h++)
        leave_state(&s, job->d_initial, h);
}

/* The gradients of B and C of all parts, added up in the first; a row. */
static void add_parts(int64_t row, int64_t thread, void *data)
{
    (void)thread;
    const ssd_job *job = data;
    int64_t floats = job->time * job->groups * job->size;
    for (int64_t part = 1; part < job->parts; part++) {
        float *dB = job->dB + row * floats, *dC = job->dC + row * floats;
        const float *more_B = dB + part * job->batch * floats, *more_C = dC + part * job->batch * floats;
        for (int64_t i = 0; i < floats; i++) {
            dB[i] += more_B[i];
            dC[i] += more_C[i];
        }
    }
}

/* Numbers of scratch for all threads, and of one row of a state in `states`. */
void ssd_sizes(const ssd_job *job, int64_t backward, int64_t *sizes)
{
    sizes[0] = job->by.threads * desk_floats(job, (int)backward);
    sizes[1] = padded(job->width);
}

void ssd_forward(const ssd_job *job)
{
    share(&job->by, job->batch * job->groups * job->parts, forward_piece, (void *)job);
}

/* dA and dD of all rows are added up, in order, in the first. */
void ssd_backward_all(const ssd_job *job)
{
    share(&job->by, job->batch * job->groups * job->parts, backward_piece, (void *)job);
    share(&job->by, job->batch, add_parts, (void *)job);
    for (int64_t row = 1; row < job->batch; row++)
        for (int64_t h = 0; h < job->heads; h++) {
            job->dA[h] += job->dA[row * job->heads + h];
            job->dD[h] += job->dD[row * job->heads + h];
        }
}
