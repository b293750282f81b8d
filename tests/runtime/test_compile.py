"""How kernels are chosen, compiled and launched."""

import threading

import numba
import numpy as np
import pytest
from numba import prange

import minigrad as mg
from minigrad.kernels.build.progress import UnexpectedCompile, no_compile, progress
from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.tools.launch import FLAGS, GRAIN, Variants, inlined, kernel, parallel_kernel, team_size

pytestmark = pytest.mark.usefixtures("own_cache")


def double(x, y):
    for i in prange(x.size):
        y[i] = 2 * x[i]


def team(x, y):
    for i in prange(y.size):
        y[i] = team_size()


def compiled_by(work):
    before = len(progress.compiled)
    work()
    return [name for name, seconds in progress.compiled[before:]]


def variant(kernel, *arguments):
    """Which compiled function a call with these arguments runs."""
    function, arguments = kernel.resolve(*arguments)
    if isinstance(function, Variants):
        return "parallel"
    machine_code = [overload.entry_point for overload in kernel.serial.overloads.values()]
    assert function in machine_code
    return "serial"


@pytest.mark.parametrize(("size", "expected"), [(0, "serial"), (GRAIN - 1, "serial"), (GRAIN, "parallel")])
def test_last_argument_chooses_the_variant(size, expected):
    assert variant(parallel_kernel()(double), np.ones(1), np.empty(size)) == expected


def test_another_argument_may_choose_the_variant():
    by_first = parallel_kernel(sized_by=0)(double)
    assert variant(by_first, np.ones(GRAIN), np.ones(1)) == "parallel"
    assert variant(by_first, np.ones(1), np.ones(GRAIN)) == "serial"


def test_a_function_may_choose_the_variant():
    by_function, y = parallel_kernel(is_large=lambda x, y: x[0] > 5)(double), np.empty(1)
    assert variant(by_function, np.array([6.0]), y) == "parallel"
    assert variant(by_function, np.array([5.0]), y) == "serial"


def test_kernel_of_one_thread_is_always_serial():
    assert variant(kernel(double), np.ones(10 * GRAIN), np.empty(10 * GRAIN)) == "serial"


@pytest.mark.parametrize("size", [10, GRAIN + 1])
def test_call_and_resolved_call_do_the_same(size):
    doubled = parallel_kernel()(double)
    x, first, second = np.arange(size), np.zeros(size, int), np.zeros(size, int)
    doubled(x, first)
    function, arguments = doubled.resolve(x, second)
    assert (second == 0).all()
    function(*arguments)
    np.testing.assert_array_equal(first, 2 * x)
    np.testing.assert_array_equal(second, 2 * x)


def test_prepare_turns_the_arguments():
    prepared = parallel_kernel(prepare=lambda x, y: (np.asarray(x, float), y))(double)
    y = np.zeros(2)
    prepared([1, 2], y)
    _, arguments = prepared.resolve([3, 4], y)
    np.testing.assert_array_equal(y, [2, 4])
    np.testing.assert_array_equal(arguments[0], [3.0, 4.0])
    assert variant(parallel_kernel(sized_by=0, prepare=lambda n: (np.empty(n),))(double), GRAIN) == "parallel"


def test_variants_are_compiled_when_first_used():
    doubled = parallel_kernel()(double)
    assert compiled_by(lambda: doubled(np.ones(3), np.ones(3))) == ["test_compile.double"]
    assert compiled_by(lambda: doubled(np.ones(3), np.ones(3))) == []
    assert compiled_by(lambda: doubled(np.ones(3, np.float32), np.ones(3, np.float32))) == ["test_compile.double"]
    assert compiled_by(lambda: doubled(np.ones(GRAIN), np.ones(GRAIN))) == ["test_compile.double.parallel"]


def test_kernel_looks_like_its_function():
    def scale(x, y):
        """Say what it does."""

    scaled = kernel(scale)
    assert (scaled.__name__, scaled.__doc__) == ("scale", "Say what it does.")
    assert "scale" in repr(scaled)


def test_team_size_is_the_number_of_threads(monkeypatch):
    monkeypatch.setattr(threads, "_contention", None)  # all of them, whatever else the machine does
    counts, serial, parallel = parallel_kernel()(team), np.zeros(10), np.zeros(GRAIN)
    counts(serial, serial)
    counts(parallel, parallel)
    assert set(serial) == {1}
    assert set(parallel) == {mg.get_num_threads()}


