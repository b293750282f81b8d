"""What is found over axes, beside sum, mean and maximum: minimum, places, variance, products, running sums, norms."""

import math
from typing import Any, SupportsIndex

import numpy as np

from minigrad.kernels.axes import reduction_layout
from minigrad.kernels.contract import Array
from minigrad.kernels.expressions import where as chosen
from minigrad.modes import at_work, begin
from minigrad.ops.arithmetic import add, mul
from minigrad.ops.checks import float_tensor
from minigrad.ops.comparison import equal, greater
from minigrad.ops.elementwise import exp, log
from minigrad.ops.forms import Form
from minigrad.ops.movement import concat, reshape, to, transpose
from minigrad.ops.pointwise import made
from minigrad.ops.reduce import dropped, kept, max, mean, sum
from minigrad.ops.shape_functions import tensor_of
from minigrad.ops.shapes import normal_axes, one_axis
from minigrad.ops.table import abs, isinf, square, where
from minigrad.tensor import Tensor
from minigrad.types import Axis

INDEX = np.dtype(np.int64)


class CumSum(Form):
    """Running sums along an axis."""

    formula = "y[i] = x[0] + ... + x[i];  dx[i] = dy[i] + ... + dy[n - 1]"
    passes_on = False

    def forward(self, x: Array, *, axis: int) -> Array:
        self.axis = axis
        return self.along(x, False)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (self.along(dy, True),)

    def again(self, x: Array) -> Array:
        return self.along(x, False)

    def along(self, x: Array, reverse: bool) -> Array:
        """Running sums, from the end if `reverse`."""
        layout = reduction_layout(x.shape, (self.axis,))
        y = self.empty_like(x)
        if y.size:
            self.kernels.reduce.cumsum(x.reshape(layout), reverse, y.reshape(layout))
        return y


def cumsum(x: Tensor, axis: SupportsIndex | None = None) -> Tensor:
    """Running sums along `axis`, added one by one, float32 in float64; without an axis, of x as if it were flat."""
    float_tensor("cumsum", x)
    if axis is None:
        return CumSum.apply(reshape(x, -1), axis=0)
    return CumSum.apply(x, axis=one_axis(axis, x.ndim)) if x.ndim else x


def min(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Minimum over `axis` (an int, a tuple, or None for all); NaN wins, the first of equals gets the gradient.

    Raises ValueError for a minimum of nothing.
    """
    return mul(max(mul(float_tensor("min", x), -1.0), axis, keepdims), -1.0)


def argmax(x: Tensor, axis: SupportsIndex | None = None, keepdims: bool = False) -> Tensor:
    """Where the maximum along `axis` stands, the first of equals, or the first NaN; without an axis, in x as if it were flat.

    An int64 tensor without a gradient. Raises ValueError for a maximum of nothing.
    """
    x = float_tensor("argmax", x).detach()
    if axis is None:
        found = argmax(reshape(x, -1), 0)
        return reshape(found, (1,) * x.ndim) if keepdims else found
    along = one_axis(axis, x.ndim)
    if not x.shape[along]:
        raise ValueError(f"argmax of no elements: shape {x.shape}, axis {axis}")
    begin("ArgMax")
    device = at_work(x._device)
    outer, reduced, inner = reduction_layout(x.shape, (along,))
    index = device.empty(kept(x.shape, (along,)) if keepdims else dropped(x.shape, (along,)), INDEX)
    if index.size:
        largest = device.empty((outer, inner), x.dtype)
        device.kernels.reduce.max_forward(x._data.reshape(outer, reduced, inner), largest, index.reshape(outer, inner))
    return Tensor._wrap(index, x._device)


def argmin(x: Tensor, axis: SupportsIndex | None = None, keepdims: bool = False) -> Tensor:
    """Where the minimum along `axis` stands; see `argmax`."""
    return argmax(mul(float_tensor("argmin", x).detach(), -1.0), axis, keepdims)


def var(x: Tensor, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Variance over `axis`: the sum of squared distances from the mean, by the number of elements less `correction`.

    As the array API and NumPy have it `correction` is 0; PyTorch's is 1. Raises ValueError if nothing is left to divide by.
    """
    axes = normal_axes(axis, float_tensor("var", x).ndim)
    count = math.prod([x.shape[a] for a in axes]) - correction
    if count <= 0:
        raise ValueError(f"var: shape {x.shape} over axes {axes} with correction {correction} divides by {count:g}")
    distances = add(x, mul(mean(x, axes, True), -1.0))
    return mul(sum(square(distances), axes, keepdims), 1.0 / count)


def slope_of_root(x: Any) -> Any:
    """Of sums of squares: at 0 no direction is the right one."""
    return chosen(x == 0, 0.0, 0.5 / x.sqrt())


root = made(lambda x: x.sqrt(), slope_of_root, "root")


def std(x: Tensor, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Standard deviation over `axis`, the root of `var`; its gradient is 0 where all elements are equal."""
    return root(var(x, axis, correction, keepdims))


def prod(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Product over `axis` (an int, a tuple, or None for all); of nothing it is 1. The gradient is right beside zeros too."""
    axes = normal_axes(axis, float_tensor("prod", x).ndim)
    others = [a for a in range(x.ndim) if a not in axes]
    count = math.prod([x.shape[a] for a in axes])
    if not count:
        return add(sum(x, axes, keepdims), 1.0)
    y = reshape(transpose(x, [*axes, *others]), (count, *[x.shape[a] for a in others]))
    while count > 1:  # by halves, so that there are as many steps as the count has digits
        half = count // 2
        pairs = mul(y[:half], y[half : 2 * half])
        y, count = (concat([pairs, y[2 * half :]], 0), half + 1) if count % 2 else (pairs, half)
    return reshape(y, kept(x.shape, axes) if keepdims else dropped(x.shape, axes))


def logsumexp(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log of the sum of e^x over `axis`, without overflow; -inf where all x are. Raises ValueError for a sum of nothing."""
    axes = normal_axes(axis, float_tensor("logsumexp", x).ndim)
    if not axes:
        return x
    largest = max(x.detach(), axes, True)
    largest = where(isinf(largest), 0.0, largest)
    y = log(sum(exp(add(x, mul(largest, -1.0))), axes, True))
    return reshape(add(y, largest), kept(x.shape, axes) if keepdims else dropped(x.shape, axes))


def norm(x: Tensor, ord: float = 2, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The norm of vectors along `axis`, or of all elements: ord 2 (Euclid's), 1 or infinity; its gradient at 0 is 0.

    Raises ValueError for another `ord`.
    """
    float_tensor("norm", x)
    if ord == 2:
        return root(sum(square(x), axis, keepdims))
    if ord == 1:
        return sum(abs(x), axis, keepdims)
    if ord == math.inf:
        return max(abs(x), axis, keepdims)
    raise ValueError(f"norm: ord is 2, 1 or infinity, not {ord!r}")


def all(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether all elements of a bool tensor hold, over `axis`; of none they do. Raises TypeError for another dtype."""
    return counted("all", x, axis, keepdims)


def any(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether an element of a bool tensor holds, over `axis`; of none none does. Raises TypeError for another dtype."""
    return counted("any", x, axis, keepdims)


def counted(name: str, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    """`all` or `any`, by how many elements hold."""
    if tensor_of(name, x).dtype != np.bool_:
        raise TypeError(f"{name} needs a bool tensor, as x > 0 gives it, not {x.dtype}")
    axes = normal_axes(axis, x.ndim)
    holding = sum(to(x, "float64"), axes, keepdims)
    return greater(holding, 0.0) if name == "any" else equal(holding, float(math.prod([x.shape[a] for a in axes])))
