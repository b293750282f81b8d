"""Images x (n, h, w, c) sampled anew, to y (n, oh, ow, c): weighted sums of neighbouring rows, and of neighbouring columns.

    resample    y[n, i, j, :] = sum over p, q of a[i, p] b[j, q] x[n, p, q, :]

a and b hold few numbers that are not zero, in each row side by side. `rows` (oh, 3), int64, says of each row i of y which rows
p of x it is made of: the first, how many, and where in row_weights their weights begin; columns (ow, 3) and column_weights
say the same of b. What has no weight is not read: no NaN comes from there, and a row that is made of none is zero.

float32 is computed in float64.
"""

import numpy as np


def _weighted(parts, table, weights):
    """For each entry of the table, the weighted sum of those parts (counted along the first axis)."""
    made = np.zeros((len(table), *parts.shape[1:]))
    for i, (first, count, at) in enumerate(table):
        for k in range(count):
            made[i] += np.float64(weights[at + k]) * parts[first + k]
    return made


@np.errstate(all="ignore")
def resample(x, rows, row_weights, columns, column_weights, y):
    in_rows = _weighted(np.moveaxis(x.astype(np.float64), 1, 0), rows, row_weights)  # (oh, n, w, c)
    made = _weighted(np.moveaxis(in_rows, 2, 0), columns, column_weights)  # (ow, oh, n, c)
    y[:] = made.transpose(2, 1, 0, 3)
