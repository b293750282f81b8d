"""The device "cuda" on the simulated driver: memory, transfers, recordings as graphs, batches staged ahead."""

import gc

import numba
import numpy as np
import pytest

import minigrad as mg
from minigrad.devices import get_device
from minigrad.devices.cuda_memory import block_of
from minigrad.devices.cuda_staging import Stager
from minigrad.kernels.cuda.tools import launch
from minigrad.kernels.cuda.tools.array import CudaArray
from minigrad.kernels.cuda.tools.driver import OutOfMemory
from minigrad.kernels.cuda.tools.language import cuda, uint32

FLOAT32 = np.dtype(np.float32)


@pytest.fixture
def transfers(gpu, monkeypatch):
    """The number of bytes of each copy to the host."""
    copied = []
    to_host = gpu.driver.to_host
    monkeypatch.setattr(gpu.driver, "to_host", lambda *a: (copied.append(a[2]), to_host(*a)))
    return copied


def network():
    mg.manual_seed(3)
    return mg.nn.Sequential(mg.nn.Linear(5, 4, bias=False), mg.nn.BatchNorm(4), mg.nn.Sigmoid(), mg.nn.Linear(4, 3))


def one_product():
    """A network with one matrix product: the simulator takes seconds for the six of a step of the one above."""
    mg.manual_seed(3)
    return mg.nn.Sequential(mg.nn.Linear(5, 4, bias=False), mg.nn.BatchNorm(4), mg.nn.Sigmoid())


def no_product():
    """A network without matrix products."""
    return mg.nn.Sequential(mg.nn.BatchNorm(5), mg.nn.Sigmoid())


def data(rows=6):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 5)).astype(np.float32), rng.integers(0, 3, rows)


def step_of(model, optimizer):
    def step(x, y):
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


# Tensors


@pytest.mark.parametrize(
    "array", [np.float32([[1, 2], [3, 4]]), np.int64([5, 6]), np.bool_([True, False]), np.zeros((0, 3))]
)
def test_tensor_goes_there_and_back(gpu, array):
    t = mg.tensor(array, device="cuda")
    assert (t.device, t.shape, t.dtype) == ("cuda", array.shape, array.dtype)
    assert type(t.data) is CudaArray
    np.testing.assert_array_equal(t.numpy(), array)
    np.testing.assert_array_equal(t.to("cpu").numpy(), array)
    np.testing.assert_array_equal(np.asarray(mg.tensor(array).to("cuda")), array)


def test_tensor_shows_its_device_and_values(gpu):
    assert repr(mg.tensor([1.0, 2.5], device="cuda")) == "tensor([1. , 2.5], dtype=float32, device='cuda')"


def test_item_assignment(gpu):
    t = mg.tensor([1.0, 2.0, 3.0], device="cuda")
    t[1:] = mg.tensor([7.0, 8.0])
    np.testing.assert_array_equal(t.numpy(), [1, 7, 8])


def test_tensors_of_two_devices_do_not_meet(gpu):
    with pytest.raises(RuntimeError, match="different devices"):
        mg.add(mg.tensor([1.0]), mg.tensor([1.0], device="cuda"))


def test_data_of_another_device_is_refused(gpu):
    t = mg.tensor([1.0], device="cuda")
    with pytest.raises(RuntimeError, match="must stay on 'cuda'"):
        t.data = mg.tensor([2.0])


def test_array_interface_for_other_libraries(gpu):
    array = mg.tensor(np.ones((2, 3), np.float32), device="cuda").data
    interface = array.__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["data"]) == ((2, 3), "<f4", (array.pointer, False))


class Handle:
    """A stream as NVIDIA's binding has it."""

    def __int__(self):
        return 4096


@pytest.mark.parametrize(("stream", "named"), [(Handle(), 4096), (0, None)], ids=["GPU", "simulator"])
def test_array_interface_names_the_stream_to_wait_for(gpu, monkeypatch, stream, named):
    array = mg.tensor([1.0], device="cuda").data
    monkeypatch.setattr(launch.context, "stream", stream)
    assert array.__cuda_array_interface__["stream"] == named


# Memory


def test_memory_is_used_again(gpu):
    first = mg.tensor(np.zeros(1000, np.float32), device="cuda")
    pointer = first.data.pointer
    del first
    assert mg.tensor(np.ones(990, np.float32), device="cuda").data.pointer == pointer


