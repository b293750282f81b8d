"""The bits of results do not depend on the number of threads, nor on other Python threads."""

import threading

import numpy as np
import pytest
from targets import first_only

from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.axes import flat_layout
from minigrad.kernels.cpu import dropout, elementwise, gemm, loss, movement, norm, optim, reduce
from minigrad.kernels.cpu.tools import threads

MANY = 100_003  # elements: a parallel variant, and blocks that do not divide it
TWO = pytest.mark.skipif(threads.available_threads() < 2, reason="needs two CPUs")


def flat(rng, dtype, n=MANY):
    return rng.standard_normal(n).astype(dtype)


def elementwise_work(rng, dtype):
    a, b, y = flat(rng, dtype), flat(rng, dtype), np.empty(MANY, dtype)
    shape, strides = flat_layout(MANY)
    elementwise.mul_forward(a, b, y, shape, strides, strides)
    yield y.copy()
    for name in ("exp", "log", "sqrt", "tanh", "sigmoid", "relu"):
        getattr(elementwise, f"{name}_forward")(np.abs(a), y)
        yield y.copy()
        dx = np.empty_like(y)
        getattr(elementwise, f"{name}_backward")(b, np.abs(y), dx)
        yield dx
    elementwise.power_forward(np.abs(a), 2.5, y)
    yield y.copy()
    elementwise.power_backward(b, np.abs(a), 2.5, y)
    yield y


def gemm_work(rng, dtype):
    for m, k, n in ((203, 157, 111), (64, 2000, 70), (7, 700, 701), (701, 700, 7)):
        a, b, bias = flat(rng, dtype, m * k).reshape(m, k), flat(rng, dtype, k * n).reshape(k, n), flat(rng, dtype, n)
        for left, right, ta, tb in ((a, b, False, False), (a.T.copy(), b, True, False), (a, b.T.copy(), False, True)):
            for shift in (bias, bias[:0]):
                c = np.empty((m, n), dtype)
                gemm.gemm(left, right, shift, c, ta, tb)
                yield c
    a, b, c = flat(rng, dtype, 9 * 61 * 50).reshape(9, 61, 50), flat(rng, dtype, 9 * 50 * 43).reshape(9, 50, 43), None
    for left, right, ta, tb in (
        (a, b, False, False),
        (a.swapaxes(1, 2).copy(), b, True, False),
        (a, b.swapaxes(1, 2).copy(), False, True),
    ):
        c = np.empty((9, 61, 43), dtype)
        gemm.gemm_batched(left, right, c, ta, tb)
        yield c


def norm_work(rng, dtype):
    for m, c in ((5003, 17), (60, 1000)):
        x, dy = flat(rng, dtype, m * c).reshape(m, c), flat(rng, dtype, m * c).reshape(m, c)
        gamma, beta = flat(rng, dtype, c), flat(rng, dtype, c)
        y, dx, dgamma, dbeta = np.empty_like(x), np.empty_like(x), np.empty(c, dtype), np.empty(c, dtype)
        mean, var = np.empty(c), np.empty(c)
        for activation in (IDENTITY, RELU, SIGMOID):
            running = np.zeros(c, dtype), np.ones(c, dtype)
            norm.batch_norm_forward(x, gamma, beta, 1e-5, activation, y, 0, mean, var, 0.9, *running)
            yield from (y.copy(), mean.copy(), var.copy(), *running)
            norm.batch_norm_backward(dy, x, y, 0, gamma, beta, mean, var, 1e-5, activation, dx, dgamma, dbeta)
            yield from (dx.copy(), dgamma.copy(), dbeta.copy())
        mean, var = mean.astype(dtype), var.astype(dtype)
        norm.batch_norm_inference(x, gamma, beta, mean, var, 1e-5, RELU, y, 0)
        norm.batch_norm_inference_backward(dy, x, y, 0, gamma, beta, mean, var, 1e-5, RELU, dx, dgamma, dbeta)
        yield from (y, dx, dgamma, dbeta)


def reduce_work(rng, dtype):
    for shape in ((1, MANY, 1), (3, 40_001, 1), (1, 500, 201), (400, 5, 101)):
        x = flat(rng, dtype, np.prod(shape)).reshape(shape)
        y, index, dx = np.empty((shape[0], shape[2]), dtype), np.empty((shape[0], shape[2]), np.int64), np.empty_like(x)
        reduce.sum_forward(x, y)
        yield y.copy()
        reduce.max_forward(x, y, index)
        reduce.max_backward(y, index, dx)
        yield from (y, index, dx)


def loss_work(rng, dtype):
    x, dy, labels = flat(rng, dtype, 9000 * 11).reshape(-1, 11), flat(rng, dtype, 9000 * 11).reshape(-1, 11), None
    y, dx, total = np.empty_like(x), np.empty_like(x), np.empty(1, dtype)
    for name in ("softmax", "log_softmax"):
        getattr(loss, f"{name}_forward")(x, y)
        getattr(loss, f"{name}_backward")(dy, y, dx)
        yield from (y.copy(), dx.copy())
    labels = rng.integers(0, 11, 9000)
    loss.cross_entropy_forward(x, labels, y, total)
    loss.cross_entropy_backward(total, y, labels, dx)
    yield from (y, total, dx)


