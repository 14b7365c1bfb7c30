/* SSD on one chunk of tokens: what the heads of a group share, and one head, forward and backward.
 *
 * With log_decay[i] the sum of dt A over the tokens of the chunk up to i, and S the state before the chunk,
 *
 *     y[i]  = exp(log_decay[i]) S C[i]  +  sum_{j <= i} exp(log_decay[i] - log_decay[j]) (C[i] . B[j]) dt[j] x[j]  + D x[i]
 *     S'    = exp(log_decay[last]) S    +  sum_j exp(log_decay[last] - log_decay[j]) dt[j] x[j] B[j]^T
 *
 * The README derives the gradient. Every exponent is a difference that is at most 0. What a token gives to itself
 * (j = i) is kept apart: its exponent is 0 whatever the decay, and its gradient would cancel only up to rounding.
 *
 * A chunk has q tokens, a head the width P, the state N x P numbers, turned against the tensors outside. Rows of all
 * buffers are padded to whole vectors, with zeros where products sum over them. Matrices [j, i] over pairs of tokens
 * have the token that is read in the row and the one that reads in the column.
 */
#ifndef LENGTHWISE_SSD_CHUNK_H
#define LENGTHWISE_SSD_CHUNK_H

#include "numbers.h"
#include "rows.h"

/* One step decays by e^-100 at most, which is 0 in float32; a sum of longer steps would lose those that follow. */
#define SSD_LONGEST_STEP (-100.0f)

typedef struct {
    int64_t chunk, width, size;               /* most tokens of a chunk, P, N */
    int64_t chunk_row, width_row, size_row;   /* padded */
} ssd_shape;

/* What the heads of a group share on one chunk. */
typedef struct {
    int64_t tokens, row; /* q, and q padded */
    float *B, *C;        /* [q, N] */
    float *scores;       /* [q, q]: B[j] . C[i] for i >= j */
} ssd_group;

/* Gradients of what they share, summed over heads, [q, q] and twice [N, q]. */
typedef struct {
    float *scores, *B, *C;
} ssd_group_gradient;

/* One head on one chunk. */
typedef struct {
    float *dt;        /* [q] */
    float *x;         /* [q, P] */
    float *y;         /* [q, P], outputs but for own[i] x[i] */
    float *own;       /* [q]: C[i] . B[i] dt[i] + D */
    float *log_decay, *from_start, *to_end; /* [q]: the exponent, e^log_decay, and the decay to the end of the chunk */
    float *dt_x;      /* [q, P] */
    float *mix;       /* [q, q]: decay times scores for i > j, else 0 */
    float *scaled;    /* [q, P], scratch */
    float *decay;     /* [q, q], for i >= j; from here on for the backward half alone */
    float *dy, *dx;   /* [q, P] */
    float *d_log;     /* [q] */
    float *turned_dy, *turned_dt_x; /* [P, q] */
    float *d_mix;     /* [q, q] */
    float *d_dt;      /* [q] */
} ssd_head;

static ssd_shape ssd_shape_of(int64_t chunk, int64_t width, int64_t size)
{
    return (ssd_shape){chunk, width, size, padded(chunk), padded(width), padded(size)};
}

static ssd_group ssd_group_take(room *scratch, const ssd_shape *shape)
{
    ssd_group group = {0};
    group.B = take(scratch, shape->chunk_row * shape->size_row);
    group.C = take(scratch, shape->chunk_row * shape->size_row);
    group.scores = take(scratch, shape->chunk_row * shape->chunk_row);
    return group;
}

static ssd_group_gradient ssd_group_gradient_take(room *scratch, const ssd_shape *shape)
{
    ssd_group_gradient gradient;
    gradient.scores = take(scratch, shape->chunk_row * shape->chunk_row);
    gradient.B = take(scratch, shape->size_row * shape->chunk_row);
    gradient.C = take(scratch, shape->size_row * shape->chunk_row);
    return gradient;
}

