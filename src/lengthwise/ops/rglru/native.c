/* The RG-LRU of Griffin, forward and backward: see README.md for the formulas.
 *
 * One unit of work is a row of the batch and SPAN channels of it, whose states stay in registers or the first cache
 * while time runs. Units share nothing, so any of them may be done by any thread.
 */
#include "numbers.h"

#include <math.h>

#define SPAN 64
#define LEAST_MULTIPLIER 0.0005f /* 1 / 2000 */

/* A tensor [B, T, D] whose channels are consecutive; strides count numbers. */
typedef struct {
    float *data;
    int64_t row, token;
} grid;

typedef struct {
    int64_t time, width;
    grid x, input_gate, recurrence_gate;
    const float *rate;    /* [D], -8 softplus(Lambda) */
    const float *initial; /* [B, D] or null */
    const uint8_t *reset; /* [B, T] or null */
    const int64_t *lengths; /* [B] or null; padding on the right */
} inputs;

/* e^x - 1 for x <= 0, as exact as exp_f also close to 0: 2^n (e^r - 1) + (2^n - 1) with e^r - 1 by its series. */
INLINE float expm1_f(float x)
{
    const float shift = 12582912.0f;
    float y = x > -87.0f ? x : -87.0f;
    float t = y * 1.44269504f + shift;
    float n = t - shift;
    float r = y - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r;
    union { float f; int32_t i; } bits, power;
    bits.f = t;
    power.i = (int32_t)((uint32_t)(bits.i - 0x4B400000 + 127) << 23);
    return power.f * p + (power.f - 1.0f);
}

INLINE float *at(grid g, int64_t row, int64_t token, int64_t channel)
{
    return g.data + row * g.row + token * g.token + channel;
}

/* One token of `count` channels. The pointers that are written to name memory of their own, which the compiler must know
 * to make vectors of the loops. */
static void forward_token(int64_t count, const float *x, const float *input_gate, const float *recurrence_gate,
                          const float *rate, float *restrict state, float *restrict out)
{
    for (int64_t c = 0; c < count; c++) {
        float log_a = sigmoid_f(recurrence_gate[c]) * rate[c];
        float multiplier = sqrtf(-expm1_f(2.0f * log_a));
        out[c] = state[c] = exp_f(log_a) * state[c] + multiplier * sigmoid_f(input_gate[c]) * x[c];
    }
}

static void forward_reset(int64_t count, const float *x, const float *input_gate, float *restrict state,
                          float *restrict out)
{
    for (int64_t c = 0; c < count; c++)
        out[c] = state[c] = sigmoid_f(input_gate[c]) * x[c];
}

/* `carried`: gradient of the state, from behind; `before`: the state before the token. */
static void backward_token(int64_t count, const float *x, const float *input_gate, const float *recurrence_gate,
                           const float *rate, const float *before, const float *dy, float *restrict carried,
                           float *restrict d_rate, float *restrict dx, float *restrict d_input_gate,
                           float *restrict d_recurrence_gate)
{
    for (int64_t c = 0; c < count; c++) {
        float dh = dy[c] + carried[c];
        float i = sigmoid_f(input_gate[c]), r = sigmoid_f(recurrence_gate[c]);
        float log_a = r * rate[c], a = exp_f(log_a), multiplier = sqrtf(-expm1_f(2.0f * log_a));
        float steepest = multiplier > LEAST_MULTIPLIER ? multiplier : LEAST_MULTIPLIER;
        float d_gated = dh * multiplier, gated = i * x[c];
        float d_log_a = a * dh * (before[c] - a * gated / steepest);
        dx[c] = d_gated * i;
        d_input_gate[c] = d_gated * gated * (1.0f - i);
        d_recurrence_gate[c] = d_log_a * log_a * (1.0f - r);
        d_rate[c] += d_log_a * r;
        carried[c] = a * dh;
    }
}

