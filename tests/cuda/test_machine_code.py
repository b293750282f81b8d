import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from minigrad.kernels.cuda import conv, gemm
from minigrad.kernels.cuda.parts import plans
from minigrad.kernels.cuda.tools import machine_code
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.cuda.tools.launch import FLOAT32

if machine_code.find_ptxas() is None:
    pytest.skip("ptxas is not installed", allow_module_level=True)

TABLE = json.loads(Path(__file__).with_name("machine_code.json").read_text())
CASES = machine_code.cases()
SOME = sorted(CASES)[::300]  # in the default run; to compile and assemble one takes seconds
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
        assert found["blocks"] >= 1, architecture
    if real == FLOAT32 and not kernel.uses_float64:
        arithmetic = re.findall(r"\b(?:add|sub|mul|fma|div|sqrt|min|max)\S*\.f64\b", ptx)
        assert not arithmetic, "float64 in a float32 kernel"


PRODUCTS = {
    **{(kernel.function.__name__, *where): kernel for where, kernel in gemm.KERNELS.items()},
    **{(function.__name__, tile, *conv.DEEP[function]): kernel for (function, tile), kernel in conv.KERNELS.items()},
}


@pytest.mark.parametrize("architecture", machine_code.ARCHITECTURES)
def test_a_multiprocessor_has_room_for_the_blocks_of_a_product(architecture, monkeypatch):
    """On tensor cores, by as many stages as fit into its shared memory."""
    limits = machine_code.ARCHITECTURES[architecture]
    monkeypatch.setattr(context, "driver", SimpleNamespace(shared_memory=limits.shared))
    short = {}
    for (function, tile, *deep), kernel in PRODUCTS.items():
        if tile.stages == 2 and (function, tile._replace(stages=3), *deep) in PRODUCTS:
            continue
        (real,) = kernel.types
        taken = PRODUCTS[function, plans.fitting(tile, real.itemsize, *deep), *deep]
        blocks = TABLE[f"{taken.name}:{real.name}"][architecture]["blocks"]
        if blocks < tile.min_blocks:
            short[tile] = blocks, tile.min_blocks
    assert short == ({plans.SMALL: (5, 6)} if limits.shared == 100 * 1024 else {})
