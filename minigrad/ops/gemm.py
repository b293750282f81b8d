"""Matrix products and the fully connected layer, on the gemm kernels."""

import math

import numpy as np

from minigrad.kernels.axes import broadcast_shape, contiguous_strides
from minigrad.kernels.contract import Array
from minigrad.ops.arithmetic import operands
from minigrad.ops.biased import Biased
from minigrad.ops.checks import float_tensor, refuse_dtypes
from minigrad.ops.forms import Form
from minigrad.ops.launches import expand, filled, no_bias, product, read, unbroadcast
from minigrad.ops.shapes import as_matrix
from minigrad.tensor import Tensor
from minigrad.types import Operand


class Linear(Biased):
    """x W + b."""

    formula = "y = x W + b;  dx = dy Wᵀ;  dW = xᵀ dy;  db = Σ dy over the rows"
    adds_to = 0
    passes_on = False

    def forward(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
        self.save(x if self.needs[1] else None, w if self.needs[0] else None)
        self.x_shape = x.shape
        y = self.empty((*x.shape[:-1], w.shape[1]), x.dtype)
        if y.size:
            bias = no_bias(self, x.dtype) if b is None else b
            self.kernels.gemm.gemm(as_matrix(x), w, bias, as_matrix(y), False, False)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        x, w = self.saved  # type: ignore[misc]
        matrix = as_matrix(dy)
        dx = dw = db = None
        if self.needs[0]:
            dx = product(self, matrix, w, trans_b=True, shape=self.x_shape, total=self.take_total())
        if self.needs[1]:
            dw = product(self, as_matrix(x), matrix, trans_a=True)
        if self.needs[2]:
            db = self.empty(dy.shape[-1:], dy.dtype)
            if db.size:
                self.kernels.reduce.sum_forward(matrix.reshape(1, *matrix.shape), db.reshape(1, -1))
        return dx, dw, db

    def again(self, x: Array, w: Array) -> Array:
        return self.forward(x, w, None)


class MatMul(Form):
    """A B for matrices."""

    formula = "Y = A B;  dA = dY Bᵀ;  dB = Aᵀ dY"
    passes_on = False
    factors = 2

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.save(a if self.needs[1] else None, b if self.needs[0] else None)
        return product(self, a, b)

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        a, b = self.saved  # type: ignore[misc]
        return (
            product(self, dy, b, trans_b=True) if self.needs[0] else None,
            product(self, a, dy, trans_a=True) if self.needs[1] else None,
        )

    def again(self, a: Array, b: Array) -> Array:
        return product(self, a, b)


def matrices(x: np.ndarray) -> np.ndarray:
    """A stack of matrices with one leading axis."""
    return x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


class BatchedMatMul(Form):
    """A B for stacks of matrices, whose leading axes broadcast."""

    formula = "Y[i] = A[i] B[i];  dA[i] = dY[i] B[i]ᵀ;  dB[i] = A[i]ᵀ dY[i]"
    passes_on = False
    factors = 2

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.shapes = a.shape, b.shape
        self.stack = broadcast_shape(a.shape[:-2], b.shape[:-2])
        a, b = self.stacked(a), self.stacked(b)
        y = self.empty((*self.stack, a.shape[1], b.shape[2]), a.dtype)
        if y.size:
            self.kernels.gemm.gemm_batched(a, b, matrices(y), False, False)
        self.save(a if self.needs[1] else None, b if self.needs[0] else None)
        return y

    def stacked(self, x: np.ndarray) -> np.ndarray:
        """x as (batch, rows, columns), repeated where it is broadcast."""
        shape = (*self.stack, *x.shape[-2:])
        if x.shape != shape:
            x = expand(self, x.reshape((1,) * (len(shape) - x.ndim) + x.shape), shape)
        return matrices(x)

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        a, b = self.saved  # type: ignore[misc]
        dy = matrices(dy)
        da = db = None
        if self.needs[0]:
            da = self.empty((*self.stack, dy.shape[1], b.shape[1]), dy.dtype)
            if da.size:
                self.kernels.gemm.gemm_batched(dy, b, matrices(da), False, True)
            da = unbroadcast(self, da, self.shapes[0])
        if self.needs[1]:
            db = self.empty((*self.stack, a.shape[2], dy.shape[2]), dy.dtype)
            if db.size:
                self.kernels.gemm.gemm_batched(a, dy, matrices(db), True, False)
            db = unbroadcast(self, db, self.shapes[1])
        return da, db

    def again(self, a: Array, b: Array) -> Array:
        return self.forward(a, b)

    def keep(self, *factors: Array | None) -> None:
        self.saved = tuple([None if x is None else self.stacked(x) for x in factors])

    def as_factor(self, i: int) -> Tensor:
        shape, kept = self.shapes[i], self.saved[i]  # type: ignore[index]
        if kept.size == math.prod(shape):
            return self.as_input(i, kept.reshape(shape))
        if not kept.size:  # repeated no times
            return self.as_input(i, filled(self, shape, kept.dtype, 0.0))
        steps = contiguous_strides((*self.stack, *shape[-2:]))[-len(shape) :]  # of what was repeated the first is read
        first = read(self, kept, shape, tuple([s if n > 1 else 0 for n, s in zip(shape, steps, strict=True)]), 0)
        return self.as_input(i, first)


def matmul(a: Operand, b: Operand) -> Tensor:
    """A B by NumPy's rules: vectors, matrices, and stacks of matrices whose leading axes broadcast. Raises ValueError."""
    a, b = operands("matmul", a, b)
    if not a.ndim or not b.ndim:
        raise ValueError(f"matmul needs at least one axis on each side, not shapes {a.shape} and {b.shape}; use *")
    if a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ValueError(f"matmul: inner lengths differ, shapes {a.shape} and {b.shape}")
    row, column = a.ndim == 1, b.ndim == 1
    if row:
        a = a.reshape(1, -1)
    if column:
        b = b.reshape(-1, 1)
    if b.ndim == 2:
        y = MatMul.apply(a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) if a.ndim > 2 else a, b)
        if a.ndim > 2:
            y = y.reshape(*a.shape[:-1], b.shape[1])
    else:
        y = BatchedMatMul.apply(a, b)
    if column:
        y = y.reshape(y.shape[:-1])
    if row:
        y = y.reshape(y.shape[:-2] + y.shape[-1:] if not column else y.shape[:-1])
    return y


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """x W + b: x (..., in), W (in, out), b (out,) or None, result (..., out). Raises ValueError, TypeError."""
    data, weight = float_tensor("linear", x)._data, float_tensor("linear", w)._data
    if weight.ndim != 2 or data.ndim < 1 or data.shape[-1] != weight.shape[0]:
        raise ValueError(f"linear: x (..., in) and w (in, out) expected, got {data.shape} and {weight.shape}")
    if b is not None and float_tensor("linear", b)._data.shape != weight.shape[1:]:
        raise ValueError(f"linear: b must have shape ({weight.shape[1]},) to match w {weight.shape}, not {b.shape}")
    if data.dtype != weight.dtype or (b is not None and b._data.dtype != weight.dtype):
        refuse_dtypes("linear", x=x, w=w, b=b)
    return Linear.apply(x, w, b)
