"""The drivers that a machine without a GPU has: copies, memory, graphs, and the methods of the real one."""

import ctypes

import numpy as np
import pytest

from minigrad.kernels.cuda.host.driver import HostDriver
from minigrad.kernels.cuda.tools.driver import Driver, OutOfMemory
from minigrad.kernels.cuda.tools.launch import CudaKernel, Floats, Int
from minigrad.kernels.cuda.tools.simulated_driver import SimulatedDriver


def add(x: Floats, by: Int, y: Floats):
    y[0] = x[0] + by


added = CudaKernel(add, 32, 1, {})  # a kernel that no table lists


def address(array):
    return array.ctypes.data


@pytest.fixture(params=[SimulatedDriver, HostDriver])
def simulated(request):
    return request.param(memory=1000)


def test_copies_to_on_and_from_the_device(simulated):
    host, back = np.arange(10, dtype=np.int32), np.zeros(10, np.int32)
    a, b = simulated.allocate(40), simulated.allocate(40)
    assert a % 256 == b % 256 == 0
    simulated.to_device(a, address(host), 40, None)
    simulated.on_device(b + 20, a, 20, None)
    simulated.on_device(b, a + 20, 20, None)
    simulated.to_host(address(back), b, 40, None)
    np.testing.assert_array_equal(back, [5, 6, 7, 8, 9, 0, 1, 2, 3, 4])


def test_memory_runs_out_and_comes_back(simulated):
    first = simulated.allocate(600)
    assert simulated.free_memory() == 400
    with pytest.raises(OutOfMemory):
        simulated.allocate(401)
    simulated.allocate(400)
    simulated.free(first)
    assert simulated.free_memory() == 600
    simulated.allocate(600)


def test_copies_stay_in_range(simulated):
    host = np.zeros(100, np.uint8)
    a = simulated.allocate(40)
    for copy in (
        lambda: simulated.to_device(a, address(host), 41, None),
        lambda: simulated.to_device(a + 1, address(host), 40, None),
        lambda: simulated.to_host(address(host), a, 41, None),
        lambda: simulated.on_device(a + 30, a, 11, None),
        lambda: simulated.on_device(a, a + 30, 11, None),
    ):
        with pytest.raises(RuntimeError, match="leaves the memory that was allocated"):
            copy()
    simulated.to_device(a, address(host), 40, None)


def test_memory_that_was_given_back_is_no_memory(simulated):
    a = simulated.allocate(40)
    simulated.free(a)
    with pytest.raises(RuntimeError, match="no address in memory that was allocated"):
        simulated.to_host(address(np.zeros(40, np.uint8)), a, 40, None)
    with pytest.raises(KeyError):
        simulated.free(a)


def test_pinned_memory_is_the_hosts(simulated):
    pinned = simulated.allocate_pinned(8)
    a = simulated.allocate(8)
    np.ctypeslib.as_array((ctypes.c_double * 1).from_address(pinned))[0] = 2.5
    simulated.to_device(a, pinned, 8, None)
    back = np.zeros(1)
    simulated.to_host(address(back), a, 8, None)
    assert back == 2.5
    simulated.free_pinned(pinned)
    assert simulated.free_memory() == 992


def test_copies_on_a_further_stream_are_late(simulated):
    first, second = simulated.new_stream(), simulated.new_stream()
    a, host, back = simulated.allocate(4), np.array([7], np.int32), np.zeros(1, np.int32)
    event = simulated.new_event()
    simulated.to_device(a, address(host), 4, second)
    simulated.record(event, second)
    simulated.to_host(address(back), a, 4, first)
    assert back != 7
    simulated.wait(first, event)
    simulated.to_host(address(back), a, 4, first)
    assert back == 7


def test_time_passes_between_events(simulated):
    start, end = simulated.new_event(), simulated.new_event()
    simulated.record(start, None)
    simulated.record(end, None)
    assert 0 <= simulated.elapsed(start, end) < 100_000  # ms


def test_graph_is_noted_and_then_done_as_often_as_asked(memory):
    gpu = memory.driver
    x, y, host = memory.put(np.array([1], np.float32)), memory.put(np.zeros(1, np.float32)), np.array([7], np.float32)
    gpu.begin_graph(memory.stream)
    added[1, 1](x, 5, y)
    added[1, 1](y, 10, y)
    gpu.on_device(x.pointer, y.pointer, 4, memory.stream)
    graph = gpu.end_graph(memory.stream)
    assert memory.get(y) == 0

    gpu.launch_graph(graph, memory.stream)
    assert memory.get(y) == 16
    gpu.launch_graph(graph, memory.stream)
    assert memory.get(y) == 31
    gpu.to_device(x.pointer, address(host), 4, memory.stream)
    gpu.launch_graph(graph, memory.stream)
    assert memory.get(y) == 22


def test_what_a_graph_cannot_hold_is_refused(memory):
    memory.driver.begin_graph(memory.stream)
    with pytest.raises(RuntimeError, match="cannot be allocated while a graph is made"):
        memory.driver.allocate(1)
    with pytest.raises(RuntimeError, match="cannot be waited for while a graph is made"):
        memory.driver.synchronize(memory.stream)
    memory.driver.end_graph(memory.stream)
    memory.driver.allocate(1)
    memory.driver.synchronize(memory.stream)


def test_the_legacy_stream_is_no_graph(memory):
    with pytest.raises(RuntimeError, match="legacy stream"):
        memory.driver.begin_graph(None)


def test_launches_are_counted(memory):
    y = memory.put(np.zeros(1, np.float32))
    for _ in range(3):
        added[1, 1](y, 1, y)
    assert memory.driver.launches["test_simulated_driver.add"] == 3
    assert memory.get(y) == 3


def test_both_drivers_have_the_same_methods():
    def methods(kind):
        return {name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}

    own = {"attribute", "call", "enter", "error", "give_back"}  # how the real one talks to its interface
    assert methods(Driver) - own <= methods(SimulatedDriver)
    assert issubclass(HostDriver, SimulatedDriver)
