"""Captured steps on the simulated driver: one graph, with checks of labels, precision, dropout and own kernels."""

import gc

import numba
import numpy as np
import pytest
from small_steps import data, no_product, one_product, step_of

import minigrad as mg
from minigrad.devices.cuda import CudaDevice
from minigrad.devices.registry import DEVICES
from minigrad.kernels.cuda.tools import launch
from minigrad.kernels.cuda.tools.driver import OutOfMemory
from minigrad.kernels.cuda.tools.language import cuda, uint32
from minigrad.kernels.cuda.tools.simulated_driver import SimulatedDriver

FLOAT32 = np.dtype(np.float32)


def test_recorded_step_gives_the_bits_of_the_eager_one(gpu):
    x, y = data()
    runs = []
    for wrap in (lambda step: step, mg.capture):
        model = one_product().to("cuda")
        optimizer = mg.optim.SGD(model.parameters(), 0.5, momentum=0.9)
        step = wrap(step_of(model, optimizer))
        losses = []
        for i in range(9):
            optimizer.lr = 0.5 / (i + 1)  # Python's array, which every replay has to see
            losses.append(step(mg.tensor(x + i, device="cuda"), mg.tensor(y, device="cuda")).item())
        runs.append((losses, {name: t.numpy() for name, t in model.state_dict().items()}))
    assert runs[0][0] == runs[1][0]
    for name, want in runs[0][1].items():
        np.testing.assert_array_equal(runs[1][1][name], want, err_msg=name)


def test_replay_is_one_graph(gpu):
    x, y = data()
    model = no_product().to("cuda")
    step = mg.capture(step_of(model, mg.optim.SGD(model.parameters(), 0.1)), device="cuda")
    for _ in range(7):  # recorded, timed, and from then on a graph
        step(x, y)
    graph = step.plan.program.graph
    assert len(graph) >= len(step.plan.launches)
    gpu.driver.launches.clear()
    step(x, y)
    assert not gpu.driver.launches or sum(gpu.driver.launches.values()) == 0
    assert "us; " in str(step.plan)


def test_graph_is_made_of_tables_that_were_thrown_away_since(gpu):
    x, y = data()
    model = no_product().to("cuda")
    step = mg.capture(step_of(model, mg.optim.SGD(model.parameters(), 0.1)), device="cuda")
    for _ in range(6):
        step(x, y)
    launch.context.tables.clear()
    step(x, y)
    assert step.plan.program.graph


def test_error_while_a_graph_is_made_is_the_one_that_is_told(gpu, monkeypatch):
    def refuse(stream):
        raise RuntimeError("cuStreamEndCapture failed: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")

    layer = mg.nn.Linear(5, 4).to("cuda")
    step = mg.capture(lambda x: layer(x), device="cuda")
    for _ in range(6):
        step(data()[0])
    monkeypatch.setattr(gpu.driver, "launch", lambda *a: gpu.driver.allocate(1))
    monkeypatch.setattr(gpu.driver, "end_graph", refuse)
    with pytest.raises(RuntimeError, match="memory cannot be allocated while a graph is made"):
        step(data()[0])


def test_recorded_step_checks_its_labels_before_it_runs(gpu, transfers):
    x, y = data()
    model = no_product().to("cuda")
    step = mg.capture(step_of(model, mg.optim.SGD(model.parameters(), 0.1)), device="cuda")
    for _ in range(7):
        step(x, y)
    before = model[0].gamma.numpy()
    transfers.clear()
    with pytest.raises(ValueError, match="label 9 in row 2"):
        step(x, np.where(np.arange(6) == 2, 9, y))
    assert transfers == []
    np.testing.assert_array_equal(model[0].gamma.numpy(), before)


def test_labels_on_the_gpu_are_known_to_the_checks_of_a_recording(gpu, transfers):
    x, y = (mg.tensor(a, device="cuda") for a in data())
    model = no_product().to("cuda")
    step = mg.capture(step_of(model, mg.optim.SGD(model.parameters(), 0.1)))
    for _ in range(7):
        step(x, y)
    assert transfers == []
    with pytest.raises(ValueError, match="label 5 in row 0"):
        step(x, mg.tensor(np.full(6, 5), device="cuda"))


def test_captured_step_computes_in_the_precision_it_is_called_in(gpu, monkeypatch):
    seen = []
    gemm = gpu.kernels.gemm.gemm
    monkeypatch.setattr(
        gpu.kernels.gemm, "gemm", lambda *a: (seen.append(launch.context.matmul_precision), gemm(*a))[1]
    )
    x = np.ones((2, 5), np.float32)
    layer = mg.nn.Linear(5, 4).to("cuda")
    step = mg.capture(lambda x: layer(x), device="cuda")
    for _ in range(2):
        for precision in ("tf32", "float32"):
            seen.clear()
            with mg.matmul_precision(precision):
                for _ in range(3):
                    step(x)
            assert seen == [precision] * 3
    assert sum(map(len, step.plans.values())) == 2
    assert launch.context.matmul_precision == "float32"


