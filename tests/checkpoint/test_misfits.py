"""A checkpoint of something else is refused, all that differs is listed, and nothing is changed."""

import numpy as np
import pytest

from minigrad import checkpoint
from minigrad.checkpoint import contents


def test_all_misfits_are_listed(saved, refused, resaved, rewritten):
    def change(header):
        header["model.3.weight"]["dtype"] = "F8_E4M3"

    def other(tensors):
        tensors["model.5.weight"] = tensors.pop("model.0.weight")
        tensors["model.0.bias"] = np.zeros(5, np.float32)
        tensors["optimizer.means.0"] = tensors["optimizer.means.0"].astype(np.float64)
        tensors["strange"] = np.zeros(1)

    resaved(saved, other)
    rewritten(saved, change)
    problems = refused(saved)
    assert sorted(line for line in problems if "checksum" not in line and "places" not in line) == [
        "missing: model.0.weight",
        "model.0.bias: shape (5,), expected (4,)",
        "model.3.weight: unknown dtype F8_E4M3, where one of " + ", ".join(contents.DTYPES) + " was expected",
        "optimizer.means.0: dtype float64, expected float32",
        "unknown: model.5.weight",
        "unknown: strange",
    ]


def test_checkpoint_without_optimizer_does_not_resume_one(trained, tmp_path, refused):
    path = checkpoint.save(tmp_path / "weights.safetensors", model=trained["model"])
    problems = refused(path)
    assert "missing: optimizer.hyper" in problems
    assert "loader: the checkpoint was saved without one" in problems
    assert "schedule: the checkpoint was saved without one" in problems


def test_another_loader_is_refused(saved, make, refused):
    refused(saved, "batch_size 4 against 5", parts=make(seed=1, batch_size=5))


def test_another_schedule_is_refused(trained, saved, make, refused):
    class Cycle:
        def state_dict(self):
            return {"phase": 1}

    refused(
        saved,
        r"schedule: the state has \['count', 'initial'\], where \['phase'\]",
        parts=make() | {"schedule": Cycle()},
    )


def test_another_configuration_lists_what_differs(saved, refused):
    problems = refused(saved, configuration={"width": 0.5, "layers": [1, 2], "seed": 1})
    assert problems == [
        "configuration.width: 0.25 in the checkpoint, 0.5 now",
        "configuration.seed: not there in the checkpoint, 1 now",
    ]


def test_same_configuration_loads(saved, make):
    checkpoint.load(saved, **make(seed=1), configuration={"layers": (1, 2), "width": 0.25})


def test_nan_loads_with_a_warning_that_names_it(trained, tmp_path, make):
    trained["model"][0].weight.data[1, 1] = np.nan
    path = checkpoint.save(tmp_path / "a.safetensors", **trained)
    parts = make(seed=1)
    with pytest.warns(UserWarning, match=r"holds NaN in model\.0\.weight$"):
        checkpoint.load(path, **parts)
    assert np.isnan(parts["model"][0].weight.numpy()[1, 1])
