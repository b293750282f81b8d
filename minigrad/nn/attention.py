"""Attention with several heads: parameters; the math is in minigrad.ops."""

import math
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.checks import integer, number
from minigrad.nn import init
from minigrad.nn.layers import Linear
from minigrad.nn.module import Module, Parameter
from minigrad.random import counter_state
from minigrad.tensor import Tensor


class MultiheadAttention(Module):
    """Attention by several heads, each over features / heads of the features (Vaswani et al. 2017, section 3.2.2).

    Batch first: query (N, L, features), key and value (N, S, features), result (N, L, features). Parameters `in_proj_weight`
    (features, 3 features) and `in_proj_bias` (3 features,), for queries, keys and values one beside the other, and `out_proj`,
    a Linear; no biases with bias=False. The numbers are those of PyTorch's layer of this name with batch_first=True; the result
    is the first part of its own, since the weights that are the second are never there.

    In training each weight of the average is dropped with the probability `dropout`, by a seed drawn at construction and a
    counter of the uses, both in the buffer `counter`, as in `mg.nn.Dropout`. The matrix of weights is then written.
    """

    def __init__(self, features: int, heads: int, bias: bool = True, *, dropout: float = 0.0) -> None:
        self.features, self.heads = integer("features", features), integer("heads", heads)
        if self.features % self.heads:
            raise ValueError(f"MultiheadAttention: {features} features cannot be divided among {heads} heads")
        self.in_proj_weight = Parameter(init.glorot_uniform((self.features, 3 * self.features)))
        self.in_proj_bias = Parameter(init.zeros((3 * self.features,))) if bias else None
        self.out_proj = Linear(self.features, self.features, bias)
        self.dropout = number("dropout", dropout, 1)
        self.counter = Tensor(counter_state()) if self.dropout else None

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Without key it attends to query itself, and value is key unless it is given.

        Masks are as in PyTorch's layer: a bool mask is True where a key is LEFT OUT, the opposite of what
        `mg.scaled_dot_product_attention` takes; one of floats is added to the scores. key_padding_mask (N, S); attn_mask (L, S)
        or (N heads, L, S). With `is_causal` query i sees the keys 0 to i.
        """
        self.check(query=query, key=key, value=value)
        if key is None and value is not None:
            raise ValueError("MultiheadAttention: value without key; pass both, or neither to attend to query itself")
        keys = query if key is None else key
        mask = combined(
            self.mask_of("attn_mask", attn_mask, query, keys),
            self.mask_of("key_padding_mask", key_padding_mask, query, keys),
        )
        dropped: dict[str, Any] = {"dropout_p": self.dropout, "seed": self.counter} if self.training else {}
        if key is None:
            y = ops.self_attention(self.split(self.projected(query, 0, 3), 3), mask, is_causal=is_causal, **dropped)
        else:
            given = query, key, key if value is None else value
            q, k, v = (self.split(self.projected(x, i, i + 1), 1)[0] for i, x in enumerate(given))
            y = ops.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, **dropped)
        return self.out_proj(ops.transpose(y, (0, 2, 1, 3)).reshape(query.shape))

    def projected(self, x: Tensor, start: int, end: int) -> Tensor:
        """x times columns of the weight: queries are number 0, keys 1, values 2."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if end - start == 3:
            return ops.linear(x, weight, bias)
        part = slice(start * self.features, end * self.features)
        return ops.linear(x, weight[:, part], None if bias is None else bias[part])

    def split(self, x: Tensor, parts: int) -> Tensor:
        """(N, L, parts features) as (parts, N, heads, L, features of a head)."""
        n, rows, _ = x.shape
        apart = x.reshape(n, rows, parts, self.heads, self.features // self.heads)
        return ops.transpose(apart, (2, 0, 3, 1, 4))

    def settings(self) -> str:
        """Sizes, and whether biases are left out."""
        return f"{self.features}, {self.heads}" + ("" if self.in_proj_bias is not None else ", bias=False")

    def mask_of(self, name: str, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
        """A mask as scaled_dot_product_attention takes it, to broadcast to (N, heads, L, S)."""
        if mask is None:
            return None
        (n, queries, _), keys = query.shape, key.shape[1]
        allowed: dict[tuple[int, ...], tuple[int, ...]] = {(n, keys): (n, 1, 1, keys)}
        if name == "attn_mask":
            every_head = n * self.heads, queries, keys
            allowed = {(queries, keys): (queries, keys), every_head: (n, self.heads, queries, keys)}
        if not isinstance(mask, Tensor):
            raise TypeError(f"MultiheadAttention: {name} must be a Tensor or None, not {type(mask).__name__}")
        if mask.shape not in allowed:
            raise ValueError(
                f"MultiheadAttention: {name} must have shape {' or '.join(map(str, allowed))}, not {mask.shape}"
            )
        mask = mask.reshape(allowed[mask.shape])
        return ops.logical_not(mask) if mask.dtype == np.bool_ else mask

    def check(self, **tensors: Tensor | None) -> None:
        """Raise ValueError unless the inputs that are there are (N, rows, features), keys and values alike."""
        given = {name: t for name, t in tensors.items() if t is not None}
        for name, t in given.items():
            if not isinstance(t, Tensor):
                raise TypeError(f"MultiheadAttention: {name} must be a Tensor, not {type(t).__name__}")
            if t.ndim != 3 or t.shape[2] != self.features or t.shape[0] != given["query"].shape[0]:
                shapes = ", ".join(f"{name} {t.shape}" for name, t in given.items())
                raise ValueError(
                    f"MultiheadAttention({self.features}, {self.heads}) takes query, key and value "
                    f"(N, rows, {self.features}) of one N, batch first, not {shapes}"
                )
        if len(given) == 3 and given["key"].shape != given["value"].shape:
            raise ValueError(
                f"MultiheadAttention: key {given['key'].shape} and value {given['value'].shape} must have one shape"
            )


def combined(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Two masks as one: a key takes part where both let it, and what they add to the scores is added up."""
    if a is None or b is None:
        return b if a is None else a
    if a.dtype == b.dtype:
        return ops.logical_and(a, b) if a.dtype == np.bool_ else a + b
    lets, added = (a, b) if a.dtype == np.bool_ else (b, a)
    return ops.where(lets, added, -math.inf)
