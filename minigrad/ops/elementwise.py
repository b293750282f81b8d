"""Functions of every element by itself."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from minigrad.arrays import as_float
from minigrad.kernels.contract import Array
from minigrad.kernels.expressions import Scalar, apply, where
from minigrad.ops.arithmetic import mul
from minigrad.ops.checks import float_tensor
from minigrad.ops.pointwise import Elementwise, made
from minigrad.tape import Op
from minigrad.tensor import Tensor


class Unary(Op):
    """y = f(x), where backward needs the result or the input."""

    saves_input: ClassVar[bool] = False  # rather than the result
    slope: ClassVar[Elementwise]  # the gradient of dy and of what was saved, by a formula, which has derivatives
    passes_on = False

    def computed(self, kernel: Callable[[Array, Array], None], x: Array) -> Array:
        """y by f's kernel; what backward needs is saved."""
        y = self.empty_like(x)
        kernel(x.reshape(-1), y.reshape(-1))
        self.save(x if self.saves_input else y)
        return y

    def gradient(self, kernel: Callable[[Array, Array, Array], None], dy: Array) -> tuple[Array]:
        """dx by the kernel of f's gradient, from dy and what was saved."""
        (saved,) = self.saved  # type: ignore[misc]
        dx = self.empty_like(dy)
        kernel(dy.reshape(-1), saved.reshape(-1), dx.reshape(-1))
        return (dx,)

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        (saved,) = self.saved  # type: ignore[misc]
        return (self.slope.op.apply(dy, self.as_input(0, saved) if self.saves_input else self.as_result(saved)),)


class Exp(Unary):
    """e^x."""

    formula = "y = exp(x);  dx = dy y"
    slope = made(lambda dy, y: dy * y, name="exp_gradient")

    def forward(self, x: Array) -> Array:
        return self.computed(self.kernels.elementwise.exp_forward, x)

    def backward(self, dy: Array) -> tuple[Array]:
        return self.gradient(self.kernels.elementwise.exp_backward, dy)


class Log(Unary):
    """Natural logarithm."""

    formula = "y = log(x);  dx = dy / x"
    slope = made(lambda dy, x: dy / x, name="log_gradient")
    saves_input = True

    def forward(self, x: Array) -> Array:
        return self.computed(self.kernels.elementwise.log_forward, x)

    def backward(self, dy: Array) -> tuple[Array]:
        return self.gradient(self.kernels.elementwise.log_backward, dy)


class Sqrt(Unary):
    """Square root."""

    formula = "y = √x;  dx = dy / (2 y)"
    slope = made(lambda dy, y: 0.5 * dy / y, name="sqrt_gradient")

    def forward(self, x: Array) -> Array:
        return self.computed(self.kernels.elementwise.sqrt_forward, x)

    def backward(self, dy: Array) -> tuple[Array]:
        return self.gradient(self.kernels.elementwise.sqrt_backward, dy)


class Tanh(Unary):
    """Hyperbolic tangent."""

    formula = "y = tanh(x);  dx = dy (1 - y²)"
    slope = made(lambda dy, y: dy * (1 - y) * (1 + y), name="tanh_gradient")

    def forward(self, x: Array) -> Array:
        return self.computed(self.kernels.elementwise.tanh_forward, x)

    def backward(self, dy: Array) -> tuple[Array]:
        return self.gradient(self.kernels.elementwise.tanh_backward, dy)


class Sigmoid(Unary):
    """1 / (1 + exp(-x))."""

    formula = "y = 1 / (1 + exp(-x));  dx = dy y (1 - y)"
    slope = made(lambda dy, y: dy * y * (1 - y), name="sigmoid_gradient")

    def forward(self, x: Array) -> Array:
        return self.computed(self.kernels.elementwise.sigmoid_forward, x)

    def backward(self, dy: Array) -> tuple[Array]:
        return self.gradient(self.kernels.elementwise.sigmoid_backward, dy)


class ReLU(Unary):
    """max(x, 0)."""

    formula = "y = max(x, 0);  dx = dy where y > 0, else 0"
    slope = made(lambda dy, y: where(y <= 0, 0.0, dy), name="relu_gradient")

    def forward(self, x: Array) -> Array:
        return self.computed(self.kernels.elementwise.relu_forward, x)

    def backward(self, dy: Array) -> tuple[Array]:
        return self.gradient(self.kernels.elementwise.relu_backward, dy)


class Power(Op):
    """x^p for a constant p."""

    formula = "y = x^p;  dx = dy p x^(p-1)"
    passes_on = False

    def forward(self, x: np.ndarray, *, exponent: float) -> np.ndarray:
        self.exponent = exponent
        y = self.empty_like(x)
        self.kernels.elementwise.power_forward(x.reshape(-1), exponent, y.reshape(-1))
        self.save(x)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        (x,) = self.saved  # type: ignore[misc]
        dx = self.empty_like(dy)
        self.kernels.elementwise.power_backward(dy.reshape(-1), x.reshape(-1), self.exponent, dx.reshape(-1))
        return (dx,)

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, p = self.as_input(0, self.saved[0]), self.exponent  # type: ignore[index]
        if p in (0, 1):
            return (None if p == 0 else dy,)
        return (mul(mul(dy, p), x if p == 2 else Power.apply(x, exponent=p - 1)),)


def exp(x: Tensor) -> Tensor:
    """e^x, element by element."""
    return Exp.apply(float_tensor("exp", x)) if not isinstance(x, Scalar) else apply("exp", x)


def log(x: Tensor) -> Tensor:
    """Natural logarithm, element by element: -inf at 0, NaN below."""
    return Log.apply(float_tensor("log", x)) if not isinstance(x, Scalar) else apply("log", x)


def sqrt(x: Tensor) -> Tensor:
    """Square root, element by element: NaN below 0."""
    return Sqrt.apply(float_tensor("sqrt", x)) if not isinstance(x, Scalar) else apply("sqrt", x)


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent, element by element."""
    return Tanh.apply(float_tensor("tanh", x)) if not isinstance(x, Scalar) else apply("tanh", x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), element by element, without overflow; any shape, same shape out."""
    return Sigmoid.apply(float_tensor("sigmoid", x)) if not isinstance(x, Scalar) else apply("sigmoid", x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0), element by element; NaN stays NaN, and the gradient at 0 is 0."""
    return ReLU.apply(float_tensor("relu", x)) if not isinstance(x, Scalar) else apply("relu", x)


def power(x: Tensor, exponent: float | np.generic) -> Tensor:
    """x^exponent for a constant exponent, element by element."""
    if isinstance(exponent, Tensor) or not isinstance(exponent, int | float | np.integer | np.floating):
        raise TypeError(f"the exponent must be a number or a tensor, not {type(exponent).__name__}")
    return Power.apply(float_tensor("power", x), exponent=as_float(exponent))
