"""Recorded launches that are made by machine code."""

import gc
import itertools
import threading
import weakref

import numpy as np
import pytest
from numba import prange

from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.tools.launch import GRAIN, kernel, parallel_kernel, team_size
from minigrad.kernels.cpu.tools.replay import Replay, joined
from minigrad.kernels.cpu.tools.threads import available_threads, limited

pytestmark = pytest.mark.usefixtures("own_cache")


@parallel_kernel()
def double(x, y):
    for i in prange(x.size):
        y[i] = 2 * x[i]


@kernel
def first_element(x, y):
    if x[0] < 0:
        raise ValueError("negative")
    y[0] = x[0]


def launch(calls):
    for function, arguments in calls:
        function(*arguments)


def test_run_of_kernels_becomes_one_call():
    arrays = [np.full(3, 1.5), *[np.empty(3) for _ in range(4)]]
    calls = joined([double.resolve(x, y) for x, y in itertools.pairwise(arrays)])
    assert len(calls) == 1
    assert calls[0][1] == ()
    for start in (1.5, -4.0):
        arrays[0][:] = start
        launch(calls)
        np.testing.assert_array_equal(arrays[-1], np.full(3, 16 * start))


NUMBERS = {
    "true": True,
    "false": np.False_,
    "negative": -7,
    "int8": np.int8(-8),
    "uint8": np.uint8(255),
    "uint64": np.uint64(2**64 - 1),
    "third": 1 / 3,
    "float32": np.float32(0.1),
    "infinity": -np.inf,
    "nan": np.nan,
    "subnormal": 5e-324,
    "float32 subnormal": np.float32(1e-45),
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_numbers_keep_their_bits(number):
    @kernel
    def keep(value, y):
        y[0] = value

    y, replayed = (np.zeros(1, np.asarray(number).dtype) for _ in range(2))
    launch([keep.resolve(number, y)])
    launch(joined([keep.resolve(number, replayed)]))
    assert y.tobytes() == replayed.tobytes() == np.asarray(number).tobytes()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x[::2, ::-1, 1:],
        lambda x: x.transpose(2, 0, 1),
        lambda x: x[:, :0],
        lambda x: np.broadcast_to(x[:1], x.shape),
    ],
    ids=["contiguous", "steps", "transposed", "empty", "broadcast"],
)
def test_arrays_are_found_through_their_shapes_and_strides(view):
    @kernel
    def flatten(x, size, y):
        size[()] = x.nbytes
        at = 0
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                for k in range(x.shape[2]):
                    y[at] = x[i, j, k]
                    at += 1

    x = view(np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6))
    size, y = np.zeros((), np.int64), np.full(x.size, -1.0, np.float32)
    launch(joined([flatten.resolve(x, size, y)]))
    np.testing.assert_array_equal(y, x.ravel())
    assert size == x.nbytes


def test_other_functions_stay_calls_of_their_own_in_their_place():
    small, large = np.ones(2), np.ones(GRAIN)
    seen = []
    resolved = [
        double.resolve(small, small),
        double.resolve(small, small),
        (lambda x: seen.append(x[0]), (small,)),
        double.resolve(large, large),
        double.resolve(small, small),
        (lambda: seen.append(small[0]), ()),
    ]
    calls = joined(resolved)
    assert len(calls) == 5
    assert [calls[1], calls[2], calls[4]] == [resolved[2], resolved[3], resolved[5]]
    launch(calls)
    assert seen == [4, 8]
    assert (large == 2).all()


def test_list_without_kernels_stays_as_it_is():
    calls = [(print, ("text",)), double.resolve(np.ones(GRAIN), np.ones(GRAIN))]
    assert joined(calls) == calls
    assert joined([]) == []


def test_large_work_joins_the_run_of_its_neighbours_once_the_threads_are_known(set_threads):
    arrays = [np.ones(GRAIN), *np.zeros((3, GRAIN))]
    resolved = [double.resolve(x, y) for x, y in itertools.pairwise(arrays)]
    small = np.ones(1)
    replay = Replay([*resolved, double.resolve(small, small)])
    most = available_threads()
    for round_, count in enumerate([most, 1, most, 1, most]):
        set_threads(count)
        replay()
        np.testing.assert_array_equal(arrays[-1], np.full(GRAIN, 8.0))
        assert small == 2 ** (round_ + 1)
        arrays[-1][:] = 0
    for parallel in {most > 1, False}:
        assert len(replay.joined[parallel]) == 1
    assert set(replay.joined) <= {None, True, False}