def test_dropout_draws_anew_in_each_replay(gpu):
    layer = mg.nn.Dropout(0.5).to("cuda")
    step = mg.capture(lambda x: layer(x), device="cuda")
    drawn = {step(np.ones(64, np.float32)).numpy().tobytes() for _ in range(8)}
    assert len(drawn) == 8


@pytest.mark.parametrize("memory", range(34_000, 42_000, 500))
def test_memory_that_a_recording_launches_into_is_not_given_back(gpu, monkeypatch, memory):
    device = CudaDevice(SimulatedDriver(memory=memory))
    monkeypatch.setitem(DEVICES, "cuda", device)
    w = mg.tensor(np.ones((1, 6), np.float32), device="cuda")
    captured = mg.capture(lambda x: ((x * 2 + 1).reshape(1024, 1) * w).sum(), device="cuda")
    x = mg.tensor(np.arange(1024, dtype=np.float32), device="cuda")
    try:
        captured(x)
        results = [captured(x).item() for _ in range(7)]  # timed launch by launch, and as a graph
    except OutOfMemory:
        assert memory <= 41_000
        return
    assert results == [6 * 1024 * 1024] * 7


def test_memory_of_a_recording_is_given_back(gpu):
    x, y = data()

    def run():
        model = no_product().to("cuda")
        step = mg.capture(step_of(model, mg.optim.SGD(model.parameters(), 0.1)), device="cuda")
        for _ in range(7):
            step(x, y)

    def free():
        gc.collect()
        launch.context.tables.clear()  # of pointers, which are kept in case they come again
        gpu.pool.release()
        return gpu.driver.free_memory()

    run()
    before = free()
    run()
    assert free() == before


def images_network():
    mg.manual_seed(2)
    branches = [
        mg.nn.Sequential(mg.nn.Conv2d(3, 4, 1, bias=False), mg.nn.BatchNorm(4), mg.nn.ReLU()),
        mg.nn.Sequential(mg.nn.Conv2d(3, 2, 3, padding=1, bias=False), mg.nn.BatchNorm(2), mg.nn.ReLU()),
        mg.nn.Sequential(mg.nn.MaxPool2d(3, stride=1, padding=1), mg.nn.Conv2d(3, 2, 1), mg.nn.ReLU()),
    ]
    return mg.nn.Sequential(
        mg.nn.Concat(*branches), mg.nn.MaxPool2d(2), mg.nn.GlobalAvgPool(), mg.nn.Dropout(0.2), mg.nn.Linear(8, 3)
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_images_train_as_on_the_reference(gpu, precision):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 4, 4, 3)).astype(np.float32), np.array([2, 0])
    found = {}
    with mg.matmul_precision(precision):
        assert launch.context.matmul_precision == precision
        for device in ("cuda", "reference"):
            model = images_network().to(device)
            step = mg.capture(step_of(model, mg.optim.SGD(model.parameters(), 0.1, momentum=0.9)), device=device)
            found[device] = [step(x, y).item() for _ in range(2)] + [t.numpy() for t in model.state_dict().values()]
    assert launch.context.matmul_precision == "float32"
    for got, want in zip(found["cuda"], found["reference"], strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-4)


@launch.kernel(threads=64)
def axpy(x: launch.Reals, y: launch.Reals, a: launch.Real, n: launch.UInt):
    i = uint32(cuda.blockIdx.x) * uint32(64) + uint32(cuda.threadIdx.x)
    if i < n:
        y[i] = a * x[i] + y[i]


class Axpy(mg.Op):
    """The documentation's."""

    def forward(self, x, y, *, a):
        self.a = a
        result = self.device.copy(y)
        self.launch(axpy[launch.blocks_for(x.size, 64), 64], x, result, a, x.size)
        return result

    def backward(self, dy):
        dx = self.device.zeros(dy.shape, dy.dtype)
        self.launch(axpy[launch.blocks_for(dy.size, 64), 64], dy, dx, self.a, dy.size)
        return dx, dy


def test_own_kernels_are_part_of_the_graph(gpu, rng):
    w = mg.tensor(np.ones(100, np.float32), device="cuda", requires_grad=True)

    def step(x):
        w.zero_grad()
        y = Axpy.apply(w * x, x, a=2.0)
        (y * y).sum().backward()
        return y

    captured = mg.capture(step, device="cuda")
    for _ in range(8):  # more than are timed launch by launch
        x = rng.standard_normal(100).astype(np.float32)
        expected = step(mg.tensor(x, device="cuda")).numpy(), w.grad.numpy()
        np.testing.assert_array_equal(captured(x).numpy(), expected[0])
        np.testing.assert_array_equal(w.grad.numpy(), expected[1])
    np.testing.assert_allclose(expected[0], 3 * x, rtol=1e-6)


def test_a_kernel_for_the_cpu_is_refused(gpu):
    class Double(mg.Op):
        def forward(self, x):
            y = self.empty_like(x)
            self.launch(numba.njit(lambda x, y: None), x, y)
            return y

    with pytest.raises(
        TypeError, match=r"is compiled by numba.njit, for the CPU; on 'cuda' launch a kernel of the GPU"
    ):
        Double.apply(mg.tensor([1.0], device="cuda"))
