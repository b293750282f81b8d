"""The device "cuda" on the simulated driver: tensors, memory, ops, optimizers."""

import gc

import numpy as np
import pytest
from small_steps import data, network, step_of
from targets import first_only

import minigrad as mg
from minigrad.cli import verification
from minigrad.devices import get_device
from minigrad.devices.cuda_memory import block_of
from minigrad.kernels.cuda.tools import launch
from minigrad.kernels.cuda.tools.array import CudaArray
from minigrad.kernels.cuda.tools.driver import OutOfMemory

FLOAT32 = np.dtype(np.float32)


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


def test_running_statistics_must_be_on_the_gpu(gpu):
    x, var = mg.tensor(np.ones((4, 3), np.float32), device="cuda"), mg.tensor(np.ones(3, np.float32), device="cuda")
    said = r"running_mean is an array of another device than x, which is on 'cuda'; .* mg.tensor\(running_mean, device='cuda'\)"
    for training in (True, False):
        with pytest.raises(RuntimeError, match=said):
            mg.batch_norm(x, None, None, np.zeros(3, np.float32), var, training=training)


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
    first_only(
        lambda p: mg.optim.Adam(p, 0.01),
        lambda p: mg.optim.AdaGrad(p, 0.1),
        lambda p: mg.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    ids=["Adam", "AdaGrad", "SGD"],
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


@pytest.mark.parametrize("check", [verification.check_optimizers, verification.check_augmentation])
def test_what_verify_holds_it_to(gpu, check):
    """Beside the ops, which `minigrad verify --device cuda` runs too, and tests/ops."""
    check("cuda")


@pytest.mark.slow
@pytest.mark.parametrize("precision", verification.ERRORS)
def test_what_verify_holds_precisions_to(host_gpu, precision):
    verification.check_precision("cuda", precision)
    families = {name.partition(",")[0] for name in host_gpu.driver.launches}
    assert {"gemm.multiply", "conv.forward", "conv.backward_x", "conv.backward_w"} <= families
    products = [name for name in host_gpu.driver.launches if name.startswith(("gemm.multiply", "conv."))]
    assert all("PRODUCT=product_" in name for name in products)


def test_verify_tells_a_precision_that_is_not_kept(gpu, monkeypatch):
    monkeypatch.setattr(verification, "PRODUCTS", {"linear": (mg.linear, (5, 9), (9, 3))})
    verification.check_precision("cuda", "bf16")
    monkeypatch.setitem(verification.ERRORS, "bf16", 2**-13)
    with pytest.raises(AssertionError, match=r"result of linear: an error of .*, 1.2e-04 is promised"):
        verification.check_precision("cuda", "bf16")