static ssd_head ssd_head_take(room *scratch, const ssd_shape *shape, int backward)
{
    int64_t tokens = shape->chunk_row, values = tokens * shape->width_row, pairs = tokens * tokens;
    ssd_head head = {0};
    head.dt = take(scratch, tokens);
    head.x = take(scratch, values);
    head.y = take(scratch, values);
    head.own = take(scratch, tokens);
    head.log_decay = take(scratch, tokens);
    head.from_start = take(scratch, tokens);
    head.to_end = take(scratch, tokens);
    head.dt_x = take(scratch, values);
    head.mix = take(scratch, pairs);
    head.scaled = take(scratch, values);
    if (backward) {
        head.decay = take(scratch, pairs);
        head.dy = take(scratch, values);
        head.dx = take(scratch, values);
        head.d_log = take(scratch, tokens);
        head.turned_dy = take(scratch, values);
        head.turned_dt_x = take(scratch, values);
        head.d_mix = take(scratch, pairs);
        head.d_dt = take(scratch, tokens);
    }
    return head;
}

/* to[i, :] = factor[i] from[i, :] */
static void scale_rows(int64_t rows, int64_t row, const float *factor, const float *from, float *to)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t p = 0; p < row; p += LANES)
            store(to + i * row + p, factor[i] * load(from + i * row + p));
}

/* to[:, i] = factor[i] from[:, i] */
static void scale_columns(int64_t rows, int64_t row, const float *factor, const float *from, float *to)
{
    for (int64_t p = 0; p < rows; p++)
        for (int64_t i = 0; i < row; i += LANES)
            store(to + p * row + i, load(factor + i) * load(from + p * row + i));
}

/* Rows beyond the last token, where a turned matrix needs zeros. */
static void clear_rows(const ssd_group *group, int64_t row, float *values)
{
    memset(values + group->tokens * row, 0, (size_t)((group->row - group->tokens) * row) * sizeof(float));
}

/* The scores, from B and C. `scratch` holds [N, q]. */
static void ssd_scores(const ssd_shape *shape, ssd_group *group, float *scratch)
{
    clear_rows(group, shape->size_row, group->C);
    transpose(group->row, shape->size_row, group->C, shape->size_row, scratch, group->row);
    product_part(RESULT_ABOVE, group->tokens, group->row, shape->size, group->B, shape->size_row, 1, scratch, group->row,
                 group->scores, group->row, 0);
}

/* log_decay, from_start and to_end, from dt. */
static void ssd_decays(const ssd_group *group, ssd_head *head, float A)
{
    float sum = 0.0f;
    int64_t tokens = group->tokens, row = group->row;
    for (int64_t i = 0; i < tokens; i++) {
        float step = head->dt[i] * A;
        sum += step > SSD_LONGEST_STEP ? step : SSD_LONGEST_STEP;
        head->log_decay[i] = sum;
    }
    for (int64_t i = tokens; i < row; i++)
        head->log_decay[i] = sum;
    for (int64_t i = 0; i < row; i += LANES) {
        vec exponent = load(head->log_decay + i);
        store(head->from_start + i, exp_below_v(exponent));
        store(head->to_end + i, exp_below_v(sum - exponent));
    }
}

/* decay (where wanted) and mix. Between blocks of LANES tokens the decay is a product of two, from the token read to the
 * end of its block and from there on, which saves most of the exponentials. */
static void ssd_pairs(const ssd_group *group, ssd_head *head)
{
    int64_t tokens = group->tokens, row = group->row;
    const float *log_decay = head->log_decay;
    float *onward = head->scaled; /* free until the state is advanced */
    for (int64_t block = 0; block < tokens; block += LANES) {
        int64_t next = block + LANES;
        float end = log_decay[next - 1], to_end[LANES];
        store(to_end, exp_below_v(end - load(log_decay + block)));
        for (int64_t i = next; i < row; i += LANES)
            store(onward + i, exp_below_v(load(log_decay + i) - end));
        ivec reader = count_from((int32_t)block);
        for (int64_t j = block; j < next && j < tokens; j++) {
            const float *scores = group->scores + j * row;
            float *mix = head->mix + j * row, *decay = head->decay ? head->decay + j * row : 0;
            int64_t edge = j >= TILE_ROWS ? (j - TILE_ROWS + 1) / LANES * LANES : 0;
            for (int64_t i = edge; i < block; i += LANES)
                store(mix + i, spread(0.0f));
            vec own = exp_below_v(load(log_decay + block) - log_decay[j]);
            store(mix + block, choose(reader > (int32_t)j, own * load(scores + block), spread(0.0f)));
            if (decay)
                store(decay + block, choose(reader >= (int32_t)j, own, spread(0.0f)));
            for (int64_t i = next; i < row; i += LANES) {
                vec both = to_end[j - block] * load(onward + i);
                store(mix + i, both * load(scores + i));
                if (decay)
                    store(decay + i, both);
            }
        }
    }
}

