"""Fewer threads while other processes want the cores: by a clock and counts of the test's own, and by Linux's."""

import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest

import minigrad as mg
from minigrad.kernels.cpu.tools import contention, threads
from minigrad.kernels.cpu.tools.contention import FIRST_PAUSE, LONGEST_PAUSE, LOOK_EVERY, Contention

TELLS = pytest.mark.skipif(not contention.can_tell(), reason="this system does not count how long threads wait")
SLICE = 3e-3
BUSY = "while True: sum(range(10_000))"


class Machine:
    """Time that passes as the test says, and threads that wait for a core where more than `free` are used."""

    def __init__(self, free):
        self.free = free
        self.now = self.delay = 0.0
        self.count = 0
        self.contention = Contention(lambda: self.now, lambda: self.count, lambda: self.delay)

    def run(self, seconds, most):
        """Loops of 2 ms, one after the other; returns how many threads each used."""
        used = []
        end = self.now + seconds
        while self.now < end:
            used.append(self.contention.threads(most))
            self.now += 2 * LOOK_EVERY
            if used[-1] > self.free:
                self.now += SLICE
                self.delay += SLICE
                self.count += 1
        return used


def test_all_threads_on_a_machine_of_ones_own():
    assert set(Machine(free=8).run(1, most=8)) == {8}


@pytest.mark.parametrize(("most", "free"), [(2, 1), (4, 3), (8, 5), (64, 32), (64, 1)])
def test_as_many_threads_as_there_are_cores_free(most, free):
    machine = Machine(free)
    machine.run(2, most)
    used = machine.run(10, most)
    assert sum(n > free for n in used) < 0.02 * len(used), "tried too often"
    assert np.median(used) >= max(1, 0.7 * free)


@pytest.mark.parametrize("most", [2, 8, 64])
def test_all_threads_again_when_others_have_gone(most):
    machine = Machine(free=1)
    machine.run(3, most)
    machine.free = most
    machine.run(LONGEST_PAUSE * 22, most)
    assert set(machine.run(1, most)) == {most}


def test_after_a_rest_nothing_is_remembered():
    machine = Machine(free=1)
    machine.run(3, most=4)
    machine.free = 4
    machine.now += LONGEST_PAUSE + 2 * LOOK_EVERY
    assert set(machine.run(0.1, most=4)) == {4}


def test_pauses_double_up_to_the_longest():
    machine = Machine(free=1)
    used = machine.run(5, most=2)
    tries = np.flatnonzero(np.array(used) == 2)
    pauses = np.diff(tries) * 2 * LOOK_EVERY
    assert pauses[0] == pytest.approx(2 * FIRST_PAUSE, abs=2 * LOOK_EVERY + SLICE)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE, rel=0.1)
    assert all(np.diff(pauses) >= -SLICE)


def test_a_short_wait_is_none():
    """What a system at rest does: some 50 us, some 50 times a second."""
    machine = Machine(free=2)
    for _ in range(100):
        machine.count += 1
        machine.delay += 60e-6
        assert set(machine.run(0.02, most=2)) == {2}


def test_one_wait_costs_one_short_pause():
    machine = Machine(free=2)
    machine.run(1, most=2)
    machine.count, machine.delay = 1, SLICE
    used = machine.run(0.1, most=2)
    assert 0 < used.count(1) * 2 * LOOK_EVERY <= FIRST_PAUSE + 2 * LOOK_EVERY


def test_a_wait_long_ago_is_a_small_share_of_the_time():
    machine = Machine(free=2)
    machine.run(0.1, most=2)
    machine.count, machine.delay, machine.now = 1, SLICE, 10.0
    assert machine.contention.threads(2) == 2


def test_never_more_threads_than_asked_for():
    machine = Machine(free=4)
    machine.run(1, most=8)
    assert machine.contention.threads(2) == 2
    assert machine.contention.threads(1) == 1


@pytest.mark.parametrize("content", ["", "0 0 0\n", "one two three\n"])
def test_a_system_that_does_not_count(tmp_path, content):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "schedstat").write_text(content)
    assert not contention.can_tell(tmp_path)


def test_a_system_without_the_files(tmp_path):
    (tmp_path / "1").mkdir()
    assert not contention.can_tell(tmp_path)
    assert not contention.can_tell(tmp_path / "missing")


def test_threads_are_summed(tmp_path):
    for thread, waited in (("1", 2_000_000), ("2", 500_000)):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(f"7 {waited} 9\n")
    (tmp_path / "3").mkdir()  # ended meanwhile
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "schedstat").write_text("")  # ends just now
    assert contention.can_tell(tmp_path)
    assert contention.waited(tmp_path) == pytest.approx(2.5e-3)


@pytest.fixture
def machine(monkeypatch):
    """A machine of the test's own for the kernels' threads, on which two are wanted."""
    if threads.available_threads() < 2:
        pytest.skip("needs two CPUs")
    machine = Machine(free=2)
    monkeypatch.setattr(threads, "_contention", machine.contention)
    monkeypatch.setattr(threads, "_count", 2)
    return machine


def test_loops_use_fewer_threads(machine):
    x = mg.tensor(np.ones(1 << 18, np.float32))
    expected = mg.sigmoid(x).numpy()
    assert numba.get_num_threads() == 2
    machine.free = 1
    machine.run(1, most=2)
    np.testing.assert_array_equal(mg.sigmoid(x).numpy(), expected)
    assert numba.get_num_threads() == 1
    assert mg.get_num_threads() == 2


def test_replays_use_fewer_threads(machine):
    captured = mg.capture(lambda x: mg.sigmoid(x) * 2.0)
    x = np.ones(1 << 18, np.float32)
    expected = captured(x).numpy().copy()
    for free in (2, 1, 2):
        machine.free = free
        machine.run(2, most=2)
        np.testing.assert_array_equal(captured(x).numpy(), expected)
        assert numba.get_num_threads() == free


@TELLS
def test_threads_may_come_and_go():
    """Whatever is read of a thread that ends: never an error."""
    ended = threading.Event()

    def short_lived():
        while not ended.is_set():
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()

    started = threading.Thread(target=short_lived)
    started.start()
    try:
        found = [contention.waited() for _ in range(2000)]
    finally:
        ended.set()
        started.join()
    assert min(found) >= 0


@TELLS
def test_beside_processes_that_only_compute():
    """Twice as many as there are cores leave no core free."""
    most = threads.available_threads()
    if most < 2:
        pytest.skip("needs two CPUs")
    x = mg.tensor(np.ones(1 << 20, np.float32))
    watch = Contention()
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2 * most)]
    try:
        used, end = [], time.monotonic() + 60
        while time.monotonic() < end and 1 not in used:
            mg.sigmoid(x)
            used.append(watch.threads(most))
        assert 1 in used
    finally:
        for process in busy:
            process.kill()
            process.wait()
