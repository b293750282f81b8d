"""Softmax, its logarithm, cross-entropy, the loss of log-probabilities, over rows. Contracts: kernels/reference/loss.py.

Work is cut into blocks of whole rows that stay in the first-level cache. Within one, what concerns a row is done row by
row, and exp over all the elements at once unless rows are LONG: those of ten classes would leave most lanes of the vector unit
idle.

Sums over a row, and the sum of the losses, are in float64; they are rounded once.
"""

import numpy as np
from llvmlite import ir
from numba import prange
from numba.core import types
from numba.extending import intrinsic

from minigrad.kernels import formulas
from minigrad.kernels.cpu.parts.rows import dot
from minigrad.kernels.cpu.tools.launch import GRAIN, SUMS, inlined, parallel_kernel

BLOCK = 1 << 12  # elements
LONG = 128  # elements of a row whose exp is computed by itself
ROWS_PER_LOG = 16  # a sum over a row lies between 1 and n, so the product of this many is far from overflow


@intrinsic
def ordered(typingctx, x):
    """An integer as wide as the float x; integers compare like the floats, positive NaN above infinity."""
    integer = types.int32 if x == types.float32 else types.int64

    def codegen(context, builder, signature, arguments):
        return flip_magnitude(builder, builder.bitcast(arguments[0], context.get_value_type(integer)))

    return integer(x), codegen


@intrinsic
def from_ordered(typingctx, key):
    """The float whose `ordered` is this."""
    real = types.float32 if key == types.int32 else types.float64

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(flip_magnitude(builder, arguments[0]), context.get_value_type(real))

    return real(key), codegen


def flip_magnitude(builder, bits):
    """All bits but the sign inverted where the sign is set; its own inverse."""
    one = ir.Constant(bits.type, 1)
    sign = builder.ashr(bits, ir.Constant(bits.type, bits.type.width - 1))
    return builder.xor(bits, builder.lshr(sign, one))


@inlined
def largest(x):
    """Largest element of a row, compared as integers: with NaN in the way, LLVM makes no vector code of a maximum.

    A NaN of negative sign is passed over; it makes its row NaN by way of the sum.
    """
    best = ordered(x[0])
    for i in range(x.size):
        best = max(best, ordered(x[i]))
    return from_ordered(best)


@inlined(flags=SUMS)
def total(x):
    """Sum of a row, in float64."""
    result = 0.0
    for i in range(x.size):
        result += x[i]
    return result


@inlined
def exp_in_place(x):
    """x = exp(x) for x <= 0, flat."""
    for i in range(x.size):
        x[i] = formulas.exp_below_zero(x[i])


