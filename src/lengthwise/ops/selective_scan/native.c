/* The selective scan of Mamba-1, forward and backward.
 *
 *     h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]      y[t] = h[t] . C[t] + D x[t]
 *
 * with, where wanted, dt = softplus(raw dt + bias) before it and y silu(z) behind it. Channels do not see one another,
 * and side by side they fill a vector; states n are worked on a few at a time, so that h stays in registers over a
 * chunk of tokens. The forward pass keeps the state before each chunk alone; the backward pass starts from these and
 * makes the others again.
 *
 * A unit of work is a row by a group of GROUP channels. Units write to places of their own, so threads may share them
 * in any way. Sums over channels (the gradients of B and C) are made inside a unit and added over units by the caller,
 * always in the same order.
 */
#include "numbers.h"

#define GROUP 128 /* channels of a unit; native.py has the same number */
#define TOGETHER 4 /* states worked on together */
#define PER_LN2 1.44269504f /* 1 / ln 2 */

/* The pointers and sizes of one call; native.py has the same fields in the same order. Arrays over time are [rows,
 * time, width] with any strides, the last of 1; the others are contiguous. Any pointer marked "or null" may be. */
typedef struct {
    int64_t time, channels, states, chunk;
    int64_t padded_channels; /* a multiple of 16, the room for channels in `kept` */
    const float *x, *dt, *B, *C, *z; /* z or null */
    int64_t x_row, x_step, dt_row, dt_step, B_row, B_step, C_row, C_step, z_row, z_step;
    const float *A; /* [channels, states] */
    const float *D, *dt_bias, *initial; /* [channels], [channels], [rows, channels, states]; or null */
    const int64_t *real; /* [rows, 2]: the first real token and the one behind the last */
    float *y; /* [rows, time, channels] */
    float *final; /* [rows, channels, states] */
    float *kept; /* [rows, chunks, states, padded_channels], the state before each chunk; or null */
    /* The backward pass alone: gradients that come in, and those that go out. */
    const float *dy, *d_final; /* d_final or null */
    int64_t dy_row, dy_step;
    float *dx, *d_dt, *dz; /* [rows, time, channels]; dz or null */
    float *dA, *d_initial; /* [rows, channels, states] */
    float *dD, *d_bias; /* [rows, channels] */
    float *dB, *dC; /* [groups, rows, time, states] */
} Scan;

/* log(1 + u) for u in [0, 1]: 2 atanh(u / (2 + u)) by its series, whose rest is below 2^-25. */
INLINE float log1p_f(float u)
{
    float s = u / (2.0f + u), q = s * s;
    float p = 1.0f / 13;
    p = p * q + 1.0f / 11;
    p = p * q + 1.0f / 9;
    p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5;
    p = p * q + 1.0f / 3;
    return 2.0f * (s + s * q * p);
}

INLINE float softplus_f(float v)
{
    float size = v < 0.0f ? -v : v;
    return log1p_f(exp_f(-size)) + (v < 0.0f ? 0.0f : v);
}

/* 2^x for x <= 0, to about 1 unit in the last place; 0 below -100, where a decay leaves nothing beside a rounding error
 * and the numbers it makes would soon be too small for the fast path of some processors. As in `exp_f`: 2^n by the bits
 * of the exponent, times the series of 2^r, |r| <= 1/2. */
INLINE float exp2_f(float x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    union { float f; uint32_t i; } rounded, result;
    rounded.f = x + shift;
    float r = x - (rounded.f - shift);
    float p = 1.52527338e-5f; /* (ln 2)^k / k! */
    p = p * r + 1.54035304e-4f;
    p = p * r + 1.33335581e-3f;
    p = p * r + 9.61812911e-3f;
    p = p * r + 5.55041087e-2f;
    p = p * r + 2.40226507e-1f;
    p = p * r + 6.93147181e-1f;
    p = p * r + 1.0f;
    result.f = p;
    result.i += rounded.i << 23; /* n to the exponent; the rest of `shift` falls off on the left */
    return x < -100.0f ? 0.0f : result.f;
}

