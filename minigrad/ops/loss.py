"""Softmax, its logarithm, and losses of classes: cross-entropy with its options, and that of log-probabilities."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from minigrad.checks import integer, share
from minigrad.kernels.contract import Array
from minigrad.modes import at_work, refuse_constant
from minigrad.ops.arithmetic import add, div, mul, sub
from minigrad.ops.checks import float_tensor, refuse_dtypes
from minigrad.ops.elementwise import exp
from minigrad.ops.forms import Form
from minigrad.ops.indexing import one_hot
from minigrad.ops.movement import to, transpose
from minigrad.ops.reduce import mean, sum
from minigrad.ops.shapes import one_axis
from minigrad.tape import Op, new_order
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

REDUCTIONS = ("mean", "sum", "none")
NO_LABEL = -1  # which is ignored where nothing is


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

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        y = self.as_result(self.saved[0])  # type: ignore[index]
        return (mul(y, sub(dy, sum(mul(dy, y), -1, keepdims=True))),)


class LogSoftmax(OverLastAxis):
    """x - log Σ exp(x)."""

    formula = "y = x - log Σ exp(x);  dx = dy - exp(y) Σ dy"

    def forward(self, x: Array) -> Array:
        return self.computed(self.kernels.loss.log_softmax_forward, x)

    def backward(self, dy: Array) -> tuple[Array]:
        return self.gradient(self.kernels.loss.log_softmax_backward, dy)

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        y = self.as_result(self.saved[0])  # type: ignore[index]
        return (sub(dy, mul(exp(y), sum(dy, -1, keepdims=True))),)


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

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, classes = self.saved[0].shape  # type: ignore[index]
        target = one_hot(self.as_input(1, self.saved[1]), classes, self.dtype)  # type: ignore[index]
        return mul(sub(self.probabilities(), target), mul(dy, 1 / rows)), None

    def probabilities(self) -> Tensor:
        """Those saved, as if the logits' softmax had made them, which knows their derivative."""
        op = Softmax()
        op.device, op.kernels, op.needs = self.device, self.kernels, (True,)
        op.saved, op.sources = self.saved[:1], self.sources[:1]  # type: ignore[index]
        op.shape, op.dtype, op.order, op.line = self.saved[0].shape, self.dtype, new_order(), self.line  # type: ignore[index]
        return op.as_result(op.saved[0])


class NegativeLogLikelihood(Form):
    """-w[label] x[label] of each row, of log-probabilities x and weights w of the classes; a share of it over all classes."""

    formula = "y = -w[label] ((1 - s) x[label] + s / C Σ w x / w[label]);  dx = -dy w ((1 - s) onehot(label) + s / C)"
    passes_on = False

    def forward(self, x: Array, labels: Array, weight: Array | None, *, ignore: int, smoothing: float) -> Array:
        self.ignore, self.smoothing = ignore, smoothing
        if weight is None:
            weight = self.device.shared_constant(1.0, x.shape[1:], x.dtype)
        y = self.empty(labels.shape, x.dtype)
        if y.size:
            self.kernels.loss.nll_forward(x, labels, weight, ignore, smoothing, y)
        self.save(labels, weight)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        labels, weight = self.saved  # type: ignore[misc]
        dx = self.empty((*labels.shape, *weight.shape), dy.dtype)
        if dx.size:
            self.kernels.loss.nll_backward(dy, labels, weight, self.ignore, self.smoothing, dx)
        return dx, None, None

    def again(self, x: Array) -> Array:
        return self.forward(x, *self.saved, ignore=self.ignore, smoothing=self.smoothing)  # type: ignore[misc]


class LabelWeights(Op):
    """w[label] of each row, 0 where it is ignored: what a weighted mean is divided by."""

    formula = "y = w[label]"

    def forward(self, labels: Array, weight: Array | None, *, classes: int, ignore: int, dtype: np.dtype) -> Array:
        if weight is None:
            weight = self.device.shared_constant(1.0, (classes,), dtype)
        y = self.empty(labels.shape, dtype)
        if y.size:
            self.kernels.loss.nll_weights(labels, weight, ignore, y)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return None, None