@inlined
def rows_per_block(n):
    """Rows of n elements in a block."""
    return max(1, BLOCK // max(n, 1))


@inlined
def block_range(block, rows, m, n):
    """(first, last + 1) of the elements of a block, in the flat matrix."""
    return block * rows * n, min((block + 1) * rows, m) * n


@inlined
def exp_shifted(x, y, n):
    """y = exp(x - largest of the row), for flat rows of n."""
    for k in range(0, x.size, n):
        source, target = x[k : k + n], y[k : k + n]
        shift = largest(source)
        if n >= LONG:
            for j in range(n):
                target[j] = formulas.exp_below_zero(source[j] - shift)
        else:
            for j in range(n):
                target[j] = source[j] - shift
    if n < LONG:
        exp_in_place(y)


@inlined
def scale_to_one(y, n):
    """Divide flat rows of n by their sums."""
    for k in range(0, y.size, n):
        row = y[k : k + n]
        scale = y.dtype.type(1 / total(row))
        for j in range(n):
            row[j] *= scale


@parallel_kernel()
def softmax_forward(x, y):
    m, n = x.shape
    rows = rows_per_block(n)
    source, target = x.reshape(-1), y.reshape(-1)
    for block in prange(-(-m // rows)):
        i, j = block_range(block, rows, m, n)
        exp_shifted(source[i:j], target[i:j], n)
        scale_to_one(target[i:j], n)


@parallel_kernel()
def softmax_backward(dy, y, dx):
    m, n = y.shape
    rows = rows_per_block(n)
    for block in prange(-(-m // rows)):
        for i in range(block * rows, min((block + 1) * rows, m)):
            dy_row, y_row, dx_row = dy[i], y[i], dx[i]
            inner = dx.dtype.type(dot(dy_row, y_row))
            for j in range(n):
                dx_row[j] = y_row[j] * (dy_row[j] - inner)


@parallel_kernel()
def log_softmax_forward(x, y):
    m, n = x.shape
    rows = rows_per_block(n)
    source, target = x.reshape(-1), y.reshape(-1)
    for block in prange(-(-m // rows)):
        i, j = block_range(block, rows, m, n)
        exp_shifted(source[i:j], target[i:j], n)
        for row in range(block * rows, min((block + 1) * rows, m)):
            x_row, y_row = x[row], y[row]
            shift = largest(x_row)
            log_sum = y.dtype.type(formulas.log(total(y_row)))
            for k in range(n):
                y_row[k] = (x_row[k] - shift) - log_sum


@parallel_kernel()
def log_softmax_backward(dy, y, dx):
    m, n = y.shape
    rows = rows_per_block(n)
    source, target = y.reshape(-1), dx.reshape(-1)
    for block in prange(-(-m // rows)):
        i, j = block_range(block, rows, m, n)
        y_part, dx_part = source[i:j], target[i:j]
        for k in range(j - i):
            dx_part[k] = y_part[k]
        exp_in_place(dx_part)
        for row in range(block * rows, min((block + 1) * rows, m)):
            dy_row, dx_row = dy[row], dx[row]
            scale = dx.dtype.type(total(dy_row))
            for k in range(n):
                dx_row[k] = dy_row[k] - dx_row[k] * scale


@parallel_kernel(is_large=lambda logits, labels, probs, loss: logits.size >= GRAIN)
def cross_entropy_forward(logits, labels, probs, loss):
    m, n = logits.shape
    rows = rows_per_block(n)
    blocks = -(-m // rows)
    source, target = logits.reshape(-1), probs.reshape(-1)
    partial = np.empty(blocks, np.float64)
    for block in prange(blocks):
        i, j = block_range(block, rows, m, n)
        exp_shifted(source[i:j], target[i:j], n)
        block_loss, product = 0.0, 1.0
        first, last = block * rows, min((block + 1) * rows, m)
        for row in range(first, last):
            probs_row = probs[row]
            row_sum = total(probs_row)
            scale = probs.dtype.type(1 / row_sum)
            for k in range(n):
                probs_row[k] *= scale
            block_loss -= np.float64(logits[row, labels[row]]) - np.float64(largest(logits[row]))
            product *= row_sum
            if (row + 1 - first) % ROWS_PER_LOG == 0 or row + 1 == last:
                block_loss += formulas.log(product)
                product = 1.0
        partial[block] = block_loss
    loss_sum = 0.0
    for block in range(blocks):
        loss_sum += partial[block]
    loss[0] = loss_sum / m


@parallel_kernel()
def cross_entropy_backward(dy, probs, labels, dx):
    m, n = probs.shape
    rows = rows_per_block(n)
    scale = dx.dtype.type(np.float64(dy[0]) / m)
    source, target = probs.reshape(-1), dx.reshape(-1)
    for block in prange(-(-m // rows)):
        i, j = block_range(block, rows, m, n)
        probs_part, dx_part = source[i:j], target[i:j]
        for k in range(j - i):
            dx_part[k] = probs_part[k] * scale
        for row in range(block * rows, min((block + 1) * rows, m)):
            label = labels[row]
            dx[row, label] = (probs[row, label] - dx.dtype.type(1)) * scale


@parallel_kernel(
    is_large=lambda log_probs, labels, weight, ignore, smoothing, losses: (
        (log_probs if smoothing else losses).size >= GRAIN
    )
)
def nll_forward(log_probs, labels, weight, ignore, smoothing, losses):
    m, n = log_probs.shape
    rows = rows_per_block(n)
    for block in prange(-(-m // rows)):
        for row in range(block * rows, min((block + 1) * rows, m)):
            label = labels[row]
            loss = 0.0
            if label != ignore:
                loss -= (1 - smoothing) * np.float64(weight[label]) * np.float64(log_probs[row, label])
                if smoothing > 0:
                    loss -= smoothing / n * dot(weight, log_probs[row])
            losses[row] = loss


@parallel_kernel()
def nll_backward(dy, labels, weight, ignore, smoothing, dx):
    m, n = dx.shape
    scalar = dx.dtype.type
    kept, spread = scalar(1 - smoothing), scalar(smoothing / n)
    rows = rows_per_block(n)
    for block in prange(-(-m // rows)):
        for row in range(block * rows, min((block + 1) * rows, m)):
            label, dx_row = labels[row], dx[row]
            if label == ignore or smoothing == 0:
                for k in range(n):
                    dx_row[k] = 0
            else:
                each = -dy[row] * spread
                for k in range(n):
                    dx_row[k] = each * weight[k]
            if label != ignore:
                dx_row[label] -= dy[row] * kept * weight[label]


@parallel_kernel()
def nll_weights(labels, weight, ignore, weights):
    for row in prange(labels.size):
        weights[row] = 0 if labels[row] == ignore else weight[labels[row]]
