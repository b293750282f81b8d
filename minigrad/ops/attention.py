"""Scaled dot-product attention, on kernels that never write the matrix of all scores."""

import math
from typing import Any

import numpy as np

from minigrad.kernels.axes import Shape, broadcast_shape
from minigrad.kernels.contract import Array
from minigrad.modes import refuse_constant
from minigrad.ops.checks import float_tensor, refuse_dtypes
from minigrad.ops.launches import expand
from minigrad.ops.shapes import some_rows
from minigrad.tape import Op
from minigrad.tensor import Tensor, is_number

BOOL = np.dtype(np.bool_)


class Attention(Op):
    """Values averaged, for each query, by the softmax of its products with the keys."""

    formula = (
        "P = softmax(s Q Kᵀ + mask);  Y = P V, a block of P at a time;  backward P again, from the log-sum-exp of its rows;  "
        "dV = Pᵀ dY;  dS = s P (dY Vᵀ - Σ dY Y);  dQ = dS K;  dK = dSᵀ Q"
    )
    passes_on = False

    def forward(self, q: Array, k: Array, v: Array, mask: Array | None, *, scale: float, causal: bool) -> Array:
        return self.attend(q, k, v, mask, scale, causal)

    def attend(self, q: Array, k: Array, v: Array, mask: Array | None, scale: float, causal: bool) -> Array:
        """The result, with what backward needs kept."""
        batch, (queries, keys) = q.shape[:-2], (q.shape[-2], k.shape[-2])
        y = self.empty((*q.shape[:-1], v.shape[-1]), q.dtype)
        if not y.size or not k.size:
            if y.size:
                self.kernels.movement.fill(0.0, y.reshape(-1))
            self.save(q, k, v, None, None, None)
            return y
        if mask is None:
            weighed, each = self.device.shared_constant(0.0, (0, 0, 0), q.dtype), 1
        else:
            weighed, each = mask_matrices(self, mask, batch, queries, keys)
        self.settings = each, scale, causal
        lse = self.empty((math.prod(batch), queries), q.dtype)
        self.kernels.attention.attention_forward(
            stacked(q), stacked(k), stacked(v), weighed, *self.settings, stacked(y), lse
        )
        self.save(q, k, v, weighed, y, lse)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        q, k, v = self.saved[:3]  # type: ignore[index]
        dq, dk, dv = (self.empty_like(x) for x in (q, k, v))
        self.gradients(dy, dq, dk, dv)
        return dq, dk, dv, None

    def gradients(self, dy: Array, dq: Array, dk: Array, dv: Array) -> None:
        """Fill the gradients."""
        q, k, v, mask, y, lse = self.saved  # type: ignore[misc]
        if y is None:
            for empty in (dq, dk, dv):
                if empty.size:
                    self.kernels.movement.fill(0.0, empty.reshape(-1))
            return
        self.kernels.attention.attention_backward(
            stacked(dy), stacked(q), stacked(k), stacked(v), mask, *self.settings, stacked(y), lse,
            stacked(dq), stacked(dk), stacked(dv),
        )  # fmt: skip


class SelfAttention(Attention):
    """Attention of what comes as one array (3, ..., rows, features): queries, keys and values of the same rows."""

    def forward(self, x: Array, mask: Array | None, *, scale: float, causal: bool) -> Array:  # type: ignore[override]
        return self.attend(*thirds(x), mask, scale, causal)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        dx = self.empty((3, *self.saved[0].shape), dy.dtype)  # type: ignore[index]
        self.gradients(dy, *thirds(dx))
        return dx, None


def thirds(x: Array) -> tuple[Array, Array, Array]:
    """x[0], x[1] and x[2], on the same memory."""
    q, k, v = (some_rows(x, i, i + 1).reshape(x.shape[1:]) for i in range(3))
    return q, k, v


