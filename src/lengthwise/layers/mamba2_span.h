/* What both passes of `mamba2.c` share: the job, the memory of a span of chunks and of a thread, and the first phases. */
#ifndef LENGTHWISE_MAMBA2_SPAN_H
#define LENGTHWISE_MAMBA2_SPAN_H

#include "../ops/conv/piece.h"
#include "../ops/ssd/chunk.h"
#include "numbers.h"
#include "rows.h"
#include "threads.h"

#define HEAD_BLOCKS 8 /* a group's heads are summed in at most so many parts, each of which one thread can take */

typedef struct {
    team by;
    int64_t batch, time, heads, width, groups, size, taps, chunk; /* B, T, H, P, G, N, W, Q */
    int64_t half;     /* whether projected, out and their gradients are bfloat16 */
    int64_t blocks;   /* of rows, for the sums over rows */
    int64_t span;     /* chunks that the threads share at a time, 0 where each takes rows of its own; 1 with readers */
    float eps, dt_least, dt_most;
    const void *projected;    /* [B, T, E], E = 2 H P + 2 G N + H: z, x, B, C, dt */
    const float *dt_bias;     /* [H] */
    const uint8_t *real;      /* [B, T]: 0 at padding, whose dt is 0; or null */
    const float *conv_weight; /* [W, C], C = H P + 2 G N */
    const float *conv_bias;   /* [C] or null */
    const float *A, *D;       /* [H]; D may be null */
    const float *norm_weight; /* [H P] */
    const float *conv_state;  /* [B, W-1, C] or null */
    const float *ssm_state;   /* [B, H, P, N] or null */
    void *out;                /* [B, T, H P] */
    float *final;             /* [B, H, P, N] */
    float *states;            /* before each chunk, the first left out where it is zero; null where no gradient is wanted */
    float *r;                 /* [B, T, G], or null with `states` */
    const void *d_out;
    const float *d_final;     /* or null */
    void *d_projected;
    float *d_conv_state, *d_ssm_state; /* or null */
    float *sums;              /* [blocks, K] for the gradients of conv_weight, conv_bias, norm_weight, A, D and dt's bias */
    float *scratch;

    /* Reading: the whole layer without gradients, from the residual stream to the residual stream. Then `projected` and `out`
     * are not used. */
    int64_t model_width;      /* D; 0 where this is not reading */
    int64_t readers;          /* rows that all read the one row of inputs, each from a state of its own; 0 for none */
    int64_t silent;           /* no outputs, the states alone */
    int64_t from_time, to_time; /* tokens from one row of the residual stream to the next */
    float block_eps;
    const float *residual;    /* [B, T, D] */
    float *added;             /* [B or readers, T, D]: the residual stream with the outputs added; null where silent */
    const float *block_weight; /* [D] of the norm before the layer */
    const float *in_weight, *in_bias;   /* [E, D], [E] or null; without the rows of z where silent */
    const float *out_weight, *out_bias; /* [D, H P], [D] or null */
    float *next_conv;         /* [B, W-1, C] */
    float *panels;            /* scratch of both weights */
} mamba2_job;

/* What the heads share on a span of S tokens, a number of chunks. */
typedef struct {
    ssd_shape shape;
    int64_t inner, shared, channels, projected, x_at; /* H P, G N or 2 G N, C, E, the column of x in E */
    int64_t head_blocks, group_floats, sums_floats, head_floats;
    float *weight;   /* [H, P], of the norm, padded */
    float *made;     /* [W-1 + S, E] where reading: the projection, tokens before the span first */
    float *dt;       /* [S, H] after bias, softplus, limits and padding */
    float *raw;      /* [W-1 + S, shared]: B and C before the convolution, tokens before the span first */
    float *active;   /* [S, shared] after silu */
    float *groups;   /* an ssd_group for every chunk and group */
    float *turned;   /* scratch of `ssd_scores`, for every chunk */
    float *carry;    /* [H, N, P]: state, or its gradient; for every reader */
    float *gated;    /* [S, H, P], padded */
    float *squares;  /* [S, H] */
    float *heads;    /* a shared_head for every head, where there are readers */
    float *d_active; /* [W-1 + S + W-1, shared], from here on backward: the slope of silu, then the gradient before it */
    float *d_raw;    /* [S, shared] */
    float *behind;   /* [H, W-1, P]: of x, the gradient before silu of the tokens behind the chunk at work */
    float *dt_slope, *d_dt; /* [S, H]: derivative of dt by its projection, and the gradient of the latter */
    float *d_group;  /* [Q, N] twice for every chunk */
    float *norm;     /* [S, G] */
    float *row;      /* [H P] twice for every chunk */
    float *sums;     /* an ssd_group_gradient for every chunk, group and block of heads */
} area;

