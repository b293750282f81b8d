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
        scale = ones(c, x.dtype) if gamma is None else gamma
        self.kernels.norm.batch_norm_inference_backward(
            dy.reshape(-1, c), x.reshape(-1, c), scale, mean, var, self.eps, dx.reshape(-1, c), dgamma, dbeta
        )
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
    float_tensor("batch_norm", x)
    if x.ndim < 2:
        raise ValueError(f"batch_norm: x needs a batch axis and features on the last axis, not shape {x.shape}")
    features = x.shape[-1]
    running = [running_array(name, r, x) for name, r in (("running_mean", running_mean), ("running_var", running_var))]
    for name, t in (("gamma", gamma), ("beta", beta)):
        if t is None:
            continue
        if float_tensor("batch_norm", t).shape != (features,):
            raise ValueError(f"batch_norm: {name} must have shape ({features},) to match x {x.shape}, not {t.shape}")
        if t.dtype != x.dtype:
            raise TypeError(f"batch_norm: {name} is {t.dtype}, x is {x.dtype}; convert with .to(...)")
    if not 0 <= decay <= 1 or not eps >= 0:
        raise ValueError(f"batch_norm: decay must be 0 to 1 and eps at least 0, not {decay} and {eps}")
    if not training:
        if running[0] is None or running[1] is None:
            raise ValueError("batch_norm: without training, running_mean and running_var are needed")
        mean, var = (Tensor._wrap(r, x._device) for r in running)  # type: ignore[arg-type]
        return BatchNormInference.apply(x, gamma, beta, mean, var, eps=eps)
    if x.size // max(features, 1) < 2:
        raise ValueError(
            f"batch_norm: training needs at least 2 values per feature to have a variance, x {x.shape} has "
            f"{x.size // max(features, 1)}; use a larger batch, or drop_last=True to leave out a smaller last batch"
        )
    if (running[0] is None) != (running[1] is None):
        raise ValueError("batch_norm: pass both running_mean and running_var, or neither")
    both = None if running[0] is None else (running[0], running[1])
    y = BatchNorm.apply(x, gamma, beta, running=both, decay=float(decay), eps=float(eps))
    for r in (running_mean, running_var):
        if isinstance(r, Tensor):
            r._version[0] += 1
    return y


def running_array(name: str, value: Any, x: Tensor) -> np.ndarray | None:
    """The array behind a running statistic, checked."""
    if value is None:
        return None
    array = value._data if isinstance(value, Tensor) else value
    if isinstance(value, Tensor) and value._device is not x._device:
        raise RuntimeError(f"batch_norm: {name} is on {value.device!r}, x on {x.device!r}; move one with .to(...)")
    if not isinstance(array, np.ndarray) or array.shape != (x.shape[-1],) or array.dtype != x.dtype:
        came = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise (ValueError if isinstance(array, np.ndarray) and array.dtype == x.dtype else TypeError)(
            f"batch_norm: {name} must be {x.dtype}[{x.shape[-1]}], not {came}"
        )
    if not array.flags.c_contiguous or not array.flags.writeable:
        raise ValueError(f"batch_norm: {name} must be contiguous and writable, since it is updated in place")
    if state.recording is not None and isinstance(value, Tensor):
        state.recording.saw_leaf(value)  # type: ignore[attr-defined]
    return array
