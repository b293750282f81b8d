"""What `import minigrad` does, and what it leaves alone."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import minigrad
import minigrad.kernels

TASKS = Path("/proc/self/task")
NOT_IMPORTED = [
    "torch",
    "jax",
    "rich",
    "matplotlib",
    "typer",
    "pooch",
    "requests",
    "safetensors",
    "onnx",
    "hypothesis",
    "mpi4py",
    "PIL",
    "sklearn",
    "numba.cuda",
    "cuda",
    "greenlet",
    "filelock",  # needed, but not before something is compiled or written
    "platformdirs",
]


def run(code):
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout.split()


def test_import_brings_in_nothing_that_may_wait():
    assert run(f"import sys, minigrad; print(*[m for m in {NOT_IMPORTED} if m in sys.modules])") == []


def test_import_compiles_nothing():
    code = """
import minigrad
import minigrad.data, minigrad.inspect, minigrad.testing
from numba.core.dispatcher import Dispatcher
from minigrad.kernels.cpu import dropout, elementwise, gemm, loss, movement, norm, optim, reduce
from minigrad.kernels.build.progress import progress
import gc
ready = [d for d in gc.get_objects() if isinstance(d, Dispatcher) and d.overloads]
print(len(progress.compiled), len(progress.started), *ready)
"""
    assert run(code) == ["0", "0"]


@pytest.mark.skipif(not TASKS.is_dir(), reason="the threads of a process are counted where Linux shows them")
def test_import_starts_no_threads():
    code = f"""
import os, threading
import numpy  # whose products have threads of their own
before = len(os.listdir({str(TASKS)!r}))
import minigrad
print(threading.active_count(), len(os.listdir({str(TASKS)!r})) - before)
"""
    assert run(code) == ["1", "0"]


def test_reference_device_needs_no_compiler(tmp_path):
    code = """
import numpy as np
import minigrad as mg
mg.manual_seed(0)
model = mg.models.MLP(12, (5,), 3).to("reference")
optimizer = mg.optim.Adam(model.parameters())
loss = mg.cross_entropy(model(mg.tensor(np.ones((4, 12), np.float32), device="reference")), [0, 1, 2, 0])
loss.backward()
optimizer.step()
from minigrad.kernels.build.progress import progress
print(len(progress.compiled))
"""
    assert run(code) == ["0"]


def test_import_creates_no_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "cache"))
    run("import minigrad")
    assert not (tmp_path / "cache").exists()


def modules():
    for package in (minigrad, minigrad.kernels):
        yield from (m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + "."))


@pytest.mark.parametrize("name", sorted(set(modules())))
def test_every_module_can_be_imported(name):
    if "cuda" in name:
        pytest.importorskip("greenlet")
        pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)
    importlib.import_module(name)


def test_completion_offers_what_is_public():
    code = "import minigrad; print(*[name for name in dir(minigrad) if not name.startswith('_')])"
    assert run(code) == sorted(minigrad.__all__)  # in a process where nothing else has been imported
    assert "__version__" in dir(minigrad)


def test_public_names_are_there():
    assert sorted(minigrad.__all__) == list(dict.fromkeys(sorted(minigrad.__all__)))
    for name in minigrad.__all__:
        assert hasattr(minigrad, name), name