/* Of one thread. */
typedef struct {
    ssd_head head;
    float *raw;      /* [W-1 + Q, P]: x before the convolution */
    float *z, *d_out;
    float *d_active; /* [W-1 + Q + W-1, P]: of x, the slope of silu, then the gradient before it */
    float *d_raw;    /* [Q, P] */
    float *sum;      /* [P] */
    float *read, *gated, *squares; /* [Q, P], [Q, H, P] and [Q, H], where there are readers */
    float *u, *out;  /* [Q, D] and [Q, H P], where reading */
} slot;

/* What all readers of one input share of a head on a chunk. */
typedef struct {
    float *from_start, *y, *open, *state; /* [Q], [Q, P] outputs from a zero state, [Q, P] silu(z), [N, P] */
} shared_head;

static shared_head take_shared_head(room *scratch, const ssd_shape *shape)
{
    shared_head head;
    head.from_start = take(scratch, shape->chunk_row);
    head.y = take(scratch, shape->chunk_row * shape->width_row);
    head.open = take(scratch, shape->chunk_row * shape->width_row);
    head.state = take(scratch, shape->size * shape->width_row);
    return head;
}

/* Columns of the projection: z, x, B, C, dt, or all but z. */
static int64_t projected_columns(const mamba2_job *job)
{
    return (job->silent ? 1 : 2) * job->heads * job->width + 2 * job->groups * job->size + job->heads;
}

static area take_area(room *scratch, const mamba2_job *job, int64_t chunks, int backward)
{
    area a = {.shape = ssd_shape_of(job->chunk, job->width, job->size)};
    int64_t tokens = chunks * job->chunk, per_group = job->heads / job->groups, before = job->taps - 1;
    int64_t rows = job->readers ? job->readers : 1;
    a.inner = job->heads * job->width;
    a.shared = (job->silent ? 1 : 2) * job->groups * job->size;
    a.channels = a.inner + 2 * job->groups * job->size;
    a.x_at = job->silent ? 0 : a.inner;
    a.projected = projected_columns(job);
    a.head_blocks = per_group < HEAD_BLOCKS ? per_group : HEAD_BLOCKS;
    room group = {0}, sums = {0}, head = {0};
    take_shared_head(&head, &a.shape);
    a.head_floats = head.used;
    ssd_group_take(&group, &a.shape);
    ssd_group_gradient_take(&sums, &a.shape);
    a.group_floats = group.used;
    a.sums_floats = sums.used;

    a.weight = take(scratch, job->heads * a.shape.width_row);
    if (job->model_width)
        a.made = take(scratch, (before + tokens) * a.projected);
    a.dt = take(scratch, tokens * job->heads);
    a.raw = take(scratch, (before + tokens) * a.shared);
    a.active = take(scratch, tokens * a.shared);
    a.groups = take(scratch, chunks * job->groups * a.group_floats);
    a.turned = take(scratch, chunks * a.shape.size_row * a.shape.chunk_row);
    a.carry = take(scratch, rows * job->heads * job->size * a.shape.width_row);
    if (!backward) {
        a.gated = take(scratch, tokens * job->heads * a.shape.width_row);
        a.squares = take(scratch, tokens * job->heads);
        if (job->readers)
            a.heads = take(scratch, job->heads * a.head_floats);
    } else {
        a.d_active = take(scratch, (2 * before + tokens) * a.shared);
        a.d_raw = take(scratch, tokens * a.shared);
        a.behind = take(scratch, job->heads * before * a.shape.width_row);
        a.dt_slope = take(scratch, tokens * job->heads);
        a.d_dt = take(scratch, tokens * job->heads);
        a.d_group = take(scratch, chunks * 2 * a.shape.chunk_row * a.shape.size_row);
        a.norm = take(scratch, tokens * job->groups);
        a.row = take(scratch, chunks * 2 * a.inner);
        /* With rows of its own a thread holds the sum and the block at work. */
        a.sums = take(scratch, (job->span ? chunks * job->groups * a.head_blocks : 2) * a.sums_floats);
    }
    return a;
}

