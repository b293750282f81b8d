import numpy as np
import pytest

from minigrad.kernels.cuda import optim

CHUNK = optim.CHUNK
SHAPES = {
    "one": [(1,)],
    "odd": [(7,), (3, 5), (1, 1, 1)],
    "scalar and empty": [(0,), (), (4, 0), (2,), (0,)],
    "around a chunk": [(CHUNK - 1,), (CHUNK,), (2, CHUNK // 2 + 1)],
    "more than threads": [(0,)] * 290 + [(5,), (0,), (2,)],
}
EPS = 1e-3  # large enough to be seen in float32
WITH_MOMENTUM = {"momentum": (0.1, 0.9, 0, 0), "nesterov": (0.1, 0.9, 1, 0), "weight decay": (0.1, 0.9, 0, 0.01)}


@pytest.fixture(params=SHAPES)
def arrays(request, rng, dtype):
    """Makes arrays of these shapes."""
    return lambda: [rng.standard_normal(shape).astype(dtype) for shape in SHAPES[request.param]]


def squared(arrays):
    return [np.square(a, out=a) for a in arrays]


@pytest.mark.parametrize("weight_decay", [0, 0.01])
def test_plain_sgd_matches_reference(check_kernel, arrays, weight_decay):
    check_kernel("optim", "sgd", arrays(), arrays(), [], np.array([0.1, 0, 0, weight_decay]), ulps=4, scale=4)


@pytest.mark.parametrize("name", WITH_MOMENTUM)
def test_sgd_with_momentum_matches_reference(check_kernel, arrays, name):
    check_kernel("optim", "sgd", arrays(), arrays(), arrays(), np.array(WITH_MOMENTUM[name], float), ulps=4, scale=4)


def test_adagrad_matches_reference(check_kernel, arrays):
    hyper = np.array([0.1, EPS, 0.01])
    check_kernel("optim", "adagrad", arrays(), arrays(), squared(arrays()), hyper, ulps=4, scale=4)


@pytest.mark.parametrize("steps_before", [0, 999])
def test_adam_matches_reference(check_kernel, arrays, steps_before):
    step, hyper = np.array([steps_before], float), np.array([0.01, 0.9, 0.999, EPS, 0.01])
    check_kernel("optim", "adam", arrays(), arrays(), arrays(), squared(arrays()), step, hyper, ulps=8, scale=4)


def test_first_step_of_adam_is_the_learning_rate_against_the_sign(check_kernel, dtype):
    params, grads = [np.zeros(3, dtype)], [np.array([1e-3, -5, 200], dtype)]
    means, squares, hyper = [np.zeros(3, dtype)], [np.zeros(3, dtype)], np.array([0.01, 0.9, 0.999, 0, 0])
    params, *_ = check_kernel("optim", "adam", params, grads, means, squares, np.zeros(1), hyper)
    np.testing.assert_allclose(params[0], [-0.01, 0.01, -0.01], rtol=1e-5)


def test_nan_in_a_gradient_reaches_its_parameter_and_no_other(check_kernel, dtype):
    grads, params = [np.array([1, np.nan, 1, 1, 1], dtype), np.ones(2, dtype)], [np.ones(5, dtype), np.ones(2, dtype)]
    params, *_ = check_kernel("optim", "sgd", params, grads, [], np.array([0.5, 0, 0, 0]))
    np.testing.assert_array_equal(params[0], [0.5, np.nan, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(params[1], [0.5, 0.5])


def test_arrays_that_do_not_begin_at_16_bytes(memory, dtype):
    params, grads = memory.put(np.ones(9, dtype)), memory.put(np.ones(8, dtype))
    optim.sgd([params.part(1, 9)], [grads], [], memory.put(np.array([0.5, 0, 0, 0])))
    np.testing.assert_array_equal(memory.get(params), [1] + [0.5] * 8)


def test_all_parameters_take_one_launch(memory, rng):
    params = [memory.put(rng.standard_normal(n).astype(np.float32)) for n in (3, 2000, 1, 500)]
    grads = [memory.put(memory.get(p)) for p in params]
    optim.sgd(params, grads, [], memory.put(np.array([0.1, 0, 0, 0])))
    assert list(memory.driver.launches.values()) == [1]


def test_replayed_graph_sees_new_hyperparameters_and_counts_steps(memory, monkeypatch):
    one = np.ones(4, np.float32)
    params, grads, means, squares = ([memory.put(a)] for a in (one, one, 0 * one, 0 * one))
    step, hyper = memory.put(np.zeros(1)), memory.put(np.array([0.25, 0, 0, 0, 0]))
    optim.adam(params, grads, means, squares, step, hyper)
    scratch = memory.empty((8,), np.float64)
    monkeypatch.setattr(optim.launch.context, "empty", lambda shape, dtype: scratch)
    memory.driver.begin_graph(None)
    optim.adam(params, grads, means, squares, step, hyper)
    graph = memory.driver.end_graph(None)
    new = np.array([0.5, 0, 0, 0, 0])
    memory.driver.to_device(hyper.pointer, new.ctypes.data, new.nbytes, None)
    memory.driver.launch_graph(graph, None)
    memory.driver.launch_graph(graph, None)
    assert memory.get(step)[0] == 3
    np.testing.assert_array_equal(memory.get(params[0]), 1 - 0.25 - 0.5 - 0.5 * one)