/* LANES channels of `count` tokens to [count, LANES], and back; lanes beyond `width` are zero, and are not written. */
INLINE void fetch(const float *from, int64_t step, int64_t count, int64_t width, float *to)
{
    for (int64_t t = 0; t < count; t++)
        if (width == LANES)
            store(to + t * LANES, load(from + t * step));
        else
            for (int64_t l = 0; l < LANES; l++)
                to[t * LANES + l] = l < width ? from[t * step + l] : 0.0f;
}

INLINE void put(const float *from, int64_t count, int64_t width, float *to, int64_t step)
{
    for (int64_t t = 0; t < count; t++)
        if (width == LANES)
            store(to + t * step, load(from + t * LANES));
        else
            for (int64_t l = 0; l < width; l++)
                to[t * step + l] = from[t * LANES + l];
}

/* [width, states] to [states, LANES], the other lanes zero, and back. */
static void turn_in(const float *from, int64_t states, int64_t width, float *to)
{
    if (width < LANES)
        memset(to, 0, sizeof(float) * states * LANES);
    transpose(width, states, from, states, to, LANES);
}

static void turn_out(const float *from, int64_t states, int64_t width, float *to)
{
    transpose(states, width, from, LANES, to, states);
}

/* Step sizes of a chunk, from raw ones where there is a bias; 0 at padding. slope: d dt / d raw, or null. */
INLINE void step_sizes(const Scan *s, int64_t row, int64_t start, int64_t count, int64_t channel, int64_t width,
                       float *dt, float *slope)
{
    fetch(s->dt + row * s->dt_row + start * s->dt_step + channel, s->dt_step, count, width, dt);
    if (s->dt_bias) {
        float bias[LANES];
        fetch(s->dt_bias + channel, 0, 1, width, bias);
        for (int64_t t = 0; t < count; t++)
            for (int l = 0; l < LANES; l++) {
                float raw = dt[t * LANES + l] + bias[l];
                dt[t * LANES + l] = softplus_f(raw);
                if (slope)
                    slope[t * LANES + l] = sigmoid_f(raw);
            }
    } else if (slope)
        for (int64_t i = 0; i < count * LANES; i++)
            slope[i] = 1.0f;
    for (int64_t t = 0; t < count; t++)
        if (start + t < s->real[2 * row] || start + t >= s->real[2 * row + 1]) {
            store(dt + t * LANES, spread(0.0f));
            if (slope)
                store(slope + t * LANES, spread(0.0f));
        }
}

/* A chunk of a vector of channels, all [count, LANES]. */
typedef struct {
    int64_t count;
    const float *dt, *dt_2, *entry; /* step sizes; dt / ln 2; dt x */
    const float *B, *C; /* of the first token and state */
    int64_t B_step, C_step;
    float *y;
} Chunk;

/* decay[t][i] = exp(dt[t] A[i]) for `k` states; [count, k, LANES] */
INLINE void decays(int k, const Chunk *c, const float *A, float *decay)
{
    for (int64_t t = 0; t < c->count; t++)
        for (int i = 0; i < k; i++)
            for (int l = 0; l < LANES; l++)
                decay[(t * k + i) * LANES + l] = exp2_f(c->dt_2[t * LANES + l] * A[i * LANES + l]);
}

/* `k` states over a chunk: h moves on, and, if `read`, y += h C. before: where not null, receives h before each token,
 * [count, k, LANES]. */
INLINE void advance(int k, const Chunk *c, int64_t n, const float *decay, float *state, float *before, int read)
{
    vec h[TOGETHER];
    for (int i = 0; i < k; i++)
        h[i] = load(state + i * LANES);
    for (int64_t t = 0; t < c->count; t++) {
        const float *B = c->B + t * c->B_step + n, *C = c->C + t * c->C_step + n;
        vec entry = load(c->entry + t * LANES), y = read ? load(c->y + t * LANES) : entry;
        for (int i = 0; i < k; i++) {
            if (before)
                store(before + (t * k + i) * LANES, h[i]);
            h[i] = load(decay + (t * k + i) * LANES) * h[i] + entry * B[i];
            if (read)
                y += h[i] * C[i];
        }
        if (read)
            store(c->y + t * LANES, y);
    }
    for (int i = 0; i < k; i++)
        store(state + i * LANES, h[i]);
}

