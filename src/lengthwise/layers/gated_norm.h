/* norm(y * silu(z)) over groups of channels, on pieces of rows: first the gate of each head, then the norm of all.
 *
 * With r = 1 / sqrt(mean(gated^2) + eps), out = r weight gated. Its gradient needs sum(weight d_out gated) over the group,
 * which is sum(d_out out) / r; so with `out` at hand the heads can be worked on one after the other.
 * Rows of a head are padded to whole vectors with zeros.
 */
#ifndef LENGTHWISE_GATED_NORM_H
#define LENGTHWISE_GATED_NORM_H

#include "numbers.h"

/* gated[i] = (y[i] + own[i] x[i]) silu(z[i]), and squares[i] the sum of its squares. */
static void gate_rows(int64_t tokens, int64_t row, const float *y, const float *own, const float *x, const float *z,
                      float *gated, int64_t gated_row, float *squares, int64_t squares_row)
{
    for (int64_t i = 0; i < tokens; i++) {
        vec sum = spread(0.0f);
        for (int64_t p = 0; p < row; p += LANES) {
            vec gate = load(z + i * row + p);
            vec v = (load(y + i * row + p) + own[i] * load(x + i * row + p)) * (gate * sigmoid_v(gate));
            store(gated + i * gated_row + p, v);
            sum += v * v;
        }
        squares[i * squares_row] = sum_v(sum);
    }
}

/* The two halves of `gate_rows`, for y that have a part in common: y += own x and z = silu(z); then
 * gated[i] = (y[i] + factor[i] more[i]) z[i]. */
static void open_rows(int64_t tokens, int64_t row, float *y, const float *own, const float *x, float *z)
{
    for (int64_t i = 0; i < tokens; i++)
        for (int64_t p = i * row; p < (i + 1) * row; p += LANES) {
            store(y + p, load(y + p) + own[i] * load(x + p));
            store(z + p, load(z + p) * sigmoid_v(load(z + p)));
        }
}

static void gate_read(int64_t tokens, int64_t row, const float *y, const float *factor, const float *more,
                      const float *open, float *gated, int64_t gated_row, float *squares, int64_t squares_row)
{
    for (int64_t i = 0; i < tokens; i++) {
        vec sum = spread(0.0f);
        for (int64_t p = 0; p < row; p += LANES) {
            vec v = (load(y + i * row + p) + factor[i] * load(more + i * row + p)) * load(open + i * row + p);
            store(gated + i * gated_row + p, v);
            sum += v * v;
        }
        squares[i * squares_row] = sum_v(sum);
    }
}

/* From d_out: the gradients dz and dy (of y + own x), and d_weight += the part of these tokens.
 *
 * r and slope lie `r_row` apart; slope[i] = r^2 sum(d_out out) / n, over the n channels of the group. dz may be z. */
static void gate_rows_backward(int64_t tokens, int64_t row, const float *y, const float *own, const float *x,
                               const float *z, const float *d_out, const float *weight, const float *r,
                               const float *slope, int64_t r_row, float *dy, float *dz, float *d_weight)
{
    for (int64_t p = 0; p < row; p += LANES) {
        vec w = load(weight + p), sum = load(d_weight + p);
        for (int64_t i = 0; i < tokens; i++) {
            int64_t at = i * row + p;
            vec gate = load(z + at), s = sigmoid_v(gate), open = gate * s;
            vec v = load(y + at) + own[i] * load(x + at), gated = v * open;
            vec given = r[i * r_row] * load(d_out + at);
            vec d_gated = given * w - slope[i * r_row] * gated;
            sum += given * gated;
            store(dy + at, d_gated * open);
            store(dz + at, d_gated * v * (s + open * (1.0f - s)));
        }
        store(d_weight + p, sum);
    }
}

#endif
