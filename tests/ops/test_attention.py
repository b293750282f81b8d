import math

import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import check_grads

torch = pytest.importorskip("torch")
F = torch.nn.functional

attention = mg.scaled_dot_product_attention
# batch axes, L, S, E, D
SHAPES = [((), 3, 4, 2, 5), ((2,), 1, 1, 3, 1), ((2, 3), 5, 7, 4, 3)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
MASKS = {
    "none": lambda rng, *shape: None,
    "allowed": lambda rng, batch, n, m: rng.random((*batch, n, m)) < 0.7,
    "keys": lambda rng, batch, n, m: rng.random((*batch[:1], *[1] * len(batch[1:]), 1, m)) < 0.7,
    "queries": lambda rng, batch, n, m: np.arange(n)[:, np.newaxis] != 0,
    "added": lambda rng, batch, n, m: rng.standard_normal((n, m)),
    "added by head": lambda rng, batch, n, m: rng.standard_normal((*batch[1:], 1, m)),
}
each_mask = pytest.mark.parametrize("mask", MASKS)


def arrays(rng, shape):
    batch, n, m, e, d = shape
    return [rng.standard_normal((*batch, *last)) for last in ((n, e), (m, e), (m, d))]


def by_numpy(q, k, v, mask=None, causal=False, scale=None):
    """The formula, with zeros for queries that no key takes part in."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    t = scale * q @ k.swapaxes(-1, -2)
    if mask is not None:
        t = np.where(mask, t, -np.inf) if mask.dtype == bool else t + mask
    if causal:
        t = np.where(np.tri(*t.shape[-2:], dtype=bool), t, -np.inf)
    p = np.exp(t - np.maximum(t.max(axis=-1, keepdims=True), -1e300))
    return p / np.maximum(p.sum(axis=-1, keepdims=True), 1e-300) @ v


@each_shape
@each_mask
@pytest.mark.parametrize("causal", [False, True])
def test_formula_and_gradients(shape, mask, causal, device, rng):
    inputs = arrays(rng, shape)
    chosen = MASKS[mask](rng, *shape[:3])
    given = None if chosen is None else mg.tensor(chosen, device=device)
    y = attention(*[mg.tensor(a, device=device) for a in inputs], given, is_causal=causal)
    np.testing.assert_allclose(y.numpy(), by_numpy(*inputs, chosen, causal), rtol=1e-11, atol=1e-12)
    check_grads(lambda *t: attention(*t, given, is_causal=causal, scale=0.7), *inputs, device=device)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_and_gradients_are_those_of_pytorch(dtype, device, rng):
    inputs = [a.astype(dtype) for a in arrays(rng, ((2, 2), 6, 6, 4, 3))]
    mask = rng.random((2, 1, 6, 6)) < 0.7
    mask[..., 0] = True  # PyTorch may give NaN for a query without a key
    dy = rng.standard_normal((2, 2, 6, 3)).astype(dtype)
    for ours, theirs in (
        ({}, {}),
        ({"is_causal": True}, {"is_causal": True}),
        ({"attn_mask": mg.tensor(mask, device=device)}, {"attn_mask": torch.tensor(mask)}),
        ({"scale": 0.3}, {"scale": 0.3}),
    ):
        mine = [mg.tensor(a, device=device, requires_grad=True) for a in inputs]
        others = [torch.tensor(a, requires_grad=True) for a in inputs]
        y, expected = attention(*mine, **ours), F.scaled_dot_product_attention(*others, **theirs)
        y.backward(dy)
        expected.backward(torch.tensor(dy))
        bound = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=bound, atol=bound)
        for a, b in zip(mine, others, strict=True):
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=bound, atol=2 * bound)


def test_a_query_without_a_key_gives_zero_and_no_gradient(device, rng):
    q, k, v = (mg.tensor(a, device=device, requires_grad=True) for a in arrays(rng, ((), 3, 4, 2, 2)))
    mask = mg.tensor(np.array([[True] * 4, [False] * 4, [True] * 4]), device=device)
    y = attention(q, k, v, mask)
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy()[1], 0)
    np.testing.assert_array_equal(q.grad.numpy()[1], 0)
    assert all(np.isfinite(t.grad.numpy()).all() for t in (q, k, v))


def test_captured_gives_the_bits_of_eager(rng):
    weights = [a.astype(np.float32) for a in arrays(rng, ((2,), 5, 5, 4, 4))]
    mask = np.tri(5) > 0
    results = []
    for captured in (False, True):
        q, k, v = (mg.tensor(a, requires_grad=True) for a in weights)

        def step(x, mask, given=(q, k, v)):
            for t in given:
                t.grad = None
            loss = (attention(x * given[0], given[1], given[2], mask) ** 2.0).sum()
            loss.backward()
            return loss

        run = mg.capture(step) if captured else step
        for scale in np.float32([1, 2, 0.5]):
            x = np.full((2, 5, 4), scale)
            loss = run(x, mask) if captured else run(mg.tensor(x), mg.tensor(mask))
            results.append((captured, loss.item(), *[t.grad.numpy().tobytes() for t in (q, k, v)]))
    assert [r[1:] for r in results if r[0]] == [r[1:] for r in results if not r[0]]


def test_the_matrix_of_scores_is_never_there(rng):
    q = mg.tensor(rng.standard_normal((1, 300, 2)).astype("f4"), requires_grad=True)
    y = attention(q, q, q)
    assert sum(a.nbytes for a in {id(a): a for a in y._op.saved}.values()) < 300 * 300


def test_no_keys_give_zeros_and_no_batch_gives_nothing(device):
    q, k = (mg.tensor(np.ones(shape), device=device, requires_grad=True) for shape in ((2, 3, 4), (2, 0, 4)))
    y = attention(q, k, k)
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), np.zeros((2, 3, 4)))
    np.testing.assert_array_equal(q.grad.numpy(), 0)
    assert attention(q[:0], k[:0], k[:0]).shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda q: attention(q, q[:, :, :2], q), ValueError, r"needs query \(..., L, E\)"),
        (lambda q: attention(q, q, q[:, :2]), ValueError, r"not shapes \(2, 3, 4\), \(2, 3, 4\) and \(2, 2, 4\)"),
        (lambda q: attention(q, q[:1], q[:1]), ValueError, "leading axes .* mg.broadcast_to makes them so"),
        (lambda q: attention(q[:, :, :0], q[:, :, :0], q), ValueError, "have no features"),
        (lambda q: attention(q, q.to("float32"), q), TypeError, "key is float32"),
        (lambda q: attention(q.numpy(), q, q), TypeError, "needs a Tensor, not ndarray"),
        (lambda q: attention(q, q, q, np.ones((3, 3), int)), TypeError, "must be of bool"),
        (lambda q: attention(q, q, q, np.ones((3, 3), "f4")), TypeError, "of float64, that of query, not float32"),
        (lambda q: attention(q, q, q, np.ones((4, 3), bool)), ValueError, r"broadcast to \(2, 3, 3\)"),
        (lambda q: attention(q, q, q, np.ones((3, 2, 3, 3), bool)), ValueError, r"has shape \(3, 2, 3, 3\)"),
        (lambda q: attention(q, q, q, mg.tensor(np.ones((3, 3)), requires_grad=True)), ValueError, "requires a gradient"),
        (lambda q: attention(q, q, q, dropout_p=0.1), TypeError, "dropout_p needs seed"),
        (lambda q: attention(q, q, q, dropout_p=1.0, seed=0), ValueError, "dropout_p must be from 0 to below 1"),
        (lambda q: attention(q, q, q, scale=math.inf), ValueError, "scale must be finite"),
        (lambda q: attention(q, q, q, scale="half"), TypeError, "scale must be a number"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(use, error, message):
    with pytest.raises(error, match=message):
        use(mg.tensor(np.ones((2, 3, 4))))


@pytest.mark.parametrize("mask", ["none", "queries", "added"])
def test_dropout_drops_weights_of_the_formula(mask, device, rng):
    """Of the result only the weights are changed, so that identity values show them."""
    q, k, _ = arrays(rng, ((2,), 5, 6, 4, 3))
    chosen = MASKS[mask](rng, (2,), 5, 6)
    given = None if chosen is None else mg.tensor(chosen, device=device)
    eye = np.broadcast_to(np.eye(6), (2, 6, 6))
    p = attention(*(mg.tensor(a, device=device) for a in (q, k, eye)), given, dropout_p=0.3, seed=5).numpy()
    whole = by_numpy(q, k, eye, chosen)
    kept = p != 0
    np.testing.assert_allclose(p[kept], whole[kept] / 0.7, rtol=1e-11)
    dropped = (~kept & (whole > 0)).sum() / (whole > 0).sum()
    assert 0.1 < dropped < 0.5
    again = attention(*(mg.tensor(a, device=device) for a in (q, k, eye)), given, dropout_p=0.3, seed=5).numpy()
    np.testing.assert_array_equal(p, again)


@pytest.mark.parametrize("lead", [(2, 3), ()], ids=str)
def test_the_weights_dropped_are_those_that_dropout_drops_of_the_matrix(lead, device, rng):
    q, k, _ = arrays(rng, (lead, 5, 7, 4, 3))
    eye = np.broadcast_to(np.eye(7), (*lead, 7, 7))
    counter = mg.tensor(np.array([3, 1], np.uint64), device=device)
    p = attention(*(mg.tensor(a, device=device) for a in (q, k, eye)), dropout_p=0.3, seed=counter).numpy()
    again = mg.tensor(np.array([3, 1], np.uint64), device=device)
    dropped = mg.dropout(mg.ones((*lead, 5, 7), device=device), 0.3, training=True, seed=again)
    np.testing.assert_array_equal(p != 0, dropped.numpy() != 0)
    assert counter.numpy().tolist() == [3, 2]


def test_gradients_with_dropout(device, rng):
    inputs = arrays(rng, ((2,), 3, 4, 2, 3))
    check_grads(lambda *t: attention(*t, is_causal=True, dropout_p=0.4, seed=1), *inputs, device=device)


def test_dropout_of_heads_is_drawn_anew_in_training_and_captured_as_eager(rng):
    x = rng.standard_normal((2, 4, 6)).astype("f4")
    results = []
    for captured in (False, True):
        mg.manual_seed(0)
        model = mg.nn.MultiheadAttention(6, 2, dropout=0.5)

        def step(x, model=model):
            model.zero_grad()
            loss = (model(x, is_causal=True) ** 2.0).sum()
            loss.backward()
            return loss

        run = mg.capture(step) if captured else step
        losses = [run(mg.tensor(x)).item() for _ in range(4)]
        results.append((losses, [p.grad.numpy().tobytes() for p in model.parameters()]))
        assert len(set(losses)) == 4
    assert results[0] == results[1]
    model.eval()
    plain = mg.nn.MultiheadAttention(6, 2)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name != "counter"})
    np.testing.assert_array_equal(model(mg.tensor(x)).numpy(), plain(mg.tensor(x)).numpy())
    theirs = torch.nn.MultiheadAttention(6, 2, dropout=0.5, batch_first=True)
    mg.interop.from_torch(model, theirs.state_dict(), example=x)


def pair(features=6, heads=2, bias=True):
    """The layer and PyTorch's, with the same weights."""
    ours = mg.nn.MultiheadAttention(features, heads, bias)
    theirs = torch.nn.MultiheadAttention(features, heads, bias=bias, batch_first=True)
    if bias:
        torch.nn.init.normal_(theirs.in_proj_bias)
        torch.nn.init.normal_(theirs.out_proj.bias)
    return mg.interop.from_torch(ours, theirs.state_dict(), example=np.zeros((1, 2, features), "f4")), theirs


@pytest.mark.parametrize("bias", [True, False])
def test_heads_are_those_of_pytorch(bias, rng):
    ours, theirs = pair(bias=bias)
    x = rng.standard_normal((3, 5, 6)).astype("f4")
    mine, other = mg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, (expected, _) = ours(mine), theirs(other, other, other)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    y.backward(np.ones(y.shape, "f4"))
    expected.sum().backward()
    np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-4, atol=1e-5)
    weight = ours.in_proj_weight.grad.numpy()
    np.testing.assert_allclose(weight, theirs.in_proj_weight.grad.numpy().T, rtol=1e-4, atol=1e-4)


