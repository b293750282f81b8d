"""Kernels that come compiled with a release: they are taken instead of the compiler, which need not be there."""

import json
import lzma
import os
import subprocess
import sys

import numpy as np
import pytest

from minigrad.kernels import formulas
from minigrad.kernels.build import cache
from minigrad.kernels.cuda import elementwise
from minigrad.kernels.cuda.tools import launch, shipped
from minigrad.kernels.cuda.tools.launch import FLOAT32, FLOAT64, CudaKernel, Reals

RELU = elementwise.unary.variant(FORMULA=formulas.relu)
NAME = "elementwise.unary,FORMULA=relu:float32"
TEXT = "// shipped\n.entry relu_of_a_release ("


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Where shipped kernels are, without any so far; nothing else is kept on disk."""
    path = tmp_path / "kernels.ptx.xz"
    monkeypatch.setattr(shipped, "PATH", path)
    monkeypatch.setattr(launch, "cache_folder", lambda target: None)
    monkeypatch.setattr(cache, "_warned", set())
    shipped.kernels.cache_clear()
    yield path
    shipped.kernels.cache_clear()


def test_a_shipped_kernel_is_taken_as_it_is(file):
    size = shipped.write({NAME: TEXT})
    assert size == file.stat().st_size
    assert launch.cached_ptx(RELU, FLOAT32) == (TEXT, "relu_of_a_release")


def test_what_was_not_shipped_is_compiled(file):
    shipped.write({NAME: TEXT})
    for kernel, real, capability in ((RELU, FLOAT64, launch.OLDEST), (RELU, FLOAT32, (9, 0))):
        ptx, entry = launch.cached_ptx(kernel, real, capability)
        assert entry != "relu_of_a_release"
        assert f".target sm_{capability[0]}{capability[1]}" in ptx


def test_kernels_of_other_sources_are_not_taken(file, monkeypatch):
    shipped.write({NAME: TEXT})
    monkeypatch.setattr(shipped, "digest_of_sources", lambda target: "changed")
    assert shipped.ptx_of(RELU, FLOAT32) is None


def relu(x):
    return x


def test_users_kernels_of_the_same_name_are_not_taken(file):
    def unary(x: Reals):
        x[0] = x[1]

    shipped.write({NAME: TEXT, "elementwise.unary:float32": TEXT})
    theirs = CudaKernel(unary, 32, 1, {})
    theirs.function.__module__ = "their.elementwise"
    assert theirs.name == "elementwise.unary"
    with_their_formula = CudaKernel(elementwise.unary.function, 256, 1, {"FORMULA": relu})
    assert f"{with_their_formula.name}:float32" == NAME
    assert shipped.ptx_of(theirs, FLOAT32) is shipped.ptx_of(with_their_formula, FLOAT32) is None
    assert shipped.ptx_of(RELU, FLOAT32) == TEXT


@pytest.mark.parametrize(
    "content", [b"", b"no xz", lzma.compress(b"no JSON"), lzma.compress(b"[]"), lzma.compress(b"{}")]
)
def test_a_damaged_file_costs_a_warning(file, content):
    file.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        assert shipped.ptx_of(RELU, FLOAT32) is None


WITHOUT_A_COMPILER = """
import sys
from importlib import metadata

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "numba.cuda" or name.startswith(("numba.cuda.", "numba_cuda")):
            raise ImportError(name)

def version(name, known=metadata.version):
    if name == "numba-cuda":
        raise metadata.PackageNotFoundError(name)
    return known(name)

sys.meta_path.insert(0, Missing())
for name in [name for name in sys.modules if name.startswith(("numba.cuda", "numba_cuda"))]:
    del sys.modules[name]
metadata.version = version

from pathlib import Path
from minigrad.kernels.cuda.tools import shipped
shipped.PATH = Path(sys.argv[1])
import minigrad as mg
try:
    x = mg.tensor([-1.0, 2.0], device="cuda")
    print(mg.relu(x).numpy())
    mg.exp(x)
except (RuntimeError, ImportError) as error:
    print(type(error).__name__, error)
"""


def without_a_compiler(file):
    """What a process prints that has no compiler, with the host as its GPU."""
    arguments = [sys.executable, "-c", WITHOUT_A_COMPILER, str(file)]
    environment = {**os.environ, "MINIGRAD_CUDA": "host"}
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=250, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.splitlines()


def test_a_gpu_works_without_a_compiler_as_far_as_kernels_were_shipped(file):
    shipped.write({NAME: launch.compile_ptx(RELU, FLOAT32)[0]})
    first, second = without_a_compiler(file)
    assert first == "[0. 2.]"
    assert second.startswith("ImportError elementwise.unary,FORMULA=exp for float32 did not come with this release")
    assert "pip install 'minigrad-bn[compiler]'" in second


def test_without_compiler_and_shipped_kernels_the_error_says_what_to_install(file):
    (only,) = without_a_compiler(file)
    assert only.startswith('RuntimeError device="cuda": this copy of minigrad has no compiled CUDA kernels')
    assert "pip install 'minigrad-bn[compiler]'" in only


def test_the_file_is_small_and_plain(file):
    shipped.write({NAME: TEXT})
    content = json.loads(lzma.decompress(file.read_bytes()))
    assert content == {"sources": cache.digest_of_sources("cuda"), "kernels": {NAME: TEXT}}


def test_a_users_kernel_is_compiled_anew_when_it_is_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "cache_folder", lambda target: tmp_path)

    def doubled(x: Reals):
        x[0] = x[0] + x[0]

    def squared(x: Reals):
        x[0] = x[0] * x[0]

    squared.__name__ = "doubled"
    texts = [launch.cached_ptx(CudaKernel(f, 32, 1, {}), np.dtype(np.float32))[0] for f in (doubled, squared)]
    assert ["mul.f32" in text for text in texts] == [False, True]
    assert len(list(tmp_path.iterdir())) == 2
