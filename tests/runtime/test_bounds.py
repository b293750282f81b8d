"""Kernels compiled with NUMBA_BOUNDSCHECK=1, which looks at every index of theirs."""

import pytest

SCRIPT = """
import warnings
import numpy as np
from numba import prange
from minigrad.kernels.cpu.tools.launch import kernel, parallel_kernel

warnings.simplefilter("ignore")


@kernel
def shifted(x, y, by):
    for i in range(y.size):
        y[i] = x[i + by]


@parallel_kernel(is_large=lambda x, y, by: True)
def shifted_in_parallel(x, y, by):
    for i in prange(y.size):
        y[i] = x[i + by]


for function in (shifted, shifted_in_parallel):
    y = np.zeros(4)
    function(np.arange(4.0), y, 0)
    assert (y == np.arange(4)).all()
    try:
        function(np.arange(4.0), y, 100)
        print("nothing")
    except (IndexError, SystemError) as error:  # Numba's, for a loop that threads share
        print(type(error.__cause__ or error).__name__)
"""


def test_an_index_past_the_end_is_an_error(run_script, tmp_path):
    found = run_script(SCRIPT, NUMBA_BOUNDSCHECK="1", NUMBA_NUM_THREADS="2", MINIGRAD_CACHE=str(tmp_path))
    assert found.stdout.split() == ["IndexError", "IndexError"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ops_and_a_captured_step_stay_within_bounds(run_script):
    """Every family of kernels, compiled anew with its indices looked at: what `minigrad verify` runs.

    Compiled without optimizing, which looks at the same indices and takes the compiler little more than half as long.
    """
    code = "import sys\nfrom minigrad.cli import main\nsys.argv = ['minigrad', 'verify']\nmain()"
    found = run_script(code, timeout=500, check=False, NUMBA_BOUNDSCHECK="1", NUMBA_OPT="0")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "captured and eager steps give the same bits" in found.stdout
