/* The edge between tensors, in float32 or bfloat16 with rows of any length, and the padded float32 buffers of kernels. */
#ifndef LENGTHWISE_ROWS_H
#define LENGTHWISE_ROWS_H

#include "numbers.h"

/* Numbers in memory: where they begin, and whether they are bfloat16 (the upper half of a float32) or float32. */
typedef struct {
    char *at;
    int64_t half;
} numbers;

typedef uint32_t __attribute__((may_alias)) bits32;

INLINE numbers numbers_at(const void *start, int64_t half, int64_t index)
{
    return (numbers){(char *)start + index * (half ? 2 : 4), half};
}

/* to[i, :] = from[i, :] and zeros up to to_row, for `rows` rows of `columns` numbers; strides count numbers. */
__attribute__((unused)) static void take_rows(numbers from, int64_t from_row, int64_t rows, int64_t columns, float *to,
                                              int64_t to_row)
{
    for (int64_t i = 0; i < rows; i++) {
        float *restrict t = to + i * to_row;
        if (from.half) {
            const uint16_t *restrict f = (const uint16_t *)from.at + i * from_row;
            bits32 *restrict bits = (bits32 *)t;
            for (int64_t j = 0; j < columns; j++)
                bits[j] = (uint32_t)f[j] << 16;
        } else {
            memcpy(t, (const float *)from.at + i * from_row, (size_t)columns * sizeof(float));
        }
        for (int64_t j = columns; j < to_row; j++)
            t[j] = 0.0f;
    }
}

/* The reverse; a bfloat16 is the nearest one, the even one of two. */
__attribute__((unused)) static void give_rows(const float *from, int64_t from_row, int64_t rows, int64_t columns,
                                              numbers to, int64_t to_row)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *restrict f = from + i * from_row;
        if (to.half) {
            uint16_t *restrict t = (uint16_t *)to.at + i * to_row;
            const bits32 *restrict bits = (const bits32 *)f;
            for (int64_t j = 0; j < columns; j++) {
                uint32_t b = bits[j], rounded = (b + 0x7FFF + ((b >> 16) & 1)) >> 16;
                t[j] = (uint16_t)((b & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded); /* NaN stays NaN */
            }
        } else {
            memcpy((float *)to.at + i * to_row, f, (size_t)columns * sizeof(float));
        }
    }
}

/* A scratch that is handed out piece by piece, each beginning on a cache line. Without memory it counts what is needed. */
typedef struct {
    float *start;
    int64_t used;
} room;

INLINE float *take(room *from, int64_t count)
{
    float *piece = from->start ? from->start + from->used : 0;
    from->used += (count + 15) / 16 * 16;
    return piece;
}

#endif
