/* Linear attention with one decay for each key channel, forward and backward, one head of one row at a time.
 *
 *     S[t] = diag(d[t]) S[t-1] + k[t] v[t]^T,  d = exp(log decay)        S is [K, V]
 *     inclusive:  o[t] = scale S[t]^T q[t]                               (GLA)
 *     exclusive:  o[t] = scale (S[t-1]^T q[t] + (q[t] . u k[t]) v[t])    (RWKV-6)
 *
 * The recurrence itself, token after token: the state of a head stays in the first cache, and decays are only ever
 * multiplied, so that no size of them can overflow or cancel.
 *
 * Work goes by segments of SEGMENT tokens. Before each, the forward pass keeps the state. The backward pass takes the
 * segments from the last to the first and needs two things in every one of them: the states, read from the start of the
 * segment on, and the gradients of the states, read from its end. A sum over values runs over rows here if the key
 * channels lie in the lanes of the vectors, and a sum over key channels if the values do; so the gradient of the
 * states is swept twice, once in each way, rather than summed across lanes.
 */
#include "numbers.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#define SEGMENT 64
#define ROWS 4 /* of a tile in registers */
#if LANES == 16
#define DEEP 8 /* rows of a tile where one vector is a row */
#else
#define DEEP 4
#endif

/* Where the state is read, and where it decays, within a step. */
enum { DECAY_ADD_READ, READ_DECAY_ADD, ADD_READ_DECAY };

/* Numbers below 1e-38 count as zero while a kernel runs; a processor may be a hundred times slower with them. */
INLINE unsigned flush_tiny(void)
{
#if defined(__SSE__)
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
    return before;
#else
    return 0;
#endif
}

INLINE void restore(unsigned before)
{
#if defined(__SSE__)
    _mm_setcsr(before);
#else
    (void)before;
#endif
}

INLINE int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/* Memory of one head: a segment of everything, rows filled up with zeros to whole vectors. */
typedef struct {
    int64_t k_row, v_row; /* K and V, rounded up */
    float *d, *q, *k;     /* [SEGMENT, k_row] */
    float *dq, *dk, *dd;  /* [SEGMENT, k_row] */
    float *u, *du;        /* [k_row] */
    float *v, *o;         /* [SEGMENT, v_row]; o holds dv in the backward pass */
    float *dy;            /* [SEGMENT, v_row] */
    float *state;         /* [k_row, v_row]; its gradient in the backward pass */
    float *turned;        /* [v_row, k_row]: the state, values first */
    float *d_turned;      /* [v_row, k_row]: its gradient */
    float *before;        /* [SEGMENT, DEEP, LANES]: states of a tile before each token */
} Memory;

static int64_t divide(Memory *m, int64_t K, int64_t V, float *at)
{
    m->k_row = round_up(K, LANES);
    m->v_row = round_up(V, LANES);
    int64_t keys = SEGMENT * m->k_row, values = SEGMENT * m->v_row, states = m->k_row * m->v_row, used = 0;
    float **by_key[] = {&m->d, &m->q, &m->k, &m->dq, &m->dk, &m->dd};
    for (int i = 0; i < 6; i++, used += keys)
        *by_key[i] = at + used;
    float **by_value[] = {&m->v, &m->o, &m->dy};
    for (int i = 0; i < 3; i++, used += values)
        *by_value[i] = at + used;
    float **alone[] = {&m->u, &m->du};
    for (int i = 0; i < 2; i++, used += m->k_row)
        *alone[i] = at + used;
    float **of_state[] = {&m->state, &m->turned, &m->d_turned};
    for (int i = 0; i < 3; i++, used += states)
        *of_state[i] = at + used;
    m->before = at + used;
    return used + SEGMENT * DEEP * LANES;
}

/* The number of floats a thread needs, and SEGMENT. */
void vector_decay_sizes(int64_t K, int64_t V, int64_t *sizes)
{
    Memory m;
    float base;
    sizes[0] = divide(&m, K, V, &base);
    sizes[1] = SEGMENT;
}

/* to [rows, to_row] = factor * from [rows, columns], filled up with zeros. */
INLINE void take(int64_t rows, int64_t columns, const float *from, int64_t from_row, float factor, float *to,
                 int64_t to_row)
{
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < columns; j++)
            to[i * to_row + j] = factor * from[i * from_row + j];
        for (int64_t j = columns; j < to_row; j++)
            to[i * to_row + j] = 0.0f;
    }
}

INLINE void give(int64_t rows, int64_t columns, const float *from, int64_t from_row, float factor, float *to,
                 int64_t to_row)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            to[i * to_row + j] = factor * from[i * from_row + j];
}

