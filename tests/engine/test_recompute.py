"""mg.recompute: the bits of the plain step, less memory, random numbers drawn again, running statistics updated once."""

import gc

import numpy as np
import pytest

import minigrad as mg


def block(width, dropout=0.0):
    layers = [mg.nn.Linear(width, width, bias=False), mg.nn.BatchNorm(width), mg.nn.ReLU(), mg.nn.Linear(width, width)]
    return mg.nn.Sequential(*layers, *([mg.nn.Dropout(dropout)] if dropout else []), mg.nn.Tanh())


def trained(recomputed, captured, steps=4):
    """Losses, weights and running statistics of some steps, by a step that recomputes its blocks or not."""
    mg.manual_seed(3)
    blocks, last = [block(6, 0.3), block(6, 0.2)], mg.nn.Linear(6, 3)
    model = mg.nn.Sequential(*blocks, last)
    optimizer = mg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x, labels):
        h = x
        for part in blocks:
            h = mg.recompute(part, h) if recomputed else part(h)
        noise = mg.random.normal(h.shape)
        loss = mg.cross_entropy(last(h + 0.01 * noise), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    if captured:
        step = mg.capture(step)
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(steps):
        losses.append(step(rng.standard_normal((8, 6)).astype(np.float32), rng.integers(0, 3, 8)).item())
    return losses, {name: np.array(value) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
def test_training_has_the_bits_of_training_without(captured):
    losses, state = trained(True, captured)
    expected, plain = trained(False, False)
    assert losses == expected
    for name, value in plain.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


def kept(loss):
    """Bytes of arrays that the ops of a tape have saved, each array counted once."""
    arrays, waiting, seen = {}, [loss._op], set()
    while waiting:
        op = waiting.pop()
        if op not in seen:
            seen.add(op)
            arrays |= {id(a): a.nbytes for a in op.saved or () if a is not None}
            waiting += [s for s in op.sources if isinstance(s, mg.Op)]
    return sum(arrays.values())


def deep(recomputed, x, w):
    for _ in range(6):
        f = lambda x: mg.tanh(mg.sigmoid(mg.exp(x * w)))  # noqa: E731 - another function for each layer, as layers are
        x = mg.recompute(f, x) if recomputed else f(x)
    return x.sum()


def test_the_tape_keeps_the_inputs_only():
    x, w = (mg.tensor(np.ones(1000, np.float32) / 9, requires_grad=True) for _ in range(2))
    plain, recomputed = (kept(deep(again, x, w)) for again in (False, True))
    assert plain == 4000 * (2 + 6 * 3)
    assert recomputed == 4000 * (2 + 5)


def test_a_captured_step_needs_less_memory():
    def planned(recomputed):
        def step(x):
            w.zero_grad()
            loss = deep(recomputed, x, w)
            loss.backward()
            return loss

        w = mg.tensor(np.ones(1000, np.float32) / 9, requires_grad=True)
        captured = mg.capture(step)
        captured(np.ones(1000, np.float32))
        return captured.plan.nbytes

    assert planned(True) < 0.7 * planned(False)


def test_what_a_function_uses_beside_its_arguments_gets_its_gradient(rng):
    x, w, u = (mg.tensor(rng.standard_normal(3), requires_grad=True) for _ in range(3))

    def loss(call):
        h = w * u  # made outside: its gradient goes on to w and u
        return (call(lambda x: mg.sigmoid(x * h) * x * w, x) * x).sum()

    expected = mg.grad(loss(lambda f, x: f(x)), (x, w, u))
    for ours, other in zip(mg.grad(loss(mg.recompute), (x, w, u)), expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), other.numpy(), rtol=1e-14)
    mg.testing.check_grads(
        lambda x: mg.recompute(lambda y: y * x, x) * x, rng.standard_normal(3), device="reference", order=3
    )


def test_second_derivatives_go_through(rng):
    w = mg.tensor(rng.standard_normal((3, 2)), device="reference")
    f = lambda x: mg.sigmoid(mg.dropout(x @ w, 0.5, training=True, seed=3))  # noqa: E731
    mg.testing.check_grads(lambda x: mg.recompute(f, x), rng.standard_normal((2, 3)), device="reference", order=2)


def test_parts_within_parts(rng):
    x = mg.tensor(rng.standard_normal(5), requires_grad=True)
    seed = np.array([1, 0], np.uint64)

    def inner(x):
        return mg.dropout(mg.exp(x), 0.5, training=True, seed=seed)

    def outer(call, x):
        return call(inner, mg.tanh(x)) * mg.random.uniform(5, dtype="float64")

    results = []
    for call in (mg.recompute, lambda f, *xs: f(*xs)):
        mg.manual_seed(0)
        seed[1] = 0
        y = call(lambda x, call=call: outer(call, x), x)
        results.append((y.numpy(), mg.grad(y.sum(), x)[0].numpy(), seed[1], mg.random.uniform(1).item()))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_arguments_that_are_no_tensors_are_passed_on():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    y = mg.recompute(lambda x, n, *, factor: x * float(n) * factor, x, 3, factor=2.0)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [6, 6])