def test_large_work_of_a_thread_with_a_limit_of_its_own_is_done_within_it(set_threads, monkeypatch):
    monkeypatch.setattr(threads, "_contention", None)  # as if the machine were its own

    @parallel_kernel()
    def count(x, y):
        for i in prange(y.size):
            y[i] = team_size()

    set_threads(available_threads())
    y = np.zeros(GRAIN)
    replay = Replay([count.resolve(y, y)])
    replay()
    replay()
    assert (y == available_threads()).all()
    with limited(1):
        replay()
    assert (y == 1).all()


def test_arguments_that_are_no_constants_of_machine_code_stay_calls():
    @kernel
    def add(pair, y):
        y[0] = pair[0] + pair[1]

    y = np.zeros(1)
    call = add.resolve((2, 3.5), y)
    assert joined([call]) == [call]
    launch([call])
    assert y[0] == 5.5


def test_kernel_that_raises_ends_the_run_with_its_error():
    x, first, second, third = np.array([-1.0]), *np.zeros((3, 1))
    calls = joined([double.resolve(x, first), first_element.resolve(x, second), double.resolve(x, third)])
    assert len(calls) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="negative"):
            launch(calls)
        assert (first[0], second[0], third[0]) == (-2, 0, 0)
    x[0] = 3
    launch(calls)
    assert (first[0], second[0], third[0]) == (6, 3, 6)


def test_arrays_live_as_long_as_the_calls():
    arrays = [np.ones(1000) for _ in range(3)]
    calls = joined([double.resolve(arrays[0], arrays[1]), double.resolve(arrays[1], arrays[2])])
    references = list(map(weakref.ref, arrays))
    del arrays
    gc.collect()
    launch(calls)
    assert references[2]()[-1] == 4
    del calls
    assert [reference() for reference in references] == [None] * 3


def test_other_python_threads_go_on_meanwhile():
    @kernel
    def wait(flag, rounds):
        while flag[0] == 0 and rounds[0] < 2_000_000_000:
            rounds[0] += 1

    flag, rounds = np.zeros(1, np.int64), np.zeros(1, np.int64)
    waiting = threading.Thread(target=launch, args=(joined([wait.resolve(flag, rounds)]),))
    waiting.start()
    while rounds[0] == 0 and waiting.is_alive():
        pass
    flag[0] = 1
    waiting.join()
    assert 0 < rounds[0] < 2_000_000_000


def test_a_block_that_moves_is_written_where_it_is_then():
    block, x, y = np.zeros(64, np.uint8), np.arange(3.0), np.empty(3)
    whole, part = block[:24].view(float), block[8:32].view(float)
    replay = Replay([double.resolve(x, whole), double.resolve(whole, y), double.resolve(y, part)], [block])
    for start in (0.0, 5.0):
        x[:] = np.arange(3) + start
        memory = np.zeros(64, np.uint8)
        (there,) = replay(lambda memory=memory: [memory])
        assert there is memory
        np.testing.assert_array_equal(there[:32].view(float), [2 * x[0], *(8 * x)])
    np.testing.assert_array_equal(block, 0)


def test_a_kernel_that_raises_finds_in_its_block_what_was_written_elsewhere():
    block, x, y = np.zeros(8, np.uint8), np.ones(1), np.zeros(1)
    inside = block.view(float)
    replay = Replay([double.resolve(x, inside), first_element.resolve(inside, y)], [block])
    replay(lambda: [np.zeros(8, np.uint8)])
    assert (y[0], inside[0]) == (2, 0)
    x[0] = -3.0
    with pytest.raises(ValueError, match="negative"):
        replay(lambda: [np.zeros(8, np.uint8)])
    assert inside[0] == -6


def test_nothing_moves_where_python_has_a_part():
    block, x = np.zeros(8, np.uint8), np.ones(1)
    inside = block.view(float)
    replay = Replay([double.resolve(x, inside), (lambda y: np.negative(y, out=y), (inside,))], [block])
    (there,) = replay(lambda: [np.zeros(8, np.uint8)])
    assert there is block
    assert inside[0] == -2
