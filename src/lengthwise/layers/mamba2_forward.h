/* The forward pass of `mamba2.c` over a span, and what surrounds it where the layer is read as a whole. */
#ifndef LENGTHWISE_MAMBA2_FORWARD_H
#define LENGTHWISE_MAMBA2_FORWARD_H

#include "gated_norm.h"
#include "mamba2_span.h"
#include "panels.h"

/* Phase 0, where reading: norm and projection of a chunk. */
static void project(int64_t chunk, int64_t thread, void *data)
{
    const work *w = data;
    const mamba2_job *job = w->job;
    slot s = slot_of(w, thread);
    int64_t model = job->model_width, whole = model / LANES * LANES, first = chunk * job->chunk, tokens = tokens_of(w, chunk);
    for (int64_t i = 0; i < tokens; i++) {
        const float *x = job->residual + (w->row * job->from_time + w->start + first + i) * model;
        float *u = s.u + i * model, sum = dot(whole, x, x);
        for (int64_t d = whole; d < model; d++)
            sum += x[d] * x[d];
        float r = 1.0f / __builtin_sqrtf(sum / (float)model + job->block_eps);
        for (int64_t d = 0; d < model; d++)
            u[d] = r * job->block_weight[d] * x[d];
    }
    panel_product(tokens, w->a.projected, model, s.u, model, 1, job->panels, job->in_bias,
                  w->a.made + (job->taps - 1 + first) * w->a.projected, w->a.projected);
}

/* The inputs of the convolution before the row to where `fetch_inputs` looks for them, and those before the next span. */
static void enter_inputs(const work *w)
{
    const mamba2_job *job = w->job;
    int64_t before = job->taps - 1;
    for (int64_t k = 0; k < before; k++) {
        float *to = w->a.made + k * w->a.projected + w->a.x_at;
        if (job->conv_state)
            memcpy(to, job->conv_state + (w->row * before + k) * w->a.channels, (size_t)w->a.channels * sizeof(float));
        else
            memset(to, 0, (size_t)w->a.channels * sizeof(float));
    }
}

static void leave_inputs(const work *w)
{
    const mamba2_job *job = w->job;
    int64_t before = job->taps - 1;
    const float *last = w->a.made + w->tokens * w->a.projected;
    if (w->start + w->tokens == job->time)
        give_rows(last + w->a.x_at, w->a.projected, before, w->a.channels,
                  numbers_at(job->next_conv, 0, w->row * before * w->a.channels), w->a.channels);
    else
        memmove(w->a.made, last, (size_t)(before * w->a.projected) * sizeof(float));
}

/* What the inputs of a head give on a chunk: its outputs from a state (null for zero), or what its state alone needs. */
static void head_of_input(const work *w, int64_t h, const ssd_group *group, slot *s, const float *state)
{
    const mamba2_job *job = w->job;
    if (!job->silent) {
        ssd_output(&w->a.shape, group, &s->head, job->A[h], job->D ? job->D[h] : 0.0f, state);
        return;
    }
    ssd_decays(group, &s->head, job->A[h]);
    scale_rows(group->tokens, w->a.shape.width_row, s->head.dt, s->head.x, s->head.dt_x);
}

/* Phase 3, forward: one head through the span. */
static void head_forward(int64_t h, int64_t thread, void *data)
{
    const work *w = data;
    const mamba2_job *job = w->job;
    const area *a = &w->a;
    int64_t width = a->shape.width_row, floats = job->size * width;
    slot s = slot_of(w, thread);
    float *state = a->carry + h * floats;
    for (int64_t chunk = 0; chunk < w->chunks; chunk++) {
        int64_t first = chunk * job->chunk;
        ssd_group group = group_of(w, chunk, h / (job->heads / job->groups));
        int zero = w->start + first == 0 && !job->ssm_state;
        float *kept = job->states && !zero ? kept_state(w, chunk, h) : 0;
        if (kept)
            memcpy(kept, state, (size_t)floats * sizeof(float));
        fetch_head(w, chunk, h, &group, &s);
        head_of_input(w, h, &group, &s, zero ? 0 : state);
        if (!job->silent)
            gate_rows(group.tokens, width, s.head.y, s.head.own, s.head.x, s.z,
                      a->gated + (first * job->heads + h) * width, job->heads * width,
                      a->squares + first * job->heads + h, job->heads);
        ssd_advance(&a->shape, &group, &s.head, state, zero);
    }
}

/* The norm of a token: `gated` [H, P] in place, from the sums of squares of its heads. at: index of the token. */
static void norm_token(const work *w, int64_t at, const float *squares, float *gated)
{
    const mamba2_job *job = w->job;
    int64_t width = w->a.shape.width_row, per_group = job->heads / job->groups;
    for (int64_t g = 0; g < job->groups; g++) {
        float sum = 0.0f;
        for (int64_t h = g * per_group; h < (g + 1) * per_group; h++)
            sum += squares[h];
        float r = 1.0f / __builtin_sqrtf(sum / (float)(per_group * job->width) + job->eps);
        if (job->r)
            job->r[at * job->groups + g] = r;
        for (int64_t p = g * per_group * width; p < (g + 1) * per_group * width; p += LANES)
            store(gated + p, r * load(w->a.weight + p) * load(gated + p));
    }
}

