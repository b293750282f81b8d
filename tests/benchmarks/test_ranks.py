"""The model of benchmarks/ranks.py against what was measured, and the page that shows both."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "distributed" / "ranks.json"

pytest.importorskip("mpi4py")
pytestmark = pytest.mark.skipif(not RESULTS.exists(), reason="not run from the sources")


@pytest.fixture(scope="module")
def ranks():
    specification = importlib.util.spec_from_file_location("ranks_script", ROOT / "benchmarks" / "ranks.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured():
    return json.loads(RESULTS.read_text())


def test_the_model_is_right_where_the_link_decides(ranks, measured):
    there = measured["hosts"]["2 hosts, 100mbit"]
    here, link = ranks.fitted(measured), there["link"]
    for size in (500_000, 2_500_000):
        said = ranks.ours_seconds(2, size, link["latency"], link["bandwidth"], here)
        assert said == pytest.approx(there["averages"][str(size)], rel=0.1)


def test_the_model_gives_back_the_averages_it_was_fitted_to(ranks, measured):
    here, link = ranks.fitted(measured), measured["link"]
    for size in (4, 64_000, 25_000_000):
        said = ranks.ours_seconds(2, size, link["latency"], link["bandwidth"], here)
        assert said == pytest.approx(measured["averages"][str(size)], rel=0.05)


def test_a_tree_needs_fewer_messages_than_a_ring(ranks):
    here = ranks.Machine(0.0, [(1e5, 1e-9), (1e8, 1e-9)])
    for seconds, messages in (
        (ranks.ring_seconds, 2 * 63),
        (ranks.tree_seconds, 2 * 6),
        (ranks.ours_seconds, 2 * 63 + 6),
    ):
        assert seconds(64, 1e6, 1.0, 1e30, here) == pytest.approx(messages)


def test_the_page_shows_what_the_model_prints(ranks, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    ranks.model(Path(shutil.copy(RESULTS, tmp_path)))
    printed = capsys.readouterr().out.splitlines()
    page = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    section = page.partition("## What it costs")[2].partition("## What is not there")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 20
    assert not [row for row in rows if row not in printed]