def test_team_size_is_not_to_be_had_where_it_would_be_one_always():
    share = inlined(lambda rows: rows // team_size())

    @parallel_kernel()
    def shared(x, y):
        for i in prange(y.size):
            y[i] = share(x.size)

    with pytest.raises(numba.errors.LoweringError, match="hand it to the inlined function"):
        shared(np.zeros(10), np.zeros(10))


def test_limited_to_one_thread_is_serial():
    counts, y = parallel_kernel()(team), np.zeros(GRAIN)
    with threads.limited(1):
        counts(y, y)
    assert set(y) == {1}


def test_flags_keep_nan_and_infinities():
    @inlined(flags=FLAGS)
    def classify(x):
        return (x != x) + 2 * (x - x != 0)

    @kernel(flags=FLAGS)
    def classes(x, y):
        for i in range(x.size):
            y[i] = classify(x[i])

    y = np.zeros(3)
    classes(np.array([1.0, np.nan, np.inf]), y)
    np.testing.assert_array_equal(y, [0, 3, 2])


def test_division_by_zero_is_no_exception():
    @kernel
    def divide(x, y):
        for i in range(x.size):
            y[i] = 1 / x[i]

    y = np.zeros(2)
    divide(np.array([0.0, -0.0]), y)
    np.testing.assert_array_equal(y, [np.inf, -np.inf])


# no_compile


@pytest.mark.parametrize("size", [3, GRAIN], ids=["serial", "parallel"])
def test_unexpected_compilation_is_an_error(size):
    doubled, y = parallel_kernel()(double), np.zeros(size)
    with no_compile(), pytest.raises(UnexpectedCompile, match=r"kernel test_compile\.double.*\(array.*minigrad warmup"):
        doubled(np.ones(size), y)
    assert (y == 0).all()
    doubled(np.ones(size), y)
    assert (y == 2).all()


def test_compiled_kernels_run_within_no_compile():
    doubled, y = kernel(double), np.zeros(3)
    doubled(np.ones(3), y)
    with mg.no_compile():
        doubled(np.full(3, 2.0), y)
    np.testing.assert_array_equal(y, [4, 4, 4])


def test_kernels_on_disk_are_loaded_within_no_compile():
    kernel(double)(np.ones(3), np.zeros(3))
    y = np.zeros(3)
    with mg.no_compile():
        kernel(double)(np.ones(3), y)
    np.testing.assert_array_equal(y, [2, 2, 2])


def test_no_compile_nests_and_ends_with_an_exception():
    with pytest.raises(ZeroDivisionError), no_compile():
        with no_compile():
            pass
        with pytest.raises(UnexpectedCompile):
            kernel(double)(np.ones(3), np.zeros(3))
        raise ZeroDivisionError
    kernel(double)(np.ones(3), np.zeros(3))


def test_ops_within_no_compile_say_which_kernel():
    x = mg.tensor(np.ones(3, np.float32))
    elementwise = mg.kernels.cpu.elementwise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elementwise, "tanh_forward", parallel_kernel()(elementwise.tanh_forward.function))
        with mg.no_compile(), pytest.raises(mg.UnexpectedCompile, match="kernel elementwise.tanh_forward"):
            mg.tanh(x)


def test_two_python_threads_compile_a_kernel_at_once():
    doubled, results = parallel_kernel()(double), [np.zeros(GRAIN) for _ in range(3)]
    started = [threading.Thread(target=doubled, args=(np.ones(GRAIN), y)) for y in results]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert all((y == 2).all() for y in results)


def test_failed_compilation_comes_out_and_may_be_repeated():
    @kernel
    def broken(x, y):
        y[0] = x.nothing

    for _ in range(2):
        with pytest.raises(Exception, match="nothing"):
            broken(np.ones(1), np.ones(1))
    assert progress.forbidden == 0


# What is compiled on the way


@inlined
def doubled(x):
    return 2 * x


def test_a_function_on_the_way_is_compiled_once_and_not_for_every_constant():
    @kernel
    def sums(x, y):
        y[0] = doubled(x[0]) + doubled(3) + doubled(4)

    y = np.zeros(1, np.int64)
    sums(np.array([1]), y)
    assert y[0] == 16
    assert [str(kinds) for kinds in doubled.overloads] == ["(int64,)"]


def test_numbas_own_code_can_be_used_by_other_functions_afterwards():
    @kernel
    def with_room(x, y):
        room = np.zeros(x.size)
        room[:] = x
        y[0] = room.sum()

    @numba.njit
    def others(n):
        return np.zeros(n).sum() + np.ones(n).sum()

    y = np.zeros(1)
    with_room(np.arange(4.0), y)
    assert y[0] == 6
    assert others(5) == 5


def test_errors_in_a_kernel_come_out():
    @inlined
    def checked(x):
        if x < 0:
            raise ValueError("negative")
        return x

    @parallel_kernel()
    def strict(x, y):
        for i in range(x.size):
            y[i] = checked(x[i])

    with pytest.raises(ValueError, match="negative"):
        strict(np.array([-1.0]), np.zeros(1))


@inlined
def twice(x):
    return 2 * x


@inlined
def doubled_and_one(x):
    return twice(x) + 1


def with_parts(x, y):
    for i in range(x.size):
        y[i] = doubled_and_one(x[i])


@pytest.mark.parametrize("first", ["kernel", "python"])
def test_parts_of_kernels_can_be_called_from_python(first):
    """A part that a kernel has compiled has no machine code of its own."""

    def by_kernel():
        y = np.empty(3)
        kernel(with_parts)(np.arange(3.0), y)
        return list(y)

    def by_python():
        return [doubled_and_one(float(x)) for x in range(3)]

    ways = [by_kernel, by_python] if first == "kernel" else [by_python, by_kernel]
    assert [way() for way in ways * 2] == [[1.0, 3.0, 5.0]] * 4
