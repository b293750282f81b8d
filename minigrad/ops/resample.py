"""Images in other sizes (N, H, W, C): interpolation, and means over windows that are given by their number."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from minigrad.checks import MOST
from minigrad.devices import Device
from minigrad.kernels.contract import Array
from minigrad.ops.checks import image_tensor
from minigrad.ops.forms import Form
from minigrad.ops.window import Pair, Size, pair, times
from minigrad.tensor import Tensor

Scale = float | Sequence[float]  # a number, or a pair (vertical, horizontal)
Parts = list[tuple[int, list[float]]]  # for each row of the result: the first row that it is made of, and the weights


class Axis(NamedTuple):
    """How the pixels of one axis are made of those of the image."""

    kind: str  # "nearest", "bilinear", "corners" or "mean"
    length: int  # of the image
    result: int
    ratio: float  # pixels of the image to one of the result


class Resample(Form):
    """Each pixel is a weighted sum of neighbouring pixels of the image: so much of each row, so much of each column."""

    formula = "y[i, j] = Σ a[i, p] b[j, q] x[p, q];  dx[p, q] = Σ a[i, p] b[j, q] dy[i, j]"
    passes_on = False

    def forward(self, x: np.ndarray, *, down: Axis, across: Axis) -> np.ndarray:
        self.x_shape, self.down, self.across = x.shape, down, across
        y = self.empty((x.shape[0], down.result, across.result, x.shape[3]), x.dtype)
        if y.size:
            self.run(x, False, y)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        dx = self.empty(self.x_shape, dy.dtype)
        if dx.size:
            self.run(dy, True, dx)
        return (dx,)

    def again(self, x: Array) -> Array:
        return self.forward(x, down=self.down, across=self.across)

    def run(self, source: np.ndarray, backward: bool, result: np.ndarray) -> None:
        """The kernel, by the tables of both axes."""
        rows, row_weights = table(self.device, self.down, source.dtype, backward)
        columns, column_weights = table(self.device, self.across, source.dtype, backward)
        self.kernels.resample.resample(source, rows, row_weights, columns, column_weights, result)


@functools.lru_cache(maxsize=512)
def table(device: Device, axis: Axis, dtype: np.dtype, backward: bool) -> tuple[Any, Any]:
    """What the kernel takes for an axis: (result, 3) numbers of rows and places of weights, and the weights, on the device."""
    parts = made_of(axis, dtype)
    if backward:
        parts = turned_round(parts, axis.length)
    ends = np.cumsum([0, *[len(weights) for _, weights in parts]])
    entries = [(first, len(weights), at) for (first, weights), at in zip(parts, ends[:-1], strict=True)]
    values = [weight for _, weights in parts for weight in weights]
    return (
        device.from_host(np.array(entries, np.int64).reshape(-1, 3)),
        device.from_host(np.array(values or [0.0], dtype)),
    )


def made_of(axis: Axis, dtype: np.dtype) -> Parts:
    """Of which rows of the image, by what weights, each row of the result is made; reckoned in the type of the data."""
    n, m = axis.length, axis.result
    if axis.kind == "mean":
        edges = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        return [(first, [1 / (last - first)] * (last - first)) for first, last in edges]
    number = dtype.type
    if axis.kind == "nearest":
        ratio = np.float32(axis.ratio)
        return [(min(int(np.floor(np.float32(i) * ratio)), n - 1), [1.0]) for i in range(m)]
    parts: Parts = []
    for i in range(m):
        if axis.kind == "corners":
            place = number(axis.ratio) * number(i)
        else:
            place = max(number(axis.ratio) * (number(i) + number(0.5)) - number(0.5), number(0))
        first = min(int(place), n - 1)
        beyond = float(place - number(first)) if first < n - 1 else 0.0
        parts.append((first, [float(number(1) - number(beyond)), beyond] if beyond else [1.0]))
    return parts


def turned_round(parts: Parts, length: int) -> Parts:
    """The same for the gradient: of which rows of the result each row of the image gets something."""
    met: list[list[tuple[int, float]]] = [[] for _ in range(length)]
    for i, (first, weights) in enumerate(parts):
        for k, weight in enumerate(weights):
            met[first + k].append((i, weight))
    turned: Parts = []
    for pairs in met:
        first = pairs[0][0] if pairs else 0
        weights = [0.0] * (pairs[-1][0] - first + 1 if pairs else 0)
        for i, weight in pairs:
            weights[i - first] = weight
        turned.append((first, weights))
    return turned


def interpolate(
    x: Tensor,
    *,
    size: Size | None = None,
    scale: Scale | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """Images in another size: (N, H, W, C) to (N, OH, OW, C), by PyTorch's rules.

    Either size is given, (OH, OW) or an int for both, or scale, a number or a pair (vertical, horizontal), and OH is
    floor(H scale). "nearest" takes the pixel at floor(i H / OH); "bilinear" weighs the four around (i + 1/2) H / OH - 1/2, or
    with align_corners, which lays the outer pixels on one another, around i (H - 1) / (OH - 1). With scale, 1 / scale takes
    the place of H / OH, unless OH is H, or with "nearest" 2 H. Only what has a weight is read: no NaN reaches other pixels.
    Raises ValueError for an empty image or result, and for align_corners with "nearest".
    """
    _, h, w, _ = image_tensor("interpolate", x).shape
    if mode not in ("nearest", "bilinear"):
        raise ValueError(f'interpolate: mode must be "nearest" or "bilinear", not {mode!r}')
    if align_corners and mode == "nearest":
        raise ValueError('interpolate: align_corners is for mode="bilinear"; the nearest pixel has no corners to align')
    if (size is None) == (scale is None):
        raise ValueError(f"interpolate: either size or scale must be given, not size={size!r} and scale={scale!r}")
    if size is not None:
        lengths = pair("interpolate", "size", size)
        ratios = h / lengths[0], w / lengths[1]
    else:
        vertical, horizontal = scales(scale)
        lengths = math.floor(h * vertical), math.floor(w * horizontal)
        ratios = 1 / vertical, 1 / horizontal
    check_lengths("interpolate", (h, w), lengths)
    if align_corners:
        ratios = corner_ratio(h, lengths[0]), corner_ratio(w, lengths[1])
    else:
        ratios = exact_ratio(mode, h, lengths[0], ratios[0]), exact_ratio(mode, w, lengths[1], ratios[1])
    kind = "corners" if align_corners else mode
    axes = [Axis(kind, *axis) for axis in zip((h, w), lengths, ratios, strict=True)]
    return Resample.apply(x, down=axes[0], across=axes[1])


def exact_ratio(mode: str, length: int, result: int, ratio: float) -> float:
    """The ratio, which a scale that came to the same length, or the nearest pixel to twice as many, is not asked for."""
    if result == length:
        return 1.0
    return 0.5 if mode == "nearest" and result == 2 * length else ratio


def corner_ratio(length: int, result: int) -> float:
    """Pixels of the image to one of the result, if the outer ones of both lie on one another."""
    return (length - 1) / (result - 1) if result > 1 else 0.0


def scales(scale: object) -> tuple[float, float]:
    """(vertical, horizontal) from a number above 0 or a pair of them."""
    given = scale if isinstance(scale, tuple | list) else (scale, scale)
    numbers = [s for s in given if isinstance(s, int | float | np.integer | np.floating) and not isinstance(s, bool)]
    if len(given) != 2 or len(numbers) != 2:
        raise TypeError(f"interpolate: scale must be a number or a pair of numbers, not {scale!r}")
    vertical, horizontal = map(float, numbers)
    if not (0 < vertical < math.inf and 0 < horizontal < math.inf):
        raise ValueError(f"interpolate: scale must be above 0 and finite, not {scale!r}")
    return vertical, horizontal


def check_lengths(name: str, image: Pair, lengths: Pair) -> None:
    """Raise ValueError for an image without pixels, or a result without any or with too many."""
    if 0 in image:
        raise ValueError(f"{name}: images of {times(image)} have no pixels to be made of")
    if 0 in lengths:
        raise ValueError(f"{name}: of images of {times(image)} nothing would be left, {times(lengths)} pixels")
    if lengths[0] * lengths[1] > MOST:
        raise ValueError(
            f"{name}: an image of {times(image)} would become one of {times(lengths)}; up to {MOST} pixels are possible"
        )


def adaptive_avg_pool2d(x: Tensor, size: SupportsIndex | Sequence[SupportsIndex | None]) -> Tensor:
    """The means over as many windows as asked for: (N, H, W, C) to (N, OH, OW, C), size an int or a pair (OH, OW).

    Window i begins at floor(i H / OH) and ends before ceil((i + 1) H / OH), as PyTorch's: windows overlap where H is no
    multiple of OH. None in the pair is the image's own length. Raises ValueError for images without pixels.
    """
    _, h, w, _ = image_tensor("adaptive_avg_pool2d", x).shape
    if isinstance(size, tuple | list) and len(size) == 2:
        size = [own if asked is None else asked for own, asked in zip((h, w), size, strict=True)]
        if 0 in (h, w):
            check_lengths("adaptive_avg_pool2d", (h, w), (1, 1))
    lengths = pair("adaptive_avg_pool2d", "size", size)  # type: ignore[arg-type]  # which is what it checks
    check_lengths("adaptive_avg_pool2d", (h, w), lengths)
    axes = [Axis("mean", n, m, n / m) for n, m in zip((h, w), lengths, strict=True)]
    return Resample.apply(x, down=axes[0], across=axes[1])
