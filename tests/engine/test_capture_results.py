"""What a captured step returns, and the gradients it leaves: never those of another call."""

import numpy as np
import pytest

import minigrad as mg

ONE = np.ones(1, np.float32)


def parameter(value=1.0):
    return mg.nn.Parameter(np.array([value], np.float32))


class Settings:
    scale = 0.75


settings = Settings()
other = {"a": 0.3}

ALLOWED = {
    "nothing": (lambda x: None, None),
    "constants": (lambda x: (x, 3, 0.5, "loss", True, -1, (1.5, "a")), (3, 0.5, "loss", True, -1, (1.5, "a"))),
    "length": (lambda x: (x, len(x), x.shape), (1, (1,))),
    "dict": (lambda x: {"loss": x, "n": 1}, {"n": 1}),
    "value of a name": (lambda x: (x, settings.scale), (0.75,)),
    "function": (lambda x: (x, parameter), (parameter,)),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_values_that_cannot_go_stale_are_returned(case):
    step, expected = ALLOWED[case]
    captured = mg.capture(step)
    for _ in range(3):
        result = captured(ONE)
        if isinstance(result, tuple):
            assert result[1:] == expected
        elif isinstance(result, dict):
            assert {k: v for k, v in result.items() if k != "loss"} == expected
        else:
            assert result is expected


def test_value_of_a_name_is_returned_as_it_is_now():
    scale = 2.0
    step = mg.capture(lambda x: (x, scale))
    assert step(ONE)[1] == 2
    scale = 3.0
    assert step(ONE)[1] == 3


def test_argument_is_returned():
    step = mg.capture(lambda x, name, pair: (x, name, pair[0]))
    for name, pair in (("a", (1.5, 2)), ("b", (2.5, 2)), ("a", (1.5, 2))):
        assert step(ONE, name, pair)[1:] == (name, pair[0])


REFUSED = {
    "computed": lambda x: (x, float(np.arange(3).sum())),
    "computed integer": lambda x: (x, int(np.arange(9).sum())),
    "text": lambda x: (x, f"{settings.scale} and more"),
    "from a name": lambda x: {"loss": [x, settings.scale * 2]},
    "array": lambda x: (x, np.arange(3)),
    "object": lambda x: (x, Settings()),
    "generator": lambda x: (t for t in [x]),
    "set": lambda x: {1, 2},
}


@pytest.mark.parametrize("step", REFUSED.values(), ids=REFUSED.keys())
def test_what_python_computed_is_refused(step):
    with pytest.raises(
        mg.CaptureError, match="a captured step returned .*would be the same in every replay; return tensors"
    ):
        mg.capture(step)(ONE)


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay"])
def test_reading_a_hyperparameter_inside_is_refused(name):
    optimizer = mg.optim.SGD([parameter()], lr=0.1, momentum=0.9)
    with pytest.raises(mg.CaptureError, match=f"{name} is read inside a captured step"):
        mg.capture(lambda x: (x, getattr(optimizer, name)))(ONE)
    with pytest.raises(mg.CaptureError, match="is read inside"):
        mg.capture(lambda x: x * optimizer.lr)(ONE)


@pytest.mark.parametrize("write", [repr, str, "{}".format, print], ids=["repr", "str", "format", "print"])
def test_writing_a_tensor_out_is_refused(write):
    with pytest.raises(mg.CaptureError, match="repr.. of a tensor inside a captured step"):
        mg.capture(lambda x: write(x * 2.0))(ONE)


# Gradients


def backward_of(*params):
    def step(x):
        for p in params:
            p.zero_grad()
        loss = x * 0.0
        for p in params:
            loss = loss + p * p * x
        loss.sum().backward()
        return [p.grad for p in params]

    return step


@pytest.mark.parametrize("look", [lambda p: p.grad, lambda p: p.grad.numpy(), lambda p: p.grad.data[:1]])
def test_gradients_kept_over_steps_stay(look):
    w = parameter()
    step = mg.capture(backward_of(w))
    kept, given = [], []
    for i in range(6):
        given.append(step(np.full(1, i, np.float32))[0])
        kept.append(look(w))
    assert [float(np.asarray(g)[0]) for g in kept] == [0, 2, 4, 6, 8, 10]
    assert [g.item() for g in given] == [0, 2, 4, 6, 8, 10]
    assert sum(map(len, step.plans.values())) == 1


def test_gradient_looked_at_twice_is_one_tensor():
    w = parameter()
    mg.capture(backward_of(w))(ONE)
    assert w.grad is w.grad
    w.grad.numpy()[:] = 7
    assert w.grad.item() == 7


def trained(captured, between, optimizer=lambda p: mg.optim.SGD(p, 0.1, momentum=0.9)):
    """Backward and update in separate steps, and something done to the gradient in between."""
    w, v = parameter(1.0), parameter(2.0)
    training = optimizer([w, v])
    wrap = mg.capture if captured else lambda f: f
    backward, update = wrap(backward_of(w, v)), wrap(training.step)
    found = []
    for i in range(8):
        x = np.full(1, 1 + i, np.float32)
        backward(x if captured else mg.tensor(x))
        between(w, i)
        update()
        found += [w.item(), v.item(), w.grad.item(), v.grad.item()]
    return found, [sum(map(len, f.plans.values())) for f in (backward, update)] if captured else None


def set_by_every_second(w, i):
    if i % 2:
        w.grad = w.grad * 0.5


BETWEEN = {
    "clipped": lambda w, i: setattr(w, "grad", w.grad * (1 / (1 + i))),
    "clipped in place": lambda w, i: w.grad.__imul__(1 / (1 + i)),
    "in the array": lambda w, i: w.grad.data.__imul__(np.float32(0.5)),
    "array": lambda w, i: setattr(w, "grad", np.full(1, i, np.float32)),
    "looked at": lambda w, i: w.grad.item(),
    "sometimes": set_by_every_second,
    "eager backward": lambda w, i: (w * 3.0).sum().backward(),
}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN.keys())
def test_gradient_changed_between_two_captured_steps(between, optimizer):
    make = {"sgd": lambda p: mg.optim.SGD(p, 0.1, momentum=0.9), "adam": lambda p: mg.optim.Adam(p, 0.1)}[optimizer]
    expected, _ = trained(False, between, make)
    came, counts = trained(True, between, make)
    assert came == expected
    assert counts == [1, 1]


