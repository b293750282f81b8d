"""Scaled dot-product attention, on kernels that never write the matrix of all scores."""

import math
from typing import Any

import numpy as np

from minigrad.arrays import is_number
from minigrad.checks import number
from minigrad.kernels.axes import Shape, broadcast_shape
from minigrad.kernels.contract import Array
from minigrad.modes import refuse_constant
from minigrad.ops.arithmetic import add, mul, sub
from minigrad.ops.checks import float_tensor, refuse_dtypes
from minigrad.ops.comparison import greater
from minigrad.ops.creation import zeros_like
from minigrad.ops.dropout import Dropout, key_of
from minigrad.ops.gemm import matmul
from minigrad.ops.launches import expand
from minigrad.ops.loss import softmax
from minigrad.ops.movement import reshape, swapaxes
from minigrad.ops.reduce import sum
from minigrad.ops.shape_functions import stack
from minigrad.ops.shapes import some_rows
from minigrad.ops.table import TABLE, where
from minigrad.tape import Op
from minigrad.tensor import Tensor
from minigrad.types import Seed

BOOL = np.dtype(np.bool_)


class Attention(Op):
    """Values averaged, for each query, by the softmax of its products with the keys."""

    formula = (
        "P = softmax(s Q Kᵀ + mask);  Y = m P V, a block of P at a time, m = 1 or that of dropout;  backward P again, from the "
        "log-sum-exp of its rows;  dV = (m P)ᵀ dY;  dS = s P (m dY Vᵀ - Σ dY Y);  dQ = dS K;  dK = dSᵀ Q"
    )
    passes_on = False

    def forward(self, q: Array, k: Array, v: Array, mask: Array | None, **settings: Any) -> Array:
        return self.attend(q, k, v, mask, (q, k, v), **settings)

    def attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask: Array | None,
        inputs: tuple[Array, ...],
        *,
        scale: float,
        causal: bool,
        rate: float = 0.0,
        key: Array | None = None,
    ) -> Array:
        """The result, with what backward needs kept; q, k and v are the inputs or parts of them."""
        batch, (queries, keys) = q.shape[:-2], (q.shape[-2], k.shape[-2])
        y = self.empty((*q.shape[:-1], v.shape[-1]), q.dtype)
        if not y.size or not k.size:
            if y.size:
                self.kernels.movement.fill(0.0, y.reshape(-1))
            self.save(None, None, None, *inputs)
            return y
        if mask is None:
            weighed, each = self.device.shared_constant(0.0, (0, 0, 0), q.dtype), 1
        else:
            weighed, each = mask_matrices(self, mask, batch, queries, keys)
        if key is None:  # nothing is dropped
            key = self.device.shared_constant(0, (0,), np.dtype(np.uint64))
        self.settings = each, scale, causal, rate, key
        lse = self.empty((math.prod(batch), queries), q.dtype)
        self.kernels.attention.attention_forward(
            stacked(q), stacked(k), stacked(v), weighed, *self.settings, stacked(y), lse
        )
        self.save(weighed, y, lse, *inputs)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        q, k, v = self.saved[3:]  # type: ignore[index]
        dq, dk, dv = (self.empty_like(x) for x in (q, k, v))
        self.gradients(dy, (q, k, v), dq, dk, dv)
        return dq, dk, dv, None

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = (self.as_input(i, array) for i, array in enumerate(self.saved[3:]))  # type: ignore[index]
        found = self.gradients_on_tape(dy, q, k, v)
        return (*[g if need else None for g, need in zip(found, self.needs, strict=False)], None)

    def gradients(self, dy: Array, given: tuple[Array, ...], dq: Array, dk: Array, dv: Array) -> None:
        """Fill the gradients of what was given."""
        (q, k, v), (mask, y, lse) = given, self.saved[:3]  # type: ignore[index]
        if y is None:
            for empty in (dq, dk, dv):
                if empty.size:
                    self.kernels.movement.fill(0.0, empty.reshape(-1))
            return
        self.kernels.attention.attention_backward(
            stacked(dy), stacked(q), stacked(k), stacked(v), mask, *self.settings, stacked(y), lse,
            stacked(dq), stacked(dk), stacked(dv),
        )  # fmt: skip

    def gradients_on_tape(self, dy: Tensor, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        """The gradients by ops on tensors, from the matrix of weights."""
        mask, y = self.saved[:2]  # type: ignore[index]
        if y is None:
            return [zeros_like(x) for x in (q, k, v)]
        each, scale, causal, rate, key = self.settings
        masks = len(mask) or 1  # matrix i has mask i // each % masks: each an axis

        def apart(x: Tensor) -> Tensor:
            lead = math.prod(x.shape[:-2])
            return reshape(x, (lead // (masks * each), masks, each, *x.shape[-2:]))

        chosen = None
        if mask.size:
            chosen = reshape(Tensor._wrap(mask, q._device), (masks, 1, *mask.shape[1:]))
        given, queries, keys, values = map(apart, (dy, q, k, v))
        p = weights(queries, keys, chosen, scale, causal)
        dp, kept = matmul(given, swapaxes(values, -1, -2)), p
        if rate:
            dp, kept = (Dropout.apply(x, p=rate, key=key) for x in (dp, p))
        ds = mul(mul(p, sub(dp, sum(mul(p, dp), -1, keepdims=True))), scale)
        found = matmul(ds, keys), matmul(swapaxes(ds, -1, -2), queries), matmul(swapaxes(kept, -1, -2), given)
        return [reshape(gradient, x.shape) for gradient, x in zip(found, (q, k, v), strict=True)]


class SelfAttention(Attention):
    """Attention of what comes as one array (3, ..., rows, features): queries, keys and values of the same rows."""

    def forward(self, x: Array, mask: Array | None, **settings: Any) -> Array:  # type: ignore[override]
        return self.attend(*thirds(x), mask, (x,), **settings)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        x = self.saved[3]  # type: ignore[index]
        dx = self.empty_like(x)
        self.gradients(dy, thirds(x), *thirds(dx))
        return dx, None

    def backward_on_tape(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        x = self.as_input(0, self.saved[3])  # type: ignore[index]
        return stack(self.gradients_on_tape(dy, x[0], x[1], x[2])), None


def thirds(x: Array) -> tuple[Array, Array, Array]:
    """x[0], x[1] and x[2], on the same memory."""
    q, k, v = (some_rows(x, i, i + 1).reshape(x.shape[1:]) for i in range(3))
    return q, k, v


def weights(q: Tensor, k: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    """softmax(scale q k^T + mask), the matrix itself, by ops on tensors; a query that no key takes part in has zeros."""
    scores, seen = mul(matmul(q, swapaxes(k, -1, -2)), scale), None
    if mask is not None:
        seen = mask if mask.dtype == BOOL else greater(mask, -math.inf)
        if mask.dtype != BOOL:
            scores = add(scores, where(seen, mask, 0.0))
    if causal:
        before = Tensor._wrap(q._device.from_host(np.tri(*scores.shape[-2:], dtype=np.bool_)), q._device)
        seen = before if seen is None else TABLE["logical_and"](seen, before)
    if seen is None:
        return softmax(scores)
    lowest = float(np.finfo(q.dtype).min) / 2  # of which the exponential is 0, and less than which none is
    return where(seen, softmax(where(seen, scores, lowest)), 0.0)


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
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    seed: "Seed | None" = None,
) -> Tensor:
    """softmax(scale Q K^T + mask) V (Vaswani et al. 2017), without writing the matrix Q K^T (Dao et al. 2022).

    query (..., L, E), key (..., S, E), value (..., S, D), the leading axes alike; result (..., L, D). `scale` is 1 / sqrt(E) if
    not given. `attn_mask` broadcasts to (..., L, S): of bool, a key takes part where it is True; of query's dtype, it is added
    to the scores. With `is_causal`, query i sees the keys 0 to i, of those that the mask leaves. A query that no key takes part
    in has the result 0. No gradient goes to the mask.

    With `dropout_p` each weight is dropped with this probability and the others are scaled by 1 / (1 - dropout_p): in training,
    so pass 0 otherwise. Which ones follows from `seed`, an int or (seed, counter): those that `mg.dropout` would drop of the
    matrix (..., L, S). Raises ValueError, TypeError.
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
    return Attention.apply(q, k, v, mask, scale=factor, causal=bool(is_causal), **dropping(q, dropout_p, seed))


def self_attention(
    x: Tensor,
    attn_mask: "Tensor | np.ndarray | None" = None,
    *,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    seed: "Seed | None" = None,
) -> Tensor:
    """scaled_dot_product_attention of x[0], x[1] and x[2], without copies of them: x (3, ..., L, E) to (..., L, E)."""
    mask = None if attn_mask is None else checked_mask(attn_mask, x, (*x.shape[1:-1], x.shape[-2]))
    factor = 1 / math.sqrt(x.shape[-1])
    return SelfAttention.apply(x, mask, scale=factor, causal=bool(is_causal), **dropping(x, dropout_p, seed))


def dropping(like: Tensor, dropout_p: float, seed: "Seed | None") -> dict[str, Any]:
    """The op's settings for dropout: none, or the rate and the key."""
    rate = number("scaled_dot_product_attention: dropout_p", dropout_p, 1)
    if not rate:
        return {}
    if seed is None:
        raise TypeError(
            "scaled_dot_product_attention: dropout_p needs seed, an int, or the (seed, counter) of an mg.nn.Dropout: "
            "its buffer `counter`; mg.nn.MultiheadAttention(dropout=...) has one"
        )
    return {"rate": rate, "key": key_of(like, seed)}


def checked_scale(scale: float) -> float:
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