static void take_decays(int64_t rows, int64_t columns, const float *log_decay, int64_t from_row, float *to,
                        int64_t to_row)
{
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < columns; j++)
            to[i * to_row + j] = exp_f(log_decay[i * from_row + j]);
        for (int64_t j = columns; j < to_row; j++)
            to[i * to_row + j] = 0.0f;
    }
}

INLINE float sum_of_lanes(vec x)
{
    float lanes[LANES];
    store(lanes, x);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lanes[i] += lanes[i + width];
    return lanes[0];
}

/* The bonus (q . u k) v of n tokens: o = bonus v. */
static void add_bonus(int64_t n, const Memory *m)
{
    for (int64_t t = 0; t < n; t++) {
        const float *q = m->q + t * m->k_row, *k = m->k + t * m->k_row, *v = m->v + t * m->v_row;
        vec sum = spread(0.0f);
        for (int64_t j = 0; j < m->k_row; j += LANES)
            sum += load(q + j) * load(m->u + j) * load(k + j);
        const float bonus = sum_of_lanes(sum);
        for (int64_t j = 0; j < m->v_row; j++)
            m->o[t * m->v_row + j] = bonus * v[j];
    }
}

/* Its part of the gradients, added to dq, dk, du; dv is set. */
static void add_bonus_gradients(int64_t n, const Memory *m)
{
    for (int64_t t = 0; t < n; t++) {
        const float *q = m->q + t * m->k_row, *k = m->k + t * m->k_row;
        const float *v = m->v + t * m->v_row, *dy = m->dy + t * m->v_row;
        float *dq = m->dq + t * m->k_row, *dk = m->dk + t * m->k_row;
        vec sum = spread(0.0f), d_sum = spread(0.0f);
        for (int64_t j = 0; j < m->k_row; j += LANES)
            sum += load(q + j) * load(m->u + j) * load(k + j);
        for (int64_t j = 0; j < m->v_row; j += LANES)
            d_sum += load(dy + j) * load(v + j);
        const float bonus = sum_of_lanes(sum), d_bonus = sum_of_lanes(d_sum);
        for (int64_t j = 0; j < m->v_row; j++)
            m->o[t * m->v_row + j] = bonus * dy[j];
        for (int64_t j = 0; j < m->k_row; j++) {
            dq[j] += d_bonus * m->u[j] * k[j];
            dk[j] += d_bonus * m->u[j] * q[j];
            m->du[j] += d_bonus * q[j] * k[j];
        }
    }
}

/* ROWS key channels by `vectors` vectors of values through n tokens: S = d S + in v^T and o += S^T out, in the given
 * order, forwards or backwards in time. */
INLINE void sweep_tile(int vectors, int order, int backwards, int64_t n, const float *d, const float *in,
                       const float *out, int64_t k_row, const float *v, float *o, int64_t v_row, float *state)
{
    vec s[ROWS][TILE_VECTORS];
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < vectors; c++)
            s[r][c] = load(state + r * v_row + c * LANES);
    for (int64_t i = 0; i < n; i++) {
        int64_t t = backwards ? n - 1 - i : i;
        const float *dt = d + t * k_row, *it = in + t * k_row, *ot = out + t * k_row;
        vec value[TILE_VECTORS], sum[TILE_VECTORS];
        for (int c = 0; c < vectors; c++) {
            value[c] = load(v + t * v_row + c * LANES);
            sum[c] = load(o + t * v_row + c * LANES);
        }
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < vectors; c++) {
                if (order == READ_DECAY_ADD)
                    sum[c] += ot[r] * s[r][c];
                if (order != ADD_READ_DECAY)
                    s[r][c] = dt[r] * s[r][c];
                s[r][c] += it[r] * value[c];
                if (order != READ_DECAY_ADD)
                    sum[c] += ot[r] * s[r][c];
                if (order == ADD_READ_DECAY)
                    s[r][c] = dt[r] * s[r][c];
            }
        for (int c = 0; c < vectors; c++)
            store(o + t * v_row + c * LANES, sum[c]);
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < vectors; c++)
            store(state + r * v_row + c * LANES, s[r][c]);
}

/* The same for the whole state [K, V]. */
INLINE void sweep(int order, int backwards, int64_t n, int64_t K, const float *d, const float *in, const float *out,
                  int64_t k_row, const float *v, float *o, int64_t v_row, float *state)
{
    for (int64_t r = 0; r < K; r += ROWS) {
        int64_t c = 0;
        for (; c + TILE_VECTORS * LANES <= v_row; c += TILE_VECTORS * LANES)
            sweep_tile(TILE_VECTORS, order, backwards, n, d + r, in + r, out + r, k_row, v + c, o + c, v_row,
                       state + r * v_row + c);
        for (; c < v_row; c += LANES)
            sweep_tile(1, order, backwards, n, d + r, in + r, out + r, k_row, v + c, o + c, v_row,
                       state + r * v_row + c);
    }
}

