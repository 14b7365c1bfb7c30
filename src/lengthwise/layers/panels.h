/* Products with a large right-hand matrix that is laid out in panels: 64 columns (fewer in the last) of all its rows, so that
 * a tile of the product reads along. Panels are padded to whole vectors with zeros. */
#ifndef LENGTHWISE_PANELS_H
#define LENGTHWISE_PANELS_H

#include "numbers.h"
#include "rows.h"

#define PANEL (TILE_VECTORS * LANES)
#define PANEL_DEPTH 512 /* numbers of a sum at a time */
#define PANEL_ROWS 96   /* rows of the result at a time, a multiple of TILE_ROWS */

INLINE int64_t panels_in(int64_t columns) { return (columns + PANEL - 1) / PANEL; }

/* Numbers that a matrix [depth, columns] takes in panels. */
INLINE int64_t panel_floats(int64_t depth, int64_t columns) { return depth * padded(columns); }

/* One panel of a matrix [depth, columns], or of one given turned, [columns, depth]; both with contiguous rows. */
__attribute__((unused)) static void lay_out_panel(const float *matrix, int64_t depth, int64_t columns, int turned,
                                                  int64_t panel, float *panels)
{
    int64_t first = panel * PANEL, width = columns - first < PANEL ? columns - first : PANEL, row = padded(width);
    float *to = panels + first * depth;
    if (!turned) {
        take_rows(numbers_at(matrix + first, 0, 0), columns, depth, width, to, row);
        return;
    }
    if (width < row)
        memset(to, 0, (size_t)(depth * row) * sizeof(float));
    transpose(width, depth, matrix + first * depth, depth, to, row);
}

/* C = A B (+ bias, if not null), A with any strides, C with rows of `result_row` numbers. */
__attribute__((unused)) static void panel_product(int64_t rows, int64_t columns, int64_t depth, const float *left,
                                                  int64_t left_row, int64_t left_column, const float *panels,
                                                  const float *bias, float *result, int64_t result_row)
{
    float edge[PANEL_ROWS * PANEL]; /* for a panel with padding, whose rows would reach into the next ones */
    for (int64_t first = 0; first < rows; first += PANEL_ROWS) {
        int64_t some = rows - first < PANEL_ROWS ? rows - first : PANEL_ROWS;
        for (int64_t column = 0; column < columns; column += PANEL) {
            int64_t width = columns - column < PANEL ? columns - column : PANEL, row = padded(width);
            float *place = result + first * result_row + column, *to = width < row ? edge : place;
            int64_t to_row = width < row ? row : result_row;
            for (int64_t i = 0; i < some && bias; i++)
                memcpy(to + i * to_row, bias + column, (size_t)width * sizeof(float));
            for (int64_t from = 0; from < depth; from += PANEL_DEPTH)
                product_part(ALL, some, row, depth - from < PANEL_DEPTH ? depth - from : PANEL_DEPTH,
                             left + first * left_row + from * left_column, left_row, left_column,
                             panels + column * depth + from * row, row, to, to_row, from > 0 || bias);
            if (to == edge)
                give_rows(edge, row, some, width, numbers_at(place, 0, 0), result_row);
        }
    }
}

#endif
