"""What products have in common, of numbers as they are (gemm.py) and of rounded ones (bfloat16.py).

How they take what callers pass, when they are for all threads, and how the shared index is cut in parts that are summed up in
order: how many parts, and how they begin and end.
"""

from minigrad.kernels.cpu.parts.panels import NO_BIAS, PARALLEL_WORK
from minigrad.kernels.cpu.tools.launch import inlined

PART = 2048  # shared indices from which it pays to sum up a small product in parts
FEW_ROWS = 128  # rows of C, at most, for which the rows of B are shared out
ROW_PART = 256  # of them to a part, at least
MOST_SUMS = 1 << 20  # elements of all parts together, at most


def prepare_product(a, b, bias, c, trans_a, trans_b):
    return a, b, bias, c, trans_a, trans_b, False


def prepare_product_add(a, b, c, trans_a, trans_b):
    return a, b, NO_BIAS[c.dtype], c, trans_a, trans_b, True


def product_is_large(a, b, bias, c, trans_a, *rest):
    """Whether there is work for all threads."""
    return c.size * a.shape[not trans_a] >= PARALLEL_WORK


def products_are_large(a, b, c, trans_a, trans_b):
    """The same, of many products in one launch."""
    return c.size * a.shape[1 + (not trans_a)] >= PARALLEL_WORK


@inlined
def parts_of(m, n, depth, trans_a):
    """In how many parts A B or A^T B is summed up over `depth` shared indices."""
    rows = m if trans_a else FEW_ROWS  # the same parts for one row and for a few
    most = MOST_SUMS // max(rows * n, 1)
    if trans_a:
        return max(1, min(32, depth // PART, most))
    parts = 1  # a power of two, as the number of threads is mostly
    while m <= FEW_ROWS and parts < 8 and 2 * parts <= min(most, depth // ROW_PART):
        parts *= 2
    return parts


@inlined
def add_parts(sums, bias, c, added):
    """C = the bias, or C if added, plus all parts in order."""
    for i in range(c.shape[0]):
        if not added:
            for j in range(c.shape[1]):
                c[i, j] = bias[j] if bias.size else 0
        for part in range(sums.shape[0]):
            for j in range(c.shape[1]):
                c[i, j] += sums[part, i, j]


@inlined
def start_rows(bias, c, i0, i1, j0, j1):
    """C[i0:i1, j0:j1] = bias, or zero without one."""
    for i in range(i0, i1):
        for j in range(j0, min(j1, c.shape[1])):
            c[i, j] = bias[j] if bias.size else 0
