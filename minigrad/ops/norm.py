"""Batch Normalization (Ioffe & Szegedy 2015, Algorithms 1 and 2) over the last axis of an array of any rank."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minigrad.checks import number, share
from minigrad.devices import is_array
from minigrad.kernels.activations import IDENTITY, NUMBERS, RELU, SIGMOID
from minigrad.kernels.contract import Array
from minigrad.modes import at_work, read, read_array, repeats
from minigrad.ops.arithmetic import add, mul, sub
from minigrad.ops.checks import float_tensor
from minigrad.ops.elementwise import power
from minigrad.ops.norm_gradients import activation_gradient, affine_gradients, input_gradient, normalized, scaled
from minigrad.ops.shapes import as_matrix
from minigrad.tape import Op
from minigrad.tensor import Tensor

AND_THEN = {IDENTITY: "", RELU: " + ReLU", SIGMOID: " + Sigmoid"}  # how mg.inspect shows the activation
Running = tuple[np.ndarray, np.ndarray] | None  # mean and variance, or None to keep none


class BatchNorm(Op):
    """Normalization by the statistics of the batch, and the activation after it, if there is one."""

    formula = (
        "x̂ = (x - μ) / √(σ² + ε);  y = γ x̂ + β;  dβ = Σ dy;  dγ = Σ dy x̂;  dx = γ / (m √(σ² + ε)) (m dy - dβ - x̂ dγ)"
    )
    passes_on = False

    def forward(
        self,
        x: np.ndarray,
        gamma: np.ndarray | None,
        beta: np.ndarray | None,
        *,
        running: Running,
        decay: float,
        eps: float,
        activation: int = IDENTITY,
    ) -> np.ndarray:
        self.eps, self.activation = eps, activation
        c = x.shape[-1]
        y = self.empty_like(x)
        self.mean, self.var = self.empty((c,), STATISTICS), self.empty((c,), STATISTICS)
        scale, shift = scale_and_shift(self, gamma, beta, x)
        kept = running_arrays(self, running, x)
        self.kernels.norm.batch_norm_forward(
            as_matrix(x), scale, shift, eps, activation, as_matrix(y), 0, self.mean, self.var, decay, *kept
        )
        self.save(x, gamma, beta if activation == RELU else None, y if activation == SIGMOID else None)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        x, gamma, beta, y = self.saved  # type: ignore[misc]
        c = x.shape[-1]
        dx, dgamma, dbeta = self.empty_like(x), self.empty((c,), x.dtype), self.empty((c,), x.dtype)
        scale, shift = scale_and_shift(self, gamma, beta, x)
        dy, x, y, matrix = [as_matrix(a) for a in (dy, x, dy if y is None else y, dx)]
        self.kernels.norm.batch_norm_backward(
            dy, x, y, 0, scale, shift, self.mean, self.var, self.eps, self.activation, matrix, dgamma, dbeta
        )
        return dx, dgamma if self.needs[1] else None, dbeta if self.needs[2] else None

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta, y = self.saved  # type: ignore[misc]
        affine = [None if a is None else self.as_input(i, a) for i, a in ((1, gamma), (2, beta))]
        result = None if y is None else self.as_result(y)
        return batch_gradients(dy, self.as_input(0, x), affine, result, self.eps, self.activation, self.needs)

    def _title(self) -> str:
        return super()._title() + AND_THEN[self.activation]


class BatchNormInference(Op):
    """Normalization by fixed statistics, a linear map, and the activation after it, if there is one."""

    formula = "y = γ (x - E) / √(Var + ε) + β;  dx = γ dy / √(Var + ε);  dγ = Σ dy x̂;  dβ = Σ dy"
    passes_on = False

    def forward(
        self,
        x: np.ndarray,
        gamma: np.ndarray | None,
        beta: np.ndarray | None,
        mean: np.ndarray,
        var: np.ndarray,
        *,
        eps: float,
        activation: int = IDENTITY,
    ) -> np.ndarray:
        self.eps, self.activation = eps, activation
        y = self.empty_like(x)
        if y.size:
            scale, shift = scale_and_shift(self, gamma, beta, x)
            self.kernels.norm.batch_norm_inference(
                as_matrix(x), scale, shift, mean, var, eps, activation, as_matrix(y), 0
            )
        self.save(x, gamma, beta if activation == RELU else None, mean, var, y if activation == SIGMOID else None)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Array | None, ...]:
        x, gamma, beta, mean, var, y = self.saved  # type: ignore[misc]
        c = x.shape[-1]
        dx, dgamma, dbeta = self.empty_like(x), self.empty((c,), x.dtype), self.empty((c,), x.dtype)
        if x.size:
            scale, shift = scale_and_shift(self, gamma, beta, x)
            dy, x, y, matrix = [as_matrix(a) for a in (dy, x, dy if y is None else y, dx)]
            self.kernels.norm.batch_norm_inference_backward(
                dy, x, y, 0, scale, shift, mean, var, self.eps, self.activation, matrix, dgamma, dbeta
            )
        else:
            self.kernels.movement.fill(0.0, dgamma)
            self.kernels.movement.fill(0.0, dbeta)
        return dx, dgamma if self.needs[1] else None, dbeta if self.needs[2] else None, None, None

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta, mean, var, y = self.saved  # type: ignore[misc]
        shift = None if beta is None else self.as_input(2, beta)
        scale = None if gamma is None else self.as_input(1, gamma)
        root = power(add(self.as_input(4, var), self.eps), -0.5)
        unit = mul(sub(self.as_input(0, x), self.as_input(3, mean)), root)
        dz = activation_gradient(dy, unit, scale, shift, None if y is None else self.as_result(y), self.activation)
        dx = mul(dz, scaled(root, scale)) if self.needs[0] else None
        return dx, *affine_gradients(dz, unit, tuple(range(dy.ndim - 1)), self.needs), None, None

    def _title(self) -> str:
        return super()._title() + AND_THEN[self.activation]


def batch_gradients(
    dy: Tensor,
    x: Tensor,
    affine: Sequence[Tensor | None],
    y: Tensor | None,
    eps: float,
    activation: int,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Those to x, gamma and beta of batch normalization in training, on the tape; y where the activation needs it."""
    gamma, beta = affine
    rows = tuple(range(x.ndim - 1))
    unit, root = normalized(x, rows, eps)
    dz = activation_gradient(dy, unit, gamma, beta, y, activation)
    dx = input_gradient(scaled(dz, gamma), unit, root, rows) if needs[0] else None
    return dx, *affine_gradients(dz, unit, rows, needs)


