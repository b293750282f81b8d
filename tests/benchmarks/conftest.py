import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

collect_ignore_glob = [] if (ROOT / "benchmarks").is_dir() else ["test_*.py"]  # where only the tests lie
if str(ROOT) not in sys.path:
    sys.path.append(
        str(ROOT)
    )  # the benchmarks are not installed; at the end: an installed minigrad stays the one tested


def by_numpy(family, driver):
    """The reference kernels on the memory of a simulated GPU."""

    def host(argument):
        if not hasattr(argument, "pointer"):
            return argument
        memory = driver.memory_at(argument.pointer, argument.dtype) if argument.size else np.empty(0, argument.dtype)
        return memory[: argument.size].reshape(argument.shape)

    def launched(function):
        return lambda *arguments: driver.do(lambda: function(*map(host, arguments)))

    public = {name: value for name, value in vars(family).items() if callable(value) and not name.startswith("_")}
    return types.SimpleNamespace(**{name: launched(function) for name, function in public.items()})


@pytest.fixture
def simulated(monkeypatch):
    """A simulated GPU whose products and convolutions are NumPy's: under test is the comparison, not the kernels."""
    pytest.importorskip("greenlet", reason="the simulator needs it")
    try:
        from minigrad.devices.cuda import CudaDevice
    except ImportError as error:
        pytest.skip(str(error))
    from minigrad.devices import registry
    from minigrad.kernels import cuda, reference
    from minigrad.kernels.cuda.tools import launch
    from minigrad.kernels.cuda.tools.simulated_driver import SimulatedDriver

    for name in ("driver", "stream", "empty", "tables", "matmul_precision"):
        monkeypatch.setattr(launch.context, name, getattr(launch.context, name))
    launch.context.tables = {}
    device = CudaDevice(SimulatedDriver(memory=1 << 26))
    monkeypatch.setitem(registry.DEVICES, "cuda", device)
    for family in ("gemm", "conv"):
        monkeypatch.setitem(vars(cuda), family, by_numpy(getattr(reference, family), device.driver))
    return device


@pytest.fixture
def frameworks(monkeypatch):
    """All that are installed, in this process, on the CPU; minigrad by its reference kernels, for which nothing is compiled."""
    from benchmarks.tools.frameworks import FRAMEWORKS, PEERS
    from minigrad.devices import Device, registry
    from minigrad.kernels import reference

    device = Device("cpu")
    device.kernels = reference
    monkeypatch.setitem(registry.DEVICES, "cpu", device)

    modules = {"minigrad": "minigrad", "PyTorch": "torch", "JAX": "jax", "NumPy": "numpy", **PEERS}
    made = {name: make() for name, make in FRAMEWORKS.items() if importlib.util.find_spec(modules[name])}
    if "PyTorch" not in made:
        yield made
        return
    torch = made["PyTorch"].torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small work on two threads is mostly waiting, on a busy machine for long
    yield made
    torch.set_num_threads(threads)


@pytest.fixture(params=["cpu", "cuda"])
def sides(request, frameworks):
    """On the CPU, one side with all frameworks; on a simulated GPU minigrad, PyTorch on the CPU, in both precisions."""
    from benchmarks.tools.frameworks import PRECISIONS, Minigrad
    from benchmarks.tools.sides import Here

    if request.param == "cpu":
        return [Here(frameworks, "float32")]
    here = {"minigrad": Minigrad(home=request.getfixturevalue("simulated"))}
    here |= {"PyTorch": frameworks["PyTorch"]} if "PyTorch" in frameworks else {}
    return [Here(here, precision) for precision in PRECISIONS]
