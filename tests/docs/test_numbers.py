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


@pytest.fixture(scope="module")
def speed():
    return runpy.run_path(str(ROOT / "tools" / "speed.py"))


@pytest.mark.parametrize(
    ("page", "tables"),
    [
        ("README.md", {"step", "aims", "gemm", "convolution", "inception"}),
        ("docs/results/benchmarks/README.md", {"files", "step without BN", "where", "vocabulary"}),
    ],
)
def test_pages_show_the_tables_of_speed(speed, page, tables):
    """That what stands there is what the files say, tests/docs/test_contributing.py holds."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert {block["name"] for block in speed["BLOCK"].finditer(text)} == tables


def test_times_of_a_step_are_the_medians_of_their_file(rows, speed):
    """By another way than the tool that makes the table."""
    page = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .split("<!-- speed: step -->\n")[1]
        .partition("<!-- /speed -->")[0]
    )
    folders = {words: kind for kind, words in speed["KINDS"].items()}
    header = [cell.strip() for cell in page.splitlines()[0].strip("|").split("|")]
    assert len(header) >= 3
    for place, (word, threads) in enumerate(cell.split(", ") for cell in header[1:]):
        (name,) = re.findall(rf"\(docs/results/([^)]+/{folders[word]}/[^)]+)\)", page)
        (table,) = [t for t in results(name)["step"] if t["batch_norm"] and t["threads"] == int(threads[0])]
        for label, contender in (("minigrad, captured", "minigrad captured"), ("JAX, jit", "JAX jit")):
            shown = float(rows[label][0][place].strip("*").replace(",", ""))
            assert shown == pytest.approx(1e6 * statistics.median(table["samples"][contender]), abs=0.6)


def test_every_file_of_measurements_is_listed(speed):
    page = (RESULTS / "benchmarks" / "README.md").read_text(encoding="utf-8")
    names = {path.relative_to(RESULTS / "benchmarks").as_posix() for path in (RESULTS / "benchmarks").rglob("*.json")}
    assert names == set(re.findall(r"\| \[[^]]+\]\(([^)]+\.json)\)", page))
    assert {Path(name).parent.name for name in names} <= set(speed["KINDS"])


@pytest.mark.parametrize(
    ("load", "options", "busy"), [(0.43, "", False), (0.51, "", True), (0.51, " --cpu-time --threads 1", False)]
)
def test_what_was_measured_on_a_busy_machine_is_only_listed(speed, tmp_path, load, options, busy):
    machine = {
        "date": "2026-01-02T03:04:05+00:00",
        "load_before": load,
        "command": f"python benchmarks/compare.py{options}",
        "cpu": "a CPU",
        "simd_bits": 256,
        "physical_cores": 2,
        "versions": {"numba": "0.68.1"},
    }
    found = {"machine": machine, "step": []}
    (tmp_path / "avx2").mkdir()
    (tmp_path / "avx2" / "step.json").write_text(json.dumps(found))
    space = speed["measured"].__globals__
    before, space["RESULTS"] = space["RESULTS"], tmp_path
    space["all_files"].cache_clear()
    try:
        line, listed = speed["measured"]("step"), speed["listed"]()
    finally:
        space["RESULTS"] = before
        space["all_files"].cache_clear()
    assert ("AVX2 on 2026-01-02" in line) != busy
    assert ("own time" in line) == bool(options)
    assert "2026-01-02" in listed
    assert ("busy" in listed) == busy


def test_what_was_missed_does_not_look_reached(speed):
    missed = {"unit": "x", "measured": 1.9952, "reached": False}
    assert speed["reached"](missed) == "1.995, missed"
    assert speed["reached"](missed | {"measured": 2.004, "reached": True}) == "2.00"
