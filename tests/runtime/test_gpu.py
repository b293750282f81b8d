"""What only a real GPU can tell: that its driver treats memory, streams, graphs and processes as the code relies on."""

import threading

import numpy as np
import pytest

import minigrad as mg
from minigrad.devices import get_device

pytestmark = pytest.mark.gpu

FLOAT32 = np.dtype(np.float32)


@pytest.fixture
def gpu():
    device = get_device("cuda")
    if device.driver.is_simulated:
        pytest.skip("the simulator says nothing about the driver of a GPU")
    return device


@pytest.fixture
def busy(gpu):
    """A function that gives the GPU some milliseconds of work, and returns at once."""
    a, c, nothing = gpu.zeros((4096, 4096), FLOAT32), gpu.empty((4096, 4096), FLOAT32), gpu.empty((0,), FLOAT32)

    def work():
        for _ in range(4):
            gpu.kernels.gemm.gemm(a, a, nothing, c, False, False)

    work()
    gpu.synchronize()
    return work


# The driver copies what is not pinned aside before a call returns: known of all drivers, promised by none.
@pytest.mark.parametrize("count", [2, 15_000, 20_000, 1 << 20, 1 << 24])
def test_host_memory_may_be_written_again_once_it_was_sent(gpu, busy, count):
    values = np.arange(count, dtype=np.int32)
    expected = values.copy()
    busy()
    sent = gpu.from_host(values)
    values[:] = -1
    np.testing.assert_array_equal(gpu.to_host(sent), expected)


def test_batches_that_come_while_the_gpu_works_are_whole(gpu, busy):
    stager, found = gpu.stager(), []
    for i in range(30):
        batch = stager.stage((np.full(1 << 20, i, np.float32), np.full(100, i)))
        if i % 5 == 0:
            busy()
        found.append([gpu.copy(array) for array in stager.arrived(batch)])
        del batch
    assert len(stager.places) <= 4
    for i, copies in enumerate(found):
        for copy in copies:
            np.testing.assert_array_equal(gpu.to_host(copy), i)


def test_another_thread_may_allocate_while_a_graph_is_made(gpu):
    driver, x, y = gpu.driver, gpu.from_host(np.float32([-1, 2])), gpu.zeros((2,), FLOAT32)
    gpu.kernels.elementwise.relu_forward(x, y)
    gpu.write(y, np.zeros(2, np.float32))
    made = []
    thread = threading.Thread(target=lambda: made.extend([driver.allocate(1 << 24), driver.allocate_pinned(1 << 24)]))
    driver.begin_graph(gpu.stream)
    thread.start()
    thread.join()
    gpu.kernels.elementwise.relu_forward(x, y)
    graph = driver.end_graph(gpu.stream)
    np.testing.assert_array_equal(gpu.to_host(y), [0, 0])
    driver.launch_graph(graph, gpu.stream)
    np.testing.assert_array_equal(gpu.to_host(y), [0, 2])
    driver.free_graph(graph)
    driver.free(made[0])
    driver.free_pinned(made[1])


def test_work_goes_on_after_memory_ran_out(gpu):
    with pytest.raises(RuntimeError, match="4,398,046,511,104 bytes were asked for"):
        gpu.empty((1 << 42,), np.dtype(np.uint8))
    assert (mg.tensor([1.0], device="cuda") + 1).item() == 2


def test_pytorch_works_beside_on_the_same_gpu(gpu):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU")
    step = mg.capture(lambda x: x * 2.0 + 1.0, device="cuda")
    theirs, graph = torch.ones(1000, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        theirs += 1
    for i in range(9):  # ours becomes a graph on the way
        ours = step(np.full(1000, i, np.float32))
        graph.replay()
        np.testing.assert_array_equal(ours.numpy(), 2 * i + 1)
    assert theirs.sum().item() == 10_000


# Processes

TRAINING = """
import numpy as np
import minigrad as mg
x, labels = np.ones((12, 5), np.float32), np.arange(12) % 3
model = mg.nn.Sequential(mg.nn.Linear(5, 4), mg.nn.BatchNorm(4), mg.nn.ReLU(), mg.nn.Linear(4, 3)).to("cuda")
optimizer = mg.optim.SGD(model.parameters(), 0.1, momentum=0.9)
loader = mg.data.Loader(x, labels, batch_size=4, prefetch=2)
history = mg.train.fit(model, optimizer, loader, epochs=4)
step = mg.capture(lambda x: model(x), device="cuda")
for _ in range(7):
    y = step(x)
cycle = [y]
cycle.append(cycle)
waiting = iter(loader)
next(waiting)
"""


def test_process_ends_in_silence(gpu, run_script):
    result = run_script(TRAINING)
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_fault_of_a_kernel_is_told_once_with_its_name(gpu, run_script):
    fault = "y.data.pointer = 4096\nprint((y + y).numpy())"
    result = run_script(TRAINING + fault, check=False, CUDA_LAUNCH_BLOCKING="1")
    assert result.returncode == 1
    assert result.stderr.count("Traceback") == 1, result.stderr
    assert "elementwise." in result.stderr
    assert "a kernel left its memory" in result.stderr


def test_forked_process_is_told_to_spawn(gpu, run_script):
    forked = """
import os, warnings
warnings.simplefilter("ignore")  # Python's own, of threads and forks
child = os.fork()
if child == 0:
    try:
        mg.tensor([1.0], device="cuda")
    except RuntimeError as error:
        os._exit(0 if "'spawn'" in str(error) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    run_script(TRAINING + forked)