static void forward_unit(const Scan *s, int64_t row, int64_t group, float *scratch)
{
    int64_t states = s->states, chunk = s->chunk, begin = group * GROUP;
    int64_t end = begin + GROUP < s->channels ? begin + GROUP : s->channels;
    float *A = scratch, *h = A + GROUP * states, *dt = h + GROUP * states; /* [vectors, states, LANES] */
    float *dt_2 = dt + chunk * LANES, *entry = dt_2 + chunk * LANES, *y = entry + chunk * LANES, *z = y + chunk * LANES, *decay = z + chunk * LANES;
    for (int64_t channel = begin; channel < end; channel += LANES) {
        int64_t width = end - channel < LANES ? end - channel : LANES, at = (channel - begin) * states;
        turn_in(s->A + channel * states, states, width, A + at);
        if (s->initial)
            turn_in(s->initial + (row * s->channels + channel) * states, states, width, h + at);
        else
            memset(h + at, 0, sizeof(float) * states * LANES);
    }
    int64_t chunks = (s->time + chunk - 1) / chunk;
    for (int64_t index = 0; index < chunks; index++) {
        int64_t start = index * chunk, count = s->time - start < chunk ? s->time - start : chunk;
        for (int64_t channel = begin; channel < end; channel += LANES) {
            int64_t width = end - channel < LANES ? end - channel : LANES, at = (channel - begin) * states;
            float D[LANES] = {0};
            if (s->D)
                fetch(s->D + channel, 0, 1, width, D);
            step_sizes(s, row, start, count, channel, width, dt, 0);
            fetch(s->x + row * s->x_row + start * s->x_step + channel, s->x_step, count, width, entry);
            for (int64_t t = 0; t < count; t++) {
                vec x = load(entry + t * LANES);
                store(y + t * LANES, load(D) * x);
                store(entry + t * LANES, load(dt + t * LANES) * x);
                store(dt_2 + t * LANES, load(dt + t * LANES) * PER_LN2);
            }
            if (s->kept)
                put(h + at, states, LANES, s->kept + (row * chunks + index) * states * s->padded_channels + channel,
                    s->padded_channels);
            Chunk c = {count, dt, dt_2, entry, s->B + row * s->B_row + start * s->B_step,
                       s->C + row * s->C_row + start * s->C_step, s->B_step, s->C_step, y};
            int64_t n = 0;
            for (; n + TOGETHER <= states; n += TOGETHER) {
                decays(TOGETHER, &c, A + at + n * LANES, decay);
                advance(TOGETHER, &c, n, decay, h + at + n * LANES, 0, 1);
            }
            for (; n < states; n++) {
                decays(1, &c, A + at + n * LANES, decay);
                advance(1, &c, n, decay, h + at + n * LANES, 0, 1);
            }
            if (s->z) {
                fetch(s->z + row * s->z_row + start * s->z_step + channel, s->z_step, count, width, z);
                for (int64_t i = 0; i < count * LANES; i++)
                    y[i] *= silu_f(z[i]);
            }
            put(y, count, width, s->y + (row * s->time + start) * s->channels + channel, s->channels);
        }
    }
    for (int64_t channel = begin; channel < end; channel += LANES)
        turn_out(h + (channel - begin) * states, states, end - channel < LANES ? end - channel : LANES,
                 s->final + (row * s->channels + channel) * states);
}

void scan_forward(int64_t begin, int64_t end, const Scan *s, float *scratch)
{
    int64_t groups = (s->channels + GROUP - 1) / GROUP;
    for (int64_t unit = begin; unit < end; unit++)
        forward_unit(s, unit / groups, unit % groups, scratch);
}

/* What `retreat` reads and adds to, beside a Chunk; [count, LANES] each. */
typedef struct {
    const float *dy;
    float *d_entry, *d_dt; /* gradients of dt x, and of dt by the decays */
    float *dB, *dC; /* of the states at hand, [count, k, LANES]; sums over the vectors of the unit */
} Back;