def test_view_keeps_the_memory(gpu):
    x = mg.tensor(np.arange(6, dtype=np.float32), device="cuda")
    view = x.reshape(2, 3)
    del x
    gc.collect()
    mg.tensor(np.zeros(6, np.float32), device="cuda")
    np.testing.assert_array_equal(view.numpy(), [[0, 1, 2], [3, 4, 5]])


def test_free_blocks_are_given_back_before_memory_runs_out(gpu):
    del_me = [gpu.empty((1 << 20,), FLOAT32) for _ in range(3)]
    del del_me
    assert gpu.empty((3 << 20,), FLOAT32).nbytes == 12 << 20


def test_out_of_memory_says_how_much_there_is(gpu):
    kept = gpu.empty((1 << 20,), FLOAT32)
    with pytest.raises(
        OutOfMemory, match=r"67,108,864 bytes were asked for, [\d,]+ of its 16,777,216 are free.*smaller batch"
    ):
        gpu.empty((1 << 24,), FLOAT32)
    assert kept.nbytes == 4 << 20


# Ops


def test_network_agrees_with_the_reference(gpu):
    x, y = data()
    losses = {}
    for device in ("cuda", "reference"):
        model = network().to(device)
        loss = mg.cross_entropy(model(mg.tensor(x, device=device)), mg.tensor(y, device=device))
        loss.backward()
        losses[device] = [loss.item(), *[p.grad.numpy() for p in model.parameters()]]
    for got, want in zip(losses["cuda"], losses["reference"], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("index", [1, slice(None, None, -2), (Ellipsis, None, 2), np.array([2, 0, 2])], ids=str)
def test_indexing(gpu, index):
    array = np.arange(15, dtype=np.float32).reshape(5, 3)
    x = mg.tensor(array, device="cuda", requires_grad=True)
    y = x[index]
    np.testing.assert_array_equal(y.numpy(), array[index])
    y.sum().backward()
    expected = np.zeros_like(array)
    np.add.at(expected, index, 1)
    np.testing.assert_array_equal(x.grad.numpy(), expected)


def test_label_out_of_range_is_found_without_asking_the_gpu(gpu, transfers):
    logits = mg.tensor(np.zeros((2, 3), np.float32), device="cuda")
    with pytest.raises(ValueError, match="label 3 in row 1"):
        mg.cross_entropy(logits, mg.tensor([0, 3], device="cuda"))
    assert transfers == []


def test_label_computed_on_the_gpu_is_checked_too(gpu):
    labels = mg.tensor([0.0, 5.0], device="cuda").to("int64")
    with pytest.raises(ValueError, match="label 5 in row 1"):
        mg.cross_entropy(mg.tensor(np.zeros((2, 3), np.float32), device="cuda"), labels)


def test_user_op_that_returns_a_numpy_array_is_told(gpu):
    class Host(mg.Op):
        def forward(self, x):
            return np.asarray(x) * 2

    with pytest.raises(TypeError, match=r"Host.forward must return an array of the GPU.*self\.kernels"):
        Host.apply(mg.tensor([1.0], device="cuda"))


# Optimizers


@pytest.mark.parametrize(
    "make",
    [
        lambda p: mg.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: mg.optim.AdaGrad(p, 0.1),
        lambda p: mg.optim.Adam(p, 0.01),
    ],
    ids=["SGD", "AdaGrad", "Adam"],
)
def test_optimizer_agrees_with_the_reference(gpu, make):
    x, y = data()
    found = {}
    for device in ("cuda", "reference"):
        model = network().to(device)
        optimizer = make(model.parameters())
        step = step_of(model, optimizer)
        for _ in range(2):
            step(mg.tensor(x, device=device), y)
        found[device] = {name: np.asarray(v) for name, v in {**model.state_dict(), **optimizer.state_dict()}.items()}
    for name, want in found["reference"].items():
        np.testing.assert_allclose(found["cuda"][name], want, rtol=1e-3, atol=1e-5, err_msg=name)


def test_optimizer_stays_with_the_device_it_was_made_on(gpu):
    model = network()
    optimizer = mg.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.to("cuda")
    mg.cross_entropy(model(mg.tensor(data()[0], device="cuda")), data()[1]).backward()
    with pytest.raises(RuntimeError, match="make the optimizer after"):
        optimizer.step()


# Recordings


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


# Batches ahead


def test_staged_batches_arrive_whole(gpu):
    stager = Stager(gpu)
    rng = np.random.default_rng(1)
    for _ in range(5):
        x, y = rng.standard_normal((3, 4)).astype(np.float32), rng.integers(0, 9, 3)
        staged = stager.arrived(stager.stage((x, y)))
        np.testing.assert_array_equal(np.asarray(staged[0]), x)
        np.testing.assert_array_equal(np.asarray(staged[1]), y)
    assert len(stager.places) <= 4


def test_staged_memory_is_not_used_again_while_a_batch_lives(gpu):
    stager = Stager(gpu)
    first = stager.stage((np.ones(4, np.float32),))
    second = stager.stage((np.zeros(4, np.float32),))
    assert first[0].pointer != second[0].pointer
    np.testing.assert_array_equal(np.asarray(stager.arrived(first)[0]), 1)


def test_staged_batch_is_there_once_it_was_waited_for(gpu):
    stager = Stager(gpu)
    staged = stager.stage((np.ones(4, np.float32),))
    assert np.asarray(staged[0])[0] != 1
    np.testing.assert_array_equal(np.asarray(stager.arrived(staged)[0]), 1)


def test_stager_gives_all_back(gpu, monkeypatch):
    events, new_event = [], gpu.driver.new_event
    monkeypatch.setattr(gpu.driver, "new_event", lambda: events.append(new_event()) or events[-1])
    monkeypatch.setattr(gpu.driver, "free_event", lambda event: events.pop([e is event for e in events].index(True)))
    before = gpu.driver.free_memory()
    stager = Stager(gpu)
    stager.stage((np.ones(4, np.float32), np.ones(3, np.int64)))
    assert len(events) == 4
    del stager
    gc.collect()
    assert not events
    assert not gpu.driver.pinned
    assert gpu.driver.free_memory() == before


def test_events_are_not_recorded_once_they_are_gone(gpu, monkeypatch):
    used, gone = [], []
    monkeypatch.setattr(gpu.driver, "record", lambda event, stream: used.append(any(event is e for e in gone)))
    monkeypatch.setattr(gpu.driver, "free_event", gone.append)
    stager = Stager(gpu)
    stager.batch = stager.stage((np.ones(4, np.float32),))  # a cycle, in which the collector finds the loan last
    del stager
    gc.collect()
    assert len(gone) == 2
    assert not any(used)


def test_stagers_share_a_stream(gpu):
    assert Stager(gpu).stream == Stager(gpu).stream != gpu.stream


@pytest.mark.parametrize("capture", [True, False], ids=["captured", "eager"])
def test_fit_trains_as_on_the_reference(gpu, capture):
    x, y = data(12)
    histories = {}
    for device in ("cuda", "reference"):
        model = one_product().to(device)
        loader = mg.data.Loader(x, y, batch_size=4, seed=1, prefetch=2)
        histories[device] = mg.train.fit(
            model,
            mg.optim.SGD(model.parameters(), 0.1, momentum=0.9),
            loader,
            epochs=3,
            validation=[(x, y)],
            capture=capture,
        )
        assert loader.stager is None
    for got, want in zip(histories["cuda"].epochs, histories["reference"].epochs, strict=True):
        for name in ("loss", "accuracy", "validation_loss"):
            assert got[name] == pytest.approx(want[name], rel=1e-4)


def test_checkpoint_goes_from_device_to_device(gpu, tmp_path):
    model = network().to("cuda")
    mg.checkpoint.save(tmp_path / "a.safetensors", model=model)
    other = mg.nn.Sequential(*network().layers)
    for p in other.parameters():
        p.data = np.zeros(p.shape, np.float32)
    mg.checkpoint.load(tmp_path / "a.safetensors", model=other)
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)


# What is known of contents, and what is studied


def test_contents_are_forgotten_with_the_memory(gpu):
    y = gpu.from_host(np.array([1, 2, 3]))
    assert block_of(y).known is not None
    block = block_of(y)
    del y
    z = gpu.empty((3,), np.dtype(np.int64))
    assert block_of(z) is block
    assert block.known is None


def test_inspect_steps_through_a_tape_of_the_gpu(gpu):
    x, y = data()
    model = network().to("cuda")
    with mg.inspect.record():
        loss = mg.cross_entropy(model(mg.tensor(x, device="cuda")), y)
    steps = list(mg.inspect.steps(loss))
    assert all(step.ok for step in steps)
    assert "CrossEntropy" in str(mg.inspect.table(loss))


def test_anomaly_names_the_op(gpu):
    with mg.detect_anomaly(), pytest.raises(mg.AnomalyError, match="Log made a NaN"):
        mg.log(mg.tensor([-1.0], device="cuda"))


def test_auto_takes_the_gpu(gpu):
    assert get_device("auto") is gpu


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