/* y, and all that it is made of, from dt, x and the state before the chunk (null for zero). */
static void ssd_output(const ssd_shape *shape, const ssd_group *group, ssd_head *head, float A, float D,
                       const float *state)
{
    int64_t tokens = group->tokens, width = shape->width_row;
    ssd_decays(group, head, A);
    for (int64_t i = 0; i < tokens; i++)
        head->own[i] = group->scores[i * group->row + i] * head->dt[i] + D;
    scale_rows(tokens, width, head->dt, head->x, head->dt_x);
    ssd_pairs(group, head);
    if (state) {
        product_part(ALL, tokens, width, shape->size, group->C, shape->size_row, 1, state, width, head->y, width, 0);
        scale_rows(tokens, width, head->from_start, head->y, head->y);
    }
    product_part(BELOW, tokens, width, tokens, head->mix, 1, group->row, head->dt_x, width, head->y, width,
                 state != 0);
}

/* The state after the chunk in the place of the one before it; `zero` where the latter is, whatever is in that place. */
static void ssd_advance(const ssd_shape *shape, const ssd_group *group, ssd_head *head, float *state, int zero)
{
    int64_t tokens = group->tokens, width = shape->width_row;
    if (!zero) {
        float through = head->from_start[tokens - 1];
        for (int64_t i = 0; i < shape->size * width; i += LANES)
            store(state + i, through * load(state + i));
    }
    scale_rows(tokens, width, head->to_end, head->dt_x, head->scaled);
    product_part(ALL, shape->size, width, tokens, group->B, 1, shape->size_row, head->scaled, width, state, width, !zero);
}

/* dx, d_dt and the sums for A and D, after `ssd_output` on the same chunk, from dy.
 *
 * state: before the chunk, null for zero.
 * d_state: gradient of the state after the chunk; where `state` is given, that of the one before it afterwards.
 * behind: 0 where the gradient of the state after the chunk is zero, whatever is in `d_state`.
 * sums: of group gradients over heads; `first` where this head is the first. */
