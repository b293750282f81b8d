"""Batch Normalization (Ioffe & Szegedy 2015, Algorithms 1 and 2) over the last axis of an array of any rank."""

from typing import Any

import numpy as np

from minigrad.ops.elementwise import float_tensor
from minigrad.tape import Op, state
from minigrad.tensor import Tensor


class BatchNorm(Op):
    """Normalization by the statistics of the batch."""

    formula = (
        "x̂ = (x - μ) / √(σ² + ε);  y = γ x̂ + β;  dβ = Σ dy;  dγ = Σ dy x̂;  dx = γ / (m √(σ² + ε)) (m dy - dβ - x̂ dγ)"
    )

    def forward(
        self,
        x: np.ndarray,
        gamma: np.ndarray | None,
        beta: np.ndarray | None,
        *,
        running: tuple[np.ndarray, np.ndarray] | None,
        decay: float,
        eps: float,
    ) -> np.ndarray:
        c = x.shape[-1]
        self.eps = eps
        self.mean, self.var = self.empty((c,), STATISTICS), self.empty((c,), STATISTICS)
        y = self.empty_like(x)
        scale = ones(c, x.dtype) if gamma is None else gamma
        shift = zeros(c, x.dtype) if beta is None else beta
        matrix = x.reshape(-1, c)
        self.kernels.norm.batch_norm_forward(matrix, scale, shift, eps, y.reshape(-1, c), self.mean, self.var)
        if running is not None:
            self.kernels.norm.running_update(self.mean, self.var, len(matrix), decay, *running)
        self.save(x, gamma)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Any, ...]:
        x, gamma = self.saved  # type: ignore[misc]
        c = x.shape[-1]
        dx, dgamma, dbeta = self.empty_like(x), self.empty((c,), x.dtype), self.empty((c,), x.dtype)
        scale = ones(c, x.dtype) if gamma is None else gamma
        self.kernels.norm.batch_norm_backward(
            dy.reshape(-1, c), x.reshape(-1, c), scale, self.mean, self.var, self.eps, dx.reshape(-1, c), dgamma, dbeta
        )
        return dx, dgamma if self.needs[1] else None, dbeta if self.needs[2] else None


class BatchNormInference(Op):
    """Normalization by fixed statistics: a linear map."""

    formula = "y = γ (x - E) / √(Var + ε) + β;  dx = γ dy / √(Var + ε);  dγ = Σ dy x̂;  dβ = Σ dy"

    def forward(
        self,
        x: np.ndarray,
        gamma: np.ndarray | None,
        beta: np.ndarray | None,
        mean: np.ndarray,
        var: np.ndarray,
        *,
        eps: float,
    ) -> np.ndarray:
        c = x.shape[-1]
        self.eps = eps
        y = self.empty_like(x)
        if y.size:
            scale = ones(c, x.dtype) if gamma is None else gamma
            shift = zeros(c, x.dtype) if beta is None else beta
            self.kernels.norm.batch_norm_inference(x.reshape(-1, c), scale, shift, mean, var, eps, y.reshape(-1, c))
        self.save(x, gamma, mean, var)
        return y

    def backward(self, dy: np.ndarray) -> tuple[Any, ...]:
        x, gamma, mean, var = self.saved  # type: ignore[misc]
        c = x.shape[-1]
        dx, dgamma, dbeta = self.empty_like(x), self.empty((c,), x.dtype), self.empty((c,), x.dtype)
        if x.size:
            scale = ones(c, x.dtype) if gamma is None else gamma
            self.kernels.norm.batch_norm_inference_backward(
                dy.reshape(-1, c), x.reshape(-1, c), scale, mean, var, self.eps, dx.reshape(-1, c), dgamma, dbeta
            )
        else:
            dgamma = dbeta = zeros(c, x.dtype)
        return dx, dgamma if self.needs[1] else None, dbeta if self.needs[2] else None, None, None


STATISTICS = np.dtype(np.float64)  # one number per feature: exact at no cost
CONSTANTS: dict[tuple[float, int, np.dtype], np.ndarray] = {}


def ones(n: int, dtype: np.dtype) -> np.ndarray:
    """n ones, shared and read-only."""
    return constant(1.0, n, dtype)