/* `k` states over a chunk from its end: g, the gradient of h, moves to the token before the chunk. h: at the end. */
INLINE void retreat(int k, const Chunk *c, const Back *b, int64_t n, const float *A, const float *decay,
                    const float *before, const float *end, float *state, float *dA)
{
    vec g[TOGETHER], h[TOGETHER], rate[TOGETHER], d_rate[TOGETHER];
    for (int i = 0; i < k; i++) {
        g[i] = load(state + i * LANES);
        h[i] = load(end + i * LANES);
        rate[i] = load(A + i * LANES);
        d_rate[i] = load(dA + i * LANES);
    }
    for (int64_t t = c->count - 1; t >= 0; t--) {
        const float *B = c->B + t * c->B_step + n, *C = c->C + t * c->C_step + n;
        vec dy = load(b->dy + t * LANES), entry = load(c->entry + t * LANES), dt = load(c->dt + t * LANES);
        vec d_entry = load(b->d_entry + t * LANES), d_dt = load(b->d_dt + t * LANES);
        for (int i = 0; i < k; i++) {
            int64_t place = (t * k + i) * LANES;
            g[i] += dy * C[i];
            store(b->dC + place, load(b->dC + place) + dy * h[i]);
            store(b->dB + place, load(b->dB + place) + g[i] * entry);
            d_entry += g[i] * B[i];
            h[i] = load(before + place);
            g[i] *= load(decay + place);
            vec d_exponent = g[i] * h[i];
            d_dt += d_exponent * rate[i];
            d_rate[i] += d_exponent * dt;
        }
        store(b->d_entry + t * LANES, d_entry);
        store(b->d_dt + t * LANES, d_dt);
    }
    for (int i = 0; i < k; i++) {
        store(state + i * LANES, g[i]);
        store(dA + i * LANES, d_rate[i]);
    }
}

/* `k` states over a chunk: forth again, then back. h: before the chunk; work: 2 k count LANES numbers. */
INLINE void forth_and_back(int k, const Chunk *c, const Back *unit, int64_t n, const float *A, float *h, float *g,
                           float *dA, float *work, int read)
{
    int64_t at = n * LANES, size = c->count * LANES;
    Back b = {unit->dy, unit->d_entry, unit->d_dt, unit->dB + n * size, unit->dC + n * size};
    decays(k, c, A + at, work);
    advance(k, c, n, work, h + at, work + k * size, read);
    retreat(k, c, &b, n, A + at, work, work + k * size, h + at, g + at, dA + at);
}

/* Sums over the lanes, [count, states], of what is [count, k, LANES] for `k` states after the other. */
INLINE void sum_lanes(int k, const float *from, int64_t count, int64_t states, float *to)
{
    for (int64_t t = 0; t < count; t++)
        for (int i = 0; i < k; i++) {
            const float *p = from + (t * k + i) * LANES;
            float half[LANES / 2];
            for (int l = 0; l < LANES / 2; l++)
                half[l] = p[l] + p[l + LANES / 2];
            for (int w = LANES / 4; w > 0; w /= 2)
                for (int l = 0; l < w; l++)
                    half[l] += half[l + w];
            to[t * states + i] = half[0];
        }
}

