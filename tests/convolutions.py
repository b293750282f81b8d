"""What the tests of CUDA's convolutions share: the arguments of a pass, and a pass on memory that is not aligned."""

import numpy as np

from minigrad.kernels.cuda import conv
from minigrad.ops.window import resolve

PROBLEMS = {  # x (n, h, w, c), (kh, kw, k), stride, padding, dilation
    "one pixel": ((1, 1, 1, 1), (1, 1, 1), 1, 0, 1),
    "3x3, odd channels": ((2, 5, 4, 3), (3, 3, 5), 1, 1, 1),
    "3x3, groups of four": ((2, 4, 5, 8), (3, 3, 12), 1, 1, 1),
    "strides": ((2, 7, 6, 4), (3, 2, 8), (2, 3), ((1, 0), (0, 2)), 1),
    "dilations": ((1, 8, 7, 5), (2, 3, 4), 1, ((1, 0), (0, 1)), 2),
    "unequal padding": ((1, 4, 4, 4), (4, 4, 4), 1, ((3, 1), (2, 3)), 1),
    "pixels": ((3, 7, 7, 36), (1, 1, 33), 1, 0, 1),
}
PASSES = ["conv_forward", "conv_backward_x", "conv_backward_w"]


def arguments(rng, name, problem, dtype=np.float32, bias=True):
    """Those of a pass over a problem."""
    x_shape, (kh, kw, k), *how = problem
    window = resolve("conv", x_shape[1:3], (kh, kw), *how)
    x = rng.standard_normal(x_shape).astype(dtype)
    w = rng.standard_normal((kh, kw, x_shape[3], k)).astype(dtype)
    y = rng.standard_normal((x_shape[0], window.oh, window.ow, k)).astype(dtype)
    if name == "conv_forward":
        return x, w, rng.standard_normal(k if bias else 0).astype(dtype), window, np.empty_like(y)
    if name == "conv_backward_x":
        return y, w, window, np.empty_like(x)
    return x, y, window, np.empty_like(w)


def aligned_and_off(memory, name, first, second, *rest):
    """The results of a pass on memory aligned to 16 bytes, and on memory 4 bytes off."""
    shifted = [memory.put(np.append(np.float32(0), x)).part(1, 1 + x.size).reshape(x.shape) for x in (first, second)]
    bias = [memory.put(rest[0])] if name == "conv_forward" else []
    results = []
    for pair in ([memory.put(first), memory.put(second)], shifted):
        out = memory.empty(rest[-1].shape, np.float32)
        getattr(conv, name)(*pair, *bias, rest[-2], out)
        results.append(memory.get(out))
    return results