def test_gradient_removed_between_is_recorded_anew():
    def remove(w, i):
        if i % 2:
            w.grad = None

    def run(captured):
        w, v = parameter(1.0), parameter(2.0)
        training = mg.optim.SGD([w, v], 0.1)
        wrap = mg.capture if captured else lambda f: f
        backward, update = wrap(backward_of(w, v)), wrap(training.step)
        for i in range(6):
            backward(ONE if captured else mg.tensor(ONE))
            remove(w, i)
            update()
        return w.item(), v.item()

    assert run(True) == run(False)


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("set_outside", [False, True])
def test_accumulation_onto_what_is_there(look, set_outside):
    def run(captured):
        w = parameter()

        def accumulate(x):
            (w * x).sum().backward()

        step = mg.capture(accumulate) if captured else lambda x: accumulate(mg.tensor(x))
        found = []
        for i in range(12):
            if i % 4 == 0:
                w.grad = np.full(1, 100, np.float32) if set_outside else None
            step(np.full(1, 1 + i, np.float32))
            if look or i % 4 == 3:
                found.append(w.grad.item())
        if captured:
            assert sum(map(len, step.plans.values())) <= 2
        return found

    assert run(True) == run(False)


def test_gradient_given_from_outside_is_not_written_into():
    w = parameter()
    step = mg.capture(lambda x: (w * x).sum().backward())
    for i in range(4):
        mine = np.full(1, 10, np.float32)
        w.grad = kept = mg.tensor(mine)
        step(np.full(1, i, np.float32))
        assert (kept.item(), w.grad.item()) == (10, 10 + i)


def test_gradients_are_as_before_after_an_error_while_recording():
    w = parameter()
    w.grad = kept = mg.tensor([3.0])

    def step(x):
        w.grad * x
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mg.capture(step)(ONE)
    assert w.grad is kept


WIDE = (300, 300)  # more than is allocated anew for each array


class Keeping(mg.nn.Module):
    """Leaves its result in an attribute too."""

    def __init__(self):
        self.last = None

    def forward(self, x):
        self.last = x * 2.0
        return self.last


def with_gradient(weight):
    """A step whose result is the gradient that it leaves as well."""

    def step(x):
        weight.zero_grad()
        y = (x * weight).exp()
        y.backward(x)
        return y, weight.grad

    return step


def from_a_list(x):
    """What is normalized as a branch, whose address a kernel reads from a table."""
    h = x * 2.0
    norm = mg.ops.Normalization(None, None, None, None, 0.9, 1e-5)
    y = mg.ops.concat_branches([mg.ops.Branch(h, norm, "relu"), mg.ops.Branch(x, norm, None)])
    return h, y.sum()


LARGE = {  # a step, and whether its replays write the results into memory of their own
    "one op": (lambda: lambda x: x * 2.0, True),
    "several, on memory used again": (lambda: lambda x: mg.softmax(mg.tanh(x * 2.0) + x) * 3.0, True),
    "another shape": (lambda: lambda x: mg.exp(x).reshape(-1), True),
    "a dict": (lambda: lambda x: {"a": x + 1.0, "b": (x - 1.0, x.sum())}, True),
    "several in one launch": (lambda: lambda x: mg.concat([x, x * x], axis=0), True),
    "one that a kernel has from a list": (lambda: from_a_list, False),
    "the same twice": (lambda: lambda x: (x * 2.0,) * 2, False),
    "a part of another": (lambda: lambda x: (lambda y: (y, y.reshape(-1)))(x * 2.0), False),
    "an argument": (lambda: lambda x: x, False),
    "kept in an attribute": (lambda: Keeping(), False),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_results_are_written_into_memory_of_their_own(name, rng):
    make, moves = LARGE[name]
    step, captured = make(), mg.capture(make())
    inputs = [rng.standard_normal(WIDE).astype("f4") for _ in range(9)]
    every = [flat(captured(x)) for x in inputs]
    for x, results in zip(inputs, every, strict=True):
        expected = flat(step(mg.tensor(x)))
        for a, b in zip(results, expected, strict=True):
            assert a.numpy().tobytes() == b.numpy().tobytes()
    assert bool(captured.plan.moving) is moves
    arrays = [t.numpy() for results in every for t in results]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def test_a_large_result_and_a_gradient_in_one_memory_stay_apart(rng):
    a, b = (mg.nn.Parameter(np.ones(WIDE, np.float32)) for _ in range(2))
    captured, step = mg.capture(with_gradient(a)), with_gradient(b)
    for _ in range(9):
        x = rng.standard_normal(WIDE).astype("f4")
        y, dw = captured(x)
        grad = a.grad
        expected = [t.numpy() for t in step(mg.tensor(x))]
        captured(2 * x)
        for found, value in zip((y, dw, grad), (*expected, expected[1]), strict=True):
            np.testing.assert_array_equal(found.numpy(), value)


def flat(results):
    """All tensors of a nest, in order."""
    if isinstance(results, mg.Tensor):
        return [results]
    return [t for value in (results.values() if isinstance(results, dict) else results) for t in flat(value)]