static slot take_slot(room *scratch, const mamba2_job *job, int backward)
{
    ssd_shape shape = ssd_shape_of(job->chunk, job->width, job->size);
    int64_t before = job->taps - 1, width = shape.width_row;
    slot s = {.head = ssd_head_take(scratch, &shape, backward)};
    s.raw = take(scratch, (before + shape.chunk) * width);
    s.z = take(scratch, shape.chunk * width);
    if (backward) {
        s.d_out = take(scratch, shape.chunk * width);
        s.d_active = take(scratch, (2 * before + shape.chunk) * width);
        s.d_raw = take(scratch, shape.chunk * width);
        s.sum = take(scratch, width);
    }
    if (job->readers) {
        s.read = take(scratch, shape.chunk * width);
        s.gated = take(scratch, shape.chunk * job->heads * width);
        s.squares = take(scratch, shape.chunk * job->heads);
    }
    if (job->model_width) {
        s.u = take(scratch, shape.chunk * job->model_width);
        s.out = take(scratch, shape.chunk * job->heads * job->width);
    }
    return s;
}

/* Where the sums for a block of rows lie. */
typedef struct {
    float *conv_weight, *conv_bias, *norm_weight, *A, *D, *dt_bias;
} layer_sums;

static layer_sums sums_in(const mamba2_job *job, room *block)
{
    int64_t inner = job->heads * job->width, channels = inner + 2 * job->groups * job->size;
    layer_sums s;
    s.conv_weight = take(block, job->taps * channels);
    s.conv_bias = take(block, channels);
    s.norm_weight = take(block, inner);
    s.A = take(block, job->heads);
    s.D = take(block, job->heads);
    s.dt_bias = take(block, job->heads);
    return s;
}

static int64_t sums_floats(const mamba2_job *job)
{
    room block = {0};
    sums_in(job, &block);
    return block.used;
}

/* A span of a row at work: what every phase needs. */
typedef struct {
    const mamba2_job *job;
    area a;
    float *slots;
    int64_t slot_floats;
    int64_t row, start, tokens, chunks; /* of the span */
    int backward;
    layer_sums sums; /* of the block of rows */
} work;

static slot slot_of(const work *w, int64_t thread)
{
    room at = {w->slots + thread * w->slot_floats, 0};
    return take_slot(&at, w->job, w->backward);
}

static ssd_group group_of(const work *w, int64_t chunk, int64_t group)
{
    room at = {w->a.groups + (chunk * w->job->groups + group) * w->a.group_floats, 0};
    ssd_group g = ssd_group_take(&at, &w->a.shape);
    int64_t left = w->tokens - chunk * w->job->chunk;
    g.tokens = left < w->job->chunk ? left : w->job->chunk;
    g.row = padded(g.tokens);
    return g;
}

static shared_head shared_of(const work *w, int64_t h)
{
    room at = {w->a.heads + h * w->a.head_floats, 0};
    return take_shared_head(&at, &w->a.shape);
}

static int64_t tokens_of(const work *w, int64_t chunk)
{
    int64_t left = w->tokens - chunk * w->job->chunk;
    return left < w->job->chunk ? left : w->job->chunk;
}

/* Index of a token of the span among all tokens of all rows. */
static int64_t token_at(const work *w, int64_t token) { return w->row * w->job->time + w->start + token; }

