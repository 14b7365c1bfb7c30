/* What every kernel shares: vectors of the machine's own width, the exponential, small matrix products.
 *
 * All numbers are float32. No function here allocates, keeps state or calls another library, so all may run in many
 * threads at once. The compiler may contract a * b + c to one operation, but must not reorder sums: a result does not
 * depend on the machine beyond that.
 */
#ifndef LENGTHWISE_NUMBERS_H
#define LENGTHWISE_NUMBERS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Lanes of a vector, and vectors side by side in a tile of a product: as many sums as the registers hold. */
#if defined(__AVX512F__)
#define LANES 16
#define TILE_VECTORS 4
#elif defined(__AVX__)
#define LANES 8
#define TILE_VECTORS 2
#else
#define LANES 4
#define TILE_VECTORS 4
#endif
#define TILE_ROWS 6

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec spread(float x) { return x - (vec){0}; }

/* e^x to about 1 unit in the last place; 0 below -87, and x is cut at 88. Written without branches, so that a loop
 * over it becomes vector code: 2^n times a polynomial in the rest, |r| <= ln 2 / 2, in the manner of Cody and Waite. */
INLINE float exp_f(float x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    float y = x < 88.0f ? x : 88.0f;
    y = y > -87.0f ? y : -87.0f;
    float t = y * 1.44269504f + shift;
    float n = t - shift;
    float r = y - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    float p = 1.98412698e-4f; /* Taylor: the remainder is below 2^-26 on the range */
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    union { float f; int32_t i; } bits, power;
    bits.f = t;
    power.i = (int32_t)((uint32_t)(bits.i - 0x4B400000 + 127) << 23);
    float result = p * power.f;
    return x < -87.0f ? 0.0f : result;
}

INLINE float sigmoid_f(float x) { return 1.0f / (1.0f + exp_f(-x)); }
INLINE float silu_f(float x) { return x * sigmoid_f(x); }
/* d silu / dx */
INLINE float silu_slope_f(float x)
{
    float s = sigmoid_f(x);
    return s * (1.0f + x * (1.0f - s));
}

/* One tile of a product: `rows` x `vectors` sums held in registers. */
INLINE void product_tile(int rows, int vectors, int64_t depth, const float *a, int64_t a_row, int64_t a_col,
                         const float *b, int64_t b_row, float *c, int64_t c_row, int add)
{
    vec sum[TILE_ROWS][TILE_VECTORS];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++)
            sum[i][v] = add ? load(c + i * c_row + v * LANES) : spread(0.0f);
    for (int64_t p = 0; p < depth; p++) {
        vec right[TILE_VECTORS];
        for (int v = 0; v < vectors; v++)
            right[v] = load(b + p * b_row + v * LANES);
        for (int i = 0; i < rows; i++) {
            float left = a[i * a_row + p * a_col];
            for (int v = 0; v < vectors; v++)
                sum[i][v] += left * right[v];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++)
            store(c + i * c_row + v * LANES, sum[i][v]);
}

INLINE void product_rows(int vectors, int64_t m, int64_t k, const float *a, int64_t a_row, int64_t a_col,
                         const float *b, int64_t b_row, float *c, int64_t c_row, int add)
{
    int64_t i = 0;
    for (; i + TILE_ROWS <= m; i += TILE_ROWS)
        product_tile(TILE_ROWS, vectors, k, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row, add);
    for (; i < m; i++)
        product_tile(1, vectors, k, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row, add);
}

/* C (+)= A B for small matrices that stay in cache: A [m, k] with any strides (so also a transpose), B [k, n] and
 * C [m, n] with rows of consecutive numbers. Strides count numbers. add: 0 replaces C. */
static void product(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_col, const float *b,
                    int64_t b_row, float *c, int64_t c_row, int add)
{
    int64_t j = 0;
    for (; j + TILE_VECTORS * LANES <= n; j += TILE_VECTORS * LANES)
        product_rows(TILE_VECTORS, m, k, a, a_row, a_col, b + j, b_row, c + j, c_row, add);
    for (; j + LANES <= n; j += LANES)
        product_rows(1, m, k, a, a_row, a_col, b + j, b_row, c + j, c_row, add);
    if (j < n)
        for (int64_t i = 0; i < m; i++)
            for (int64_t q = j; q < n; q++) {
                float sum = add ? c[i * c_row + q] : 0.0f;
                for (int64_t p = 0; p < k; p++)
                    sum += a[i * a_row + p * a_col] * b[p * b_row + q];
                c[i * c_row + q] = sum;
            }
}

/* to [n, m] = from [m, n] turned; rows of consecutive numbers. */
static void transpose(int64_t m, int64_t n, const float *from, int64_t from_row, float *to, int64_t to_row)
{
    for (int64_t i = 0; i < m; i += 8)
        for (int64_t j = 0; j < n; j += 8)
            for (int64_t q = j; q < j + 8 && q < n; q++)
                for (int64_t p = i; p < i + 8 && p < m; p++)
                    to[q * to_row + p] = from[p * from_row + q];
}

#endif