def test_nothing_is_run_twice_where_no_gradient_is_needed():
    calls = []

    def f(x):
        calls.append(1)
        return x * 2.0

    x = mg.tensor([1.0], requires_grad=True)
    with mg.no_grad():
        assert not mg.recompute(f, x).requires_grad
    assert not mg.recompute(f, x.detach()).requires_grad
    assert len(calls) == 2
    y = mg.recompute(f, x)
    y.backward(retain_graph=True)
    y.backward()
    assert len(calls) == 5
    assert x.grad.item() == 4


def test_what_backward_has_passed_is_let_go_of():
    x = mg.tensor(np.ones(3), requires_grad=True)
    y = mg.recompute(mg.exp, x)
    op = y._op
    y.sum().backward()
    gc.collect()
    assert op.saved is None


@pytest.mark.parametrize("changed", ["x", "w"])
def test_an_input_changed_in_place_is_told_of(changed):
    x, w = (mg.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    y = mg.recompute(lambda x: x * w, x)
    with mg.no_grad():
        t = {"x": x, "w": w}[changed]
        t += 1.0
    with pytest.raises(RuntimeError, match="Recompute saved its input . .*changed in place"):
        y.sum().backward()


def test_functions_that_do_not_follow_from_their_arguments_are_told_of():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    lengths = iter((1, 2))
    y = mg.recompute(lambda x: x[: next(lengths)] * 2.0, x)
    with pytest.raises(RuntimeError, match=r"gave float32\[1\] at first and float32\[2\] when it was run again"):
        y.sum().backward()
    times = iter((0, 1))
    y = mg.recompute(lambda x: sum((mg.random.uniform(2) for _ in range(next(times))), x * 1.0), x)
    with pytest.raises(RuntimeError, match="more random numbers when it is run again"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("f", "what"),
    [
        (lambda x: [x], "list"),
        (lambda x: (x, 1.0), "a tuple with a float in it"),
        (lambda x: (), "an empty tuple"),
    ],
)
def test_another_result_than_tensors_is_refused(f, what):
    with pytest.raises(TypeError, match=rf"must return a Tensor or a tuple of Tensors, not {what}"):
        mg.recompute(f, mg.tensor([1.0], requires_grad=True))


def of_three_results(x, w):
    """Two of floats, which share work and random numbers, and one of integers."""
    h = mg.tanh(x @ w) * mg.random.uniform((), dtype=x.dtype)
    return h * h, h.sum(axis=0), mg.argmax(h, axis=1)


@pytest.mark.parametrize("used", [(0, 1), (0,), (1,)])
@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
def test_several_results_have_the_bits_that_they_have_without(used, captured, rng):
    x, w = rng.standard_normal((4, 3)), rng.standard_normal((3, 5))

    def gradients(call):
        mg.manual_seed(1)
        leaf, weight = mg.tensor(x, requires_grad=True), mg.tensor(w, requires_grad=True)

        def step(factor):
            results = call(of_three_results, leaf, weight)
            assert not results[2].requires_grad
            sum([(results[i] * results[i]).sum() for i in used], start=factor * 0.0).sum().backward()
            return [*results]

        run = mg.capture(step) if captured else step
        return [[np.array(t) for t in [*run(mg.tensor(np.ones(1))), leaf.grad, weight.grad]] for _ in range(3)]

    for found, expected in zip(gradients(mg.recompute), gradients(lambda f, *xs: f(*xs)), strict=True):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_second_derivatives_through_several_results(rng):
    x, w = rng.standard_normal((4, 3)), rng.standard_normal((3, 5))

    def second(call):
        leaf, weight = mg.tensor(x, requires_grad=True), mg.tensor(w, requires_grad=True)
        squares, sums = call(lambda x, w: of_three_results(x, w)[:2], leaf, weight)
        (first,) = mg.grad((squares * squares).sum() + (sums * sums).sum(), [leaf], create_graph=True)
        return mg.grad((first * first).sum(), [leaf, weight])

    found = second(lambda f, *xs: (mg.manual_seed(2), mg.recompute(f, *xs))[1])
    expected = second(lambda f, *xs: (mg.manual_seed(2), f(*xs))[1])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


def test_a_function_that_takes_gradients_itself_is_told_where_to():
    x, w = (mg.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    with pytest.raises(RuntimeError, match=r"take gradients of what mg\.recompute gives"):
        mg.recompute(lambda x: mg.grad((x * x).sum(), x)[0], x)
    with pytest.raises(RuntimeError, match=r"in the first run of a function that mg\.recompute was given"):
        mg.recompute(lambda x: mg.grad((x * w).sum(), w)[0], x)
    (dx,) = mg.grad(mg.recompute(lambda x: x * x * w, x).sum(), x)
    np.testing.assert_array_equal(dx.numpy(), [2.0, 8.0])
