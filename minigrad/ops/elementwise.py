"""Functions of every element by itself."""

from typing import Any, ClassVar

import numpy as np

from minigrad.tape import Op
from minigrad.tensor import FLOATS, Tensor


class Unary(Op):
    """y = f(x), where backward needs the result or the input."""

    name: ClassVar[str]
    saves_result: ClassVar[bool] = True
    passes_on = False

    def forward(self, x: np.ndarray) -> np.ndarray:
        y = self.empty_like(x)
        getattr(self.kernels.elementwise, self.name + "_forward")(x.reshape(-1), y.reshape(-1))
        self.save(y if self.saves_result else x)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Any, ...]:
        (saved,) = self.saved  # type: ignore[misc]
        dx = self.empty_like(dy)
        backward = getattr(self.kernels.elementwise, self.name + "_backward")
        backward(dy.reshape(-1), saved.reshape(-1), dx.reshape(-1))
        return (dx,)


class Exp(Unary):
    """e^x."""

    name = "exp"
    formula = "y = exp(x);  dx = dy y"


class Log(Unary):
    """Natural logarithm."""

    name = "log"
    saves_result = False
    formula = "y = log(x);  dx = dy / x"


class Sqrt(Unary):
    """Square root."""

    name = "sqrt"
    formula = "y = √x;  dx = dy / (2 y)"


class Tanh(Unary):
    """Hyperbolic tangent."""

    name = "tanh"
    formula = "y = tanh(x);  dx = dy (1 - y²)"


class Sigmoid(Unary):
    """1 / (1 + exp(-x))."""

    name = "sigmoid"
    formula = "y = 1 / (1 + exp(-x));  dx = dy y (1 - y)"


class ReLU(Unary):
    """max(x, 0)."""

    name = "relu"
    formula = "y = max(x, 0);  dx = dy where y > 0, else 0"


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

    def backward(self, dy: np.ndarray) -> tuple[Any, ...]:
        (x,) = self.saved  # type: ignore[misc]
        dx = self.empty_like(dy)
        self.kernels.elementwise.power_backward(dy.reshape(-1), x.reshape(-1), self.exponent, dx.reshape(-1))
        return (dx,)


def float_tensor(name: str, x: Any) -> Tensor:
    """x itself; TypeError unless it is a float tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} needs a Tensor, not {type(x).__name__}; make one with mg.tensor(...)")
    if x._data.dtype not in FLOATS:
        raise TypeError(f"{name} needs a float32 or float64 tensor, not {x.dtype}; convert with .to('float32')")
    return x


def exp(x: Tensor) -> Tensor:
    """e^x, element by element."""
    return Exp.apply(float_tensor("exp", x))


def log(x: Tensor) -> Tensor:
    """Natural logarithm, element by element: -inf at 0, NaN below."""
    return Log.apply(float_tensor("log", x))


def sqrt(x: Tensor) -> Tensor:
    """Square root, element by element: NaN below 0."""
    return Sqrt.apply(float_tensor("sqrt", x))


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent, element by element."""
    return Tanh.apply(float_tensor("tanh", x))


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), element by element, without overflow; any shape, same shape out."""
    return Sigmoid.apply(float_tensor("sigmoid", x))


def relu(x: Tensor) -> Tensor:
    """max(x, 0), element by element; NaN stays NaN, and the gradient at 0 is 0."""
    return ReLU.apply(float_tensor("relu", x))


def power(x: Tensor, exponent: float) -> Tensor:
    """x^exponent for a constant exponent, element by element."""
    if isinstance(exponent, Tensor) or not isinstance(exponent, int | float | np.integer | np.floating):
        raise TypeError(f"the exponent must be a number, not {type(exponent).__name__}; else use mg.exp(p * mg.log(x))")
    return Power.apply(float_tensor("power", x), exponent=float(exponent))
