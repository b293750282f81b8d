import itertools
import json

import numpy as np
import pytest

import minigrad as mg
from minigrad.devices import get_device

LIMITS = mg.inspect.Limits(1e11, 2e10)


@pytest.fixture
def made():
    mg.manual_seed(0)
    model = mg.nn.Sequential(mg.nn.Linear(6, 5), mg.nn.Tanh(), mg.nn.Linear(5, 3)).to("reference")
    optimizer = mg.optim.SGD(model.parameters(), 0.1)

    def step(x, labels):
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step, (np.ones((4, 6), "f4"), np.arange(4) % 3)


def events(path, track=2):
    found = json.loads(path.read_text())["traceEvents"]
    return [event for event in found if event["ph"] == "X" and event["tid"] == track]


def test_eager_step_has_its_kernels_with_their_ops(made, tmp_path):
    step, batch = made
    path = tmp_path / "step.json"
    with mg.inspect.timeline(path, device="reference", limits=LIMITS):
        step(*batch)
    kernels = events(path)
    by_op = [(event["args"]["op"], event["name"]) for event in kernels]
    assert ("Linear", "gemm.gemm") in by_op
    assert ("Tanh backward", "elementwise.tanh_backward") in by_op
    assert by_op[-1] == ("SGD", "optim.sgd")
    first = kernels[0]["args"]
    assert first["shapes"].startswith("4x6 6x5")
    assert first["operations"] == 2 * 4 * 6 * 5
    assert first["share of the limit"] > 0
    assert [event["ts"] for event in kernels] == sorted(event["ts"] for event in kernels)


def test_ops_span_their_kernels(made, tmp_path):
    step, batch = made
    path = tmp_path / "step.json"
    with mg.inspect.timeline(path, device="reference"):
        step(*batch)
    ops = events(path, track=1)
    assert [op["name"] for op in ops][:3] == ["Linear", "Tanh", "Linear"]
    for kernel in events(path):
        around = [
            op for op in ops if op["ts"] <= kernel["ts"] and kernel["ts"] + kernel["dur"] <= op["ts"] + op["dur"] + 1e-3
        ]
        assert kernel["args"]["op"] in {op["name"] for op in around}


def test_kernels_are_put_back_after_an_error(tmp_path):
    kernels = get_device("reference").kernels
    with pytest.raises(ValueError, match="mine"), mg.inspect.timeline(tmp_path / "t.json", device="reference"):
        raise ValueError("mine")
    assert get_device("reference").kernels is kernels
    assert events(tmp_path / "t.json") == []


def test_plan_has_its_launches_one_after_the_other(made, tmp_path):
    step, batch = made
    captured = mg.capture(step, device="reference")
    captured(*batch)
    with pytest.raises(RuntimeError, match="no times yet"):
        mg.inspect.plan_timeline(captured.plan, tmp_path / "plan.json")
    captured(*batch)
    path = mg.inspect.plan_timeline(captured.plan, tmp_path / "plan.json", limits=LIMITS)
    kernels = events(path)
    assert [event["name"] for event in kernels] == [launch.kernel for launch in captured.plan.launches]
    assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-6 for a, b in itertools.pairwise(kernels))
