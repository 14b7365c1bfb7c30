/* What numbers.h offers, made callable for the tests. */
#include "numbers.h"

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