/* The outputs of a chunk, from gated values [q, H, P] and sums of squares [q, H]: normed and, where reading, projected and
 * added to the residual stream of a row. */
static void norm_chunk(const work *w, int64_t row, int64_t first, int64_t tokens, float *gated, const float *squares,
                       slot *s)
{
    const mamba2_job *job = w->job;
    int64_t width = w->a.shape.width_row, inner = w->a.inner, model = job->model_width;
    for (int64_t i = 0; i < tokens; i++) {
        int64_t at = token_at(w, first + i);
        float *values = gated + i * job->heads * width;
        norm_token(w, at, squares + i * job->heads, values);
        give_rows(values, width, job->heads, job->width,
                  model ? numbers_at(s->out + i * inner, 0, 0) : numbers_at(job->out, job->half, at * inner),
                  job->width);
    }
    if (!model)
        return;
    panel_product(tokens, model, inner, s->out, inner, 1, job->panels + panel_floats(model, w->a.projected),
                  job->out_bias, s->u, model);
    for (int64_t i = 0; i < tokens; i++) {
        int64_t token = w->start + first + i;
        const float *from = job->residual + (w->row * job->from_time + token) * model, *more = s->u + i * model;
        float *to = job->added + (row * job->to_time + token) * model;
        for (int64_t d = 0; d < model; d++)
            to[d] = from[d] + more[d];
    }
}

/* Phase 4, forward: the outputs of a chunk. */
static void outputs(int64_t chunk, int64_t thread, void *data)
{
    const work *w = data;
    const area *a = &w->a;
    int64_t first = chunk * w->job->chunk;
    slot s = slot_of(w, thread);
    norm_chunk(w, w->row, first, tokens_of(w, chunk), a->gated + first * w->job->heads * a->shape.width_row,
               a->squares + first * w->job->heads, &s);
}

/* Readers of one input. The recurrence is linear in input and state, so what the input gives is computed once, and each
 * reader adds what its own state gives: y += from_start S C, and S' = through S + (the state that the input makes).
 *
 * Phase 3 for readers: what the input gives for one head, on a span of one chunk. */
static void head_of_readers(int64_t h, int64_t thread, void *data)
{
    const work *w = data;
    const mamba2_job *job = w->job;
    slot s = slot_of(w, thread);
    ssd_group group = group_of(w, 0, h / (job->heads / job->groups));
    shared_head both = shared_of(w, h);
    int64_t values = group.tokens * w->a.shape.width_row;
    fetch_head(w, 0, h, &group, &s);
    head_of_input(w, h, &group, &s, 0);
    ssd_advance(&w->a.shape, &group, &s.head, both.state, 1);
    memcpy(both.from_start, s.head.from_start, (size_t)group.tokens * sizeof(float));
    if (job->silent)
        return;
    open_rows(group.tokens, w->a.shape.width_row, s.head.y, s.head.own, s.head.x, s.z);
    memcpy(both.y, s.head.y, (size_t)values * sizeof(float));
    memcpy(both.open, s.z, (size_t)values * sizeof(float));
}

/* Phase 4 for readers: one of them. */
static void reader_forward(int64_t reader, int64_t thread, void *data)
{
    const work *w = data;
    const mamba2_job *job = w->job;
    const area *a = &w->a;
    slot s = slot_of(w, thread);
    int64_t width = a->shape.width_row, floats = job->size * width, tokens = w->tokens;
    for (int64_t h = 0; h < job->heads; h++) {
        ssd_group group = group_of(w, 0, h / (job->heads / job->groups));
        shared_head both = shared_of(w, h);
        float *state = a->carry + (reader * job->heads + h) * floats, through = both.from_start[tokens - 1];
        if (!job->silent) {
            product_part(ALL, tokens, width, job->size, group.C, a->shape.size_row, 1, state, width, s.read, width, 0);
            gate_read(tokens, width, both.y, both.from_start, s.read, both.open, s.gated + h * width,
                      job->heads * width, s.squares + h, job->heads);
        }
        for (int64_t i = 0; i < floats; i += LANES)
            store(state + i, through * load(state + i) + load(both.state + i));
    }
    if (!job->silent)
        norm_chunk(w, reader, 0, tokens, s.gated, s.squares, &s);
}

static void forward_span(const work *w)
{
    const mamba2_job *job = w->job;
    if (w->start == 0 && job->ssm_state)
        enter_states(w, job->ssm_state);
    const team alone = {0, 1}, *by = job->span ? &job->by : &alone;
    if (job->model_width) {
        if (w->start == 0)
            enter_inputs(w);
        share(by, w->chunks, project, (void *)w);
    }
    share(by, w->chunks, fetch, (void *)w);
    share(by, w->chunks, convolve, (void *)w);
    if (job->readers) {
        share(by, job->heads, head_of_readers, (void *)w);
        share(by, job->readers, reader_forward, (void *)w);
    } else {
        share(by, job->heads, head_forward, (void *)w);
        if (!job->silent)
            share(by, w->chunks, outputs, (void *)w);
    }
    if (job->model_width)
        leave_inputs(w);
    if (w->start + w->tokens == job->time)
        leave_states(w, job->final);
}

#endif
