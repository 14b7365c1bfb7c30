/* The backward pass of `mamba2.c` over a span. */
#ifndef LENGTHWISE_MAMBA2_BACKWARD_H
#define LENGTHWISE_MAMBA2_BACKWARD_H

#include "gated_norm.h"
#include "mamba2_span.h"

/* The convolution backward on a chunk, some channels. d_active begins W - 1 tokens before the chunk, raw too. */
static void conv_backward(const work *w, int64_t chunk, int64_t channel, int64_t channels, const float *d_active,
                          int64_t d_row, const float *raw, int64_t raw_row, float *d_raw)
{
    const mamba2_job *job = w->job;
    const area *a = &w->a;
    int64_t before = job->taps - 1, first = chunk * job->chunk, tokens = tokens_of(w, chunk);
    const float *weight = job->conv_weight + channel, *d = d_active + before * d_row;
    numbers to = numbers_at(job->d_projected, job->half, token_at(w, first) * a->projected + a->inner + channel);
    if (job->half) {
        conv_piece_input(tokens, channels, job->taps, d, d_row, weight, a->channels, d_raw, d_row);
        give_rows(d_raw, d_row, tokens, channels, to, a->projected);
    } else {
        conv_piece_input(tokens, channels, job->taps, d, d_row, weight, a->channels, (float *)to.at, a->projected);
    }
    conv_piece_filter(tokens, channels, job->taps, d, d_row, raw, raw_row, w->sums.conv_weight + channel, a->channels,
                      w->sums.conv_bias + channel);
    if (w->start + first == 0 && job->d_conv_state)
        conv_piece_input(before, channels, job->taps, d_active, d_row, weight, a->channels,
                         job->d_conv_state + w->row * before * a->channels + channel, a->channels);
}

/* One head on one chunk of the backward pass. */
static void head_backward(const work *w, int64_t chunk, int64_t h, slot *s, ssd_group_gradient *sums, int first_head)
{
    const mamba2_job *job = w->job;
    const area *a = &w->a;
    int64_t first = chunk * job->chunk, width = a->shape.width_row, g = h / (job->heads / job->groups);
    int64_t before = job->taps - 1, at = token_at(w, first);
    size_t around = (size_t)(before * width) * sizeof(float);
    ssd_group group = group_of(w, chunk, g);
    layer_sums total = w->sums;
    const float *state = kept_state(w, chunk, h);
    int behind = job->d_final || w->start + first + group.tokens < job->time;

    fetch_head(w, chunk, h, &group, s);
    take_rows(numbers_at(job->d_out, job->half, at * a->inner + h * job->width), a->inner, group.tokens, job->width,
              s->d_out, width);
    ssd_output(&a->shape, &group, &s->head, job->A[h], job->D ? job->D[h] : 0.0f, state);
    take_rows(numbers_at(total.norm_weight + h * job->width, 0, 0), 0, 1, job->width, s->sum, width);
    gate_rows_backward(group.tokens, width, s->head.y, s->head.own, s->head.x, s->z, s->d_out, a->weight + h * width,
                       job->r + at * job->groups + g, a->norm + first * job->groups + g, job->groups, s->head.dy, s->z,
                       s->sum);
    memcpy(total.norm_weight + h * job->width, s->sum, (size_t)job->width * sizeof(float));
    give_rows(s->z, width, group.tokens, job->width,
              numbers_at(job->d_projected, job->half, at * a->projected + h * job->width), a->projected);

    float dA = 0.0f, dD = 0.0f, d_bias = 0.0f;
    ssd_backward(&a->shape, &group, &s->head, job->A[h], state, a->carry + h * job->size * width, behind, sums,
                 first_head, &dA, &dD);
    total.A[h] += dA;
    total.D[h] += dD;
    for (int64_t i = 0; i < group.tokens; i++) {
        float d = s->head.d_dt[i] * a->dt_slope[(first + i) * job->heads + h];
        a->d_dt[(first + i) * job->heads + h] = d;
        d_bias += d;
    }
    total.dt_bias[h] += d_bias;

    float *d_active = s->d_active + before * width;
    for (int64_t i = 0; i < group.tokens * width; i += LANES)
        store(d_active + i, load(s->head.dx + i) * load(d_active + i));
    memset(s->d_active, 0, around);
    memcpy(d_active + group.tokens * width, a->behind + h * before * width, around);
    conv_backward(w, chunk, h * job->width, job->width, s->d_active, width, s->raw, width, s->d_raw);
    memcpy(a->behind + h * before * width, d_active, around);
}

static ssd_group_gradient sums_of(const work *w, int64_t index)
{
    room at = {w->a.sums + index * w->a.sums_floats, 0};
    return ssd_group_gradient_take(&at, &w->a.shape);
}

/* Whether the gradients of B (from behind) and C (from before) have a part that goes through states. */
static int through_B(const work *w, int64_t chunk)
{
    return w->job->d_final || w->start + chunk * w->job->chunk + tokens_of(w, chunk) < w->job->time;
}
static int through_C(const work *w, int64_t chunk) { return w->job->ssm_state || w->start + chunk > 0; }

