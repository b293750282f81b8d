"""Launches of a recording that wait for kernels to be compiled: whatever comes in between, a step leaves what it ever left."""

import threading
from typing import ClassVar

import numpy as np
import pytest

import minigrad as mg
from minigrad.devices import Device
from minigrad.kernels.cpu import elementwise
from minigrad.kernels.cpu.tools import launch
from minigrad.kernels.cpu.tools.launch import Choice
from minigrad.kernels.precision import Products


@pytest.fixture
def batches(monkeypatch):
    """No kernel is said to be at hand, so every launch waits; a list of how many were made each time."""
    batches, compile_ = [], Device.compile

    def note(device, choices):
        batches.append(len(choices))
        compile_(device, choices)

    monkeypatch.setattr(Choice, "has_to_wait", lambda choice: True)
    monkeypatch.setattr(Device, "compile", note)
    return batches


def ones(*shape):
    return np.ones(shape, np.float32)


def test_a_training_step_waits_as_a_whole(batches):
    model = mg.nn.Sequential(mg.nn.Linear(4, 8), mg.nn.BatchNorm(8), mg.nn.Dropout(0.5), mg.nn.Linear(8, 3))
    optimizer = mg.optim.Adam(model.parameters(), lr=0.1)

    @mg.capture
    def step(x, labels):
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(x), labels)
        loss.backward()
        mg.optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        return loss

    assert np.isfinite(step(ones(6, 4), np.zeros(6, np.int64)).item())
    assert batches == [len(step.plan.launches)]
    step(ones(6, 4), np.zeros(6, np.int64))
    assert len(batches) == 1


def test_nothing_waits_where_all_is_compiled(monkeypatch):
    def unexpected(device, choices):
        raise AssertionError("nothing is missing")

    step = mg.capture(lambda x: (x @ x).sum())
    step(ones(2, 2))
    monkeypatch.setattr(Device, "compile", unexpected)
    step.clear()
    assert step(ones(2, 2)).item() == 8


def test_what_is_launched_before_an_error_is_made(batches):
    sums, weight = mg.zeros(3), mg.nn.Parameter(ones(3))

    @mg.capture
    def step(x):
        with mg.no_grad():
            sums.__iadd__(x)
        (weight * x).sum().backward()
        raise KeyError("in between")

    for calls in (1, 2):
        with pytest.raises(KeyError, match="in between"):
            step(ones(3))
        assert (sums.numpy() == calls).all()
        assert (weight.grad.numpy() == calls).all()


@pytest.mark.parametrize("where", ["in the step", "while kernels are compiled"])
def test_ctrl_c_leaves_what_was_there_before(batches, monkeypatch, where):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    sums, weight, other = mg.zeros(3), mg.nn.Parameter(ones(3)), mg.nn.Parameter(ones(3))
    other.grad = gradient = mg.tensor(ones(3))
    monkeypatch.setattr(Device, "compile", interrupt)

    @mg.capture
    def step(x):
        other.grad = None
        with mg.no_grad():
            sums.__iadd__(x)
        (weight * other * x).sum().backward()
        if where == "in the step":
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        step(ones(3))
    assert (sums.numpy() == 0).all()
    assert weight.grad is None
    assert other.grad is gradient


def test_a_check_of_labels_that_the_step_computes_sees_them(batches):
    @mg.capture
    def step(x, scores):
        return mg.cross_entropy(scores, mg.argmax(x, axis=1))

    step(np.eye(2, dtype=np.float32), ones(2, 3))
    assert len(batches) == 2
    with pytest.raises(ValueError, match="label"):
        step(np.eye(4, dtype=np.float32), ones(4, 3))


class Watched(mg.Op):
    """An op of a user's own that looks at what it is given."""

    seen: ClassVar = []

    def forward(self, x):
        self.seen.append(x.tolist())
        y = self.empty_like(x)
        self.launch(np.copyto, y, x)
        self.seen.append(y.tolist())
        return y

    def backward(self, dy):
        self.seen.append(dy.tolist())
        return (dy,)


