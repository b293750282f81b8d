"""Numbers on the README are those of the files it names, and pages say which were taken on a busy machine."""

import json
import re
import runpy
import statistics
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"

pytestmark = pytest.mark.skipif(not RESULTS.exists(), reason="not run from the sources")


def results(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rows():
    """The cells of every row of the README's tables, by the row's name; a name may occur in several tables."""
    found = {}
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            name, *cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
            found.setdefault(name.replace("`", ""), []).append(cells)
    return found


@pytest.mark.parametrize(("lr", "sigma"), [(0.1, 0.05), (0.5, 0.1)])
@pytest.mark.parametrize(("label", "network"), [("no BN", "without BN"), ("BN", "with BN")])
def test_accuracies_on_mnist_are_those_of_five_seeds(rows, label, network, lr, sigma):
    runs = [run for run in results("mnist/seeds.json")["runs"] if (run["learning_rate"], run["sigma"]) == (lr, sigma)]
    assert len(runs) == 5
    (cells,) = rows[f"{label}, lr {lr}, sigma {sigma}"]
    for cell, step in zip(cells, (500, 1000, 2000, 5000, 10000, 20000, 30000, 50000), strict=True):
        accuracies = [run[network][str(step)] for run in runs]
        shown = [float(number) for number in cell.split(" ± ")]
        np.testing.assert_allclose(shown, (np.mean(accuracies), np.std(accuracies, ddof=1)), atol=6e-4)


STEP = {
    "minigrad, captured": "minigrad captured",
    "minigrad, eager": "minigrad eager",
    "PyTorch, eager": "PyTorch eager",
    "PyTorch, torch.compile": "PyTorch torch.compile",
    "JAX, jit": "JAX jit",
    "NumPy by hand": "NumPy by hand",
}


@pytest.mark.parametrize("label", STEP)
def test_times_of_a_step_are_the_medians_of_their_file(rows, label):
    tables = results("benchmarks/step.json")["step"]
    for cell, batch_norm, threads in zip(rows[label][0], (True, False, True, False), (1, 1, 2, 2), strict=True):
        (table,) = [t for t in tables if (t["batch_norm"], t["threads"]) == (batch_norm, threads)]
        assert float(cell.strip("*")) == pytest.approx(1e6 * statistics.median(table["samples"][STEP[label]]), abs=0.6)


INCEPTION = {
    "minigrad, captured": "minigrad captured",
    "minigrad, eager": "minigrad eager",
    "PyTorch, channels_last": "PyTorch channels_last",
    "PyTorch, channels_last, malloc as it comes": "PyTorch channels_last, malloc as it comes",
    "PyTorch, torch.compile": "PyTorch torch.compile",
    "JAX, jit": "JAX jit",
}


@pytest.mark.parametrize("label", INCEPTION)
def test_images_per_second_are_those_of_their_file(rows, label):
    tables = results("benchmarks/inception_2_threads.json")["inception"]
    for cell, (width, batch_norm) in zip(rows[label][-1], ((0.25, True), (0.25, False), (1.0, True)), strict=True):
        (table,) = [t for t in tables if (t["width"], t["batch_norm"]) == (width, batch_norm)]
        measured = table["contenders"].get(INCEPTION[label], {}).get("images_per_second")
        assert (float(cell.strip("*")) if cell else None) == (pytest.approx(measured, abs=0.6) if measured else None)


AIMS = {
    "captured, times as fast as PyTorch eager": ("step", "captured against PyTorch eager"),
    "captured, times as fast as JAX": ("step", "captured against JAX jit"),
    "eager, times as fast as PyTorch eager": ("step", "eager against PyTorch eager"),
    "product of 1024³ in float32, share of the micro-kernel's rate in L1": ("gemm", "share of the micro-kernel's rate"),
    "the same on two threads, times as fast as on one": ("gemm", "2 threads against 1"),
    "import minigrad, times import numba": ("start", "import"),
    "start of Python to the first finished step, kernels cached": ("start", "warm start"),
    "compiling all the experiment needs, once": ("start", "cold compile"),
    "width 0.25, against PyTorch's fastest": ("inception_2_threads", "width 0.25, batch 128, with BN"),
    "width 1, against PyTorch's fastest": ("inception_2_threads", "width 1, batch 50, with BN, 2 threads: against"),
    "peak memory at width 1, against PyTorch's least": ("inception_2_threads", "peak memory"),
}


@pytest.mark.parametrize("label", AIMS)
def test_what_was_aimed_for_and_reached_is_that_of_its_file(rows, label):
    file, what = AIMS[label]
    targets = [target for target in results(f"benchmarks/{file}.json")["targets"] if what in target["what"]]
    (cells,) = rows[label]
    aim, shown = float(re.match(r"[\d.]+", cells[0])[0]), [cell for cell in cells[1:3] if re.match(r"\d", cell)]
    assert len(shown) == len(targets) > 0
    for cell, target in zip(shown, targets, strict=True):
        number = re.match(r"[\d.]+", cell)[0]
        decimals = len(number.partition(".")[2])
        assert aim == target["target"]
        assert float(number) == pytest.approx(target["measured"], abs=0.6 * 10**-decimals)
        assert ("not reached" in cell) != target["reached"]


# What stands below tables.


def test_every_file_of_measurements_has_its_row_and_its_line(tmp_path):
    tool = runpy.run_path(str(ROOT / "tools" / "pages.py"))
    page, readme = (RESULTS / "benchmarks" / "README.md").read_text(), (ROOT / "README.md").read_text()
    names = {path.name for path in (RESULTS / "benchmarks").glob("*.json")}
    assert {found["file"] for found in tool["MEASURED_ROW"].finditer(page)} == names
    assert {Path(found["file"]).name for found in tool["MEASURED"].finditer(readme)} == names


@pytest.mark.parametrize(("load", "busy"), [(0.43, False), (0.51, True)])
def test_busy_machine_is_told(tmp_path, load, busy):
    tool = runpy.run_path(str(ROOT / "tools" / "pages.py"))
    machine = {"date": "2026-01-02T03:04:05+00:00", "load_before": load}
    (tmp_path / "step.json").write_text(json.dumps({"machine": machine}))
    line, row = tool["with_measurements"](
        "Measured by `a` ([step.json](step.json)) long ago\n| [`step.json`](step.json) | `a` | | |\n", tmp_path
    ).splitlines()
    assert ("busy" in line) == ("busy" in row) == busy
    assert "2026-01-02" in line
    assert f"| 2026-01-02 | {load}" in row
