"""Kernels compiled ahead, by several processes."""

import pickle

import numpy as np
import pytest

from minigrad.kernels.cpu import elementwise, gemm
from minigrad.kernels.cpu.parts import winograd
from minigrad.kernels.cpu.tools.ahead import longest_first, noted
from minigrad.kernels.cpu.tools.launch import GRAIN

SCRIPT = """
import numpy as np
import minigrad as mg
from minigrad.kernels.build.progress import progress
from minigrad.kernels.cpu import elementwise
from minigrad.kernels.cpu.tools.ahead import compile_all, noted

def work(y):
    for size in sizes:
        elementwise.relu_forward(np.arange(size, dtype=y.dtype), y[:size])

if __name__ == "__main__":
    sizes = 5, 7, {grain}
    single, double = np.zeros({grain}, np.float32), np.zeros({grain})
    with noted() as wanted:
        work(single)
        work(double)
    assert not single.any() and not double.any()
    assert [parallel for kernel, parallel, kinds in wanted] == [False, True] * 2
    compile_all(wanted, {processes})
    compiled = [name for name, seconds in progress.compiled]
    serial, parallel = "elementwise.relu_forward", "elementwise.relu_forward.parallel"
    assert sorted(compiled) == [serial, serial, parallel, parallel]
    with mg.no_compile():
        work(single)
        work(double)
    assert (double == np.arange({grain})).all() and (single == double).all()
    compile_all(wanted, {processes})
    assert len(progress.compiled) == 4
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_is_noted_is_compiled_and_not_run(run_script, tmp_path, processes):
    (tmp_path / "script.py").write_text(SCRIPT.format(grain=GRAIN, processes=processes))
    code = "import runpy; runpy.run_path('script.py', run_name='__main__')"
    said = run_script(code, MINIGRAD_CACHE=str(tmp_path / "cache")).stderr.splitlines()
    assert said[0] == "minigrad: compiling kernels for this machine (once; kept for next time)"
    assert all(line.startswith("minigrad: compiling (") for line in said[1:])  # of a machine that takes its time


def test_kernels_of_the_same_code_are_noted_once():
    a, bias = np.zeros((2, 2), np.float32), np.zeros(0, np.float32)
    with noted() as wanted:
        gemm.gemm(a, a, bias, a, False, False)
        gemm.gemm_add(a, a, a, False, False)
    assert [kernel for kernel, *_ in wanted] == [gemm.gemm]


def test_variants_of_a_kernel_stay_together_and_the_longest_come_first():
    short, long = elementwise.relu_forward, gemm.gemm
    entries = [(short, False, ()), (long, False, ()), (short, True, ()), (long, True, ())]
    assert longest_first(entries) == [entries[1::2], entries[::2]]


@pytest.mark.parametrize("kernel", [gemm.gemm_add, elementwise.exp_forward, winograd.winograd_backward_x])
def test_another_process_finds_a_kernel_by_its_name(kernel):
    assert pickle.loads(pickle.dumps(kernel)) is kernel
