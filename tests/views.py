"""Views of arrays, as the kernels that move elements are told of them."""

import numpy as np
from targets import on_cpu, on_cuda

from minigrad.kernels.axes import DIMS


def layout(view):
    """(shape, strides in elements) of a view, filled up to DIMS axes."""
    missing = DIMS - view.ndim
    return (1,) * missing + view.shape, (0,) * missing + tuple(s // view.itemsize for s in view.strides)


def offset_in(view, base):
    return (view.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // base.itemsize


EVERYWHERE = {
    "contiguous": ((3, 4, 5), lambda a: a),
    "one element": ((1,), lambda a: a),
    "transposed": ((37, 53), lambda a: a.T),
    "rotated": ((5, 6, 20), lambda a: a.transpose(1, 2, 0)),
    "images to planes": ((3, 7, 9, 5), lambda a: a.transpose(0, 3, 1, 2)),
    "columns": ((40, 50), lambda a: a[:, 3:20]),
    "every second": ((40, 51), lambda a: a[1::2, ::2]),
    "backwards": ((11, 13), lambda a: a[::-1, ::-1]),
    "six axes": ((2, 3, 4, 2, 3, 2), lambda a: a.transpose(5, 1, 3, 0, 4, 2)),
    "empty": ((4, 5), lambda a: a[2:2]),
}
ON_CPU = {
    "transposed across many tiles": ((150, 131), lambda a: a.T),
    "rotated, long rows": ((5, 6, 70), lambda a: a.transpose(1, 2, 0)),
    "reversed order of axes": ((9, 20, 33), lambda a: a.transpose(2, 1, 0)),
}
ON_CUDA = {
    "images to many planes": ((2, 3, 11, 33), lambda a: a.transpose(0, 3, 1, 2)),
    "planes to images": ((2, 33, 3, 11), lambda a: a.transpose(0, 2, 3, 1)),
    "transposed part": ((40, 50), lambda a: a[3:, 2:35].T),
    "aligned columns": ((40, 64), lambda a: a[:, 16:48]),
    "rows apart": ((12, 8), lambda a: a[::2]),
    "rows backwards": ((11, 16), lambda a: a[::-1]),
}
BROADCASTS = {
    "rows": ((1, 33), lambda a: np.broadcast_to(a, (50, 33))),
    "vectors of rows": ((1, 32), lambda a: np.broadcast_to(a, (50, 32))),
    "columns of one": ((50, 1), lambda a: np.broadcast_to(a, (50, 33))),
    "all": ((1,), lambda a: np.broadcast_to(a, (3, 4))),
}
VIEWS = {**EVERYWHERE, **ON_CPU, **ON_CUDA, **BROADCASTS}
WRITTEN = [*EVERYWHERE, *on_cpu(*ON_CPU), *on_cuda(*ON_CUDA)]
READ = [*WRITTEN, *BROADCASTS]
