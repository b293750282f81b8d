import os
import sys
import threading

import numba
import numpy as np
import pytest

import minigrad as mg
from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.axes import flat_layout
from minigrad.kernels.cpu import dropout, elementwise, gemm, loss, movement, norm, optim, reduce
from minigrad.kernels.cpu.tools import threads

MANY = 100_003  # elements: a parallel variant, and blocks that do not divide it
TWO = pytest.mark.skipif(threads.available_threads() < 2, reason="needs two CPUs")


@pytest.fixture
def count():
    """Sets the number of threads, and puts it back."""
    before = threads._count
    yield mg.set_num_threads
    threads._count = before


# How many


@pytest.mark.parametrize("n", [1, threads.available_threads(), np.int64(1)])
def test_number_of_threads_may_be_set(count, n):
    count(n)
    assert mg.get_num_threads() == n


@pytest.mark.parametrize("n", [0, -1, threads.available_threads() + 1, 10**9])
def test_number_of_threads_out_of_range(count, n):
    before = mg.get_num_threads()
    with pytest.raises(ValueError, match=rf"must be 1 to {threads.available_threads()} \(CPU affinity.*not {n}"):
        count(n)
    assert mg.get_num_threads() == before


@pytest.mark.parametrize("n", [1.0, "1", None, True, [1]])
def test_number_of_threads_must_be_an_integer(count, n):
    with pytest.raises(TypeError, match="must be an integer"):
        count(n)


def test_kernels_run_with_the_number_set(count, monkeypatch):
    monkeypatch.setattr(threads, "_contention", None)
    seen = []
    original = numba.set_num_threads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba, "set_num_threads", lambda n: seen.append(n) or original(n))
        threads._local.count = None
        for n in (1, threads.available_threads(), threads.available_threads()):
            count(n)
            with threads.parallel_region():
                assert numba.get_num_threads() == n
    assert seen == ([1, threads.available_threads()] if threads.available_threads() > 1 else [1])


@TWO
def test_limit_of_one_python_thread(count):
    count(2)
    with threads.limited(1):
        assert not threads.may_run_parallel()
        with threads.limited(2):
            assert threads.may_run_parallel()
        others = run_in_threads([threads.may_run_parallel])
        assert not threads.may_run_parallel()
    assert others == [True]
    assert threads.may_run_parallel()


def test_limits_are_read_once(count, monkeypatch):
    threads._count = None
    reads = []
    monkeypatch.setattr(threads, "cgroup_limit", lambda: reads.append(1))
    for _ in range(3):
        with threads.parallel_region():
            pass
    assert reads == [1]


@TWO
def test_cpu_affinity_is_honoured(run_script):
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import minigrad as mg
print(mg.get_num_threads())
"""
    assert run_script(code).stdout == "1\n"


@TWO
def test_numbas_limit_is_honoured(run_script):
    code = "import minigrad as mg; print(mg.get_num_threads())"
    assert run_script(code, NUMBA_NUM_THREADS="1").stdout == "1\n"


def test_cgroup_limit_is_honoured(monkeypatch):
    monkeypatch.setattr(threads, "cgroup_limit", lambda: 1)
    assert threads.available_threads() == 1


def tree(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "membership", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "1000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({}, "0::/\n", None),
        ({"cpu.max": "nonsense\n"}, "0::/\n", None),
        ({"cpu.max": "100000 0\n"}, "0::/\n", None),
        ({"a/b/cpu.max": "400000 100000\n"}, "0::/a/b\n", 4),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, "0::/a/b\n", 3),
        ({"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "300000 100000\n"}, "0::/a/b\n", 2),
        ({"cpu.max": "200000 100000\n"}, "0::/seen/from/outside\n", 2),
        ({"b/cpu.max": "100000 100000\n"}, "0::/a\n", None),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "3:cpu,cpuacct:/\n0::/\n", 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "3:cpu:/\n", None),
        (
            {"cpu/x/cpu.cfs_quota_us": "50000\n", "cpu/x/cpu.cfs_period_us": "50000\n"},
            "3:cpuacct,cpu:/x\n2:pids:/y\n",
            1,
        ),
    ],
)
def test_cgroup_limits(tmp_path, files, membership, expected):
    (tmp_path / "self").write_text(membership)
    root = tree(tmp_path / "cgroup", files)
    assert threads.cgroup_limit(root, tmp_path / "self") == expected


def test_cgroup_limit_without_cgroups(tmp_path):
    assert threads.cgroup_limit(tmp_path / "none", tmp_path / "nothing") is None


# Results


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
            norm.batch_norm_forward(x, gamma, beta, 1e-5, activation, y, 0, mean, var)
            yield from (y.copy(), mean.copy(), var.copy())
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
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_results_do_not_depend_on_the_number_of_threads(count, work, dtype):
    runs = []
    for n in range(1, threads.available_threads() + 1):
        count(n)
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
@pytest.mark.parametrize("script", [FIRST, LAYER], ids=["first launches", "many launches"])
@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_threading_layers_bear_three_python_threads(run_script, layer, script):
    result = run_script(script, check=False, NUMBA_THREADING_LAYER=layer)
    if "No threading layer could be loaded" in result.stderr:
        pytest.skip(f"the layer {layer} is not installed")
    assert (result.returncode, result.stdout.strip()) == (0, layer), result.stderr


# How they wait

WAITS = """
import os, subprocess, sys, time
{first}
import numba
import numpy as np
import minigrad as mg

