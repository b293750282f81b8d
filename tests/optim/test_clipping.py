import itertools
import math

import numpy as np
import pytest

import minigrad as mg
from minigrad.optim import SGD, clip_grad_norm, clip_grad_value

SHAPES = [(3, 5), (), (7,), (0,)]


def parameters(device="cpu", dtypes=("float64", "float32", "float64", "float32"), scale=1.0):
    rng = np.random.default_rng(0)
    params = []
    for shape, dtype in zip(SHAPES, dtypes, strict=True):
        params.append(mg.tensor(rng.standard_normal(shape), dtype=dtype, device=device, requires_grad=True))
        params[-1].grad = (scale * rng.standard_normal(shape)).astype(dtype)
    return params


def gradients(params):
    return [p.grad.numpy().copy() for p in params]


@pytest.mark.parametrize(("max_norm", "order"), [*itertools.product([0.0, 0.5, 1e3, math.inf], [1, 2, 2.0, math.inf])])
def test_norm_of_all_gradients_is_at_most_that(max_norm, order, device):
    params = parameters(device)
    before = gradients(params)
    norm = clip_grad_norm(params, max_norm, order)
    expected = np.linalg.norm(np.concatenate([g.ravel() for g in before]).astype(np.float64), order)
    assert (norm.dtype, norm.shape, norm.device) == (np.float64, (), device)
    np.testing.assert_allclose(norm.item(), expected, rtol=1e-6)
    for g, b, p in zip(gradients(params), before, params, strict=True):
        assert g.dtype == b.dtype == p.dtype
        np.testing.assert_allclose(g, b * min(1, max_norm / (expected + 1e-6)), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3, 1e3, math.inf])
def test_elements_are_brought_into_a_range(value, device):
    params = parameters(device)
    before = gradients(params)
    clip_grad_value(params, value)
    for g, b in zip(gradients(params), before, strict=True):
        np.testing.assert_array_equal(g, np.clip(b, b.dtype.type(-value), b.dtype.type(value)))


@pytest.mark.parametrize("order", [1, 2, math.inf])
def test_numbers_are_those_of_pytorch(order):
    torch = pytest.importorskip("torch")
    ours = parameters(dtypes=["float64"] * 4)[:3]
    theirs = [torch.nn.Parameter(torch.tensor(p.numpy())) for p in ours]
    for max_norm in (math.inf, 100.0, 2.0, 0.1):
        for p, q in zip(ours, theirs, strict=True):
            q.grad = torch.tensor(p.grad.numpy())
        norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm, order)
        np.testing.assert_allclose(clip_grad_norm(ours, max_norm, order).item(), norm.item(), rtol=1e-13)
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-13)


def test_gradients_that_somebody_gave_stay_as_they_are(device):
    given = np.full(4, 2.0)
    kept = mg.tensor(given, device=device)
    p = mg.tensor(np.zeros(4), device=device, requires_grad=True)
    p.grad = kept
    clip_grad_norm([p], 1.0)
    np.testing.assert_array_equal(kept.numpy(), given)
    np.testing.assert_allclose(p.grad.numpy(), 0.5, rtol=1e-6)
    p.grad = kept
    clip_grad_value(p, 1.0)
    np.testing.assert_array_equal(kept.numpy(), given)
    np.testing.assert_array_equal(p.grad.numpy(), 1.0)


def test_gradients_of_backward_are_clipped_in_place_and_added_to_after(device):
    p = mg.tensor(np.ones(4), device=device, requires_grad=True)
    (3.0 * p).sum().backward()
    array = p.grad.data
    clip_grad_value([p], 1.0)
    assert p.grad.data is array
    p.sum().backward()
    np.testing.assert_array_equal(p.grad.numpy(), 2.0)


def test_one_parameter_given_twice_is_clipped_once(device):
    p = mg.tensor(np.ones(4), device=device, requires_grad=True)
    p.grad = np.full(4, 2.0)
    np.testing.assert_allclose(clip_grad_norm([p, p], 1.0).item(), 4.0)
    np.testing.assert_allclose(p.grad.numpy(), 0.5, rtol=1e-6)