static void backward_reset(int64_t count, const float *x, const float *input_gate, const float *dy,
                           float *restrict carried, float *restrict dx, float *restrict d_input_gate,
                           float *restrict d_recurrence_gate)
{
    for (int64_t c = 0; c < count; c++) {
        float dh = dy[c] + carried[c], i = sigmoid_f(input_gate[c]);
        dx[c] = dh * i;
        d_input_gate[c] = dh * x[c] * i * (1.0f - i);
        d_recurrence_gate[c] = carried[c] = 0.0f;
    }
}

/* h and final_state are contiguous, [B, T, D] and [B, D]; units begin to end of B * ceil(D / SPAN). */
void rglru_forward(int64_t begin, int64_t end, const inputs *in, float *h, float *final_state)
{
    int64_t spans = (in->width + SPAN - 1) / SPAN;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t row = unit / spans, first = unit % spans * SPAN;
        int64_t count = in->width - first < SPAN ? in->width - first : SPAN;
        int64_t real = in->lengths ? in->lengths[row] : in->time;
        const float *rate = in->rate + first;
        float state[SPAN] = {0};
        if (in->initial)
            memcpy(state, in->initial + row * in->width + first, sizeof(float) * count);
        for (int64_t t = 0; t < real; t++) {
            const float *x = at(in->x, row, t, first), *input_gate = at(in->input_gate, row, t, first);
            const float *recurrence_gate = at(in->recurrence_gate, row, t, first);
            float *out = h + (row * in->time + t) * in->width + first;
            if (in->reset && in->reset[row * in->time + t])
                forward_reset(count, x, input_gate, state, out);
            else
                forward_token(count, x, input_gate, recurrence_gate, rate, state, out);
        }
        for (int64_t t = real; t < in->time; t++)
            memset(h + (row * in->time + t) * in->width + first, 0, sizeof(float) * count);
        memcpy(final_state + row * in->width + first, state, sizeof(float) * count);
    }
}

/* dy may be null, d_final too. dx and the gradients of the gates are contiguous [B, T, D], those of the rate, one sum a
 * row, and of the initial state [B, D]. */
void rglru_backward(int64_t begin, int64_t end, const inputs *in, const float *h, const grid *dy, const float *d_final,
                    float *dx, float *d_input_gate, float *d_recurrence_gate, float *d_rate, float *d_initial)
{
    int64_t spans = (in->width + SPAN - 1) / SPAN;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t row = unit / spans, first = unit % spans * SPAN;
        int64_t count = in->width - first < SPAN ? in->width - first : SPAN;
        int64_t real = in->lengths ? in->lengths[row] : in->time;
        const float *rate = in->rate + first;
        float carried[SPAN] = {0}, sums[SPAN] = {0}, zeros[SPAN] = {0};
        const float *start = in->initial ? in->initial + row * in->width + first : zeros;
        if (d_final)
            memcpy(carried, d_final + row * in->width + first, sizeof(float) * count);
        for (int64_t t = real; t < in->time; t++) {
            int64_t place = (row * in->time + t) * in->width + first;
            memset(dx + place, 0, sizeof(float) * count);
            memset(d_input_gate + place, 0, sizeof(float) * count);
            memset(d_recurrence_gate + place, 0, sizeof(float) * count);
        }
        for (int64_t t = real - 1; t >= 0; t--) {
            int64_t place = (row * in->time + t) * in->width + first;
            const float *x = at(in->x, row, t, first), *input_gate = at(in->input_gate, row, t, first);
            const float *recurrence_gate = at(in->recurrence_gate, row, t, first);
            const float *given = dy ? at(*dy, row, t, first) : zeros;
            if (in->reset && in->reset[row * in->time + t])
                backward_reset(count, x, input_gate, given, carried, dx + place, d_input_gate + place,
                               d_recurrence_gate + place);
            else
                backward_token(count, x, input_gate, recurrence_gate, rate, t > 0 ? h + place - in->width : start,
                               given, carried, sums, dx + place, d_input_gate + place, d_recurrence_gate + place);
        }
        memcpy(d_rate + row * in->width + first, sums, sizeof(float) * count);
        memcpy(d_initial + row * in->width + first, carried, sizeof(float) * count);
    }
}