class Normalization(NamedTuple):
    """The arguments of `batch_norm` in training."""

    gamma: Tensor | None
    beta: Tensor | None
    running_mean: Array | Tensor | None
    running_var: Array | Tensor | None
    decay: float
    eps: float


STATISTICS = np.dtype(np.float64)  # one number per feature: exact at no cost


def scale_and_shift(
    op: Op, gamma: np.ndarray | None, beta: np.ndarray | None, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """gamma and beta as the kernels take them: ones and zeros where there is none."""
    shape = x.shape[-1:]
    return (
        op.device.shared_constant(1.0, shape, x.dtype) if gamma is None else gamma,
        op.device.shared_constant(0.0, shape, x.dtype) if beta is None else beta,
    )


def running_arrays(op: Op, running: Running, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The running statistics as the kernels take them: without elements where there are none."""
    none = op.device.shared_constant(0.0, (0,), x.dtype)
    return (none, none) if running is None else running


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Array | Tensor | None,
    running_var: Array | Tensor | None,
    *,
    training: bool,
    decay: float = 0.9,
    eps: float = 1e-5,
    activation: str | None = None,
) -> Tensor:
    """Normalize each feature (the last axis), then scale by gamma and shift by beta (each may be None).

    Training: by mean and biased variance over all other axes, m values per feature; running_mean and running_var (arrays
    or Tensors of shape (features,), or None) are updated in place, running = decay * running + (1 - decay) * batch, the
    variance by its unbiased estimate, m / (m - 1) of the biased one. Otherwise: by running_mean and running_var.
    `activation`, "relu" or "sigmoid", is applied to the result in the same pass over memory, to the same bits.
    Method: Ioffe & Szegedy 2015, Algorithm 1 and section 3.1. Raises ValueError for shapes that do not match and for
    training with m < 2, TypeError for dtypes that differ.
    """
    norm = Normalization(gamma, beta, running_mean, running_var, decay, eps)
    running = checked(x, norm)
    number = activation_number("batch_norm", activation)
    if not training:
        if running is None:
            raise ValueError("batch_norm: without training, running_mean and running_var are needed")
        given = zip((running_mean, running_var), running, strict=True)
        # of arrays copies, since nobody would notice that one is changed before backward
        copied = at_work(x._device).copy
        fixed = [r.detach() if isinstance(r, Tensor) else Tensor._wrap(copied(array), x._device) for r, array in given]
        return BatchNormInference.apply(x, gamma, beta, *fixed, eps=eps, activation=number)
    check_count(x)
    if repeats():
        running = None
    y = BatchNorm.apply(x, gamma, beta, running=running, decay=float(decay), eps=float(eps), activation=number)
    mark_changed(norm)
    return y


def activation_number(op: str, name: str | None) -> int:
    """The number kernels know an activation by."""
    if not (name is None or isinstance(name, str)) or name not in NUMBERS:
        raise ValueError(f"{op}: activation must be None, 'relu' or 'sigmoid', not {name!r}")
    return NUMBERS[name]


def checked(x: Tensor, norm: Normalization) -> Running:
    """The arrays of the running statistics; raises unless everything fits x."""
    data = float_tensor("batch_norm", x)._data
    if data.ndim < 2:
        raise ValueError(f"batch_norm: x needs a batch axis and features on the last axis, not shape {data.shape}")
    if norm.gamma is not None:
        check_parameter("gamma", norm.gamma, data)
    if norm.beta is not None:
        check_parameter("beta", norm.beta, data)
    mean = running_array("running_mean", norm.running_mean, x)
    var = running_array("running_var", norm.running_var, x)
    share("batch_norm: decay", norm.decay)
    number("batch_norm: eps", norm.eps, math.inf)
    if (mean is None) != (var is None):
        raise ValueError("batch_norm: pass both running_mean and running_var, or neither")
    return None if mean is None or var is None else (mean, var)


def check_count(x: Tensor) -> None:
    """Raise unless there are enough values per feature to have a variance."""
    data = x._data
    if data.size < 2 * data.shape[-1] or not data.size:
        raise ValueError(
            f"batch_norm: training needs at least 2 values per feature to have a variance, x has shape {data.shape}; "
            "use a larger batch, or drop_last=True to leave out a smaller last batch"
        )


def mark_changed(norm: Normalization) -> None:
    """Note that the running statistics were changed in place."""
    if repeats():
        return
    for r in (norm.running_mean, norm.running_var):
        if isinstance(r, Tensor):
            r._version[0] += 1


def check_parameter(name: str, t: Tensor, x: np.ndarray) -> None:
    """Raise unless gamma or beta fits x."""
    data = float_tensor("batch_norm", t)._data
    if data.ndim != 1 or data.shape[0] != x.shape[-1]:
        raise ValueError(f"batch_norm: {name} must have shape ({x.shape[-1]},) to match x {x.shape}, not {data.shape}")
    if data.dtype != x.dtype:
        raise TypeError(f"batch_norm: {name} is {data.dtype}, x is {x.dtype}; convert with .to(...)")


def running_array(name: str, value: Array | Tensor | None, x: Tensor) -> np.ndarray | None:
    """The array behind a running statistic, checked."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        if value._device is not x._device:
            raise RuntimeError(f"batch_norm: {name} is on {value.device!r}, x on {x.device!r}; move one with .to(...)")
        read(value)
        value = value._data
    elif is_array(value):
        read_array(value)
    if is_array(value) and type(value) is not x._device.array_type:
        raise RuntimeError(
            f"batch_norm: {name} is an array of another device than x, which is on {x.device!r}; it is updated in place, so "
            f"pass a Tensor there: mg.tensor({name}, device={x.device!r})"
        )
    if not is_array(value) or value.dtype != x._data.dtype:
        came = value.dtype if is_array(value) else type(value).__name__
        raise TypeError(f"batch_norm: {name} must be an array of {x.dtype}, not {came}")
    if value.ndim != 1 or value.shape[0] != x._data.shape[-1]:
        raise ValueError(f"batch_norm: {name} must have shape ({x.shape[-1]},) to match x {x.shape}, not {value.shape}")
    if not value.flags.c_contiguous or not value.flags.writeable:
        raise ValueError(f"batch_norm: {name} must be contiguous and writable, since it is updated in place")
    return value
