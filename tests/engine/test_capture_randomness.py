"""Random numbers that Python draws inside a captured step are refused; those of kernels and of constants are not."""

import random
import threading

import numpy as np
import pytest

import minigrad as mg

X = np.arange(1, 7, dtype=np.float32)
rng = np.random.default_rng(1)
legacy = np.random.RandomState(1)
python = random.Random(1)


class Noise:
    def __init__(self):
        self.rng = np.random.default_rng(2)

    def step(self, x):
        return x * self.rng.normal()


class NoisyModule(mg.nn.Module):
    def __init__(self):
        self.rng = np.random.default_rng(2)

    def forward(self, x):
        return x + self.rng.normal()


def drawn_elsewhere():
    return rng.normal()


DRAWS = {
    "number": lambda x: x * rng.normal(),
    "tensor of a number": lambda x: x + mg.tensor(rng.normal()),
    "tensor of a list": lambda x: x + mg.tensor(list(map(float, rng.normal(size=6)))),
    "list as an index": lambda x: x[[int(rng.integers(6))]],
    "slice": lambda x: x[int(rng.integers(6)) :],
    "seed of dropout": lambda x: mg.dropout(x, 0.5, training=True, seed=int(rng.integers(1 << 62))),
    "legacy": lambda x: x * legacy.normal(),
    "python": lambda x: x * python.random(),
    "global of numpy": lambda x: x * np.random.normal(),  # noqa: NPY002 - that is what is tested
    "global of python": lambda x: x * random.random(),
    "in a function": lambda x: x * drawn_elsewhere(),
    "in a method": Noise().step,
    "in a module": NoisyModule(),
    "in a module of a model": mg.nn.Sequential(mg.nn.ReLU(), NoisyModule()),
    "a branch": lambda x: x if rng.random() < 2 else x * 2.0,
}


@pytest.mark.parametrize("step", DRAWS.values(), ids=DRAWS.keys())
def test_drawing_in_python_is_refused(step, monkeypatch):
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # of other tests some may be left, which might have drawn
    with pytest.raises(
        mg.CaptureError, match="drew random numbers from .*draw them outside and pass them as an argument"
    ):
        mg.capture(step)(X)


ARRAYS = {
    "tensor": lambda x: x + mg.tensor(rng.normal(size=6).astype(np.float32)),
    "tensor of a list of arrays": lambda x: x + mg.tensor([np.float32(1), np.ones(())] * 3),
    "permutation": lambda x: x[rng.permutation(6)],
    "mask": lambda x: x[rng.random(6) < 0.5],
    "pair": lambda x: x.reshape(2, 3)[np.array([0]), np.array([1])],
    "parameter": lambda x: x + mg.nn.Parameter(rng.normal(size=6).astype(np.float32)),
    "gradient": lambda x: setattr(mg.tensor([1.0], requires_grad=True), "grad", np.ones(1, np.float32)),
    "seed": lambda x: mg.dropout(x, 0.5, training=True, seed=np.array([1, 2], np.uint64)),
    "statistics": lambda x: mg.batch_norm(
        x.reshape(2, 3), None, None, np.zeros(3, np.float32), np.ones(3, np.float32), training=False
    ),
}


@pytest.mark.parametrize("step", ARRAYS.values(), ids=ARRAYS.keys())
def test_array_made_inside_is_refused(step):
    with pytest.raises(mg.CaptureError, match="a NumPy array .* is used inside a captured step"):
        mg.capture(step)(X)


@pytest.mark.parametrize("layer", [lambda: mg.nn.Linear(6, 2), lambda: mg.nn.Dropout(0.5)], ids=["linear", "dropout"])
def test_layer_made_inside_is_refused(layer):
    with pytest.raises(mg.CaptureError):
        mg.capture(lambda x: layer()(x))(X)


def test_constants_are_allowed():
    @mg.capture
    def step(x):
        return x * mg.tensor([1.0, 2.0, 3.0]).sum() + mg.tensor(0.5) + x[[0, 2]].sum() + np.float32(1.5)

    for i in range(3):
        x = X + i
        np.testing.assert_allclose(step(x).numpy(), x * 6 + 0.5 + x[0] + x[2] + 1.5)


def test_generator_seeded_inside_draws_the_same_in_each_eager_call_too():
    step = mg.capture(lambda x: x * float(np.random.default_rng(3).normal()))
    expected = X * np.float32(np.random.default_rng(3).normal())
    for _ in range(3):
        np.testing.assert_array_equal(step(X).numpy(), expected)


def test_generator_that_is_named_but_not_used_is_fine():
    step = mg.capture(lambda x, noisy=False: x * (rng.normal() if noisy else 2.0))
    for _ in range(2):
        rng.normal()
        np.testing.assert_array_equal(step(X).numpy(), 2 * X)


def test_global_generator_used_by_another_thread_is_not_the_steps():
    go_on, drawn = threading.Event(), threading.Event()

    def other():
        go_on.wait(100)
        np.random.normal()  # noqa: NPY002 - the global one is meant
        drawn.set()
        done.wait(100)

    done = threading.Event()
    thread = threading.Thread(target=other)
    thread.start()

    def step(x):
        go_on.set()
        drawn.wait(100)
        return x * 2.0

    try:
        np.testing.assert_array_equal(mg.capture(step)(X).numpy(), 2 * X)
    finally:
        done.set()
        thread.join()


def test_raw_arrays_that_the_names_lead_to_are_used_where_they_are():
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    seed = np.array([1, 0], np.uint64)

    def step(x):
        y = mg.batch_norm(x.reshape(2, 3), None, None, mean, var, training=True)
        return mg.dropout(y, 0.5, training=True, seed=seed)

    captured = mg.capture(step)
    for _ in range(4):
        captured(X)
    assert sum(map(len, captured.plans.values())) == 1
    assert seed[1] == 4
    came = mean.copy()
    mean[:], var[:] = 0, 1
    for _ in range(4):
        step(mg.tensor(X))
    np.testing.assert_array_equal(mean, came)


def test_after_the_error_all_goes_on():
    step = mg.capture(lambda x, noisy: x * (rng.normal() if noisy else 2.0))
    with pytest.raises(mg.CaptureError):
        step(X, True)
    assert step.plan is None
    np.testing.assert_array_equal(step(X, False).numpy(), 2 * X)