/* DEEP values by one vector of key channels through a segment and back: the states once more, from which dq follows,
 * and their gradients, from which dk and that of the decay follow. */
INLINE void sweep_turned_tile(int exclusive, int64_t n, const Memory *m, int64_t row, int64_t column)
{
    const int64_t k_row = m->k_row, v_row = m->v_row;
    float *states = m->turned + row * k_row + column, *gradients = m->d_turned + row * k_row + column;
    vec s[DEEP];
    for (int r = 0; r < DEEP; r++)
        s[r] = load(states + r * k_row);
    for (int64_t t = 0; t < n; t++) {
        const float *v = m->v + t * v_row + row, *dy = m->dy + t * v_row + row;
        vec d = load(m->d + t * k_row + column), k = load(m->k + t * k_row + column);
        float *dq = m->dq + t * k_row + column, *before = m->before + t * DEEP * LANES;
        vec sum = load(dq);
        for (int r = 0; r < DEEP; r++) {
            store(before + r * LANES, s[r]);
            if (exclusive)
                sum += dy[r] * s[r];
            s[r] = d * s[r];
            s[r] += v[r] * k;
            if (!exclusive)
                sum += dy[r] * s[r];
        }
        store(dq, sum);
    }
    for (int r = 0; r < DEEP; r++)
        s[r] = load(gradients + r * k_row);
    for (int64_t t = n - 1; t >= 0; t--) {
        const float *v = m->v + t * v_row + row, *dy = m->dy + t * v_row + row;
        vec d = load(m->d + t * k_row + column), q = load(m->q + t * k_row + column);
        float *dk = m->dk + t * k_row + column, *dd = m->dd + t * k_row + column;
        const float *before = m->before + t * DEEP * LANES;
        vec of_k = load(dk), of_d = load(dd);
        for (int r = 0; r < DEEP; r++) {
            if (!exclusive)
                s[r] += dy[r] * q;
            of_k += v[r] * s[r];
            of_d += load(before + r * LANES) * s[r];
            s[r] = d * s[r];
            if (exclusive)
                s[r] += dy[r] * q;
        }
        store(dk, of_k);
        store(dd, of_d);
    }
    for (int r = 0; r < DEEP; r++)
        store(gradients + r * k_row, s[r]);
}

INLINE void sweep_turned(int exclusive, int64_t n, const Memory *m)
{
    for (int64_t row = 0; row < m->v_row; row += DEEP)
        for (int64_t column = 0; column < m->k_row; column += LANES)
            sweep_turned_tile(exclusive, n, m, row, column);
}

/* Heads begin to end - 1 of [B * H]. Inputs are [B, T, H, K] and [B, T, H, V], u [H, K] or NULL (inclusive), states
 * [B, H, K, V], `initial` and `kept` [B, H, segments, K, V] or NULL. */
void vector_decay_forward(int64_t begin, int64_t end, int64_t T, int64_t H, int64_t K, int64_t V, float scale,
                          const float *q, const float *k, const float *v, const float *log_decay, const float *u,
                          const float *initial, float *o, float *final, float *kept, float *scratch)
{
    unsigned mode = flush_tiny();
    Memory m;
    divide(&m, K, V, scratch);
    const int64_t k_step = H * K, v_step = H * V, size = K * V, segments = (T + SEGMENT - 1) / SEGMENT;
    for (int64_t head = begin; head < end; head++) {
        const int64_t b = head / H, h = head % H;
        memset(m.state, 0, sizeof(float) * m.k_row * m.v_row);
        if (u)
            take(1, K, u + h * K, K, 1.0f, m.u, m.k_row);
        if (initial)
            take(K, V, initial + head * size, V, 1.0f, m.state, m.v_row);
        for (int64_t segment = 0; segment < segments; segment++) {
            const int64_t start = segment * SEGMENT, n = T - start < SEGMENT ? T - start : SEGMENT;
            const int64_t keys = (b * T + start) * k_step + h * K, values = (b * T + start) * v_step + h * V;
            if (kept)
                give(K, V, m.state, m.v_row, 1.0f, kept + (head * segments + segment) * size, V);
            take(n, K, q + keys, k_step, scale, m.q, m.k_row);
            take(n, K, k + keys, k_step, 1.0f, m.k, m.k_row);
            take(n, V, v + values, v_step, 1.0f, m.v, m.v_row);
            take_decays(n, K, log_decay + keys, k_step, m.d, m.k_row);
            if (u) {
                add_bonus(n, &m);
                sweep(READ_DECAY_ADD, 0, n, K, m.d, m.k, m.q, m.k_row, m.v, m.o, m.v_row, m.state);
            } else {
                memset(m.o, 0, sizeof(float) * n * m.v_row);
                sweep(DECAY_ADD_READ, 0, n, K, m.d, m.k, m.q, m.k_row, m.v, m.o, m.v_row, m.state);
            }
            give(n, V, m.o, m.v_row, 1.0f, o + values, v_step);
        }
        give(K, V, m.state, m.v_row, 1.0f, final + head * size, V);
    }
    restore(mode);
}

