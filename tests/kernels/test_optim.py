import functools
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
from targets import on_cpu, on_cuda

from minigrad.kernels.cpu import optim
from minigrad.kernels.cpu.tools.pointers import pack

SHARED, LINE, LARGE = optim.SHARED, optim.LINE, optim.LARGE
CHUNK = 1024  # elements of a block of a GPU
SHAPES = {
    "one": [(1,)],
    "odd": [(7,), (3, 5), (1, 1, 1)],
    "scalar and empty": [(0,), (), (4, 0), (2,), (0,)],
}
SHAPES_OF_CPU = {
    "past a vector": [(17,), (33,)],
    "around shared": [(SHARED - 1,), (SHARED,), (3,), (SHARED + 1, 1)],
    "last serial": [(LARGE - 1,)],
    "parallel": [(LARGE // 400 + 1, 400), (400,), (17, 1000), (SHARED, 1), (), (SHARED - 1,), (SHARED + 1,)],
    "parallel, of one": [(LARGE,)],
    "parallel, of small ones": [(SHARED // 2 + 1,)] * (2 * LARGE // SHARED),
}
SHAPES_OF_CUDA = {
    "around a chunk": [(CHUNK - 1,), (CHUNK,), (2, CHUNK // 2 + 1)],
    "more than threads": [(0,)] * 290 + [(5,), (0,), (2,)],
}
ALL_SHAPES = {**SHAPES, **SHAPES_OF_CPU, **SHAPES_OF_CUDA}
EPS = 1e-3  # large enough to be seen in float32
WITH_MOMENTUM = {"momentum": (0.1, 0.9, 0, 0), "nesterov": (0.1, 0.9, 1, 0), "weight decay": (0.1, 0.9, 0, 0.01)}


@pytest.fixture(params=[*SHAPES, *on_cpu(*SHAPES_OF_CPU), *on_cuda(*SHAPES_OF_CUDA)])
def arrays(request, rng, dtype):
    """Makes arrays of these shapes."""
    return lambda: [rng.standard_normal(shape).astype(dtype) for shape in ALL_SHAPES[request.param]]


@pytest.fixture
def check_optimizer(request, check_kernel, arrays):
    """check_optimizer(name, *arguments): the kernel against the reference."""
    return functools.partial(check_kernel, "optim", parallel="parallel" in request.node.callspec.params["arrays"])


def squared(arrays):
    """The same without negative elements."""
    return [np.square(a, out=a) for a in arrays]


def in_groups(arrays):
    """Every third array in the second of two groups."""
    return [int(i % 3 == 1) for i in range(len(arrays))]


def two_groups(*hyper):
    """Two rows of hyperparameters, of which the second has another learning rate."""
    return np.array([hyper, (hyper[0] / 8, *hyper[1:])], float)


@pytest.mark.parametrize("weight_decay", [0, 0.01])
def test_plain_sgd_matches_reference(check_optimizer, arrays, weight_decay):
    check_optimizer("sgd", given := arrays(), arrays(), [], in_groups(given), two_groups(0.1, 0, 0, weight_decay))


@pytest.mark.parametrize("name", WITH_MOMENTUM)
def test_sgd_with_momentum_matches_reference(check_optimizer, arrays, name):
    check_optimizer("sgd", given := arrays(), arrays(), arrays(), in_groups(given), two_groups(*WITH_MOMENTUM[name]))


def test_adagrad_matches_reference(check_optimizer, arrays):
    check_optimizer(
        "adagrad", given := arrays(), arrays(), squared(arrays()), in_groups(given), two_groups(0.1, EPS, 0.01)
    )


@pytest.mark.parametrize("centered", [0, 1])
@pytest.mark.parametrize("momentum", [0, 0.9])
def test_rmsprop_matches_reference(check_optimizer, arrays, centered, momentum):
    params, grads, squares = arrays(), arrays(), squared(arrays())
    means = [np.asarray(np.sqrt(s) / 2) for s in squares] if centered else []
    velocities, hyper = arrays() if momentum else [], two_groups(0.01, 0.99, EPS, 0.01, momentum, centered)
    check_optimizer("rmsprop", params, grads, squares, means, velocities, in_groups(params), hyper, ulps=8)


def test_rmsprop_of_one_group_that_is_centered_and_one_that_is_not(check_kernel, rng, dtype):
    params, grads, squares, means, velocities = ([rng.random(9).astype(dtype) for _ in range(3)] for _ in range(5))
    means = [m * np.sqrt(s) for m, s in zip(means, squares, strict=True)]
    hyper = np.array([(0.1, 0.9, EPS, 0, 0.9, 1), (0.1, 0.9, EPS, 0, 0, 0)], float)
    check_kernel("optim", "rmsprop", params, grads, squares, means, velocities, [0, 1, 0], hyper, ulps=16)


def test_variance_that_rounding_made_negative_is_zero(check_kernel, dtype):
    one, above = np.ones(3, dtype), np.nextafter(np.ones(3, dtype), dtype.type(2))
    hyper = np.array([(0.5, 0.5, 1, 0, 0, 1)], float)
    params, *_ = check_kernel("optim", "rmsprop", [one], [above], [one], [above], [], [0], hyper)
    np.testing.assert_allclose(params[0], 0.5, rtol=1e-3)


def counts_of(arrays, count):
    """A count of updates for each array, of which every other is 5."""
    return [np.array([5.0 if i % 2 else float(count)]) for i in range(len(arrays))]


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("steps_before", [0, 999])
def test_adam_matches_reference(check_optimizer, arrays, steps_before, decoupled):
    given, hyper = arrays(), two_groups(0.01, 0.9, 0.999, EPS, 0.01)
    counts = counts_of(given, steps_before)
    states = arrays(), squared(arrays())
    check_optimizer("adam", given, arrays(), *states, counts, in_groups(given), decoupled, hyper, ulps=8)


def test_first_step_of_adam_is_the_learning_rate_against_the_sign(check_kernel, dtype):
    params, grads = [np.zeros(3, dtype)], [np.array([1e-3, -5, 200], dtype)]
    means, squares, hyper = [np.zeros(3, dtype)], [np.zeros(3, dtype)], np.array([[0.01, 0.9, 0.999, 0, 0]])
    counts = [np.zeros(1)]
    params, *_, counts, _, _, _ = check_kernel(
        "optim", "adam", params, grads, means, squares, counts, [0], False, hyper
    )
    np.testing.assert_allclose(params[0], [-0.01, 0.01, -0.01], rtol=1e-5)
    assert counts[0][0] == 1


def test_average_matches_reference(check_optimizer, arrays):
    given = arrays()
    averages = [np.zeros_like(a) if i % 2 == 0 else np.asarray(2 * a) for i, a in enumerate(given)]
    check_optimizer("average", given, averages, counts_of(given, 0), 0.9)


@pytest.mark.parametrize("before", [0.0, 3.0])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_total_of_gradients_matches_reference(check_optimizer, arrays, order, before, dtype):
    check_optimizer("grad_total", arrays(), order, np.array([before]), precision=dtype)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping_by_norm_matches_reference(check_optimizer, arrays, order, limit):
    grads = arrays()
    check_optimizer("clip_norm", grads, np.array([2.5]), order, limit, [np.empty_like(g) for g in grads], np.empty(1))


def test_clipping_by_value_matches_reference(check_optimizer, arrays):
    grads = arrays()
    check_optimizer("clip_value", grads, 0.5, [np.empty_like(g) for g in grads])


@pytest.mark.parametrize("order", [0, 1, 2])
def test_nan_among_gradients_makes_the_norm_and_all_of_them_nan(check_kernel, dtype, order):
    for place in (0, 3, 8):
        grads = [np.ones(9, dtype), np.arange(9, dtype=dtype)]
        grads[0][place] = np.nan
        _, _, total = check_kernel("optim", "grad_total", grads, order, np.zeros(1))
        clipped = [np.empty_like(g) for g in grads]
        *_, clipped, norm = check_kernel("optim", "clip_norm", grads, total, order, 1.0, clipped, np.empty(1))
        assert np.isnan([norm[0], *clipped[0], *clipped[1]]).all()
        _, _, clipped = check_kernel("optim", "clip_value", grads, 0.5, clipped)
        assert np.isnan(clipped[0]).sum() == 1


def test_nan_in_a_gradient_reaches_its_parameter_and_no_other(check_kernel, dtype):
    grads, params = [np.array([1, np.nan, 1, 1, 1], dtype), np.ones(2, dtype)], [np.ones(5, dtype), np.ones(2, dtype)]
    params, *_ = check_kernel("optim", "sgd", params, grads, [], [0, 0], np.array([[0.5, 0, 0, 0]]))
    np.testing.assert_array_equal(params[0], [0.5, np.nan, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(params[1], [0.5, 0.5])


SIZES = [0, 1, LINE, SHARED - 1, SHARED, SHARED + 1, *(3 * SHARED + d for d in (-1, 0, 1, LINE - 1, LINE)), 2**33 + 5]


@pytest.mark.parametrize("size", SIZES)
def test_shares_cover_every_element_once(size):
    for threads in range(1, 18):
        parts = [optim.share(size, thread, threads, SHARED) for thread in range(threads)]
        if size < SHARED:
            assert parts == [(0, size)] + [(0, 0)] * (threads - 1)
        else:
            ends = [start + length for start, length in parts]
            assert [start for start, _ in parts] == [0, *ends[:-1]]
            assert ends[-1] == size


def test_small_arrays_are_shared_too_where_they_are_much_of_the_work():
    few, many = np.array([SHARED - 1, 5, 10 * SHARED]), np.full(LARGE // 100 + 1, 100)
    assert optim.least_shared(few) == SHARED
    assert optim.least_shared(many) == 1
    assert optim.share(100, 1, 2, optim.least_shared(many)) == (3 * LINE, 100 - 3 * LINE)


@pytest.mark.parametrize("size", [size for size in SIZES if size >= SHARED])
def test_shares_are_even_and_cut_between_lines(size):
    for threads in range(1, 18):
        starts, lengths = zip(*[optim.share(size, thread, threads, SHARED) for thread in range(threads)], strict=True)
        assert not any(start % LINE for start in starts)
        assert max(lengths) - min(lengths) < 2 * LINE


@pytest.mark.parametrize("shape", [(784, 100), (512, 33), (2048, 2048)])
def test_a_share_of_weights_is_a_part_of_their_rows(shape):
    rows, columns = shape
    for threads in (1, 2, 4, 8):
        for thread in range(threads):
            start, _ = optim.share(rows * columns, thread, threads, SHARED)
            assert 0 <= thread * rows // threads * columns - start < LINE


HYPER = {
    "sgd": (0.1, 0, 0, 0.01),
    "momentum": (0.1, 0.9, 0, 0.01),
    "nesterov": (0.1, 0.9, 1, 0.01),
    "adagrad": (0.1, 1e-8, 0.01),
    "rmsprop": (0.01, 0.99, 1e-8, 0.01, 0, 0),
    "rmsprop with momentum": (0.01, 0.99, 1e-8, 0.01, 0.9, 0),
    "centered rmsprop": (0.01, 0.99, 1e-8, 0.01, 0, 1),
    "centered rmsprop with momentum": (0.01, 0.99, 1e-8, 0.01, 0.9, 1),
    "adam": (0.01, 0.9, 0.999, 1e-8, 0.01),
    "average": (),
    "clip": (),
}


def step(name, params, grads, *states):
    """One step of the optimizer of that name, with three lists of states at hand."""
    hyper, groups = np.array([HYPER[name]], float), [0] * len(params)
    if name == "adam":
        optim.adam(params, grads, *states[:2], [np.zeros(1) for _ in params], groups, True, hyper)
    elif name == "adagrad":
        optim.adagrad(params, grads, states[0], groups, hyper)
    elif name == "clip":
        optim.clip_norm(grads, np.full(1, 9.0), 2, 1.0, params, np.empty(1))
        optim.clip_value(grads, 0.5, states[0])
    elif name == "average":
        optim.average(params, grads, [np.ones(1) for _ in params], 0.9)
    elif "rmsprop" in name:
        means = [np.minimum(m, s) for m, s in zip(states[1], states[0], strict=True)] if "centered" in name else []
        optim.rmsprop(params, grads, states[0], means, states[2] if "momentum" in name else [], groups, hyper)
    else:
        optim.sgd(params, grads, [] if name == "sgd" else states[0], groups, hyper)


@pytest.mark.parametrize("name", HYPER)
def test_bits_do_not_depend_on_where_an_array_is_cut(rng, dtype, name):
    size = SHARED + 37
    given = np.abs(rng.standard_normal((5, size))).astype(dtype)
    uncut = given.copy()
    step(name, *([row] for row in uncut))
    for threads in (2, 3, 7, 17):
        parts = [optim.share(size, thread, threads, SHARED) for thread in range(threads)]
        cut = given.copy()
        step(name, *([row[start : start + length] for start, length in parts] for row in cut))
        assert cut.tobytes() == uncut.tobytes()


TEAMS = """
import numba
import numpy as np
from minigrad.kernels.cpu import optim

rng = np.random.default_rng(0)
for sizes in (1,), (5, 0, 3), (optim.SHARED, optim.SHARED + 1, 7), (3 * optim.SHARED + 5,):
    given = [[np.abs(rng.standard_normal(size)).astype(np.float32) for size in sizes] for _ in range(4)]

    def run(variant):
        lists = [[array.copy() for array in arrays] for arrays in given]
        optimizer = optim.adam
        counts, hyper = [np.zeros(1) for _ in sizes], np.array([[0.01, 0.9, 0.999, 1e-8, 0.01]])
        arguments = *lists, counts, [0] * len(sizes), True, hyper
        getattr(optimizer, variant)(*optimizer.prepare(*arguments))
        return [array.tobytes() for arrays in lists for array in arrays]

    one = run("serial")
    for team in 1, 2, 3, 4, 7, 16, 17:
        numba.set_num_threads(team)
        assert run("parallel") == one, (sizes, team)
print("the same")
"""


def test_bits_are_the_same_with_more_threads_than_arrays():
    environment = {**os.environ, "NUMBA_NUM_THREADS": "17"}
    result = subprocess.run([sys.executable, "-c", TEAMS], capture_output=True, text=True, env=environment)
    assert result.stdout == "the same\n", result.stderr


def test_packed_arrays_stay_alive():
    array = np.ones(3)
    alive = weakref.ref(array)
    packed = pack([array])
    del array
    assert alive() is not None
    del packed
    assert alive() is None


def test_scalar_among_arrays_is_refused():
    with pytest.raises(TypeError, match=r"NumPy arrays.*float64"):
        pack([np.ones(3), np.float64(1)])


def test_recorded_launch_can_be_repeated_after_the_lists_are_gone(dtype):
    param = np.ones(5, dtype)
    function, arguments = optim.sgd.resolve([param], [np.ones(5, dtype)], [], [0], np.array([[0.25, 0, 0, 0]]))
    function(*arguments)
    function(*arguments)
    np.testing.assert_array_equal(param, np.full(5, 0.5, dtype))