def stacked(x: Array) -> Array:
    """(..., rows, features) as a stack of matrices with one leading axis."""
    return x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def mask_matrices(op: Op, mask: Array, batch: Shape, queries: int, keys: int) -> tuple[Array, int]:
    """A mask as (masks, 1 or queries, keys), and `each`: of matrix i it is number i // each % masks.

    Copied only where its rows have one element for all keys, or its axes are not a run of those of the batch.
    """
    shape = (1,) * (len(batch) + 2 - mask.ndim) + mask.shape
    lead = shape[:-2]
    own = [i for i, n in enumerate(lead) if n == batch[i] != 1]
    is_run = not own or all(lead[i] == batch[i] for i in range(own[0], own[-1] + 1))
    wanted = (*(lead if is_run else batch), shape[-2], keys)
    if wanted != shape:
        mask = expand(op, mask.reshape(shape), wanted)
    each = math.prod(batch[own[-1] + 1 :]) if is_run and own else 1
    return mask.reshape(math.prod(wanted[:-2]), shape[-2], keys), each


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: "Tensor | np.ndarray | None" = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale Q K^T + mask) V (Vaswani et al. 2017), without writing the matrix Q K^T (Dao et al. 2022).

    query (..., L, E), key (..., S, E), value (..., S, D), the leading axes alike; result (..., L, D). `scale` is 1 / sqrt(E) if
    not given. `attn_mask` broadcasts to (..., L, S): of bool, a key takes part where it is True; of query's dtype, it is added
    to the scores. With `is_causal`, query i sees the keys 0 to i, of those that the mask leaves. A query that no key takes part
    in has the result 0. No gradient goes to the mask. Raises ValueError, TypeError.
    """
    q, k, v = (float_tensor("scaled_dot_product_attention", t) for t in (query, key, value))
    if min(q.ndim, k.ndim, v.ndim) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(
            "scaled_dot_product_attention needs query (..., L, E), key (..., S, E) and value (..., S, D), not shapes "
            f"{q.shape}, {k.shape} and {v.shape}"
        )
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        raise ValueError(
            "scaled_dot_product_attention: the leading axes of query, key and value must be alike, not those of "
            f"{q.shape}, {k.shape} and {v.shape}; mg.broadcast_to makes them so"
        )
    if not q.shape[-1]:
        raise ValueError(f"scaled_dot_product_attention: query and key have no features (shape {q.shape})")
    if not q.dtype == k.dtype == v.dtype:
        refuse_dtypes("scaled_dot_product_attention", query=q, key=k, value=v)
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else checked_scale(scale)
    mask = None if attn_mask is None else checked_mask(attn_mask, q, (*q.shape[:-1], k.shape[-2]))
    return Attention.apply(q, k, v, mask, scale=factor, causal=bool(is_causal))


def self_attention(x: Tensor, attn_mask: "Tensor | np.ndarray | None" = None, *, is_causal: bool = False) -> Tensor:
    """scaled_dot_product_attention of x[0], x[1] and x[2], without copies of them: x (3, ..., L, E) to (..., L, E)."""
    mask = None if attn_mask is None else checked_mask(attn_mask, x, (*x.shape[1:-1], x.shape[-2]))
    return SelfAttention.apply(x, mask, scale=1 / math.sqrt(x.shape[-1]), causal=bool(is_causal))


def checked_scale(scale: Any) -> float:
    """The scale as a float; TypeError for what is no number, ValueError for one that is not finite."""
    if not is_number(scale):
        raise TypeError(f"scaled_dot_product_attention: scale must be a number or None, not {scale!r}")
    if not math.isfinite(scale):
        raise ValueError(f"scaled_dot_product_attention: scale must be finite, not {scale!r}")
    return float(scale)


def checked_mask(mask: "Tensor | np.ndarray", like: Tensor, shape: Shape) -> Tensor:
    """The mask as a tensor; TypeError or ValueError unless of bool or of the dtype of `like`, and broadcast to `shape`."""
    name = "scaled_dot_product_attention: attn_mask"
    if not isinstance(mask, Tensor):
        mask = Tensor(np.asarray(mask), device=like._device)
        refuse_constant(mask.shape)
    if mask.dtype not in (BOOL, like.dtype):
        raise TypeError(
            f"{name} must be of bool (True: the key takes part) or, to be added to the scores, of {like.dtype}, that of query, "
            f"not {mask.dtype}; convert with `!= 0` or .to(...)"
        )
    if mask.requires_grad:
        raise ValueError(
            f"{name} requires a gradient, and none goes to it; pass attn_mask.detach(), or for the gradient compute "
            "mg.softmax(scale * query @ key.swapaxes(-1, -2) + attn_mask) @ value"
        )
    fits = len(mask.shape) <= len(shape)
    try:
        fits = fits and broadcast_shape(mask.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must broadcast to {shape}, (..., L, S), and has shape {mask.shape}")
    return mask
