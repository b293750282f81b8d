import gc
import weakref

import numpy as np
import pytest

from minigrad.kernels.cpu import optim
from minigrad.kernels.cpu.pointers import pack

BLOCK, LARGE = optim.BLOCK, optim.LARGE
SHAPES = {
    "one": [(1,)],
    "odd": [(7,), (3, 5), (1, 1, 1)],
    "scalar and empty": [(), (0,), (4, 0), (2,)],
    "past a vector": [(17,), (33,)],
    "past a block": [(BLOCK + 1,), (3,), (2, BLOCK)],
    "parallel": [(300, 400), (400,), (17, 1000), (BLOCK, 1)],
}
WITH_MOMENTUM = {"momentum": (0.1, 0.9, 0, 0), "nesterov": (0.1, 0.9, 1, 0), "weight decay": (0.1, 0.9, 0, 0.01)}


def arrays(rng, name, dtype):
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES[name]]


def squares(rng, name, dtype):
    """Arrays without negative elements."""
    return [np.square(a, out=a) for a in arrays(rng, name, dtype)]


@pytest.fixture(params=SHAPES)
def lists(request, rng, dtype):
    """(params, grads, a maker of state, whether the work is large)."""
    name = request.param
    return arrays(rng, name, dtype), arrays(rng, name, dtype), lambda make: make(rng, name, dtype), name == "parallel"


@pytest.mark.parametrize("weight_decay", [0, 0.01])
def test_plain_sgd_matches_reference(check_kernel, lists, weight_decay):
    params, grads, _, large = lists
    check_kernel("optim", "sgd", params, grads, [], np.array([0.1, 0, 0, weight_decay]), parallel=large)


@pytest.mark.parametrize("name", WITH_MOMENTUM)
def test_sgd_with_momentum_matches_reference(check_kernel, lists, name):
    params, grads, state, large = lists
    check_kernel("optim", "sgd", params, grads, state(arrays), np.array(WITH_MOMENTUM[name], float), parallel=large)


def test_adagrad_matches_reference(check_kernel, lists):
    params, grads, state, large = lists
    check_kernel("optim", "adagrad", params, grads, state(squares), np.array([0.1, 1e-8, 0.01]), parallel=large)


@pytest.mark.parametrize("steps_before", [0, 999])
def test_adam_matches_reference(check_kernel, lists, steps_before):
    params, grads, state, large = lists
    step, hyper = np.array([steps_before], float), np.array([0.01, 0.9, 0.999, 1e-8, 0.01])
    check_kernel("optim", "adam", params, grads, state(arrays), state(squares), step, hyper, parallel=large, ulps=8)


def test_first_step_of_adam_is_the_learning_rate_against_the_sign(dtype):
    params, grads = [np.zeros(3, dtype)], [np.array([1e-3, -5, 200], dtype)]
    state = [np.zeros(3, dtype)], [np.zeros(3, dtype)]
    optim.adam(params, grads, *state, np.zeros(1), np.array([0.01, 0.9, 0.999, 0, 0]))
    np.testing.assert_allclose(params[0], [-0.01, 0.01, -0.01], rtol=1e-5)


def test_nan_in_a_gradient_reaches_its_parameter_and_no_other(check_kernel, dtype):
    grads = [np.array([1, np.nan, 1], dtype), np.ones(2, dtype)]
    params = [np.ones(3, dtype), np.ones(2, dtype)]
    params, *_ = check_kernel("optim", "sgd", params, grads, [], np.array([0.5, 0, 0, 0]))
    np.testing.assert_array_equal(np.isnan(params[0]), [False, True, False])
    np.testing.assert_array_equal(params[1], [0.5, 0.5])


def test_packed_arrays_stay_alive():
    array = np.ones(3)
    alive = weakref.ref(array)
    packed = pack([array])
    del array
    gc.collect()
    assert alive() is not None
    del packed
    assert alive() is None


def test_scalar_among_arrays_is_refused():
    with pytest.raises(TypeError, match=r"NumPy arrays.*float64"):
        pack([np.ones(3), np.float64(1)])


def test_recorded_launch_can_be_repeated_after_the_lists_are_gone(dtype):
    param = np.ones(5, dtype)
    function, arguments = optim.sgd.resolve([param], [np.ones(5, dtype)], [], np.array([0.25, 0, 0, 0]))
    gc.collect()
    function(*arguments)
    function(*arguments)
    np.testing.assert_array_equal(param, np.full(5, 0.5, dtype))