static void backward_unit(const Scan *s, int64_t rows, int64_t row, int64_t group, float *scratch)
{
    int64_t states = s->states, chunk = s->chunk, begin = group * GROUP, size = chunk * LANES;
    int64_t end = begin + GROUP < s->channels ? begin + GROUP : s->channels;
    float *A = scratch, *g = A + GROUP * states, *dA = g + GROUP * states; /* [vectors, states, LANES] */
    float *dB = dA + GROUP * states, *dC = dB + states * size;
    float *h = dC + states * size, *dD = h + states * LANES, *d_bias = dD + GROUP;
    float *dt = d_bias + GROUP, *dt_2 = dt + size, *slope = dt_2 + size, *x = slope + size, *entry = x + size, *y = entry + size;
    float *dy = y + size, *z = dy + size, *d_entry = z + size, *d_dt = d_entry + size, *work = d_dt + size;
    memset(dA, 0, sizeof(float) * GROUP * states);
    memset(dD, 0, sizeof(float) * 2 * GROUP);
    for (int64_t channel = begin; channel < end; channel += LANES) {
        int64_t width = end - channel < LANES ? end - channel : LANES, at = (channel - begin) * states;
        turn_in(s->A + channel * states, states, width, A + at);
        if (s->d_final)
            turn_in(s->d_final + (row * s->channels + channel) * states, states, width, g + at);
        else
            memset(g + at, 0, sizeof(float) * states * LANES);
    }
    int64_t chunks = (s->time + chunk - 1) / chunk;
    for (int64_t index = chunks - 1; index >= 0; index--) {
        int64_t start = index * chunk, count = s->time - start < chunk ? s->time - start : chunk;
        memset(dB, 0, sizeof(float) * 2 * states * size);
        for (int64_t channel = begin; channel < end; channel += LANES) {
            int64_t width = end - channel < LANES ? end - channel : LANES, at = (channel - begin) * states;
            float D[LANES] = {0};
            if (s->D)
                fetch(s->D + channel, 0, 1, width, D);
            step_sizes(s, row, start, count, channel, width, dt, slope);
            fetch(s->x + row * s->x_row + start * s->x_step + channel, s->x_step, count, width, x);
            fetch(s->dy + row * s->dy_row + start * s->dy_step + channel, s->dy_step, count, width, dy);
            if (s->z)
                fetch(s->z + row * s->z_row + start * s->z_step + channel, s->z_step, count, width, z);
            for (int64_t t = 0; t < count; t++)
                for (int l = 0; l < LANES; l++) {
                    int64_t i = t * LANES + l;
                    dt_2[i] = dt[i] * PER_LN2;
                    entry[i] = dt[i] * x[i];
                    y[i] = D[l] * x[i];
                    d_entry[i] = d_dt[i] = 0.0f;
                }
            if (s->z)
                for (int64_t i = 0; i < count * LANES; i++) {
                    float given = dy[i];
                    dy[i] = given * silu_f(z[i]);
                    z[i] = given * silu_slope_f(z[i]); /* becomes the gradient of z times y */
                }
            fetch(s->kept + (row * chunks + index) * states * s->padded_channels + channel, s->padded_channels, states,
                  width, h);
            int64_t row_B = row * s->B_row + start * s->B_step, row_C = row * s->C_row + start * s->C_step;
            Chunk c = {count, dt, dt_2, entry, s->B + row_B, s->C + row_C, s->B_step, s->C_step, y};
            Back b = {dy, d_entry, d_dt, dB, dC};
            int64_t n = 0;
            int read = s->z != 0;
            for (; n + TOGETHER <= states; n += TOGETHER)
                forth_and_back(TOGETHER, &c, &b, n, A + at, h, g + at, dA + at, work, read);
            for (; n < states; n++)
                forth_and_back(1, &c, &b, n, A + at, h, g + at, dA + at, work, read);
            for (int64_t t = 0; t < count; t++)
                for (int l = 0; l < LANES; l++) {
                    int64_t i = t * LANES + l;
                    float raw = (d_entry[i] * x[i] + d_dt[i]) * slope[i];
                    d_bias[channel - begin + l] += raw;
                    dD[channel - begin + l] += dy[i] * x[i];
                    d_dt[i] = raw;
                    d_entry[i] = d_entry[i] * dt[i] + dy[i] * D[l]; /* now the gradient of x */
                    y[i] *= z[i]; /* now the gradient of z */
                }
            int64_t place = (row * s->time + start) * s->channels + channel;
            put(d_entry, count, width, s->dx + place, s->channels);
            put(d_dt, count, width, s->d_dt + place, s->channels);
            if (s->z)
                put(y, count, width, s->dz + place, s->channels);
        }
        int64_t place = ((group * rows + row) * s->time + start) * states;
        for (int64_t n = 0; n < states;) {
            int k = n + TOGETHER <= states ? TOGETHER : 1;
            sum_lanes(k, dB + n * count * LANES, count, states, s->dB + place + n);
            sum_lanes(k, dC + n * count * LANES, count, states, s->dC + place + n);
            n += k;
        }
    }
    for (int64_t channel = begin; channel < end; channel += LANES) {
        int64_t width = end - channel < LANES ? end - channel : LANES, at = (channel - begin) * states;
        int64_t place = row * s->channels + channel;
        turn_out(dA + at, states, width, s->dA + place * states);
        turn_out(g + at, states, width, s->d_initial + place * states);
        memcpy(s->dD + place, dD + channel - begin, sizeof(float) * width);
        memcpy(s->d_bias + place, d_bias + channel - begin, sizeof(float) * width);
    }
}

void scan_backward(int64_t begin, int64_t end, const Scan *s, int64_t rows, float *scratch)
{
    int64_t groups = (s->channels + GROUP - 1) / GROUP;
    for (int64_t unit = begin; unit < end; unit++)
        backward_unit(s, rows, unit / groups, unit % groups, scratch);
}