def test_keys_and_values_of_their_own_and_masks_are_those_of_pytorch(rng):
    ours, theirs = pair()
    q, k, v = (rng.standard_normal((3, n, 6)).astype("f4") for n in (5, 4, 4))
    padding = np.array([[False] * 4, [False, True, True, False], [False, False, False, True]])
    left_out = rng.random((5, 4)) < 0.3
    left_out[:, 0] = False
    by_head = np.where(rng.random((6, 5, 4)) < 0.3, -1e4, 0).astype("f4")
    for masks in (
        {},
        {"key_padding_mask": padding},
        {"attn_mask": left_out, "key_padding_mask": padding},
        {"attn_mask": by_head},
    ):
        y = ours(*map(mg.tensor, (q, k, v)), **{name: mg.tensor(m) for name, m in masks.items()})
        expected, _ = theirs(*map(torch.tensor, (q, k, v)), **{name: torch.tensor(m) for name, m in masks.items()})
        np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    mixed = ours(*map(mg.tensor, (q, k, v)), attn_mask=mg.tensor(by_head), key_padding_mask=mg.tensor(padding))
    added = np.repeat(np.where(padding, -np.inf, 0).astype("f4"), 2, axis=0)[:, np.newaxis] + by_head
    expected = ours(*map(mg.tensor, (q, k, v)), attn_mask=mg.tensor(added))
    np.testing.assert_array_equal(mixed.numpy(), expected.numpy())


