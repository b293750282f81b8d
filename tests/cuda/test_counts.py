"""The table of what kernels ask of a GPU, counts.json: some entries are counted anew, all with --full."""

import json
from pathlib import Path

import pytest

pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)

from minigrad.kernels.cuda.host import cases

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cuda-without-a-card.md"
TABLE = json.loads(Path(__file__).with_name("counts.json").read_text())
SOME = "gradient of sigmoid", "sum of columns"  # in the default run; to compile and translate one takes seconds
REMAKE = "python -m minigrad.kernels.cuda.host.cases tests/cuda/counts.json docs/cuda-without-a-card.md"


@pytest.mark.parametrize("name", [n if n in SOME else pytest.param(n, marks=pytest.mark.slow) for n in cases.CASES])
def test_case_asks_for_what_the_table_says(name):
    found = {f"{name}: {kernel}": cases.entry(counts) for kernel, counts in cases.count(cases.CASES[name]).items()}
    kept = {entry: known for entry, known in TABLE.items() if entry.startswith(f"{name}: ")}
    assert found == kept, f"if that is meant, write the table anew: {REMAKE}"


def test_table_has_the_cases_there_are():
    assert list(dict.fromkeys(entry.partition(": ")[0] for entry in TABLE)) == list(cases.CASES)


def test_page_shows_the_table():
    if not PAGE.exists():
        pytest.skip("not run from the sources")
    assert cases.markdown(TABLE) in PAGE.read_text(), f"write it anew: {REMAKE}"


def test_only_the_tile_that_is_32_deep_is_turned_with_conflicts():
    of_products = {
        name: known.get("conflicts", 0) for name, known in TABLE.items() if "multiply" in name or "conv." in name
    }
    in_float32 = [name for name, conflicts in of_products.items() if conflicts and "tf32" not in name]
    assert ["32x32x32" in name for name in in_float32] == [True]
