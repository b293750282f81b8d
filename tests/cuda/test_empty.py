"""tests/ops/test_empty.py on a simulated GPU, and comparisons there."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg

PATH = Path(__file__).parents[1] / "ops" / "test_empty.py"
specification = importlib.util.spec_from_file_location("empty_on_every_device", PATH)
everywhere = importlib.util.module_from_spec(specification)
specification.loader.exec_module(everywhere)


@pytest.fixture(autouse=True)
def old_memory(gpu, monkeypatch):
    """New arrays are full of NaN, or of 77."""
    everywhere.fill_new_arrays(gpu, monkeypatch)


OF_GRU = {"lstm", "rnn"}  # by the same kernels as that one


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in OF_GRU else name for name in everywhere.CASES]
)
def test_results_and_gradients_hold_no_old_memory(gpu, rng, name):
    for empty in [empty for case, empty in everywhere.CHOICES if case == name and empty]:
        computed = everywhere.compute(name, empty, "cuda", rng)
        if computed is not None:
            leaves, y = computed
            y.backward(np.ones(y.shape, y.dtype))
            everywhere.assert_computed(leaves, y)


def test_comparisons_of_tensors_numbers_and_arrays(gpu):
    a = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    x = mg.tensor(a, device="cuda", requires_grad=True)
    for got, expected in (
        (x == a[0], a == a[0]),
        (x > 2.0, a > 2),
        (x <= 3, a <= 3),
        (x != x.detach(), a != a),
        (mg.tensor([1, 2], device="cuda") < 2**70, np.array([True, True])),
        (mg.tensor(a > 2, device="cuda") == 1, a > 2),
    ):
        assert (got.device, got.dtype, got.requires_grad) == ("cuda", bool, False)
        np.testing.assert_array_equal(got.numpy(), expected)


def test_comparisons_in_a_captured_step(gpu):
    step = mg.capture(lambda x, y: (x < y, x * 2.0 == y), device="cuda")
    for shift in (0, 1, 2):
        x, y = np.float32([1, 2, 3]) + shift, np.float32([2, 2, 6])
        less, twice = step(x, y)
        np.testing.assert_array_equal(less.numpy(), x < y)
        np.testing.assert_array_equal(twice.numpy(), 2 * x == y)
