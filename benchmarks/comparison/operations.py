"""How many floating-point operations a recorded launch makes, and how many bytes: what `where` compares with the limits.

A multiplication and an addition each count once; products with zeros of the padding are counted, whether the kernel makes
them or not. Kernels that are not listed are judged by the bytes of their arrays alone. The arguments are those of the compiled
function, after its `prepare` if the kernel has one; tests/benchmarks/test_where.py notices when they change.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.capture import Launch
from minigrad.devices import is_array
from minigrad.kernels.activations import IDENTITY, SIGMOID
from minigrad.kernels.cpu.norm import ACTIVATION, WIDTH


def pixels(images: np.ndarray) -> int:
    """Of all images (n, h, w, c)."""
    return math.prod(images.shape[:3])


def last_array(arguments: tuple[Any, ...]) -> Any:
    """The result of a product, which may be given a bias before it."""
    return [argument for argument in arguments if is_array(argument)][-1]


def of_gemm(a: np.ndarray, b: np.ndarray, *rest: Any) -> int:
    """Every number of A with a row of B."""
    return 2 * a.size * last_array(rest).shape[1]


def of_gemm_batched(a: np.ndarray, b: np.ndarray, c: np.ndarray, *transposed: bool) -> int:
    """Every number of A with a row of its B."""
    return 2 * a.size * c.shape[2]


def of_conv_forward(x: np.ndarray, w: np.ndarray, bias: np.ndarray, y: np.ndarray, *plan: Any) -> int:
    """Every weight with every output pixel; y may come with two pixels as one of twice the channels."""
    return 2 * w.size * (y.size // w.shape[3])


def of_conv_backward_x(dy: np.ndarray, w: np.ndarray, bias: np.ndarray, dx: np.ndarray, *plan: Any) -> int:
    """Every weight with every output pixel."""
    return 2 * w.size * pixels(dy)


def of_conv_backward_w(x: np.ndarray, dy: np.ndarray, dw: np.ndarray, *plan: Any) -> int:
    """Every weight with every output pixel."""
    return 2 * dw.size * pixels(dy)


OPERATIONS: dict[str, Callable[..., int]] = {
    "gemm.gemm": of_gemm,
    "gemm.gemm_add": of_gemm,
    "gemm.gemm_batched": of_gemm_batched,
    "conv.conv_forward": of_conv_forward,
    "conv.conv_backward_x": of_conv_backward_x,
    "conv.conv_backward_w": of_conv_backward_w,
}


# of the GPU's kernels where they take other arguments
OPERATIONS_ON_GPU: dict[str, Callable[..., int]] = {
    "conv.conv_forward": lambda x, w, bias, window, y: 2 * w.size * pixels(y),
    "conv.conv_backward_x": lambda dy, w, window, dx: 2 * w.size * pixels(dy),
    "conv.conv_backward_w": lambda x, dy, window, dw: 2 * dw.size * pixels(dy),
}


def operations(launch: Launch, on_gpu: bool = False) -> int | None:
    """Floating-point operations of a launch; None if its kernel is judged by bytes."""
    count = (on_gpu and OPERATIONS_ON_GPU.get(launch.kernel)) or OPERATIONS.get(launch.kernel)
    return None if count is None else int(count(*launch.arguments))


def bytes_of(*arrays: np.ndarray) -> int:
    """Of all these arrays."""
    return sum(array.nbytes for array in arrays)


def of_gemm_add(a: np.ndarray, b: np.ndarray, *rest: Any) -> int:
    """C is read and written."""
    c = last_array(rest)
    return bytes_of(a, b, c, c)


def of_norm(x: np.ndarray, *rest: Any) -> int:
    """Of y, which is the only matrix of the rest, as many columns as x has."""
    return bytes_of(x, x, *[a for a in rest if is_array(a) and a.ndim == 1])


def of_norm_backward(dy: np.ndarray, x: np.ndarray, y: np.ndarray, column: int, *rest: Any) -> int:
    """Of dy, as many columns as x has; as many of y where sigmoid needs them."""
    activation = rest[5]
    return bytes_of(x, *[a for a in (x, *rest) if is_array(a)]) + (activation == SIGMOID) * x.nbytes


def of_norms(size: int, branches: np.ndarray, eps: np.ndarray, y: np.ndarray, *rest: Any) -> int:
    """Of y, as many columns as all x together have, and of what there is for each of these features."""
    return 2 * size * y.itemsize + int(branches[:, WIDTH].sum()) * (2 * y.itemsize + 2 * eps.itemsize)


def of_norms_backward(size: int, branches: np.ndarray, eps: np.ndarray, dy: np.ndarray, *rest: Any) -> int:
    """Of dy, as many columns as all x together have; as many of y where sigmoid needs them."""
    features = branches[:, WIDTH]
    from_y = int(features[branches[:, ACTIVATION] == SIGMOID].sum()) * len(dy)
    return (3 * size + from_y) * dy.itemsize + int(features.sum()) * (4 * dy.itemsize + 2 * eps.itemsize)


def of_activate_backward(dy: np.ndarray, y: np.ndarray, column: int, activation: int, dx: np.ndarray) -> int:
    """Of dy, as many columns as dx has; as many of y where there is an activation."""
    return bytes_of(dx, dx) + (0 if activation == IDENTITY else dx.nbytes)


# of kernels that touch only a part of an array they are given, or read what they write
BYTES: dict[str, Callable[..., int]] = {
    "gemm.gemm_add": of_gemm_add,
    "norm.batch_norm_forward": of_norm,
    "norm.batch_norm_backward": of_norm_backward,
    "norm.batch_norms_forward": of_norms,
    "norm.batch_norms_backward": of_norms_backward,
    "norm.batch_norm_inference": of_norm,
    "norm.batch_norm_inference_backward": of_norm_backward,
    "elementwise.activate": lambda x, activation, y, column: 2 * x.nbytes,
    "elementwise.activate_backward": of_activate_backward,
    "movement.strided_read": lambda x, shape, strides, offset, y: 2 * y.nbytes,
    "movement.strided_write": lambda x, shape, strides, offset, y: 2 * x.nbytes,
}


def of_lists(xs: list, gammas: list, betas: list, eps: list, activations: list, y: Any, *rest: Any) -> int:
    """Batch norm of many branches as the GPU is given them: each x and as much of y, and what there is per feature."""
    _, means, variances = rest
    return 2 * bytes_of(*xs) + bytes_of(*gammas, *betas, *means, *variances)


def of_lists_backward(dy: Any, xs: list, y: Any, columns: list, *rest: Any) -> int:
    """Of each branch dy, x and dx, as much of y where sigmoid needs it, and what there is per feature."""
    gammas, betas, means, variances, _, activations, _, dgammas, dbetas = rest
    from_y = bytes_of(*[x for x, activation in zip(xs, activations, strict=True) if activation == SIGMOID])
    return 3 * bytes_of(*xs) + from_y + bytes_of(*gammas, *betas, *means, *variances, *dgammas, *dbetas)


# of kernels that are given lists, as they are on the GPU
BYTES_OF_LISTS: dict[str, Callable[..., int]] = {
    "norm.batch_norms_forward": of_lists,
    "norm.batch_norms_backward": of_lists_backward,
}


def bytes_moved(launch: Launch) -> int:
    """Bytes that a launch reads and writes if it does so once."""
    has_lists = any(isinstance(argument, list) for argument in launch.arguments[:2])
    count = (BYTES_OF_LISTS if has_lists else BYTES).get(launch.kernel)
    return launch.nbytes if count is None else int(count(*launch.arguments))
