"""How many launches a step of the small Inception is, how many of them in a row, and what the page says of it."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)

from graphs import longest_path

import minigrad as mg
from minigrad.models.inception import Inception

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cuda.md"
MODULES, NORMS = 9, 54  # four of a module's norms are at the ends of its branches


@pytest.fixture
def graph(sized):
    """That of a step; on all maps there are more rows than one launch takes, as in large batches."""
    model = Inception(width=0.25).to("cuda")
    optimizer = mg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @mg.capture(device="cuda")
    def step(images, labels):
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    images, labels = np.zeros((20, 32, 32, 3), np.float32), np.zeros(20, np.int64)
    for _ in range(7):
        step(images, labels)
    return list(step.plan.program.graph)


def test_a_module_of_inception_normalizes_its_branches_in_six_launches(graph):
    norms = [node.name for node in graph if node.name.startswith("norm.")]
    together = [name for name in norms if "BRANCHES=4" in name]
    assert len(together) == 6 * MODULES
    assert len(norms) == 6 * (MODULES + NORMS - 4 * MODULES)
    if PAGE.exists():  # run from the sources
        said = re.search(r"Inception, width 0.25 \| a graph of (\d+) nodes, (\d+) of batch norm", PAGE.read_text())
        assert (len(graph), len(norms)) == tuple(map(int, said.groups()))


def test_launches_that_wait_for_each_other_are_fewer_than_all(graph):
    assert longest_path(graph) < len(graph)
    if PAGE.exists():
        said = re.search(r"the (\d+) nodes of an Inception step\D+(\d+) in a row", PAGE.read_text())
        assert (len(graph), longest_path(graph)) == tuple(map(int, said.groups()))
