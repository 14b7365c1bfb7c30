/* Causal depthwise convolution of a piece of a row, forward and backward, on float32 rows of channels.
 *
 * A piece of T tokens is given with the W - 1 inputs before it, so a piece may be shorter than the filter. Filters are
 * turned, [W, C], so that the channels of a tap lie together. Rows of `input`, `y` and the others are C numbers or more
 * apart.
 */
#ifndef LENGTHWISE_CONV_PIECE_H
#define LENGTHWISE_CONV_PIECE_H

#include "numbers.h"

/* The first `n` numbers at p in a vector, zero in the other lanes; and back. */
INLINE vec load_some(const float *p, int64_t n)
{
    if (n >= LANES)
        return load(p);
    vec v = spread(0.0f);
    memcpy(&v, p, (size_t)n * sizeof(float));
    return v;
}

INLINE void store_some(float *p, vec v, int64_t n)
{
    if (n >= LANES)
        store(p, v);
    else
        memcpy(p, &v, (size_t)n * sizeof(float));
}

/* Calls function(arguments, first channel, end, channels at a time, taps) for whole vectors of channels and for the rest,
 * with the usual number of taps known to the compiler. */
#define CONV_BY_VECTOR(function, channels, taps, ...)                                            \
    do {                                                                                         \
        int64_t whole_ = (channels) / LANES * LANES, rest_ = (channels) - whole_;                \
        if ((taps) == 4) {                                                                       \
            function(__VA_ARGS__, 0, whole_, LANES, 4);                                          \
            if (rest_)                                                                           \
                function(__VA_ARGS__, whole_, (channels), rest_, 4);                             \
        } else {                                                                                 \
            function(__VA_ARGS__, 0, whole_, LANES, (taps));                                     \
            if (rest_)                                                                           \
                function(__VA_ARGS__, whole_, (channels), rest_, (taps));                        \
        }                                                                                        \
    } while (0)

INLINE void conv_piece_some(int64_t tokens, const float *input, int64_t input_row, const float *weight,
                            int64_t weight_row, const float *bias, int silu, float *y, int64_t y_row, float *slope,
                            int64_t first, int64_t end, int64_t n, int64_t taps)
{
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = first; c < end; c += LANES) {
            vec sum = bias ? load_some(bias + c, n) : spread(0.0f);
            for (int64_t k = 0; k < taps; k++)
                sum += load_some(weight + k * weight_row + c, n) * load_some(input + (t + k) * input_row + c, n);
            if (silu) {
                vec s = sigmoid_v(sum), product = sum * s;
                if (slope)
                    store_some(slope + t * y_row + c, s + product * (1.0f - s), n);
                sum = product;
            }
            store_some(y + t * y_row + c, sum, n);
        }
}

/* y[t] = f(bias + sum_k weight[k] input[t + k]) for T tokens; input[0] is W - 1 tokens before the first.
 *
 * f is silu where `silu`, else the identity; `slope`, if not null, takes its derivative, in rows like those of y. bias
 * may be null. */
__attribute__((unused)) static void conv_piece(int64_t tokens, int64_t channels, int64_t taps, const float *input,
                                               int64_t input_row, const float *weight, int64_t weight_row,
                                               const float *bias, int silu, float *y, int64_t y_row, float *slope)
{
    if (silu)
        CONV_BY_VECTOR(conv_piece_some, channels, taps, tokens, input, input_row, weight, weight_row, bias, 1, y, y_row,
                       slope);
    else
        CONV_BY_VECTOR(conv_piece_some, channels, taps, tokens, input, input_row, weight, weight_row, bias, 0, y, y_row,
                       slope);
}

INLINE void conv_piece_input_some(int64_t tokens, const float *d, int64_t d_row, const float *weight,
                                  int64_t weight_row, float *d_input, int64_t d_input_row, int64_t first, int64_t end,
                                  int64_t n, int64_t taps)
{
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = first; c < end; c += LANES) {
            vec sum = spread(0.0f);
            for (int64_t k = 0; k < taps; k++)
                sum += load_some(weight + k * weight_row + c, n) * load_some(d + (t + taps - 1 - k) * d_row + c, n);
            store_some(d_input + t * d_input_row + c, sum, n);
        }
}

/* d_input[t] = sum_k weight[k] d[t + W - 1 - k] for T tokens, where d is the gradient before f of these tokens and of the
 * W - 1 after them. */
__attribute__((unused)) static void conv_piece_input(int64_t tokens, int64_t channels, int64_t taps, const float *d,
                                                     int64_t d_row, const float *weight, int64_t weight_row,
                                                     float *d_input, int64_t d_input_row)
{
    CONV_BY_VECTOR(conv_piece_input_some, channels, taps, tokens, d, d_row, weight, weight_row, d_input, d_input_row);
}

INLINE void conv_piece_filter_some(int64_t tokens, const float *d, int64_t d_row, const float *input, int64_t input_row,
                                   float *d_weight, int64_t weight_row, float *d_bias, int64_t first, int64_t end,
                                   int64_t n, int64_t taps)
{
    for (int64_t c = first; c < end; c += LANES)
        for (int64_t k = 0; k < taps; k += 4) { /* up to four taps at once */
            int64_t more = taps - k < 4 ? taps - k : 4;
            vec sum[4], total = spread(0.0f);
            for (int64_t q = 0; q < more; q++)
                sum[q] = load_some(d_weight + (k + q) * weight_row + c, n);
            for (int64_t t = 0; t < tokens; t++) {
                vec given = load_some(d + t * d_row + c, n);
                total += given;
                for (int64_t q = 0; q < more; q++)
                    sum[q] += given * load_some(input + (t + k + q) * input_row + c, n);
            }
            for (int64_t q = 0; q < more; q++)
                store_some(d_weight + (k + q) * weight_row + c, sum[q], n);
            if (d_bias && k == 0)
                store_some(d_bias + c, load_some(d_bias + c, n) + total, n);
        }
}

/* d_weight[k] += sum_t d[t] input[t + k] and d_bias += sum_t d[t], over the T tokens; input as in `conv_piece`. d_bias may
 * be null. */
__attribute__((unused)) static void conv_piece_filter(int64_t tokens, int64_t channels, int64_t taps, const float *d,
                                                      int64_t d_row, const float *input, int64_t input_row,
                                                      float *d_weight, int64_t weight_row, float *d_bias)
{
    CONV_BY_VECTOR(conv_piece_filter_some, channels, taps, tokens, d, d_row, input, input_row, d_weight, weight_row,
                   d_bias);
}

#endif
