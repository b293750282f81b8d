"""Tensors of numbers that are known: zeros, ones, ranges, the unit matrix. In a captured step every replay makes them anew."""

import math

import numpy as np

from minigrad.arrays import check_dtype
from minigrad.devices import Device, get_device
from minigrad.modes import at_work, begin, recorded_device
from minigrad.ops.shape_functions import as_shape, tensor_of
from minigrad.tensor import FLOATS, Tensor
from minigrad.types import DeviceLike, Dtype, Lengths

FLOAT32 = FLOATS[0]


def home_of(device: DeviceLike) -> Device:
    """The device of this name; without one that of the step that is being recorded, else the CPU."""
    recorded = recorded_device() if device is None else None
    return get_device(device) if recorded is None else recorded


def dtype_of(dtype: Dtype, default: np.dtype) -> np.dtype:
    """A dtype as NumPy's; TypeError for one that tensors cannot have."""
    found = np.dtype(default if dtype is None else dtype)
    check_dtype(found)
    return found


def finished(array: np.ndarray, home: Device, requires_grad: bool) -> Tensor:
    """A tensor around a new array. Raises TypeError for a gradient of what is not of floats."""
    if requires_grad and array.dtype not in FLOATS:
        raise TypeError(f"only float32 and float64 tensors can require a gradient, not {array.dtype}")
    tensor = Tensor._wrap(array, home)
    tensor.requires_grad = requires_grad
    return tensor


def from_values(name: str, values: np.ndarray, device: DeviceLike, requires_grad: bool) -> Tensor:
    """A tensor of NumPy's values."""
    home = home_of(device)
    array = home.from_host(np.ascontiguousarray(values))
    if recorded_device() is not None:
        begin(name)
        array = at_work(home).copy(array)
    return finished(array, home, requires_grad)


def full(
    shape: Lengths, value: float, dtype: Dtype = None, device: DeviceLike = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of one number. Without `dtype` it is float32 for a float, int64 for an int, bool for a bool.

    Raises ValueError for a negative length, TypeError for a number that the dtype does not hold.
    """
    natural = np.dtype(np.int64) if isinstance(value, int | np.integer) else FLOAT32
    wanted = dtype_of(dtype, np.dtype(np.bool_) if isinstance(value, bool | np.bool_) else natural)
    if wanted.kind != "f":
        held = wanted.type(value) if wanted.kind == "b" or (math.isfinite(value) and fits(value, wanted)) else None
        if held is None or held != value:
            raise TypeError(f"full: {wanted} does not hold {value!r}")
    home = home_of(device)
    begin("Full")
    worker = at_work(home)
    y = worker.empty(as_shape(shape), wanted)
    if y.size:
        worker.kernels.movement.fill(value, y.reshape(-1))
    return finished(y, home, requires_grad)


def fits(value: float, dtype: np.dtype) -> bool:
    """Whether an integer dtype reaches as far as a number."""
    return np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def zeros(shape: Lengths, dtype: Dtype = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros, float32 if nothing else is said. Raises ValueError for a negative length."""
    return full(shape, 0, dtype_of(dtype, FLOAT32), device, requires_grad)


def ones(shape: Lengths, dtype: Dtype = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones, float32 if nothing else is said. Raises ValueError for a negative length."""
    return full(shape, 1, dtype_of(dtype, FLOAT32), device, requires_grad)


def full_like(
    x: Tensor, value: float, dtype: Dtype = None, device: DeviceLike = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of one number, of x's shape, dtype and device if nothing else is said."""
    return full(tensor_of("full_like", x).shape, value, dtype or x.dtype, device or x._device, requires_grad)


def zeros_like(x: Tensor, dtype: Dtype = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros, of x's shape, dtype and device if nothing else is said."""
    return full_like(tensor_of("zeros_like", x), 0, dtype, device, requires_grad)


def ones_like(x: Tensor, dtype: Dtype = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones, of x's shape, dtype and device if nothing else is said."""
    return full_like(tensor_of("ones_like", x), 1, dtype, device, requires_grad)


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    dtype: Dtype = None,
    device: DeviceLike = None,
    requires_grad: bool = False,
) -> Tensor:
    """The numbers from `start` (0 with one argument) to below `stop`, `step` apart; int64 of integers, else float32.

    Raises ValueError for a step of 0.
    """
    if step == 0:
        raise ValueError("arange: step must not be 0")
    first, last = (0, start) if stop is None else (start, stop)
    whole = all(isinstance(n, int | np.integer) for n in (first, last, step))
    wanted = dtype_of(dtype, np.dtype(np.int64) if whole else FLOAT32)
    return from_values("Arange", np.arange(first, last, step).astype(wanted), device, requires_grad)


def linspace(
    start: float,
    stop: float,
    num: int,
    dtype: Dtype = None,
    device: DeviceLike = None,
    requires_grad: bool = False,
) -> Tensor:
    """`num` numbers from `start` to `stop`, both included, equally far apart, float32 if nothing else is said."""
    values = np.linspace(start, stop, as_shape(num)[0], dtype=dtype_of(dtype, FLOAT32))  # integers are rounded down
    return from_values("Linspace", values, device, requires_grad)


def eye(
    rows: int,
    columns: int | None = None,
    k: int = 0,
    dtype: Dtype = None,
    device: DeviceLike = None,
    requires_grad: bool = False,
) -> Tensor:
    """A matrix of ones on the k-th diagonal, zeros elsewhere, square if `columns` is not given."""
    height, width = as_shape((rows, rows if columns is None else columns))
    values = np.eye(height, width, k, dtype=dtype_of(dtype, FLOAT32))
    return from_values("Eye", values, device, requires_grad)
