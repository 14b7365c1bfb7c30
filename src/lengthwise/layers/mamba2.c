/* The inside of the Mamba-2 mixer, from the input projection to the gated and normed outputs, forward and backward.
 *
 * A row is worked on chunk by chunk, all heads of a chunk before the next chunk, so that everything about a chunk stays in
 * the cache of one core. Where there are enough rows, each thread takes rows of its own. Where there are not, the threads
 * share the heads of a row: a span of several chunks is convolved, then each head passes through the span, then all heads
 * are normed together. Both ways do the same operations in the same order, so they give the same numbers.
 *
 * The forward pass can also take in what surrounds it in a model that is only read: norm, projections and the residual
 * stream. Then what the projection makes never leaves the cache.
 *
 * The backward pass goes through the chunks in reverse. It keeps nothing of the forward pass but the states between
 * chunks and one number a token, r, of the norm; the rest is computed again.
 */
#include "mamba2_backward.h"
#include "mamba2_forward.h"

/* All spans of one row. */
static void row_through(work *w, int64_t row)
{
    const mamba2_job *job = w->job;
    int64_t step = (job->span ? job->span : 1) * job->chunk, spans = (job->time + step - 1) / step;
    w->row = row;
    for (int64_t index = 0; index < spans; index++) {
        w->start = (w->backward ? spans - 1 - index : index) * step;
        w->tokens = job->time - w->start < step ? job->time - w->start : step;
        w->chunks = (w->tokens + job->chunk - 1) / job->chunk;
        if (w->backward)
            backward_span(w);
        else
            forward_span(w);
    }
}

static work work_in(const mamba2_job *job, float *scratch, int backward)
{
    work w = {.job = job, .backward = backward};
    room all = {scratch, 0}, one = {0};
    w.a = take_area(&all, job, job->span ? job->span : 1, backward);
    w.slots = scratch + all.used;
    take_slot(&one, job, backward);
    w.slot_floats = one.used;
    return w;
}

/* Numbers of scratch that one `work` takes, with slots for all threads that share it. */
static int64_t scratch_floats(const mamba2_job *job, int backward)
{
    room all = {0};
    take_area(&all, job, job->span ? job->span : 1, backward);
    for (int64_t i = 0; i < (job->span ? job->by.threads : 1); i++)
        take_slot(&all, job, backward);
    return all.used;
}

/* The padded weights of the norm, and zeros where x has padding. */
static void prepare(const work *w, int64_t slots)
{
    const mamba2_job *job = w->job;
    for (int64_t i = 0; i < slots; i++) {
        slot s = slot_of(w, i);
        memset(s.head.x, 0, (size_t)(w->a.shape.chunk_row * w->a.shape.width_row) * sizeof(float));
        if (w->backward)
            memset(s.d_active, 0,
                   (size_t)((2 * (job->taps - 1) + job->chunk) * w->a.shape.width_row) * sizeof(float));
    }
    if (job->norm_weight)
        take_rows(numbers_at(job->norm_weight, 0, 0), job->width, job->heads, job->width, w->a.weight,
                  w->a.shape.width_row);
}

/* A block of rows. */
static void block_of_rows(const mamba2_job *job, int64_t index, int64_t thread, int backward)
{
    work w = work_in(job, job->scratch + (job->span ? 0 : thread * scratch_floats(job, backward)), backward);
    prepare(&w, job->span ? job->by.threads : 1);
    if (backward) {
        room block = {job->sums + index * sums_floats(job), 0};
        w.sums = sums_in(job, &block);
        memset(block.start, 0, (size_t)block.used * sizeof(float));
    }
    for (int64_t row = job->batch * index / job->blocks; row < job->batch * (index + 1) / job->blocks; row++)
        row_through(&w, row);
}

static void rows_forward(int64_t index, int64_t thread, void *data) { block_of_rows(data, index, thread, 0); }
static void rows_backward(int64_t index, int64_t thread, void *data) { block_of_rows(data, index, thread, 1); }

/* Numbers of scratch for all threads, of `sums` for one block of rows, of one row of a state in `states`, and of `panels`. */
void mamba2_sizes(const mamba2_job *job, int64_t backward, int64_t *sizes)
{
    sizes[0] = scratch_floats(job, (int)backward) * (job->span ? 1 : job->by.threads);
    sizes[1] = sums_floats(job);
    sizes[2] = padded(job->width);
    sizes[3] = panel_floats(job->model_width, projected_columns(job)) +
               panel_floats(job->heads * job->width, job->model_width);
}

/* A panel of one of the two weights. */
static void lay_out_weights(int64_t index, int64_t thread, void *data)
{
    (void)thread;
    const mamba2_job *job = data;
    int64_t model = job->model_width, columns = projected_columns(job), first = panels_in(columns);
    if (index < first)
        lay_out_panel(job->in_weight, model, columns, 1, index, job->panels);
    else
        lay_out_panel(job->out_weight, job->heads * job->width, model, 1, index - first,
                      job->panels + panel_floats(model, columns));
}

void mamba2_forward(const mamba2_job *job)
{
    const team alone = {0, 1};
    if (job->model_width)
        share(&job->by, panels_in(projected_columns(job)) + (job->silent ? 0 : panels_in(job->model_width)),
              lay_out_weights, (void *)job);
    share(job->span ? &alone : &job->by, job->blocks, rows_forward, (void *)job);
}

/* The sums of all blocks are added up, in order, in the first. */
void mamba2_backward(const mamba2_job *job)
{
    const team alone = {0, 1};
    share(job->span ? &alone : &job->by, job->blocks, rows_backward, (void *)job);
    int64_t floats = sums_floats(job);
    for (int64_t block = 1; block < job->blocks; block++)
        for (int64_t i = 0; i < floats; i++)
            job->sums[i] += job->sums[block * floats + i];
}
