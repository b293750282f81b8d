"""The section of the vocabulary in short: every contender computes what it should, and PyTorch's twins train the same networks."""

import time

import numpy as np
import pytest

from benchmarks import compare
from benchmarks.sections import vocabulary
from benchmarks.tools import twins
from benchmarks.tools.frameworks import CLOCK, NumPy, framework_of

SMALL = {
    "element-wise chain, 4M": ((7,),) * 3,
    "layer_norm, 2048 x 512": ((3, 4), (4,), (4,)),
    "softmax, 2048 x 512": ((3, 4),),
    "attention, 8 x 4 x 256 x 64": ((2, 2, 5, 4),) * 3,
    "the same, causal": ((2, 2, 5, 4),) * 3,
    "depthwise 3 x 3, 16 x 28 x 28 x 128": ((2, 5, 4, 3), (3, 3, 1, 3)),
}
SIZES = {
    "transformer": {"context": 6, "batch": 2, "blocks": 1, "features": 8, "heads": 2},
    "lstm": {"units": 4},
    "resnet": {"blocks": 1, "width": 0.25, "batch": 4},
    "autoencoder": {"code": 3, "batch": 5, "channels": 4},
}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(twins, "SIZES", SIZES)
    functions = {name: vocabulary.FUNCTIONS[name]._replace(shapes=shapes) for name, shapes in SMALL.items()}
    monkeypatch.setattr(vocabulary, "FUNCTIONS", functions)
    caches = vocabulary.arrays, vocabulary.expected, twins.losses
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_all_contenders_compute_the_same(small, sides):
    if sides[0].device != "cpu":
        pytest.skip("a section of the CPU")
    names = [*(f"{name}, {way}" for name in SMALL for way in vocabulary.PASSES), *vocabulary.STEPS.values()]
    result = vocabulary.compare(sides[0], names, rounds=1, seconds=1e-6)
    assert not result["failed"]
    present = [
        c for c in vocabulary.CONTENDERS if framework_of(c) in sides[0].frameworks and c not in result["left_out"]
    ]
    for name in names:
        assert list(result["seconds"][name]) == [
            c for c in present if name not in vocabulary.STEPS.values() or c != "JAX jit"
        ]
        assert max(result["errors"][name].values()) < 1e-4
    assert "captured" in vocabulary.report(result)
    if vocabulary.THEIRS in present:
        limits = [t["target"] for t in vocabulary.targets(result)]
        assert limits == [2.0, *[1.2] * 5, *[1.5] * len(vocabulary.STEPS)]


@pytest.mark.parametrize("name", SIZES)
def test_twins_train_the_same_network(small, name):
    pytest.importorskip("torch")
    ours, theirs = (
        np.array([step().item() for _ in range(4)]) for step in (twins.ours(name, captured=True), twins.theirs(name))
    )
    assert ours[3] < ours[0]
    np.testing.assert_allclose(theirs, ours, rtol=1e-3)


def test_time_in_which_others_work_is_not_counted_where_that_is_asked_for(monkeypatch, capsys):
    monkeypatch.setenv(CLOCK, "cpu")
    assert NumPy().seconds(lambda: time.sleep(0.5)) < 0.25
    monkeypatch.delenv(CLOCK)
    assert NumPy().seconds(lambda: time.sleep(0.5)) > 0.25
    with pytest.raises(SystemExit):
        compare.arguments(["--cpu-time"])
    assert "--cpu-time goes with --device cpu --threads 1" in capsys.readouterr().err
    assert compare.arguments(["--cpu-time", "--threads", "1"]).cpu_time
