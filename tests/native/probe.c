/* What the shared headers offer, made callable for the tests. */
#include "numbers.h"
#include "rows.h"
#include "threads.h"

void probe_exp(const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = exp_f(x[i]);
}

void probe_silu(const float *x, float *y, float *slope, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = silu_f(x[i]);
        slope[i] = silu_slope_f(x[i]);
    }
}

void probe_product(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_col, const float *b,
                   float *c, int64_t add)
{
    product(m, n, k, a, a_row, a_col, b, n, c, n, (int)add);
}

void probe_transpose(int64_t m, int64_t n, const float *from, float *to) { transpose(m, n, from, n, to, m); }

void probe_fill(int64_t begin, int64_t end, float *to)
{
    for (int64_t i = begin; i < end; i++)
        to[i] += (float)i;
}

/* n is a multiple of LANES, at most 16, from here on. */
void probe_exp_below(const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES)
        store(y + i, exp_below_v(load(x + i)));
}

void probe_gates(const float *x, float *sigmoid, float *softplus, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        store(sigmoid + i, sigmoid_v(load(x + i)));
        store(softplus + i, softplus_v(load(x + i)));
    }
}

void probe_dot(const float *a, const float *b, int64_t n, float *result) { *result = dot(n, a, b); }

void probe_product_part(int64_t part, int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_col,
                        const float *b, float *c, int64_t add)
{
    product_part((enum part)part, m, n, k, a, a_row, a_col, b, n, c, n, (int)add);
}

void probe_rows(const void *from, int64_t half, int64_t rows, int64_t columns, int64_t row, float *padded_rows, void *to)
{
    take_rows(numbers_at(from, half, 0), columns, rows, columns, padded_rows, row);
    give_rows(padded_rows, row, rows, columns, numbers_at(to, half, 0), columns);
}

static void count_piece(int64_t index, int64_t thread, void *data)
{
    float *to = data;
    to[2 * index] += 1.0f;
    to[2 * index + 1] = (float)thread;
}

void probe_share(const team *by, int64_t count, float *to) { share(by, count, count_piece, to); }

/* A number below the smallest normal one, made while a kernel runs. */
static void tiny_piece(int64_t index, int64_t thread, void *data)
{
    (void)thread;
    volatile float small = 1e-30f;
    ((float *)data)[index] = small * 1e-10f;
}

void probe_tiny(const team *by, float *to)
{
    share(by, 1, tiny_piece, to);
    volatile float small = 1e-30f;
    to[1] = small * 1e-10f;
}