/* The gradients of B and C of a group, from the sums over its heads, to where the convolution takes them. */
static void group_backward(const work *w, int64_t chunk, int64_t g, const ssd_group_gradient *sums)
{
    const mamba2_job *job = w->job;
    const area *a = &w->a;
    int64_t first = chunk * job->chunk, size = a->shape.size_row;
    ssd_group group = group_of(w, chunk, g);
    float *dB = a->d_group + chunk * 2 * a->shape.chunk_row * size, *dC = dB + a->shape.chunk_row * size;
    ssd_group_backward(&a->shape, &group, sums, through_B(w, chunk), through_C(w, chunk), dB, dC);
    for (int64_t i = 0; i < group.tokens; i++)
        for (int both = 0; both < 2; both++) {
            const float *d = (both ? dC : dB) + i * size;
            float *to = a->d_active + (job->taps - 1 + first + i) * a->shared + (both * job->groups + g) * job->size;
            for (int64_t n = 0; n < job->size; n += LANES)
                store_some(to + n, load(d + n) * load_some(to + n, job->size - n), job->size - n);
        }
}

/* Phase 3, backward: a block of the heads of a group, through the span in reverse. */
static void block_backward(int64_t index, int64_t thread, void *data)
{
    const work *w = data;
    int64_t blocks = w->a.head_blocks, g = index / blocks, b = index % blocks, heads = w->job->heads / w->job->groups;
    slot s = slot_of(w, thread);
    for (int64_t chunk = w->chunks - 1; chunk >= 0; chunk--) {
        ssd_group_gradient sums = sums_of(w, (chunk * w->job->groups + g) * blocks + b);
        for (int64_t h = heads * b / blocks; h < heads * (b + 1) / blocks; h++)
            head_backward(w, chunk, g * heads + h, &s, &sums, h == heads * b / blocks);
    }
}

/* Phase 4, backward: B and C of a chunk. */
static void groups_backward(int64_t chunk, int64_t thread, void *data)
{
    (void)thread;
    const work *w = data;
    for (int64_t g = 0; g < w->job->groups; g++) {
        ssd_group group = group_of(w, chunk, g);
        int64_t index = (chunk * w->job->groups + g) * w->a.head_blocks;
        ssd_group_gradient sums = sums_of(w, index);
        for (int64_t b = 1; b < w->a.head_blocks; b++) {
            ssd_group_gradient more = sums_of(w, index + b);
            ssd_group_gradient_add(&w->a.shape, &group, &sums, &more, through_B(w, chunk), through_C(w, chunk));
        }
        group_backward(w, chunk, g, &sums);
    }
}

#define CONV_CHANNELS 64 /* that one thread takes at a time */

/* Phase 5, backward: the convolution that makes B and C, for some of the channels. */
static void channels_backward(int64_t index, int64_t thread, void *data)
{
    (void)thread;
    const work *w = data;
    const area *a = &w->a;
    int64_t from = index * CONV_CHANNELS, channels = a->shared - from < CONV_CHANNELS ? a->shared - from : CONV_CHANNELS;
    for (int64_t chunk = w->chunks - 1; chunk >= 0; chunk--) {
        int64_t at = chunk * w->job->chunk * a->shared + from;
        conv_backward(w, chunk, a->inner + from, channels, a->d_active + at, a->shared, a->raw + at, a->shared,
                      a->d_raw + at);
    }
}

/* What follows the last phase of a span: dt, and the gradients that reach the span before it. */
static void end_span(const work *w)
{
    const mamba2_job *job = w->job;
    const area *a = &w->a;
    int64_t before = (job->taps - 1) * a->shared, span = (job->span ? job->span : 1) * job->chunk * a->shared;
    give_rows(a->d_dt, job->heads, w->tokens, job->heads,
              numbers_at(job->d_projected, job->half,
                         token_at(w, 0) * a->projected + a->inner + a->channels), a->projected);
    memmove(a->d_active + before + span, a->d_active + before, (size_t)before * sizeof(float));
}

static void backward_span(const work *w)
{
    const mamba2_job *job = w->job;
    const area *a = &w->a;
    int64_t before = (job->taps - 1) * a->shared;
    if (w->start + w->tokens == job->time) {
        memset(a->d_active, 0, (size_t)before * sizeof(float));
        memset(a->d_active + before + w->tokens * a->shared, 0, (size_t)before * sizeof(float));
        memset(a->behind, 0, (size_t)(job->heads * (job->taps - 1) * a->shape.width_row) * sizeof(float));
        if (job->d_final)
            enter_states(w, job->d_final);
    }
    const team alone = {0, 1}, *by = job->span ? &job->by : &alone;
    share(by, w->chunks, fetch, (void *)w);
    share(by, w->chunks, convolve, (void *)w);
    if (job->span) {
        share(by, job->groups * a->head_blocks, block_backward, (void *)w);
        share(by, w->chunks, groups_backward, (void *)w);
        share(by, (a->shared + CONV_CHANNELS - 1) / CONV_CHANNELS, channels_backward, (void *)w);
    } else {
        int64_t heads = job->heads / job->groups, blocks = a->head_blocks;
        slot s = slot_of(w, 0);
        for (int64_t g = 0; g < job->groups; g++) {
            ssd_group group = group_of(w, 0, g);
            ssd_group_gradient sums = sums_of(w, 0), more = sums_of(w, 1);
            for (int64_t b = 0; b < blocks; b++) {
                int64_t first = heads * b / blocks;
                for (int64_t h = first; h < heads * (b + 1) / blocks; h++)
                    head_backward(w, 0, g * heads + h, &s, b ? &more : &sums, h == first);
                if (b)
                    ssd_group_gradient_add(&a->shape, &group, &sums, &more, through_B(w, 0), through_C(w, 0));
            }
            group_backward(w, 0, g, &sums);
        }
        for (int64_t from = 0; from < a->shared; from += CONV_CHANNELS)
            channels_backward(from / CONV_CHANNELS, 0, (void *)w);
    }
    end_span(w);
    if (w->start == 0 && job->d_ssm_state)
        leave_states(w, job->d_ssm_state);
}

#endif
