import numpy as np
import pytest
from small_steps import captured_is_eager

import minigrad as mg
from minigrad.testing import check_grads

SIZES = {"rnn": 1, "lstm": 4, "gru": 3}  # gates
each = pytest.mark.parametrize("name", SIZES)


def arrays(rng, name, n=3, steps=4, features=2, units=5, states=True, biases=True):
    """x, states, weights and biases, as the op takes them; None for what is left out."""
    columns, state = SIZES[name] * units, (n, units)
    shapes = [(n, steps, features), *[state if states else None] * (2 if name == "lstm" else 1)]
    shapes += [(features, columns), (units, columns), *[(columns,) if biases else None] * 2]
    return [None if shape is None else 0.6 * rng.standard_normal(shape) for shape in shapes]


def tensors(given, device="cpu", dtype="float64"):
    return [None if a is None else mg.tensor(a, dtype=dtype, device=device, requires_grad=True) for a in given]


def stacked(name, **options):
    """The op, with all that it gives in one tensor."""

    def function(*inputs):
        y, *last = getattr(mg, name)(*inputs, **options)
        y = y if options.get("batch_first", True) else mg.transpose(y, (1, 0, 2))
        return mg.concat([y, *[mg.expand_dims(s, 1) for s in last]], axis=1)

    return function


def by_steps(name, x, *rest, reverse=False, relu=False):
    """The same of single steps, by other ops."""
    states, (w_ih, w_hh, b_ih, b_hh) = rest[:-4], rest[-4:]
    units = w_hh.shape[0]
    h, c = states[0], states[-1]
    steps, ys = range(x.shape[1]), {}
    for t in reversed(steps) if reverse else steps:
        a, m = mg.linear(x[:, t], w_ih, b_ih), mg.linear(h, w_hh, b_hh)
        if name == "rnn":
            h = mg.relu(a + m) if relu else mg.tanh(a + m)
        elif name == "lstm":
            i, f, g, o = mg.split(a + m, 4, axis=1)
            c = mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g)
            h = mg.sigmoid(o) * mg.tanh(c)
        else:
            r, z = mg.split(mg.sigmoid(a[:, : 2 * units] + m[:, : 2 * units]), 2, axis=1)
            n = mg.tanh(a[:, 2 * units :] + r * m[:, 2 * units :])
            h = (1.0 - z) * n + z * h
        ys[t] = h
    return mg.stack([ys[t] for t in steps] + ([h, c] if name == "lstm" else [h]), axis=1)


def gradients(function, given, dy, device):
    """The result of a function of tensors, and all gradients."""
    leaves = tensors(given, device)
    y = function(*leaves)
    y.backward(dy)
    return [y.numpy(), *[t.grad.numpy() for t in leaves if t is not None]]


@each
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", [(3, 4, 2, 5), (1, 1, 1, 1), (9, 2, 3, 17)], ids=str)
def test_a_sequence_is_its_steps(name, reverse, sizes, device, rng):
    given = arrays(rng, name, *sizes)
    dy = rng.standard_normal((sizes[0], sizes[1] + (2 if name == "lstm" else 1), sizes[3]))
    ours = gradients(stacked(name, reverse=reverse), given, dy, device)
    theirs = gradients(lambda *inputs: by_steps(name, *inputs, reverse=reverse), given, dy, device)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_relu_and_steps_first(device, rng):
    given = arrays(rng, "rnn")
    dy = rng.standard_normal((3, 5, 5))
    function = stacked("rnn", nonlinearity="relu", batch_first=False)
    ours = gradients(lambda x, *rest: function(mg.transpose(x, (1, 0, 2)), *rest), given, dy, device)
    theirs = gradients(lambda *inputs: by_steps("rnn", *inputs, relu=True), given, dy, device)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@each
def test_gradients(name, device, rng):
    check_grads(stacked(name), *arrays(rng, name, n=2, steps=3, features=2, units=3), device=device)