def test_weights_go_to_pytorch_and_causal_heads_see_no_later_place(rng):
    ours, theirs = pair()
    weights = mg.interop.to_torch(ours, example=np.zeros((1, 2, 6), "f4"))
    assert {name: t.shape for name, t in weights.items()} == {name: t.shape for name, t in theirs.state_dict().items()}
    np.testing.assert_array_equal(weights["in_proj_weight"], ours.in_proj_weight.numpy().T)
    x = rng.standard_normal((1, 4, 6)).astype("f4")
    before = ours(mg.tensor(x), is_causal=True).numpy()
    x[0, 3] += 1
    np.testing.assert_array_equal(ours(mg.tensor(x), is_causal=True).numpy()[0, :3], before[0, :3])


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (
            lambda m, x: m(x[0]),
            ValueError,
            r"takes query, key and value \(N, rows, 6\) of one N, batch first, not query",
        ),
        (lambda m, x: m(x, x[:1]), ValueError, r"not query \(2, 3, 6\), key \(1, 3, 6\)"),
        (lambda m, x: m(x, x, x[:, :2]), ValueError, "must have one shape"),
        (lambda m, x: m(x, value=x), ValueError, "value without key"),
        (lambda m, x: m(x, attn_mask=mg.tensor(np.ones((2, 3, 3), bool))), ValueError, r"\(3, 3\) or \(4, 3, 3\), not"),
        (lambda m, x: m(x, key_padding_mask=np.ones((2, 3), bool)), TypeError, "key_padding_mask must be a Tensor"),
        (lambda m, x: mg.nn.MultiheadAttention(6, 4), ValueError, "6 features cannot be divided among 4 heads"),
        (lambda m, x: mg.nn.MultiheadAttention(6, 0), ValueError, "heads must be at least 1"),
    ],
)
def test_what_heads_cannot_take_is_refused(use, error, message):
    with pytest.raises(error, match=message):
        use(mg.nn.MultiheadAttention(6, 2), mg.tensor(np.zeros((2, 3, 6), "f4")))


def test_captured_heads_give_the_bits_of_eager(device, rng):
    x = rng.standard_normal((2, 4, 6)).astype("f4")
    results = []
    for captured in (False, True):
        mg.manual_seed(0)
        model = mg.nn.MultiheadAttention(6, 2).to(device)

        def step(x, model=model):
            model.zero_grad()
            loss = (model(x, is_causal=True) ** 2.0).sum()
            loss.backward()
            return loss

        run = mg.capture(step) if captured else step
        for scale in (1, 2, 3):
            given = mg.tensor(np.float32(scale) * x, device=device)
            results.append((captured, run(given).item(), *[p.grad.numpy().tobytes() for p in model.parameters()]))
    assert [r[1:] for r in results if r[0]] == [r[1:] for r in results if not r[0]]