before = dict(os.environ)
x = mg.tensor(np.ones((300, 300), np.float32))
spent = []
for _ in range(5):
    (x @ x).numpy()
    start = time.process_time()
    time.sleep(0.1)
    spent.append(time.process_time() - start)
assert os.environ == before
shell = [sys.executable, "-c", "import os; print('GOMP_SPINCOUNT' in os.environ or 'OMP_WAIT_POLICY' in os.environ)"]
inherited = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.strip()
print(numba.threading_layer(), inherited, sorted(spent)[2])
"""
OWN_WORDS = {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "10000000"}


@pytest.fixture
def processor_time_of_waiting(run_script, monkeypatch):
    """Seconds of processor time that a process takes in the tenth of a second after a large product, as it does nothing."""
    if threads.available_threads() < 2 or not sys.platform.startswith("linux"):
        pytest.skip("needs two CPUs and libgomp")
    for name in threads.USERS_WORDS:
        monkeypatch.delenv(name, raising=False)

    def measure(first="", **environment):
        result = run_script(WAITS.format(first=first), NUMBA_THREADING_LAYER="omp", **environment).stdout.split()
        assert result[:2] == ["omp", str(bool(environment))]
        return float(result[2])

    return measure


def test_threads_sleep_soon(processor_time_of_waiting):
    assert processor_time_of_waiting() < 0.002


@pytest.mark.parametrize("environment", OWN_WORDS, ids=str)
def test_threads_wait_as_the_user_says(processor_time_of_waiting, environment):
    assert processor_time_of_waiting(**environment) > 0.004


def test_threads_sleep_soon_beside_a_library_with_an_openmp_of_its_own(processor_time_of_waiting):
    pytest.importorskip("torch")
    assert processor_time_of_waiting("import torch") < 0.002


@pytest.fixture
def seen(monkeypatch):
    """What the environment says of waiting whenever the layer is asked for, which may load it."""
    found = []
    monkeypatch.setattr(numba, "get_num_threads", lambda: found.append(words()))
    for name in threads.USERS_WORDS:
        monkeypatch.delenv(name, raising=False)
    return found


def words():
    return {name: os.environ[name] for name in threads.USERS_WORDS if name in os.environ}


def test_waiting_is_set_while_the_layer_starts_and_then_taken_back(seen):
    threads.start_layer()
    assert (seen, words()) == ([threads.WAITING], {})


@pytest.mark.parametrize("name", threads.USERS_WORDS)
def test_users_word_on_waiting_is_left_alone(seen, monkeypatch, name):
    monkeypatch.setenv(name, "7")
    threads.start_layer()
    assert (seen, words()) == ([{name: "7"}], {name: "7"})


def test_environment_is_as_before_when_the_layer_does_not_start(seen, monkeypatch):
    def fail():
        raise ValueError("No threading layer could be loaded.")

    monkeypatch.setattr(numba, "get_num_threads", fail)
    with pytest.raises(ValueError, match="could be loaded"):
        threads.start_layer()
    assert words() == {}


def test_first_launch_starts_the_layer(count, monkeypatch):
    started = []
    monkeypatch.setattr(threads, "start_layer", lambda: started.append(threads._layer_started))
    monkeypatch.setattr(threads, "_layer_started", False)
    for _ in range(2):
        with threads.parallel_region():
            pass
    assert started == [False]
