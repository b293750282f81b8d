"""Add, subtract, multiply, divide, with broadcasting."""

from typing import Any

import numpy as np

from minigrad.arrays import is_number
from minigrad.kernels.contract import Array
from minigrad.modes import at_work, refuse_constant
from minigrad.ops.launches import binary, unbroadcast
from minigrad.ops.reduce import summed_to
from minigrad.tape import Op
from minigrad.tensor import FLOATS, Tensor
from minigrad.types import Operand

LARGEST = float(np.finfo(np.float32).max)


class Add(Op):
    """a + b."""

    formula = "y = a + b;  da = dy;  db = dy"

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.shapes = a.shape, b.shape
        return binary(self, self.kernels.elementwise.add_forward, a, b)

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        a, b = self.shapes
        return (
            unbroadcast(self, dy, a) if self.needs[0] else None,
            unbroadcast(self, dy, b) if self.needs[1] else None,
        )

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        a, b = self.shapes
        return summed_to(dy, a) if self.needs[0] else None, summed_to(dy, b) if self.needs[1] else None


class Sub(Op):
    """a - b."""

    formula = "y = a - b;  da = dy;  db = -dy"

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.shapes = a.shape, b.shape
        return binary(self, self.kernels.elementwise.sub_forward, a, b)

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        a, b = self.shapes
        da = unbroadcast(self, dy, a) if self.needs[0] else None
        db = None
        if self.needs[1]:
            db = unbroadcast(self, dy, b)
            db = binary(self, self.kernels.elementwise.mul_forward, db, self.device.shared_constant(-1.0, (), db.dtype))
        return da, db

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        a, b = self.shapes
        return summed_to(dy, a) if self.needs[0] else None, mul(summed_to(dy, b), -1.0) if self.needs[1] else None


class Mul(Op):
    """a * b."""

    formula = "y = a b;  da = dy b;  db = dy a"
    passes_on = False

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.shapes = a.shape, b.shape
        self.save(a if self.needs[1] else None, b if self.needs[0] else None)
        return binary(self, self.kernels.elementwise.mul_forward, a, b)

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        a, b = self.saved  # type: ignore[misc]
        da = db = None
        if self.needs[0]:
            da = unbroadcast(self, binary(self, self.kernels.elementwise.mul_forward, dy, b), self.shapes[0])
        if self.needs[1]:
            db = unbroadcast(self, binary(self, self.kernels.elementwise.mul_forward, dy, a), self.shapes[1])
        return da, db

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        a, b = self.saved  # type: ignore[misc]
        return (
            summed_to(mul(dy, self.as_input(1, b)), self.shapes[0]) if self.needs[0] else None,
            summed_to(mul(dy, self.as_input(0, a)), self.shapes[1]) if self.needs[1] else None,
        )


class Div(Op):
    """a / b."""

    formula = "y = a / b;  da = dy / b;  db = -dy y / b"
    passes_on = False

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.shapes = a.shape, b.shape
        y = binary(self, self.kernels.elementwise.div_forward, a, b)
        self.save(b, y if self.needs[1] else None)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        b, y = self.saved  # type: ignore[misc]
        quotient = binary(self, self.kernels.elementwise.div_forward, dy, b)
        da = unbroadcast(self, quotient, self.shapes[0]) if self.needs[0] else None
        db = None
        if self.needs[1]:
            db = unbroadcast(self, binary(self, self.kernels.elementwise.mul_forward, quotient, y), self.shapes[1])
            db = binary(self, self.kernels.elementwise.mul_forward, db, self.device.shared_constant(-1.0, (), db.dtype))
        return da, db

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        b, y = self.saved  # type: ignore[misc]
        quotient = div(dy, self.as_input(1, b))
        da = summed_to(quotient, self.shapes[0]) if self.needs[0] else None
        if not self.needs[1]:
            return da, None
        return da, mul(summed_to(mul(quotient, self.as_result(y)), self.shapes[1]), -1.0)


def operands(name: str, a: Operand, b: Operand) -> tuple[Tensor, Tensor]:
    """Both sides as float tensors of one dtype and device; numbers and arrays take the tensor's."""
    like = a if isinstance(a, Tensor) else b
    if not isinstance(like, Tensor):
        raise TypeError(f"{name}: at least one side must be a Tensor, not {type(a).__name__} and {type(b).__name__}")
    if is_number(a) or is_number(b):
        check_float(name, like)
    a, b = as_operand(name, a, like), as_operand(name, b, like)
    if a.dtype != b.dtype:
        raise TypeError(f"{name}: dtypes differ, {a.dtype} and {b.dtype}; convert one side with .to(...)")
    check_float(name, a)
    return a, b


def check_float(name: str, x: Tensor) -> None:
    """Raise TypeError unless it is a float tensor."""
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} needs float32 or float64 tensors, not {x.dtype}; convert with .to('float32')")


def as_operand(name: str, value: Operand, like: Tensor) -> Tensor:
    """`value` as a tensor; a number takes the dtype of `like`."""
    if isinstance(value, Tensor):
        return value
    if is_number(value):
        return Tensor._wrap(like._device.from_host(as_scalar(value, like.dtype)), like._device)
    if isinstance(value, np.ndarray):
        refuse_constant(value.shape)
        return Tensor(value, device=like._device)
    raise TypeError(f"{name}: cannot work on {type(value).__name__}; pass a Tensor, a NumPy array or a number")


def as_scalar(value: Any, dtype: np.dtype) -> np.ndarray:
    """A number as an array without axes; of a float dtype it is infinite if it is too large, as a result would be."""
    if -LARGEST < value < LARGEST:
        return np.array(value, dtype)
    try:
        with np.errstate(over="ignore"):
            return np.array(value, dtype)
    except OverflowError:  # an int beyond float64
        return np.array(np.inf if value > 0 else -np.inf, dtype)


def add(a: Operand, b: Operand) -> Tensor:
    """a + b with broadcasting; tensors of one dtype, or a tensor and a number."""
    return Add.apply(*operands("add", a, b))


def sub(a: Operand, b: Operand) -> Tensor:
    """a - b with broadcasting; tensors of one dtype, or a tensor and a number."""
    return Sub.apply(*operands("sub", a, b))


def mul(a: Operand, b: Operand) -> Tensor:
    """a * b with broadcasting; tensors of one dtype, or a tensor and a number."""
    return Mul.apply(*operands("mul", a, b))


def div(a: Operand, b: Operand) -> Tensor:
    """a / b with broadcasting; tensors of one dtype, or a tensor and a number."""
    return Div.apply(*operands("div", a, b))


def assign(target: Tensor, value: Tensor) -> None:
    """target = value, in place, off the tape; both of one shape."""
    at_work(target._device).kernels.movement.copy(value._data.reshape(-1), target._data.reshape(-1))
    target._version[0] += 1