def over_axis(op: type[Op], x: Tensor, axis: int) -> Tensor:
    """The op along `axis`."""
    along = one_axis(axis, x.ndim)
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


def check_labels(name: str, labels: np.ndarray, classes: int, ignore: int | None) -> None:
    """Raise ValueError for a label that is no class, and is not the one that is ignored."""
    flat = labels.reshape(-1)
    if flat.dtype.kind == "i":  # as unsigned numbers, negative ones are the largest: one search finds both kinds
        flat = flat.astype(np.int64, copy=False).view(np.uint64)
    if ignore is not None:
        flat = np.where(labels.reshape(-1) == ignore, 0, flat)
    if not flat.size:
        return
    row = int(flat.argmax())
    if flat[row] >= classes:
        label = labels.reshape(-1)[row]
        but = "" if ignore is None else f", and {ignore}, which is ignored"
        raise ValueError(
            f"{name}: label {label} in row {row} is out of range; there are classes 0 to {classes - 1}{but}"
        )


def cross_entropy(
    logits: Tensor,
    labels: "ArrayLike | Tensor",
    *,
    weight: "ArrayLike | Tensor | None" = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """-log softmax(logits)[label], by default its mean over the batch: logits (..., classes), integer labels (...).

    Labels may be a NumPy array, a list or a Tensor; floats of the shape and dtype of the logits are probabilities of the
    classes, and the loss is then -Σ probability log softmax(logits). The numbers are PyTorch's.

    Args:
        weight: of each class, (classes,), of the logits' dtype. The mean over labels is divided by the sum of their weights,
            the mean over probabilities by the number of rows.
        ignore_index: rows with this label count for nothing. Without any other row the mean is NaN.
        label_smoothing: from 0 to 1, the share of the target that is spread over all classes (Szegedy et al. 2016).
        reduction: "mean", "sum", or "none" for the losses of all rows, of the shape of the labels.

    Raises:
        TypeError: labels that are neither integers nor probabilities; another dtype than the logits'.
        ValueError: shapes that do not match, a label out of range, a mean over an empty batch.
    """
    scores = float_tensor("cross_entropy", logits)._data
    if not isinstance(labels, Tensor):
        labels = Tensor(np.asarray(labels), device=logits._device)
        refuse_constant(labels.shape)
    smoothing = share("cross_entropy: label_smoothing", label_smoothing)
    check_reduction("cross_entropy", reduction)
    if labels.dtype.kind == "f" and labels.shape == scores.shape and scores.ndim:
        return soft_cross_entropy(logits, labels, weight, ignore_index, smoothing, reduction)
    plain = weight is None and ignore_index is None and not smoothing and reduction == "mean"
    rows, labels = checked_rows("cross_entropy", logits, labels, ignore_index, reduction)
    if plain:
        return CrossEntropy.apply(rows, labels)
    log_probs = log_softmax(rows)
    return of_labels("cross_entropy", log_probs, labels, logits.shape[:-1], weight, ignore_index, smoothing, reduction)


def nll_loss(
    log_probs: Tensor,
    labels: "ArrayLike | Tensor",
    *,
    weight: "ArrayLike | Tensor | None" = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-log_probs[label], as of `log_softmax`, by default its mean over the batch: (..., classes), integer labels (...).

    weight, ignore_index, reduction and errors are those of `cross_entropy`, which is this of the logits' log_softmax.
    """
    float_tensor("nll_loss", log_probs)
    if not isinstance(labels, Tensor):
        labels = Tensor(np.asarray(labels), device=log_probs._device)
        refuse_constant(labels.shape)
    check_reduction("nll_loss", reduction)
    rows, labels = checked_rows("nll_loss", log_probs, labels, ignore_index, reduction)
    return of_labels("nll_loss", rows, labels, log_probs.shape[:-1], weight, ignore_index, 0.0, reduction)


def checked_rows(
    name: str, scores: Tensor, labels: Tensor, ignore_index: int | None, reduction: str
) -> tuple[Tensor, Tensor]:
    """Scores as (rows, classes) and labels as int64 (rows,), all checked."""
    values, classes = scores._data, labels._data
    if classes.dtype.kind not in "iu":
        hint = f"; probabilities would have the logits' shape {values.shape}" if classes.dtype.kind == "f" else ""
        raise TypeError(f"{name}: labels must be integers (class numbers), not {classes.dtype}{hint}")
    if values.ndim < 1 or values.shape[:-1] != classes.shape:
        raise ValueError(
            f"{name}: logits (..., classes) and labels (...) expected, got {values.shape} and {classes.shape}"
        )
    if not values.size and (reduction == "mean" or not values.shape[-1]):
        raise ValueError(f"{name}: the mean over no rows is not defined (logits have shape {values.shape})")
    ignore = None if ignore_index is None else integer("ignore_index", ignore_index, -(1 << 63), (1 << 63) - 1)
    at_work(scores._device).check(check_labels, name, classes, values.shape[-1], ignore)
    if classes.dtype != np.int64:
        labels = to(labels, np.int64)
    if values.ndim != 2:
        scores = scores.reshape(classes.size, values.shape[-1])
        labels = labels.reshape(classes.size)
    return scores, labels


def of_labels(
    name: str,
    log_probs: Tensor,
    labels: Tensor,
    shape: tuple[int, ...],
    weight: object,
    ignore_index: int | None,
    smoothing: float,
    reduction: str,
) -> Tensor:
    """The loss of rows of log-probabilities by their labels, which came in this shape."""
    ignore = NO_LABEL if ignore_index is None else ignore_index
    classes = log_probs.shape[1]
    weights = None if weight is None else class_weights(name, weight, log_probs)
    losses = NegativeLogLikelihood.apply(log_probs, labels, weights, ignore=ignore, smoothing=smoothing)
    if reduction != "mean" or (weights is None and ignore_index is None):
        return reduced(name, losses.reshape(shape) if reduction == "none" else losses, reduction)
    counted = LabelWeights.apply(labels, weights, classes=classes, ignore=ignore, dtype=losses.dtype)
    return div(sum(losses), sum(counted))


def soft_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: object,
    ignore_index: int | None,
    smoothing: float,
    reduction: str,
) -> Tensor:
    """The loss of logits (..., classes) by probabilities of the same shape."""
    if ignore_index is not None:
        raise ValueError(
            "cross_entropy: ignore_index is for integer labels; give rows of probabilities that do not count 0s"
        )
    if target.dtype != logits.dtype:
        refuse_dtypes("cross_entropy", logits=logits, labels=target)
    classes = logits.shape[-1]
    if not logits.size and (reduction == "mean" or not classes):
        raise ValueError(f"cross_entropy: the mean over no rows is not defined (logits have shape {logits.shape})")
    if smoothing:
        target = add(mul(target, 1 - smoothing), smoothing / classes)
    if weight is not None:
        target = mul(target, class_weights("cross_entropy", weight, logits))
    losses = mul(sum(mul(log_softmax(logits), target), axis=-1), -1.0)
    return reduced("cross_entropy", losses, reduction)


def class_weights(name: str, weight: object, like: Tensor) -> Tensor:
    """The weights of the classes as a tensor beside `like`, which no gradient goes to."""
    if not isinstance(weight, Tensor):
        weight = Tensor(np.asarray(weight), None if isinstance(weight, np.ndarray) else like.dtype, like._device)
        refuse_constant(weight.shape)
    if weight.shape != like.shape[-1:]:
        raise ValueError(
            f"{name}: weight must have one number for each class, {like.shape[-1:]}, not shape {weight.shape}"
        )
    if weight.dtype != like.dtype:
        refuse_dtypes(name, logits=like, weight=weight)
    return weight.detach()


def check_reduction(name: str, reduction: str, known: tuple[str, ...] = REDUCTIONS) -> None:
    """Raise ValueError for what is no reduction."""
    if reduction not in known:
        raise ValueError(
            f"{name}: reduction must be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}, not {reduction!r}"
        )


def reduced(name: str, losses: Tensor, reduction: str) -> Tensor:
    """The losses as they are, their sum, or their mean; ValueError for the mean of none."""
    if reduction == "none":
        return losses
    if reduction == "mean" and not losses.size:
        raise ValueError(f"{name}: the mean of no elements is not defined (shape {losses.shape})")
    return sum(losses) if reduction == "sum" else mean(losses)