/* A column of the projection at a token of the span. */
static numbers projected_at(const work *w, int64_t token, int64_t column)
{
    if (w->job->model_width)
        return numbers_at(w->a.made + (w->job->taps - 1 + token) * w->a.projected + column, 0, 0);
    return numbers_at(w->job->projected, w->job->half, token_at(w, token) * w->a.projected + column);
}

/* Inputs of the convolution, some channels: `tokens` of them from a token of the span on, which may be negative. */
static void fetch_inputs(const work *w, int64_t first, int64_t tokens, int64_t channel, int64_t channels, float *to,
                         int64_t to_row)
{
    const mamba2_job *job = w->job;
    int64_t before = job->taps - 1;
    /* Where reading, what lies before the row is in `made` already. */
    for (; tokens && w->start + first < 0 && !job->model_width; first++, tokens--, to += to_row) {
        int64_t row = w->row * before + before + w->start + first;
        if (job->conv_state)
            take_rows(numbers_at(job->conv_state + row * w->a.channels + channel, 0, 0), 0, 1, channels, to, to_row);
        else
            memset(to, 0, (size_t)to_row * sizeof(float));
    }
    take_rows(projected_at(w, first, w->a.x_at + channel), w->a.projected, tokens, channels, to, to_row);
}

/* dt of a chunk, and its slope. */
static void step_sizes(const work *w, int64_t chunk)
{
    const mamba2_job *job = w->job;
    int64_t first = chunk * job->chunk, heads = job->heads;
    vec least = spread(job->dt_least), most = spread(job->dt_most);
    for (int64_t i = first; i < first + tokens_of(w, chunk); i++) {
        int64_t at = token_at(w, i);
        float *dt = w->a.dt + i * heads, *slope = w->backward ? w->a.dt_slope + i * heads : 0;
        int real = !job->real || job->real[at];
        take_rows(projected_at(w, i, w->a.x_at + w->a.channels), 0, 1, heads, dt, heads);
        for (int64_t h = 0; h < heads; h += LANES) {
            int64_t n = heads - h;
            vec raw = load_some(dt + h, n) + load_some(job->dt_bias + h, n), step = softplus_v(raw);
            ivec low = step < least, high = step > most;
            if (slope)
                store_some(slope + h, real ? choose(low | high, spread(0.0f), sigmoid_v(raw)) : spread(0.0f), n);
            store_some(dt + h, real ? choose(low, least, choose(high, most, step)) : spread(0.0f), n);
        }
    }
}

/* Phase 1: dt, and the inputs of the convolution that makes B and C of a chunk; for the first chunk also those before the
 * span. */
static void fetch(int64_t chunk, int64_t thread, void *data)
{
    (void)thread;
    const work *w = data;
    int64_t before = w->job->taps - 1, first = chunk * w->job->chunk, earlier = chunk ? 0 : before;
    step_sizes(w, chunk);
    fetch_inputs(w, first - earlier, tokens_of(w, chunk) + earlier, w->a.inner, w->a.shared,
                 w->a.raw + (before + first - earlier) * w->a.shared, w->a.shared);
}

