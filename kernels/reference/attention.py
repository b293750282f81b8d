"""Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1): queries q (b, n, e), keys k (b, s, e), values v (b, s, d).

    attention_forward    t = scale q k^T + mask;  lse = log sum exp t;  p = exp(t - lse);  y = (m p) v
    attention_backward   dv = (m p)^T dy;  ds = scale p (m dy v^T - sum dy y);  dq = ds k;  dk = ds^T q

m is dropout of the weights: 1, or where rate is above 0 what kernels/reference/dropout.py makes of ones under the key, element
(i n + j) s + l for query j and key l of matrix i. sum dy y is the sum of p m dy v^T over the keys in either case.

A key that is masked out has t = -inf: where mask is False, or -inf, and if causal, the keys after number i for query i. A
query that no key takes part in has y = 0 and lse = inf, and gives no gradient. What b and masks are, says the contract.
float32 is computed in float64.
"""

import numpy as np

from minigrad.kernels.reference.dropout import dropout


def _scores(q, k, mask, each, scale, causal):
    """t (b, n, s) in float64."""
    t = scale * (q.astype(np.float64) @ k.astype(np.float64).swapaxes(1, 2))
    if mask.size:
        mask = mask[np.arange(len(q)) // each % len(mask)]
        t = np.where(mask, t, -np.inf) if mask.dtype == np.bool_ else t + mask
    if causal:
        t = np.where(np.tri(*t.shape[1:], dtype=np.bool_), t, -np.inf)
    return t


def _kept(shape, rate, key):
    """m, by which weights of this shape are multiplied."""
    m = np.ones(shape)
    if rate > 0:
        dropout(m.reshape(-1), rate, key, m.reshape(-1))
    return m


@np.errstate(all="ignore")
def attention_forward(q, k, v, mask, each, scale, causal, rate, key, y, lse):
    t = _scores(q, k, mask, each, scale, causal)
    largest = np.fmax.reduce(t, axis=2, keepdims=True)
    shift = np.where(largest == -np.inf, 0, largest)
    p = np.exp(t - shift)
    total = p.sum(axis=2, keepdims=True)
    empty = total == 0
    y[:] = (p * _kept(p.shape, rate, key)) @ v.astype(np.float64) / np.where(empty, 1, total)
    lse[:] = np.where(empty, np.inf, shift + np.log(total))[:, :, 0]


@np.errstate(all="ignore")
def attention_backward(dy, q, k, v, mask, each, scale, causal, rate, key, y, lse, dq, dk, dv):
    p = np.exp(_scores(q, k, mask, each, scale, causal) - lse[:, :, np.newaxis].astype(np.float64))
    m, dy = _kept(p.shape, rate, key), dy.astype(np.float64)
    delta = (dy * y).sum(axis=2, keepdims=True)
    ds = scale * p * (m * (dy @ v.astype(np.float64).swapaxes(1, 2)) - delta)
    dv[:] = (m * p).swapaxes(1, 2) @ dy
    dq[:] = ds @ k.astype(np.float64)
    dk[:] = ds.swapaxes(1, 2) @ q.astype(np.float64)
