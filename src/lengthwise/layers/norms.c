/* RMSNorm over groups of channels, forward and backward: y = weight r x with r = 1 / sqrt(mean(x^2) + eps) over a group of n
 * channels, dx = r (weight dy - x r^2 sum(weight dy x) / n), and dweight the sum of r x dy over tokens.
 */
#include "numbers.h"
#include "rows.h"
#include "threads.h"

typedef struct {
    team by;
    int64_t tokens, groups, width; /* width: channels of a group */
    int64_t half;                  /* whether x, y, dx and dy are bfloat16 */
    int64_t blocks;                /* of tokens: each is one piece of work, and has sums of its own */
    float eps;
    const void *x;
    const float *weight;
    void *y;
    float *r; /* [tokens, groups] or null */
    const void *dy;
    void *dx;
    float *d_weight; /* [blocks, groups width, padded] */
    float *scratch;  /* for every thread `norm_scratch` numbers */
} norm_job;

/* A token's groups one after the other, each padded with zeros: x, dy, weight and result. */
static int64_t row_of(const norm_job *job) { return job->groups * padded(job->width); }

static float *scratch_of(const norm_job *job, int64_t thread, int64_t which)
{
    return job->scratch + (thread * 3 + which) * row_of(job);
}

/* Whether the rows of the tensors can be worked on where they lie. */
static int in_place(const norm_job *job) { return !job->half && job->width % LANES == 0; }

/* A token in padded groups of float32: in the tensor itself or copied to `room`. */
static float *token_in(const norm_job *job, const void *from, int64_t token, float *room)
{
    int64_t at = token * job->groups * job->width;
    if (in_place(job))
        return (float *)from + at;
    take_rows(numbers_at(from, job->half, at), job->width, job->groups, job->width, room, padded(job->width));
    return room;
}

/* Where a token's result is written, and, if that is not the tensor itself, its way there. */
static float *token_for(const norm_job *job, void *to, int64_t token, float *room)
{
    return in_place(job) ? (float *)to + token * job->groups * job->width : room;
}

static void token_out(const norm_job *job, const float *from, void *to, int64_t token)
{
    if (!in_place(job))
        give_rows(from, padded(job->width), job->groups, job->width,
                  numbers_at(to, job->half, token * job->groups * job->width), job->width);
}

static void forward_block(int64_t block, int64_t thread, void *data)
{
    const norm_job *job = data;
    int64_t row = padded(job->width);
    float *weight = scratch_of(job, thread, 0), *room = scratch_of(job, thread, 1);
    take_rows(numbers_at(job->weight, 0, 0), job->width, job->groups, job->width, weight, row);
    for (int64_t t = job->tokens * block / job->blocks; t < job->tokens * (block + 1) / job->blocks; t++) {
        const float *x = token_in(job, job->x, t, room);
        float *y = token_for(job, job->y, t, room);
        for (int64_t g = 0; g < job->groups; g++) {
            float r = 1.0f / __builtin_sqrtf(dot(row, x + g * row, x + g * row) / (float)job->width + job->eps);
            if (job->r)
                job->r[t * job->groups + g] = r;
            for (int64_t p = g * row; p < (g + 1) * row; p += LANES)
                store(y + p, r * load(weight + p) * load(x + p));
        }
        token_out(job, y, job->y, t);
    }
}

static void backward_block(int64_t block, int64_t thread, void *data)
{
    const norm_job *job = data;
    int64_t row = padded(job->width);
    float *weight = scratch_of(job, thread, 0), *room = scratch_of(job, thread, 1), *d_room = scratch_of(job, thread, 2);
    float *sum = job->d_weight + block * row_of(job);
    take_rows(numbers_at(job->weight, 0, 0), job->width, job->groups, job->width, weight, row);
    memset(sum, 0, (size_t)row_of(job) * sizeof(float));
    for (int64_t t = job->tokens * block / job->blocks; t < job->tokens * (block + 1) / job->blocks; t++) {
        const float *x = token_in(job, job->x, t, room), *dy = token_in(job, job->dy, t, d_room);
        float *dx = token_for(job, job->dx, t, room);
        for (int64_t g = 0; g < job->groups; g++) {
            float r = job->r[t * job->groups + g];
            vec total = spread(0.0f);
            for (int64_t p = g * row; p < (g + 1) * row; p += LANES) {
                vec given = load(x + p) * load(dy + p);
                store(sum + p, load(sum + p) + r * given);
                total += given * load(weight + p);
            }
            float slope = r * r * sum_v(total) / (float)job->width;
            for (int64_t p = g * row; p < (g + 1) * row; p += LANES)
                store(dx + p, r * (load(weight + p) * load(dy + p) - slope * load(x + p)));
        }
        token_out(job, dx, job->dx, t);
    }
}

/* Numbers of scratch for one thread, and of the sums of one block. */
void norm_sizes(const norm_job *job, int64_t *sizes)
{
    sizes[0] = 3 * row_of(job);
    sizes[1] = row_of(job);
}

void norm_forward(const norm_job *job) { share(&job->by, job->blocks, forward_block, (void *)job); }

/* The sums of all blocks are added up, in order, in the first, which then lies there without padding. */
void norm_backward(const norm_job *job)
{
    share(&job->by, job->blocks, backward_block, (void *)job);
    int64_t floats = row_of(job), row = padded(job->width);
    for (int64_t block = 1; block < job->blocks; block++)
        for (int64_t p = 0; p < floats; p++)
            job->d_weight[p] += job->d_weight[block * floats + p];
    for (int64_t g = 1; g < job->groups; g++)
        memmove(job->d_weight + g * job->width, job->d_weight + g * row, (size_t)job->width * sizeof(float));
}