def test_nan_is_not_hidden(device):
    params = parameters(device)
    params[0].grad = np.full((3, 5), np.nan)
    assert np.isnan(clip_grad_norm(params, 1.0).item())
    assert all(np.isnan(g).all() for g in gradients(params))


@pytest.mark.parametrize("size", [1, 8191, 8193, 70_000])
def test_bits_do_not_depend_on_the_number_of_threads(size, set_threads, rng):
    values, results = rng.standard_normal(size).astype(np.float32), []
    for threads in (1, 2):
        set_threads(threads)
        params = [mg.tensor(np.zeros(n, np.float32), requires_grad=True) for n in (size, 3)]
        for p in params:
            p.grad = values[: p.data.size] if p.data.size <= size else np.ones(3, np.float32)
        results.append([clip_grad_norm(params, 0.5).item(), *[g.tobytes() for g in gradients(params)]])
    assert results[0] == results[1]


def clipping_step(optimizer, clip):
    def step(x):
        optimizer.zero_grad()
        loss = sum(((p * p * x).sum() for p in optimizer.params), mg.tensor(0.0, dtype="float32"))
        loss.backward()
        norm = clip(optimizer.params)
        optimizer.step()
        return loss, norm

    return step


@pytest.mark.parametrize("clip", [lambda p: clip_grad_norm(p, 0.5), lambda p: clip_grad_value(p, 0.1)])
def test_captured_steps_give_the_bits_of_eager_ones(clip):
    results = []
    for captured in (False, True):
        rng = np.random.default_rng(0)
        params = [mg.tensor(rng.standard_normal(3), dtype="float32", requires_grad=True) for _ in range(3)]
        step = clipping_step(SGD(params, lr=0.1, momentum=0.9), clip)
        step = mg.capture(step) if captured else step
        found = []
        for i in range(5):
            x = np.full(3, 1.0 + i, np.float32)
            loss, norm = step(x if captured else mg.tensor(x))
            found += [loss.item(), norm and norm.item()]
        results.append([found, [p.numpy().tobytes() for p in params]])
    assert results[0] == results[1]


def test_gradients_of_a_captured_backward_are_clipped_outside_of_it():
    """They lie in the recording's memory, which the next replay writes anew."""
    results = []
    for captured in (False, True):
        p = mg.tensor(np.arange(1, 4), dtype="float32", requires_grad=True)
        optimizer = SGD([p], lr=0.1)

        def backward(x, p=p):
            p.grad = None
            loss = (p * x).sum()
            loss.backward()
            return loss

        backward = mg.capture(backward) if captured else backward
        for i in range(4):
            x = np.full(3, 1.0 + i, np.float32)
            backward(x if captured else mg.tensor(x))
            clip_grad_norm([p], 0.5)
            optimizer.step()
        results.append(p.numpy().tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda p: clip_grad_norm(p, -1.0), ValueError, "max_norm must be from 0"),
        (lambda p: clip_grad_norm(p, math.nan), ValueError, "max_norm must be from 0"),
        (lambda p: clip_grad_norm(p, "1"), TypeError, "max_norm must be a number"),
        (lambda p: clip_grad_norm(p, 1.0, 3), ValueError, "norm_type must be 1, 2 or math.inf, not 3"),
        (lambda p: clip_grad_value(p, -1.0), ValueError, "clip_value must be from 0"),
        (lambda p: clip_grad_norm([p[0], np.ones(2)], 1.0), TypeError, "parameter 1 must be a Tensor, not ndarray"),
        (
            lambda p: clip_grad_norm([mg.tensor(1.0)], 1.0),
            RuntimeError,
            "no parameter has a gradient; call loss.backward",
        ),
        (lambda p: clip_grad_norm([], 1.0), RuntimeError, "no parameter has a gradient"),
        (lambda p: clip_grad_value([*p, *parameters("reference")], 1.0), ValueError, "different devices"),
    ],
)
def test_what_cannot_be_clipped_is_refused_and_nothing_changes(use, error, message):
    params = parameters()
    before = gradients(params)
    with pytest.raises(error, match=message):
        use(params)
    for g, b in zip(gradients(params), before, strict=True):
        np.testing.assert_array_equal(g, b)
