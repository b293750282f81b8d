"""The device "cuda" on the host: the engine's own launches, from the PTX of its kernels."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)

import host_ptx
from small_steps import data, no_product, step_of
from targets import check, target_named

import minigrad as mg
from minigrad.devices import get_device
from minigrad.devices.cuda import CudaDevice
from minigrad.devices.registry import DEVICES
from minigrad.kernels.cuda.host.compiled import HostKernel
from minigrad.kernels.cuda.host.driver import GAP, Arena, HostDriver
from minigrad.kernels.cuda.tools import launch
from minigrad.kernels.cuda.tools.driver import OutOfMemory

DOUBLE = host_ptx.source(
    "add.s64 %rd3, %rd1, %rd0;\nld.global.f32 %f1, [%rd3];\nadd.f32 %f1, %f1, %f1;\nst.global.f32 [%rd3], %f1;"
)


@pytest.fixture
def host(monkeypatch):
    """The host as the device "cuda", as MINIGRAD_CUDA makes it."""
    for name in ("driver", "stream", "empty", "tables", "matmul_precision"):
        monkeypatch.setattr(launch.context, name, getattr(launch.context, name))
    launch.context.tables = {}
    monkeypatch.setenv("MINIGRAD_CUDA", "host,checked")
    monkeypatch.setitem(DEVICES, "cuda", None)
    del DEVICES["cuda"]
    return get_device("cuda")


def test_the_environment_chooses(host):
    assert type(host) is CudaDevice
    assert type(host.driver) is HostDriver
    assert host.driver.checks
    assert host.driver.is_simulated


def test_another_word_in_the_environment_is_refused(host, monkeypatch):
    monkeypatch.setenv("MINIGRAD_CUDA", "toast")
    with pytest.raises(
        RuntimeError, match="MINIGRAD_CUDA is 'toast'; it may be 'host', 'host,checked', 'host,counted' or 'simulator'"
    ):
        CudaDevice()


@pytest.mark.parametrize("size", [1, 5, 1027])
def test_relu_forward_and_backward(host, rng, size):
    x = rng.standard_normal(size).astype(np.float32)
    t = mg.tensor(x, device="cuda", requires_grad=True)
    y = mg.relu(t)
    np.testing.assert_array_equal(y.numpy(), np.maximum(x, 0))
    y.backward(mg.tensor(np.full(size, 2, np.float32), device="cuda"))
    np.testing.assert_array_equal(t.grad.numpy(), np.where(x > 0, 2, 0))
    assert sorted(host.driver.launches) == [
        "elementwise.binary,FORMULA=relu_grad",
        "elementwise.unary,FORMULA=relu",
    ]


@pytest.mark.slow
def test_captured_step_gives_the_bits_of_the_eager_one(host):
    x, y = data()
    runs = []
    for wrap in (lambda step: step, mg.capture):
        model = no_product().to("cuda")
        step = wrap(step_of(model, mg.optim.SGD(model.parameters(), 0.5, momentum=0.9)))
        losses = [step(mg.tensor(x + i, device="cuda"), mg.tensor(y, device="cuda")).item() for i in range(8)]
        runs.append((losses, [t.numpy().tobytes() for t in model.state_dict().values()]))
    assert runs[0] == runs[1]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_products_of_more_than_one_tile(host, rng, precision):
    a, b = rng.standard_normal((150, 70)).astype(np.float32), rng.standard_normal((70, 140)).astype(np.float32)
    with mg.matmul_precision(precision):
        found = (mg.tensor(a, device="cuda") @ mg.tensor(b, device="cuda")).numpy()
    np.testing.assert_allclose(found, a @ b, atol=1e-4 if precision == "float32" else 5e-2)


def test_kernel_is_kept_as_machine_code(own_cache, monkeypatch):
    first = HostKernel(DOUBLE, "double", False)
    monkeypatch.setattr("minigrad.kernels.cuda.host.compiled.translate", None)
    again = HostKernel(DOUBLE, "double", False)
    assert again.translation == first.translation._replace(text="")


def test_damaged_machine_code_is_made_anew_with_a_warning(own_cache, monkeypatch):
    from minigrad.kernels.build import cache
    from minigrad.kernels.cuda.host import compiled

    monkeypatch.setattr(cache, "_warned", set())
    HostKernel(DOUBLE, "double", False)
    path = compiled.path_of(DOUBLE, False)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match="damaged"):
        HostKernel(DOUBLE, "double", False)
    assert compiled.kept(path) is not None


def test_grid_and_blocks_of_several_axes():
    body = """
    mov.u32 %r1, %ctaid.y;
    mov.u32 %r2, %nctaid.x;
    mov.u32 %r3, %ctaid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    mov.u32 %r5, %ntid.x;
    mov.u32 %r6, %tid.y;
    mad.lo.s32 %r7, %r6, %r5, %r0;
    mad.lo.s32 %r8, %r4, 6, %r7;
    mul.wide.u32 %rd3, %r8, 4;
    add.s64 %rd3, %rd1, %rd3;
    st.global.u32 [%rd3], %r8;
    """
    (found,) = host_ptx.run(
        HostDriver(1 << 20), host_ptx.source(body), np.zeros(36, np.uint32), grid=(2, 3), block=(3, 2)
    )
    np.testing.assert_array_equal(found, np.arange(36))


def test_memory_is_found_again_and_joined():
    arena = Arena(1 << 16)
    whole = arena.free_parts[:]
    first, second, third = (arena.allocate(size) for size in (1, 300, 5000))
    assert second - first == 256 + GAP
    for address in (second, first, third):
        arena.free(address)
    assert arena.free_parts == whole
    assert not arena.ends.any()


def test_memory_in_pieces_is_out_of_memory_all_the_same():
    driver = HostDriver(1 << 20)
    with pytest.raises(OutOfMemory):
        driver.allocate((1 << 20) + 1)
    pointer = driver.allocate(1 << 20)
    with pytest.raises(OutOfMemory):
        driver.allocate(1)
    driver.free(pointer)
    driver.allocate(1)


def test_sums_are_the_reference_s(monkeypatch, rng):
    x = rng.standard_normal((2, 33, 5)).astype(np.float32)
    check(target_named("cuda, host", monkeypatch), "reduce", "sum_forward", x, np.empty((2, 5), np.float32))


@pytest.mark.slow
def test_process_ends_in_silence():
    program = "import minigrad as mg; print(mg.relu(mg.tensor([-1.0, 2.0], device='cuda')).numpy())"
    environment = {**os.environ, "MINIGRAD_CUDA": "host,checked"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[0. 2.]\n"
    assert "Traceback" not in result.stderr