def movement_work(rng, dtype):
    x, y = flat(rng, dtype), np.empty(MANY, dtype)
    movement.fill(3.0, y)
    yield y.copy()
    movement.copy(x, y)
    yield y.copy()
    matrix = x[: 300 * 333].reshape(300, 333)
    movement.strided_read(x, (1, 1, 1, 1, 333, 300), (0, 0, 0, 0, 1, 333), 0, y[: matrix.size])
    yield y.copy()
    movement.strided_write(x[: matrix.size], (1, 1, 1, 1, 333, 300), (0, 0, 0, 0, 1, 333), 0, y)
    yield y.copy()
    index = rng.integers(0, 300, 1000)
    taken, dx = np.empty((1000, 333), dtype), np.empty_like(matrix)
    movement.take_rows(matrix, index, taken)
    movement.take_rows_backward(taken, index, dx)
    yield from (taken, dx)


def optim_work(rng, dtype):
    shapes = [(MANY,), (3,), (200, 201)]
    params, grads, first, second = ([np.abs(flat(rng, dtype, np.prod(s))).reshape(s) for s in shapes] for _ in range(4))
    groups = [0] * len(params)
    optim.sgd(params, grads, first, groups, np.array([[0.1, 0.9, 1, 0.01]]))
    optim.adagrad(params, grads, second, groups, np.array([[0.1, 1e-10, 0.01]]))
    optim.rmsprop(params, grads, second, [], first, groups, np.array([[0.1, 0.9, 1e-8, 0.01, 0.9, 0]]))
    counts = [np.zeros(1) for _ in params]
    optim.adam(params, grads, first, second, counts, groups, True, np.array([[0.1, 0.9, 0.999, 1e-8, 0.01]]))
    optim.average(params, first, counts, 0.9)
    yield from (*params, *first, *second)


def dropout_work(rng, dtype):
    x, y = flat(rng, dtype), np.empty(MANY, dtype)
    dropout.dropout(x, 0.3, np.array([5, 7], np.uint64), y)
    yield y


WORK = [elementwise_work, gemm_work, norm_work, reduce_work, loss_work, movement_work, optim_work, dropout_work]


def results(work, dtype):
    return [array.tobytes() for array in work(np.random.default_rng(0), dtype)]


@TWO
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.wide)])
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_results_do_not_depend_on_the_number_of_threads(set_threads, work, dtype):
    runs = []
    for n in range(1, threads.available_threads() + 1):
        set_threads(n)
        runs.append(results(work, dtype))
    assert all(run == runs[0] for run in runs)


def run_in_threads(functions):
    """Run functions at once, each in a Python thread; their results or the exceptions they raised."""
    outcomes = [None] * len(functions)
    barrier = threading.Barrier(len(functions))

    def run(i):
        barrier.wait()
        try:
            outcomes[i] = functions[i]()
        except BaseException as error:
            outcomes[i] = error

    started = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return outcomes


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_results_are_the_same_in_two_python_threads_at_once(work):
    expected = results(work, "float32")
    for outcome in run_in_threads([lambda: results(work, "float32")] * 2):
        assert outcome == expected


@TWO
def test_limit_of_one_python_thread(set_threads):
    set_threads(2)
    with threads.limited(1):
        assert not threads.may_run_parallel()
        with threads.limited(2):
            assert threads.may_run_parallel()
        others = run_in_threads([threads.may_run_parallel])
        assert not threads.may_run_parallel()
    assert others == [True]
    assert threads.may_run_parallel()


def test_python_threads_may_use_different_families_at_once():
    expected = [results(work, "float32") for work in WORK]
    assert run_in_threads([lambda work=work: results(work, "float32") for work in WORK]) == expected


LAYER = """
import threading
import numba
import numpy as np
import minigrad as mg

rng = np.random.default_rng(0)
x = mg.tensor(rng.standard_normal((300, 300)).astype(np.float32))

def work():
    y = x
    for _ in range(5):
        y = mg.sigmoid(y @ x)
    return y.numpy().tobytes()

results = []
for _ in range(10):
    started = [threading.Thread(target=lambda: results.append(work())) for _ in range(3)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
assert len(results) == 30 and set(results) == {work()}
print(numba.threading_layer())
"""


FIRST = """
import threading
import numba
import numpy as np
from minigrad.kernels.cpu.elementwise import sqrt_forward

x = np.full(20_000_000, 4, np.float32)
sqrt_forward.parallel.compile((numba.typeof(x), numba.typeof(x)))
barrier, results = threading.Barrier(3), []

def work():
    y = np.empty_like(x)
    barrier.wait()
    sqrt_forward(x, y)
    results.append((y == 2).all())

started = [threading.Thread(target=work) for _ in range(3)]
for thread in started:
    thread.start()
for thread in started:
    thread.join()
assert results == [True] * 3
print(numba.threading_layer())
"""


@TWO
@pytest.mark.parametrize("script", first_only(FIRST, LAYER), ids=["first launches", "many launches"])
@pytest.mark.parametrize("layer", first_only("workqueue", "omp"))
def test_threading_layers_bear_three_python_threads(run_script, layer, script):
    result = run_script(script, check=False, NUMBA_THREADING_LAYER=layer)
    if "No threading layer could be loaded" in result.stderr:
        pytest.skip(f"the layer {layer} is not installed")
    assert (result.returncode, result.stdout.strip()) == (0, layer), result.stderr