/* Gradients, given those of the outputs and, if any, of the final state. du is [B, H, K], to be summed over B. */
void vector_decay_backward(int64_t begin, int64_t end, int64_t T, int64_t H, int64_t K, int64_t V, float scale,
                           const float *q, const float *k, const float *v, const float *log_decay, const float *u,
                           const float *kept, const float *dy, const float *d_final, float *dq, float *dk, float *dv,
                           float *d_log_decay, float *du, float *d_initial, float *scratch)
{
    unsigned mode = flush_tiny();
    Memory m;
    divide(&m, K, V, scratch);
    const int64_t k_step = H * K, v_step = H * V, size = K * V, segments = (T + SEGMENT - 1) / SEGMENT;
    for (int64_t head = begin; head < end; head++) {
        const int64_t b = head / H, h = head % H;
        memset(m.state, 0, sizeof(float) * m.k_row * m.v_row);
        memset(m.d_turned, 0, sizeof(float) * m.k_row * m.v_row);
        memset(m.turned, 0, sizeof(float) * m.k_row * m.v_row);
        if (d_final) {
            take(K, V, d_final + head * size, V, 1.0f, m.state, m.v_row);
            transpose(K, V, d_final + head * size, V, m.d_turned, m.k_row);
        }
        if (u) {
            take(1, K, u + h * K, K, 1.0f, m.u, m.k_row);
            memset(m.du, 0, sizeof(float) * m.k_row);
        }
        for (int64_t segment = segments - 1; segment >= 0; segment--) {
            const int64_t start = segment * SEGMENT, n = T - start < SEGMENT ? T - start : SEGMENT;
            const int64_t keys = (b * T + start) * k_step + h * K, values = (b * T + start) * v_step + h * V;
            take(n, K, q + keys, k_step, scale, m.q, m.k_row);
            take(n, K, k + keys, k_step, 1.0f, m.k, m.k_row);
            take(n, V, v + values, v_step, 1.0f, m.v, m.v_row);
            take(n, V, dy + values, v_step, 1.0f, m.dy, m.v_row);
            take_decays(n, K, log_decay + keys, k_step, m.d, m.k_row);
            transpose(K, V, kept + (head * segments + segment) * size, V, m.turned, m.k_row);
            memset(m.dq, 0, sizeof(float) * n * m.k_row);
            memset(m.dk, 0, sizeof(float) * n * m.k_row);
            memset(m.dd, 0, sizeof(float) * n * m.k_row);
            if (u) {
                add_bonus_gradients(n, &m);
                sweep_turned(1, n, &m);
                sweep(READ_DECAY_ADD, 1, n, K, m.d, m.q, m.k, m.k_row, m.dy, m.o, m.v_row, m.state);
            } else {
                memset(m.o, 0, sizeof(float) * n * m.v_row);
                sweep_turned(0, n, &m);
                sweep(ADD_READ_DECAY, 1, n, K, m.d, m.q, m.k, m.k_row, m.dy, m.o, m.v_row, m.state);
            }
            give(n, K, m.dq, m.k_row, scale, dq + keys, k_step);
            give(n, K, m.dk, m.k_row, 1.0f, dk + keys, k_step);
            give(n, V, m.o, m.v_row, 1.0f, dv + values, v_step);
            for (int64_t t = 0; t < n; t++)
                for (int64_t j = 0; j < K; j++)
                    d_log_decay[keys + t * k_step + j] = m.d[t * m.k_row + j] * m.dd[t * m.k_row + j];
        }
        if (u)
            give(1, K, m.du, m.k_row, 1.0f, du + head * K, K);
        if (d_initial)
            give(K, V, m.state, m.v_row, 1.0f, d_initial + head * size, V);
    }
    restore(mode);
}