static void ssd_backward(const ssd_shape *shape, const ssd_group *group, ssd_head *head, float A, const float *state,
                         float *d_state, int behind, ssd_group_gradient *sums, int first, float *dA, float *dD)
{
    int64_t tokens = group->tokens, row = group->row, width = shape->width_row, end = tokens - 1;
    clear_rows(group, width, head->dy);
    clear_rows(group, width, head->dt_x);
    transpose(row, width, head->dy, width, head->turned_dy, row);
    transpose(row, width, head->dt_x, width, head->turned_dt_x, row);

    /* Pairs: the gradient of decay times scores, and with it that of the scores. */
    product_part(RESULT_ABOVE, tokens, row, shape->width, head->dt_x, width, 1, head->turned_dy, row, head->d_mix, row,
                 0);
    for (int64_t j = 0; j < tokens; j++) {
        float *to = sums->scores + j * row;
        const float *d_mix = head->d_mix + j * row, *decay = head->decay + j * row;
        if (first) {
            int64_t edge = j >= TILE_ROWS ? (j - TILE_ROWS + 1) / LANES * LANES : 0;
            for (int64_t i = edge; i < j / LANES * LANES; i += LANES)
                store(to + i, spread(0.0f));
        }
        for (int64_t i = j / LANES * LANES; i < row; i += LANES) {
            vec more = load(d_mix + i) * load(decay + i);
            if (!first)
                more += load(to + i);
            store(to + i, more);
        }
    }

    /* dx without what a token gives to itself: into the state after the chunk, and into later tokens. */
    float kept = 0.0f; /* gradient of log_decay[last] */
    if (behind) {
        product_part(ALL, tokens, width, shape->size, group->B, shape->size_row, 1, d_state, width, head->dx, width, 0);
        scale_rows(tokens, width, head->to_end, head->dx, head->dx);
        for (int64_t j = 0; j < end; j++) /* the last token's exponent is 0 whatever the decay */
            kept += head->dt[j] * dot(width, head->x + j * width, head->dx + j * width);
    }
    product_part(ABOVE, tokens, width, tokens, head->mix, row, 1, head->dy, width, head->dx, width, behind);

    for (int64_t i = 0; i < tokens; i++) {
        const float *x = head->x + i * width, *dy = head->dy + i * width;
        float *dx = head->dx + i * width;
        float given = dot(width, x, dx), itself = dot(width, x, dy);
        float score = group->scores[i * row + i];
        /* An output grows with its own exponent and falls with that of the token read. */
        head->d_log[i] = dot(width, dy, head->y + i * width) - (i < end ? head->dt[i] * given : 0.0f);
        head->d_dt[i] = given + score * itself;
        *dD += itself;
        for (int64_t p = 0; p < width; p += LANES)
            store(dx + p, head->dt[i] * load(dx + p) + head->own[i] * load(dy + p));
    }

    /* Through the states: B, C, the decay over the whole chunk, and the state before it. */
    if (state) {
        scale_columns(shape->width, row, head->from_start, head->turned_dy, head->turned_dy);
        product_part(ALL, shape->size, row, shape->width, state, width, 1, head->turned_dy, row, sums->C, row, !first);
    }
    if (behind) {
        scale_columns(shape->width, row, head->to_end, head->turned_dt_x, head->turned_dt_x);
        product_part(ALL, shape->size, row, shape->width, d_state, width, 1, head->turned_dt_x, row, sums->B, row, !first);
        if (state)
            kept += head->from_start[end] * dot(shape->size * width, state, d_state);
    }
    if (state) {
        if (behind)
            for (int64_t i = 0; i < shape->size * width; i += LANES)
                store(d_state + i, head->from_start[end] * load(d_state + i));
        scale_rows(tokens, width, head->from_start, head->dy, head->dy);
        product_part(ALL, shape->size, width, tokens, group->C, 1, shape->size_row, head->dy, width, d_state, width,
                     behind);
    }
    head->d_log[end] += kept;

    float exponent = 0.0f; /* gradient of dt A of a token: that of all log_decay from it on */
    for (int64_t i = end; i >= 0; i--) {
        exponent += head->d_log[i];
        if (head->dt[i] * A > SSD_LONGEST_STEP) {
            head->d_dt[i] += exponent * A;
            *dA += exponent * head->dt[i];
        }
    }
}

/* sums += more; `behind` and `before`: whether the parts of B and C have been written. */
static void ssd_group_gradient_add(const ssd_shape *shape, const ssd_group *group, ssd_group_gradient *sums,
                                   const ssd_group_gradient *more, int behind, int before)
{
    int64_t row = group->row;
    for (int64_t j = 0; j < group->tokens; j++)
        for (int64_t i = j / LANES * LANES; i < row; i += LANES)
            store(sums->scores + j * row + i, load(sums->scores + j * row + i) + load(more->scores + j * row + i));
    for (int64_t i = 0; i < shape->size * row; i += LANES) {
        if (behind)
            store(sums->B + i, load(sums->B + i) + load(more->B + i));
        if (before)
            store(sums->C + i, load(sums->C + i) + load(more->C + i));
    }
}

/* dB and dC [q, N] from the sums over heads; of a row the first N numbers have meaning. */
static void ssd_group_backward(const ssd_shape *shape, const ssd_group *group, const ssd_group_gradient *sums, int behind,
                               int before, float *dB, float *dC)
{
    int64_t tokens = group->tokens, row = group->row, size = shape->size_row;
    if (behind)
        transpose(shape->size, tokens, sums->B, row, dB, size);
    if (before)
        transpose(shape->size, tokens, sums->C, row, dC, size);
    product_part(ABOVE, tokens, size, tokens, sums->scores, row, 1, group->C, size, dB, size, behind);
    product_part(BELOW, tokens, size, tokens, sums->scores, 1, row, group->B, size, dC, size, before);
}

#endif
