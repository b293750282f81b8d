import numpy as np
import pytest

from minigrad.kernels.cuda import optim


def test_arrays_of_the_comparison_with_the_reference_reach_past_a_chunk():
    assert optim.CHUNK == 1024  # in tests/kernels/test_optim.py


def test_arrays_that_do_not_begin_at_16_bytes(memory, dtype):
    params, grads = memory.put(np.ones(9, dtype)), memory.put(np.ones(8, dtype))
    optim.sgd([params.part(1, 9)], [grads], [], [0], memory.put(np.array([[0.5, 0, 0, 0]])))
    np.testing.assert_array_equal(memory.get(params), [1] + [0.5] * 8)


def test_all_parameters_take_one_launch(memory, rng):
    params = [memory.put(rng.standard_normal(n).astype(np.float32)) for n in (3, 2000, 1, 500)]
    grads = [memory.put(memory.get(p)) for p in params]
    optim.sgd(params, grads, [], [0, 1, 0, 1], memory.put(np.array([[0.1, 0, 0, 0], [0.2, 0, 0, 0]])))
    assert list(memory.driver.launches.values()) == [1]


def test_replayed_graph_sees_new_hyperparameters_and_counts_steps(memory, monkeypatch):
    one = np.ones(4, np.float32)
    params, grads, means, squares = ([memory.put(a)] for a in (one, one, 0 * one, 0 * one))
    counts, hyper = [memory.put(np.zeros(1))], memory.put(np.array([[0.25, 0, 0, 0, 0]]))
    optim.adam(params, grads, means, squares, counts, [0], False, hyper)
    scratch = memory.empty((optim.ADAM,), np.float64)
    monkeypatch.setattr(optim.launch.context, "empty", lambda shape, dtype: scratch)
    memory.driver.begin_graph(memory.stream)
    optim.adam(params, grads, means, squares, counts, [0], False, hyper)
    graph = memory.driver.end_graph(memory.stream)
    new = np.array([[0.5, 0, 0, 0, 0]])
    memory.driver.to_device(hyper.pointer, new.ctypes.data, new.nbytes, memory.stream)
    memory.driver.launch_graph(graph, memory.stream)
    memory.driver.launch_graph(graph, memory.stream)
    assert memory.get(counts[0])[0] == 3
    np.testing.assert_array_equal(memory.get(params[0]), 1 - 0.25 - 0.5 - 0.5 * one)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_gradients_are_clipped_where_they_are(memory, rng, order):
    grads = [memory.put(rng.standard_normal(n).astype(np.float32)) for n in (3, 2500, 1)]
    values = [memory.get(g) for g in grads]
    total, norm = memory.put(np.zeros(1)), memory.empty((1,), np.dtype(np.float64))
    optim.grad_total(grads, order, total)
    optim.clip_norm(grads, total, order, 0.5, grads, norm)
    whole = np.concatenate(values).astype(np.float64)
    expected = np.linalg.norm(whole, order or np.inf)
    np.testing.assert_allclose(memory.get(norm), expected, rtol=1e-6)
    for g, value in zip(grads, values, strict=True):
        np.testing.assert_allclose(memory.get(g), value * (0.5 / (expected + 1e-6)), rtol=1e-5)