/* Phase 2: B and C of a chunk and their scores. Backward, also what the norm needs. */
static void convolve(int64_t chunk, int64_t thread, void *data)
{
    (void)thread;
    const work *w = data;
    const mamba2_job *job = w->job;
    const area *a = &w->a;
    int64_t first = chunk * job->chunk, shared = a->shared, tokens = tokens_of(w, chunk);
    float *active = a->active + first * shared;
    conv_piece(tokens, shared, job->taps, a->raw + first * shared, shared, job->conv_weight + a->inner, a->channels,
               job->conv_bias ? job->conv_bias + a->inner : 0, 1, active, shared,
               w->backward ? a->d_active + (job->taps - 1 + first) * shared : 0);
    for (int64_t g = 0; g < job->groups; g++) {
        ssd_group group = group_of(w, chunk, g);
        const float *B = active + g * job->size, *C = B + job->groups * job->size;
        take_rows(numbers_at(B, 0, 0), shared, tokens, job->size, group.B, a->shape.size_row);
        if (job->silent)
            continue;
        take_rows(numbers_at(C, 0, 0), shared, tokens, job->size, group.C, a->shape.size_row);
        ssd_scores(&a->shape, &group, a->turned + chunk * a->shape.size_row * a->shape.chunk_row);
    }
    if (!w->backward)
        return;
    int64_t part = a->inner / job->groups;
    float *out = a->row + chunk * 2 * a->inner, *d_out = out + a->inner;
    for (int64_t i = 0; i < tokens; i++) {
        int64_t at = token_at(w, first + i);
        take_rows(numbers_at(job->out, job->half, at * a->inner), 0, 1, a->inner, out, a->inner);
        take_rows(numbers_at(job->d_out, job->half, at * a->inner), 0, 1, a->inner, d_out, a->inner);
        for (int64_t g = 0; g < job->groups; g++) {
            int64_t whole = part / LANES * LANES;
            float r = job->r[at * job->groups + g], sum = dot(whole, out + g * part, d_out + g * part);
            for (int64_t p = whole; p < part; p++)
                sum += out[g * part + p] * d_out[g * part + p];
            a->norm[(first + i) * job->groups + g] = r * r * sum / (float)part;
        }
    }
}

/* The state before a chunk as the forward pass kept it; null where it is zero. */
static float *kept_state(const work *w, int64_t chunk, int64_t head)
{
    const mamba2_job *job = w->job;
    int64_t chunks = (job->time + job->chunk - 1) / job->chunk, skipped = job->ssm_state ? 0 : 1;
    int64_t index = w->start / job->chunk + chunk - skipped;
    if (index < 0)
        return 0;
    return job->states + ((w->row * (chunks - skipped) + index) * job->heads + head) * job->size * w->a.shape.width_row;
}

/* dt, x and z of a head on a chunk; of x also what it is before the convolution, and, backward, the slope of silu. */
static void fetch_head(const work *w, int64_t chunk, int64_t h, const ssd_group *group, slot *s)
{
    const mamba2_job *job = w->job;
    int64_t first = chunk * job->chunk, before = job->taps - 1, width = w->a.shape.width_row, channel = h * job->width;
    for (int64_t i = 0; i < group->tokens; i++)
        s->head.dt[i] = w->a.dt[(first + i) * job->heads + h];
    fetch_inputs(w, first - before, group->tokens + before, channel, job->width, s->raw, width);
    conv_piece(group->tokens, job->width, job->taps, s->raw, width, job->conv_weight + channel, w->a.channels,
               job->conv_bias ? job->conv_bias + channel : 0, 1, s->head.x, width,
               w->backward ? s->d_active + before * width : 0);
    if (!job->silent)
        take_rows(projected_at(w, first, channel), w->a.projected, group->tokens, job->width, s->z, width);
}

/* States between the layout outside, [B, H, P, N], and that of `carry`. */
static void enter_states(const work *w, const float *from)
{
    const mamba2_job *job = w->job;
    int64_t width = w->a.shape.width_row, heads = job->heads * (job->readers ? job->readers : 1);
    from += w->row * heads * job->width * job->size;
    for (int64_t h = 0; h < heads; h++) {
        float *to = w->a.carry + h * job->size * width;
        if (width > job->width) /* zeros in the padding */
            memset(to, 0, (size_t)(job->size * width) * sizeof(float));
        transpose(job->width, job->size, from + h * job->width * job->size, job->size, to, width);
    }
}

static void leave_states(const work *w, float *to)
{
    const mamba2_job *job = w->job;
    int64_t width = w->a.shape.width_row, heads = job->heads * (job->readers ? job->readers : 1);
    to += w->row * heads * job->width * job->size;
    for (int64_t h = 0; h < heads; h++)
        transpose(job->size, job->width, w->a.carry + h * job->size * width, width, to + h * job->width * job->size,
                  job->size);
}

#endif
