import json
import re
from pathlib import Path

import pytest

from minigrad.kernels.cuda.tools import machine_code
from minigrad.kernels.cuda.tools.launch import FLOAT32

if machine_code.find_ptxas() is None:
    pytest.skip("ptxas is not installed", allow_module_level=True)

TABLE = json.loads(Path(__file__).with_name("machine_code.json").read_text())
CASES = machine_code.cases()
SOME = sorted(CASES)[::60]  # in the default run; to compile and assemble one takes seconds
REMAKE = "python -m minigrad.kernels.cuda.tools.machine_code tests/cuda/machine_code.json"


def test_table_lists_the_kernels_there_are():
    assert sorted(TABLE) == sorted(CASES), f"write it anew: {REMAKE}"


@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in sorted(CASES)]
)
def test_kernel_compiles_to_the_machine_code_in_the_table(name):
    kernel, real = CASES[name]
    ptx, code = machine_code.measure(kernel, real)
    assert code == TABLE[name], f"if that is meant, write the table anew: {REMAKE}"
    for architecture, found in code.items():
        assert found["spills"] == 0, architecture
        assert found["stack"] == 0, architecture
        assert found["registers"] * kernel.threads * kernel.min_blocks <= 65536, architecture
    if real == FLOAT32 and not kernel.uses_float64:
        arithmetic = re.findall(r"\b(?:add|sub|mul|fma|div|sqrt|min|max)\S*\.f64\b", ptx)
        assert not arithmetic, "float64 in a float32 kernel"
