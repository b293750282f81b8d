import numpy as np
import pytest

import minigrad as mg
from minigrad.nn import init

SHAPE = (300, 200)
WINDOW = (3, 5, 40, 80)  # kh, kw, in, out


@pytest.mark.parametrize(("shape", "expected"), [((7, 3), (7, 3)), (WINDOW, (15 * 40, 15 * 80)), ((2, 7, 3), (14, 6))])
def test_fans(shape, expected):
    assert init.fans(shape) == expected


@pytest.mark.parametrize("shape", [(), (5,)])
def test_fans_of_a_vector_are_refused(shape):
    with pytest.raises(ValueError, match="at least two axes"):
        init.fans(shape)


@pytest.mark.parametrize(
    ("function", "shape", "std"),
    [
        (lambda s: init.gaussian(s, 0.05), SHAPE, 0.05),
        (init.gaussian, SHAPE, 0.01),
        (init.glorot_normal, SHAPE, np.sqrt(2 / 500)),
        (init.glorot_uniform, SHAPE, np.sqrt(2 / 500)),
        (init.he_normal, SHAPE, np.sqrt(2 / 300)),
        (init.he_uniform, SHAPE, np.sqrt(2 / 300)),
        (init.glorot_uniform, WINDOW, np.sqrt(2 / (15 * 120))),
        (init.he_normal, WINDOW, np.sqrt(2 / (15 * 40))),
    ],
)
def test_mean_and_standard_deviation(function, shape, std):
    mg.manual_seed(0)
    w = function(shape)
    assert w.shape == shape
    assert w.dtype == np.float32
    n = w.size
    assert abs(w.mean()) < 5 * std / np.sqrt(n)
    np.testing.assert_allclose(w.std(), std, rtol=5 / np.sqrt(2 * n))


@pytest.mark.parametrize(
    ("function", "limit"), [(init.glorot_uniform, np.sqrt(6 / 500)), (init.he_uniform, np.sqrt(6 / 300))]
)
def test_uniform_weights_fill_their_interval(function, limit):
    w = function(SHAPE)
    assert 0.999 * limit < np.abs(w).max() <= np.float32(limit)


def test_zeros_and_ones():
    np.testing.assert_array_equal(init.zeros((2, 3)), np.zeros((2, 3), np.float32), strict=True)
    np.testing.assert_array_equal(init.ones((2, 3)), np.ones((2, 3), np.float32), strict=True)


@pytest.mark.parametrize(
    "function", [init.gaussian, init.glorot_normal, init.glorot_uniform, init.he_normal, init.he_uniform]
)
def test_the_seed_names_the_weights(function):
    draws = []
    for seed in (3, 3, 4):
        mg.manual_seed(seed)
        draws.append((function((7, 5)), function((7, 5))))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0][0], draws[0][1])
    assert not np.array_equal(draws[0][0], draws[2][0])


def test_a_layer_draws_the_same_weights_whatever_the_size_of_the_layer_before():
    weights = []
    for width in (10, 1000):
        mg.manual_seed(0)
        init.gaussian((784, width))
        weights.append(init.gaussian((7, 5)))
    np.testing.assert_array_equal(*weights)
