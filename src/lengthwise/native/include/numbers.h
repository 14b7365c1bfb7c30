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

/* Keeps a value that is used several times in a register, where a compiler might load it again for each use. */
#if defined(__x86_64__)
#define IN_REGISTER(v) __asm__("" : "+v"(v))
#else
#define IN_REGISTER(v)
#endif
/* Loops over the rows and vectors of a tile are unrolled before anything else is decided, so that sums are registers. */
#define UNROLL _Pragma("GCC unroll 16")

/* One tile of a product: `rows` x `vectors` sums held in registers. */
INLINE void product_tile(int rows, int vectors, int64_t depth, const float *a, int64_t a_row, int64_t a_col,
                         const float *b, int64_t b_row, float *c, int64_t c_row, int add)
{
    vec sum[TILE_ROWS][TILE_VECTORS];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[i][v] = add ? load(c + i * c_row + v * LANES) : spread(0.0f);
    for (int64_t p = 0; p < depth; p++) {
        vec right[TILE_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) {
            right[v] = load(b + p * b_row + v * LANES);
            IN_REGISTER(right[v]);
        }
        UNROLL for (int i = 0; i < rows; i++) {
            float left = a[i * a_row + p * a_col];
            UNROLL for (int v = 0; v < vectors; v++)
                sum[i][v] += left * right[v];
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++)
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

/* Whole vectors that hold n numbers, in numbers: the length of a row that is padded for the functions below. */
INLINE int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Lane by lane: a where `which` is all ones, b where it is zero. */
INLINE vec choose(ivec which, vec a, vec b) { return (vec)((which & (ivec)a) | (~which & (ivec)b)); }

/* The numbers first, first + 1, ... in the lanes. */
INLINE ivec count_from(int32_t first)
{
    ivec lanes;
    for (int i = 0; i < LANES; i++)
        lanes[i] = first + i;
    return lanes;
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE
#endif
#endif

/* Sum of the lanes, halves first: always in the same order. */
INLINE float sum_v(vec v)
{
#ifdef SHUFFLE
    typedef float vec4 __attribute__((vector_size(16)));
#if LANES == 16
    typedef float vec8 __attribute__((vector_size(32)));
    vec8 half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    vec4 four = __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
#elif LANES == 8
    vec4 four = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
    vec4 four = (vec4)v;
#endif
    return (four[0] + four[2]) + (four[1] + four[3]);
#else
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            v[i] += v[i + half];
    return v[0];
#endif
}

/* e^x for x <= 0, all lanes, as exact as exp_f; 0 below -87. */
INLINE vec exp_below_v(vec x)
{
    vec t = x * 1.44269504f + 12582912.0f;
    vec n = t - 12582912.0f;
    vec r = x - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    vec p = r * 1.38146e-3f + 8.36872e-3f; /* of all with 1 + r, the polynomial of least relative error: 3e-9 */
    p = p * r + 4.166839e-2f;
    p = p * r + 1.6666521e-1f;
    p = p * r + 4.9999993e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    vec power = (vec)(((ivec)t - (0x4B400000 - 127)) << 23);
    return (vec)((ivec)(p * power) & (x >= -87.0f));
}

INLINE vec sigmoid_v(vec x)
{
    vec e = exp_below_v((vec)((ivec)x | INT32_MIN)); /* e^-|x| */
    return choose(x >= 0.0f, spread(1.0f), e) / (1.0f + e);
}

/* log(1 + e^x): the larger of x and 0, and log(1 + e) with e = e^-|x|, which is 2 atanh(e / (2 + e)) as a series. */
INLINE vec softplus_v(vec x)
{
    vec e = exp_below_v((vec)((ivec)x | INT32_MIN));
    vec s = e / (2.0f + e), q = s * s; /* q <= 1/9 */
    vec p = q * (1.0f / 15.0f) + 1.0f / 13.0f;
    p = p * q + 1.0f / 11.0f;
    p = p * q + 1.0f / 9.0f;
    p = p * q + 1.0f / 7.0f;
    p = p * q + 1.0f / 5.0f;
    p = p * q + 1.0f / 3.0f;
    return choose(x > 0.0f, x, spread(0.0f)) + 2.0f * (s + s * (q * p));
}

/* Sum of a[i] b[i]; n is a multiple of LANES. */
INLINE float dot(int64_t n, const float *a, const float *b)
{
    vec sum[4] = {spread(0.0f), spread(0.0f), spread(0.0f), spread(0.0f)};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        UNROLL for (int k = 0; k < 4; k++)
            sum[k] += load(a + i + k * LANES) * load(b + i + k * LANES);
    for (; i < n; i += LANES)
        sum[0] += load(a + i) * load(b + i);
    return sum_v((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* `product_tile` for sizes known at run time only. */
#define TILE_CASE(r, v)                                                             \
    case (r) * 8 + (v):                                                             \
        product_tile(r, v, depth, a, a_row, a_col, b, b_row, c, c_row, add);        \
        break;
#if TILE_VECTORS == 4
#define TILE_CASES(r) TILE_CASE(r, 1) TILE_CASE(r, 2) TILE_CASE(r, 3) TILE_CASE(r, 4)
#else
#define TILE_CASES(r) TILE_CASE(r, 1) TILE_CASE(r, 2)
#endif
__attribute__((noinline, unused)) static void product_any_tile(int rows, int vectors, int64_t depth, const float *a,
                                                               int64_t a_row, int64_t a_col, const float *b,
                                                               int64_t b_row, float *c, int64_t c_row, int add)
{
    switch (rows * 8 + vectors) {
        TILE_CASES(1) TILE_CASES(2) TILE_CASES(3) TILE_CASES(4) TILE_CASES(5) TILE_CASES(6)
    }
}

/* Which parts of a product with a triangular matrix are computed. Rows are taken in tiles of TILE_ROWS, so an operand
 * must be zero for up to TILE_ROWS - 1 places beyond its triangle. */
enum part {
    ALL,
    BELOW,    /* A is zero right of its diagonal: sums over columns of A up to the row */
    ABOVE,    /* A is zero left of its diagonal: sums over columns of A from the row on */
    RESULT_ABOVE /* only C right of its diagonal is wanted: whole vectors, from the one that holds it */
};

/* C (+)= A B like `product`, n a multiple of LANES, and only what `part` says. */
__attribute__((unused)) static void product_part(enum part part, int64_t m, int64_t n, int64_t k, const float *a,
                                                 int64_t a_row, int64_t a_col, const float *b, int64_t b_row, float *c,
                                                 int64_t c_row, int add)
{
    for (int64_t left = 0; left < n; left += TILE_VECTORS * LANES) {
        int64_t right = left + TILE_VECTORS * LANES < n ? left + TILE_VECTORS * LANES : n;
        for (int64_t i = 0; i < m; i += TILE_ROWS) {
            int64_t rows = m - i < TILE_ROWS ? m - i : TILE_ROWS, j = left, from = 0, to = k;
            if (part == BELOW && i + rows < k)
                to = i + rows;
            if (part == ABOVE)
                from = i < k ? i : k;
            if (part == RESULT_ABOVE && i / LANES * LANES > left)
                j = i / LANES * LANES;
            if (j < right)
                product_any_tile((int)rows, (int)((right - j) / LANES), to - from, a + i * a_row + from * a_col, a_row,
                                 a_col, b + from * b_row + j, b_row, c + i * c_row + j, c_row, add);
        }
    }
}

/* A square of LANES x LANES turned in registers: in step s, rows i and i + s change places of blocks of s x s. */
#ifdef SHUFFLE
#if LANES == 16
#define EACH_LANE(f, s)                                                                                          \
    f(0, s), f(1, s), f(2, s), f(3, s), f(4, s), f(5, s), f(6, s), f(7, s), f(8, s), f(9, s), f(10, s), f(11, s), \
        f(12, s), f(13, s), f(14, s), f(15, s)
#elif LANES == 8
#define EACH_LANE(f, s) f(0, s), f(1, s), f(2, s), f(3, s), f(4, s), f(5, s), f(6, s), f(7, s)
#else
#define EACH_LANE(f, s) f(0, s), f(1, s), f(2, s), f(3, s)
#endif
#define UPPER_LANE(l, s) (((l) & (s)) ? (l) - (s) + LANES : (l))
#define LOWER_LANE(l, s) (((l) & (s)) ? (l) + LANES : (l) + (s))
#define TURN_STEP(s)                                                                         \
    for (int i = 0; i < LANES; i++)                                                          \
        if (!(i & (s))) {                                                                    \
            vec a = row[i], b = row[i + (s)];                                                \
            row[i] = __builtin_shufflevector(a, b, EACH_LANE(UPPER_LANE, s));                \
            row[i + (s)] = __builtin_shufflevector(a, b, EACH_LANE(LOWER_LANE, s));          \
        }
INLINE void turn_square(const float *from, int64_t from_row, float *to, int64_t to_row)
{
    vec row[LANES];
    for (int i = 0; i < LANES; i++)
        row[i] = load(from + i * from_row);
    TURN_STEP(1)
    TURN_STEP(2)
#if LANES > 4
    TURN_STEP(4)
#endif
#if LANES > 8
    TURN_STEP(8)
#endif
    for (int i = 0; i < LANES; i++)
        store(to + i * to_row, row[i]);
}
#endif

/* to [n, m] = from [m, n] turned; rows of consecutive numbers. */
static void transpose(int64_t m, int64_t n, const float *from, int64_t from_row, float *to, int64_t to_row)
{
    for (int64_t i = 0; i < m; i += LANES)
        for (int64_t j = 0; j < n; j += LANES) {
#ifdef SHUFFLE
            if (i + LANES <= m && j + LANES <= n) {
                turn_square(from + i * from_row + j, from_row, to + j * to_row + i, to_row);
                continue;
            }
#endif
            for (int64_t q = j; q < j + LANES && q < n; q++)
                for (int64_t p = i; p < i + LANES && p < m; p++)
                    to[q * to_row + p] = from[p * from_row + q];
        }
}

#endif