@each
def test_what_is_left_out_is_zero(name, device, rng):
    given = arrays(rng, name)
    zeros = [a if a.ndim > 1 else 0 * a for a in given]
    states = 2 if name == "lstm" else 1
    zeros[1 : 1 + states] = [0 * a for a in given[1 : 1 + states]]
    without = [*zeros[:1], *[None] * states, *zeros[1 + states : 3 + states]]
    dy = rng.standard_normal((3, 4 + 1 + (name == "lstm"), 5))
    full, less = gradients(stacked(name), zeros, dy, device), gradients(stacked(name), without, dy, device)
    kept = [full[0], full[1], *full[2 + states : 4 + states]]
    for a, b in zip(kept, less, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@each
def test_only_what_is_asked_for(name, device, rng):
    given = arrays(rng, name)
    whole = gradients(stacked(name), given, np.ones((3, 4 + 1 + (name == "lstm"), 5)), device)[1:]
    for i, expected in enumerate(whole):
        leaves = [mg.tensor(a, device=device, requires_grad=j == i) for j, a in enumerate(given)]
        stacked(name)(*leaves).sum().backward()
        np.testing.assert_allclose(leaves[i].grad.numpy(), expected, rtol=1e-12, atol=1e-13)
        assert [t.grad is not None for t in leaves] == [j == i for j in range(len(leaves))]


@each
def test_float32_within_a_few_roundings(name, device, rng):
    given = [a.astype(np.float32) for a in arrays(rng, name, n=9, steps=6, units=17)]
    y = stacked(name)(*tensors(given, device, "float32"))
    expected = stacked(name)(*tensors(given, "reference"))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-5, atol=2e-6)


@each
def test_captured_gives_the_bits_of_eager(name, rng):
    x, *rest = [a.astype(np.float32) for a in arrays(rng, name)]
    given = [mg.tensor(a, requires_grad=True) for a in rest]

    def loss(x):
        y = stacked(name)(x, *given)
        return (y * y).sum()

    captured_is_eager(loss, x, *given, scales=(1, 2, 0.5))


@each
def test_no_sequences_have_zero_gradients(name, device, rng):
    leaves = tensors(arrays(rng, name, n=0), device)
    y, *last = getattr(mg, name)(*leaves)
    (y.sum() + sum(s.sum() for s in last)).backward()
    assert y.shape == (0, 4, 5)
    assert [s.shape for s in last] == [(0, 5)] * len(last)
    for t in leaves:
        np.testing.assert_array_equal(t.grad.numpy(), np.zeros(t.shape))


def test_a_changed_result_is_found(rng):
    leaves = tensors(arrays(rng, "lstm", n=4))
    y, h, _ = mg.lstm(*leaves, batch_first=False)
    with mg.no_grad():
        h += 1.0
    with pytest.raises(RuntimeError, match="LSTM saved its result .* was changed in place"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: np.ones((3, 2))}, ValueError, r"x \(N, steps, in\) not shape \(3, 2\)"),
        ({0: np.ones((3, 0, 2))}, ValueError, "at least one step"),
        ({0: np.ones((3, 4, 3))}, ValueError, r"w_ih must have shape \(3, 20\)"),
        ({1: np.ones((2, 5))}, ValueError, r"h0 must have shape \(3, 5\)"),
        ({2: np.ones((5, 3))}, ValueError, r"c0 must have shape \(3, 5\)"),
        ({4: np.ones((20, 5))}, ValueError, r"w_hh must be \(hidden, 4 hidden\), not \(20, 5\)"),
        ({5: np.ones((15,))}, ValueError, r"b_ih must have shape \(20,\)"),
        ({6: np.ones(20, np.float32)}, TypeError, "x is float64, b_hh is float32"),
        ({4: np.ones((5, 20), np.float32)}, TypeError, "x is float64, w_hh is float32"),
        ({0: np.ones((3, 4, 2), int)}, TypeError, "lstm needs a float32 or float64 tensor, not int64"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message, rng):
    given = arrays(rng, "lstm")
    with pytest.raises(error, match=message):
        mg.lstm(*[mg.tensor(change.get(i, a)) for i, a in enumerate(given)])


def test_an_array_and_an_unknown_nonlinearity_are_refused(rng):
    given = tensors(arrays(rng, "rnn"))
    with pytest.raises(TypeError, match="rnn needs a Tensor, not ndarray"):
        mg.rnn(np.ones((3, 4, 2)), *given[1:])
    with pytest.raises(ValueError, match="nonlinearity must be"):
        mg.rnn(*given, nonlinearity="sigmoid")