def zeros(n: int, dtype: np.dtype) -> np.ndarray:
    """n zeros, shared and read-only."""
    return constant(0.0, n, dtype)


def constant(value: float, n: int, dtype: np.dtype) -> np.ndarray:
    """n times the same value; made once."""
    key = (value, n, dtype)
    if key not in CONSTANTS:
        CONSTANTS[key] = np.full(n, value, dtype)
    return CONSTANTS[key]


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Any,
    running_var: Any,
    *,
    training: bool,
    decay: float = 0.9,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each feature (the last axis), then scale by gamma and shift by beta (each may be None).

    Training: by mean and biased variance over all other axes, m values per feature; running_mean and running_var (arrays
    or Tensors of shape (features,), or None) are updated in place, running = decay * running + (1 - decay) * batch, the
    variance by its unbiased estimate, m / (m - 1) of the biased one. Otherwise: by running_mean and running_var.
    Method: Ioffe & Szegedy 2015, Algorithm 1 and section 3.1. Raises ValueError for shapes that do not match and for
    training with m < 2, TypeError for dtypes that differ.
    """
    data = float_tensor("batch_norm", x)._data
    if data.ndim < 2:
        raise ValueError(f"batch_norm: x needs a batch axis and features on the last axis, not shape {data.shape}")
    features = data.shape[-1]
    if gamma is not None:
        check_parameter("gamma", gamma, data)
    if beta is not None:
        check_parameter("beta", beta, data)
    mean, var = running_array("running_mean", running_mean, x), running_array("running_var", running_var, x)
    if not 0 <= decay <= 1 or not eps >= 0:
        raise ValueError(f"batch_norm: decay must be 0 to 1 and eps at least 0, not {decay} and {eps}")
    if (mean is None) != (var is None):
        raise ValueError("batch_norm: pass both running_mean and running_var, or neither")
    if not training:
        if mean is None or var is None:
            raise ValueError("batch_norm: without training, running_mean and running_var are needed")
        given = (running_mean, mean), (running_var, var)
        fixed = [r.detach() if isinstance(r, Tensor) else Tensor._wrap(array, x._device) for r, array in given]
        return BatchNormInference.apply(x, gamma, beta, *fixed, eps=eps)
    if data.size < 2 * features or not data.size:
        raise ValueError(
            f"batch_norm: training needs at least 2 values per feature to have a variance, x has shape {data.shape}; "
            "use a larger batch, or drop_last=True to leave out a smaller last batch"
        )
    running = None if mean is None or var is None else (mean, var)
    y = BatchNorm.apply(x, gamma, beta, running=running, decay=float(decay), eps=float(eps))
    for r in (running_mean, running_var):
        if isinstance(r, Tensor):
            r._version[0] += 1
    return y


def check_parameter(name: str, t: Tensor, x: np.ndarray) -> None:
    """Raise unless gamma or beta fits x."""
    data = float_tensor("batch_norm", t)._data
    if data.ndim != 1 or data.shape[0] != x.shape[-1]:
        raise ValueError(f"batch_norm: {name} must have shape ({x.shape[-1]},) to match x {x.shape}, not {data.shape}")
    if data.dtype != x.dtype:
        raise TypeError(f"batch_norm: {name} is {data.dtype}, x is {x.dtype}; convert with .to(...)")


def running_array(name: str, value: Any, x: Tensor) -> np.ndarray | None:
    """The array behind a running statistic, checked."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        if value._device is not x._device:
            raise RuntimeError(f"batch_norm: {name} is on {value.device!r}, x on {x.device!r}; move one with .to(...)")
        if state.recording is not None:
            state.recording.saw_leaf(value)  # type: ignore[attr-defined]
        value = value._data
    if not isinstance(value, np.ndarray) or value.dtype != x._data.dtype:
        came = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"batch_norm: {name} must be an array of {x.dtype}, not {came}")
    if value.ndim != 1 or value.shape[0] != x._data.shape[-1]:
        raise ValueError(f"batch_norm: {name} must have shape ({x.shape[-1]},) to match x {x.shape}, not {value.shape}")
    if not value.flags.c_contiguous or not value.flags.writeable:
        raise ValueError(f"batch_norm: {name} must be contiguous and writable, since it is updated in place")
    return value
