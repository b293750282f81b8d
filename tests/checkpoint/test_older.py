"""Checkpoints that an earlier minigrad has written; the file beside was, by 0.1.0, after three steps of the run below."""

from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import checkpoint
from minigrad.checkpoint import CheckpointError

PATH = Path(__file__).with_name("adam-0.1.0.safetensors")


def run(seed=0, **groups):
    """Model, optimizer and schedule as that run had them."""
    mg.manual_seed(seed)
    model = mg.nn.Sequential(mg.nn.Linear(3, 2), mg.nn.Linear(2, 2)).to("reference")
    optimizer = mg.optim.Adam(model.parameters(), lr=0.7, **groups)
    return {"model": model, "optimizer": optimizer, "schedule": mg.optim.StepSchedule(optimizer, every=2)}


def test_run_goes_on_from_it_with_the_same_bits():
    parts = run(seed=1)
    found = checkpoint.load(PATH, **parts)
    assert found.versions["minigrad"] == "0.1.0"
    state = parts["optimizer"].state_dict()
    assert [state[f"counts.{i}"].tolist() for i in range(4)] == [[3.0]] * 4
    rng = np.random.default_rng(0)
    for step in range(5):
        gradients = [rng.standard_normal(p.shape).astype(np.float32) for p in parts["model"].parameters()]
        if step >= 3:
            for p, g in zip(parts["model"].parameters(), gradients, strict=True):
                p.grad = g
            parts["optimizer"].step()
            parts["schedule"].step()
    for name, values in found.extra["two steps later"].items():
        np.testing.assert_array_equal(
            parts["model"].state_dict()[name].numpy(), np.array(values, np.float32), err_msg=name
        )


def test_it_fits_no_optimizer_of_another_kind_and_nothing_is_changed():
    parts = run(seed=1)
    parts["optimizer"] = mg.optim.AdaGrad(parts["model"].parameters())
    before = [p.numpy().tobytes() for p in parts["model"].parameters()]
    with pytest.raises(CheckpointError, match="missing: optimizer.sums.0") as error:
        checkpoint.load(PATH, model=parts["model"], optimizer=parts["optimizer"])
    assert "unknown: optimizer.steps.0" in error.value.problems
    assert [p.numpy().tobytes() for p in parts["model"].parameters()] == before
