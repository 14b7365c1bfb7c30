/* Products of a linear layer, y = x W^T + bias and dx = dy W, with x [M, K], y [M, N] and W [N, K].
 *
 * The right-hand matrix is first laid out in panels. Then work is shared by rows of the result, and no sum is split, so the
 * number of threads changes no bit.
 */
#include "panels.h"
#include "threads.h"

typedef struct {
    team by;
    int64_t rows, depth, columns; /* of the product: C [rows, columns], sums over `depth` */
    const float *left;            /* [rows, depth] with strides */
    int64_t left_row, left_column;
    const float *right;           /* [depth, columns], or [columns, depth] where turned */
    int64_t turned;
    const float *bias;            /* [columns] or null */
    float *result;                /* [rows, columns] */
    float *panels;                /* scratch */
} linear_job;

/* Rows of the result in one piece of work: some pieces for each thread, of whole tiles. */
static int64_t piece_of(const linear_job *job)
{
    int64_t rows = (job->rows / (3 * job->by.threads) / TILE_ROWS + 1) * TILE_ROWS;
    return rows < PANEL_ROWS ? rows : PANEL_ROWS;
}

static void lay_out(int64_t panel, int64_t thread, void *data)
{
    (void)thread;
    const linear_job *job = data;
    lay_out_panel(job->right, job->depth, job->columns, (int)job->turned, panel, job->panels);
}

static void multiply(int64_t index, int64_t thread, void *data)
{
    (void)thread;
    const linear_job *job = data;
    int64_t first = index * piece_of(job), rows = job->rows - first < piece_of(job) ? job->rows - first : piece_of(job);
    panel_product(rows, job->columns, job->depth, job->left + first * job->left_row, job->left_row, job->left_column,
                  job->panels, job->bias, job->result + first * job->columns, job->columns);
}

/* Numbers of scratch. */
void linear_sizes(const linear_job *job, int64_t *sizes) { sizes[0] = panel_floats(job->depth, job->columns); }

void linear_product(const linear_job *job)
{
    share(&job->by, panels_in(job->columns), lay_out, (void *)job);
    share(&job->by, (job->rows + piece_of(job) - 1) / piece_of(job), multiply, (void *)job);
}