def test_an_op_of_the_users_own_sees_numbers(batches):
    Watched.seen.clear()
    weight = mg.nn.Parameter(np.array([1.0, 2.0], np.float32))

    @mg.capture
    def step(x):
        ((Watched.apply(weight * x)) * 3.0).sum().backward()

    step(np.array([5.0, 7.0], np.float32))
    assert Watched.seen == [[5.0, 14.0], [5.0, 14.0], [3.0, 3.0]]
    assert weight.grad.tolist() == [15.0, 21.0]
    assert len(batches) == 3


def test_a_search_for_nan_sees_numbers(batches):
    @mg.capture
    def step(x):
        y = x * 2.0
        with mg.detect_anomaly():
            return mg.log(y - 3.0)

    assert np.isfinite(step(ones(2) * 2).numpy()).all()
    with pytest.raises(mg.AnomalyError, match="Log"):
        mg.capture(step.step)(ones(2))


def test_a_gradient_that_the_step_changes_before_it_looks_at_it_is_read_after(batches):
    weight = mg.nn.Parameter(ones(2))
    gradient = mg.tensor(ones(2))

    def step(x):
        gradient.__imul__(x)
        return weight.grad * 1.0

    for run in (step, mg.capture(step)):
        gradient.__imul__(0.0)
        gradient.__iadd__(1.0)
        weight.grad = gradient
        assert run(mg.tensor(ones(2) * 3)).tolist() == [3.0, 3.0]


def test_the_precision_is_that_of_the_launch(batches, monkeypatch):
    @mg.capture
    def step(x):
        with monkeypatch.context() as inside:
            inside.setattr(Products, "in_bfloat16", True)
            y = x @ x
        return y @ x

    def note(device, choices):
        batches.extend([choice.kernel for choice in choices])
        raise KeyboardInterrupt

    monkeypatch.setattr(Device, "compile", note)
    with pytest.raises(KeyboardInterrupt):
        step(ones(2, 2))
    assert batches[0] is not batches[1]


def test_no_compile_raises_where_the_launch_is(monkeypatch):
    steps = []

    @mg.capture
    def step(x):
        steps.append("before")
        y = mg.exp(x)
        steps.append("after")
        return y

    monkeypatch.setattr(launch.CpuKernel, "is_kept", lambda *entry: False)
    monkeypatch.setattr(launch, "machine_code_of", lambda dispatcher, kinds: refuse(dispatcher))
    with mg.no_compile(), pytest.raises(mg.UnexpectedCompile):
        step(ones(3))
    assert steps == ["before"]


def refuse(dispatcher):
    dispatcher._cache.on_compile("exp_forward", ())


@pytest.mark.parametrize("hindrance", ["one thread", "no folder"])
def test_nothing_waits_where_nobody_could_help(monkeypatch, hindrance):
    monkeypatch.setattr(launch.CpuKernel, "is_kept", lambda *entry: False)
    if hindrance == "one thread":
        monkeypatch.setattr(launch.threads, "get_num_threads", lambda: 1)
    else:
        monkeypatch.setattr(launch.threads, "get_num_threads", lambda: 4)
        monkeypatch.setattr(launch, "cache_folder", lambda target: None)
    assert not elementwise.exp_forward.choose(ones(3), ones(3)).has_to_wait()


def test_threads_that_record_at_once_wait_each_for_its_own(batches):
    found = {}

    def run(number):
        rng = np.random.default_rng(number)
        weight = mg.nn.Parameter(rng.standard_normal((8, 8)).astype(np.float32))
        x = rng.standard_normal((4, 8)).astype(np.float32)

        def step(x):
            mg.tanh(x @ weight).sum().backward()
            return (x @ weight).sum()

        eager = step(mg.tensor(x)).item(), weight.grad.numpy().copy()
        weight.grad = None
        found[number] = eager, (mg.capture(step)(x).item(), weight.grad.numpy())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for eager, captured in (found[number] for number in range(4)):
        assert eager[0] == captured[0]
        assert (eager[1] == captured[1]).all()
