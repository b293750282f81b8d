"""Softmax, its logarithm, cross-entropy, and the mean of squared errors."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from minigrad.kernels.contract import Array
from minigrad.modes import at_work, refuse_constant
from minigrad.ops.arithmetic import Operand, mul, operands, sub
from minigrad.ops.checks import float_tensor
from minigrad.ops.movement import to, transpose
from minigrad.ops.reduce import mean
from minigrad.ops.shapes import normal_axes
from minigrad.tape import Op
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class OverLastAxis(Op):
    """A function of each row, whose backward needs its result."""

    passes_on = False

    def computed(self, kernel: Callable[[Array, Array], None], x: Array) -> Array:
        """y by the function's kernel, saved for backward."""
        y = self.empty_like(x)
        n = x.shape[-1]
        if y.size:
            kernel(x.reshape(-1, n), y.reshape(-1, n))
        self.save(y)
        return y

    def gradient(self, kernel: Callable[[Array, Array, Array], None], dy: Array) -> tuple[Array]:
        """dx by the kernel of the function's gradient."""
        (y,) = self.saved  # type: ignore[misc]
        dx = self.empty_like(dy)
        n = dy.shape[-1]
        if dx.size:
            kernel(dy.reshape(-1, n), y.reshape(-1, n), dx.reshape(-1, n))
        return (dx,)


class Softmax(OverLastAxis):
    """exp(x) / Σ exp(x)."""

    formula = "y = exp(x) / Σ exp(x);  dx = y (dy - Σ dy y)"

    def forward(self, x: Array) -> Array:
        return self.computed(self.kernels.loss.softmax_forward, x)

    def backward(self, dy: Array) -> tuple[Array]:
        return self.gradient(self.kernels.loss.softmax_backward, dy)


class LogSoftmax(OverLastAxis):
    """x - log Σ exp(x)."""

    formula = "y = x - log Σ exp(x);  dx = dy - exp(y) Σ dy"

    def forward(self, x: Array) -> Array:
        return self.computed(self.kernels.loss.log_softmax_forward, x)

    def backward(self, dy: Array) -> tuple[Array]:
        return self.gradient(self.kernels.loss.log_softmax_backward, dy)


class CrossEntropy(Op):
    """Mean over the rows of -log softmax(logits)[label]."""

    formula = "loss = mean(-log p[label]), p = softmax(logits);  dlogits = dloss (p - onehot(label)) / rows"
    passes_on = False

    def forward(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        probs = self.empty_like(logits)
        loss = self.empty((), logits.dtype)
        self.kernels.loss.cross_entropy_forward(logits, labels, probs, loss.reshape(1))
        self.save(probs, labels)
        return loss

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        probs, labels = self.saved  # type: ignore[misc]
        dx = self.empty_like(probs)
        self.kernels.loss.cross_entropy_backward(dy.reshape(1), probs, labels, dx)
        return dx, None


def over_axis(op: type[Op], x: Tensor, axis: int) -> Tensor:
    """The op along `axis`."""
    (along,) = normal_axes(axis, x.ndim)
    if along == x.ndim - 1:
        return op.apply(x)
    order = (*[i for i in range(x.ndim) if i != along], along)
    inverse = tuple(int(i) for i in np.argsort(order))
    return transpose(op.apply(transpose(x, order)), inverse)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / Σ exp(x) along `axis`, without overflow; same shape out."""
    return over_axis(Softmax, float_tensor("softmax", x), axis)


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """x - log Σ exp(x) along `axis`, without overflow; same shape out."""
    return over_axis(LogSoftmax, float_tensor("log_softmax", x), axis)


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Raise ValueError for a label that is no class."""
    flat = labels.reshape(-1)
    if flat.dtype.kind == "i":  # as unsigned numbers, negative ones are the largest: one search finds both kinds
        flat = flat.astype(np.int64, copy=False).view(np.uint64)
    row = int(flat.argmax())
    if flat[row] >= classes:
        label = labels.reshape(-1)[row]
        raise ValueError(
            f"cross_entropy: label {label} in row {row} is out of range; there are classes 0 to {classes - 1}"
        )


def cross_entropy(logits: Tensor, labels: "ArrayLike | Tensor") -> Tensor:
    """Mean over the batch of -log softmax(logits)[label]: logits (..., classes), integer labels (...), one number out.

    Labels may be a NumPy array, a list or a Tensor. Raises TypeError for labels that are no integers and ValueError for
    shapes that do not match, a label out of range, or an empty batch.
    """
    scores = float_tensor("cross_entropy", logits)._data
    if not isinstance(labels, Tensor):
        labels = Tensor(np.asarray(labels), device=logits._device)
        refuse_constant(labels.shape)
    classes = labels._data
    if classes.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: labels must be integers (class numbers), not {classes.dtype}")
    if scores.ndim < 1 or scores.shape[:-1] != classes.shape:
        raise ValueError(
            f"cross_entropy: logits (..., classes) and labels (...) expected, got {scores.shape} and {classes.shape}"
        )
    if not scores.size:
        raise ValueError(f"cross_entropy: the mean over no rows is not defined (logits have shape {scores.shape})")
    at_work(logits._device).check(check_labels, classes, scores.shape[-1])
    if classes.dtype != np.int64:
        labels = to(labels, np.int64)
    if scores.ndim != 2:
        logits = logits.reshape(classes.size, scores.shape[-1])
        labels = labels.reshape(classes.size)
    return CrossEntropy.apply(logits, labels)


def mse_loss(output: Tensor, target: Operand) -> Tensor:
    """Mean of (output - target)^2 over all elements, one number out; target is a tensor or an array like the output.

    Both have one shape, which is checked: (n, 1) minus (n,) would pair every output with every target. Raises ValueError for
    other shapes and for no elements, TypeError for dtypes that differ.
    """
    output, target = operands("mse_loss", output, target)
    if output.shape != target.shape:
        raise ValueError(
            f"mse_loss: output and target must have one shape, not {output.shape} and {target.shape}; reshape one of them"
        )
    error = sub(output, target)
    return mean(mul(error, error))
