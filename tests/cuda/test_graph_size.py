"""How many launches a step of the small Inception is, which is what it costs a GPU, and what the page says of it."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)

import minigrad as mg
from minigrad.models.inception import Inception

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cuda.md"
MODULES, NORMS = 9, 54  # four of a module's norms are at the ends of its branches


@pytest.fixture
def nodes(gpu, monkeypatch):
    """The graph of a step, its launches by name; on all maps there are more rows than one launch takes, as in large batches."""
    driver = gpu.driver
    driver.memory = 1 << 33

    def note(handle, *_):
        if driver.noting is not None:
            driver.noting.append(handle[0].name)

    monkeypatch.setattr(driver, "launch", note)
    monkeypatch.setattr(driver, "launch_graph", lambda graph, stream: None)
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


def test_a_module_of_inception_normalizes_its_branches_in_six_launches(nodes):
    norms = [node for node in nodes if str(node).startswith("norm.")]
    together = [node for node in norms if "BRANCHES=4" in node]
    assert len(together) == 6 * MODULES
    assert len(norms) == 6 * (MODULES + NORMS - 4 * MODULES)
    if PAGE.exists():  # run from the sources
        said = re.search(r"Inception, width 0.25 \| a graph of (\d+) nodes, (\d+) of batch norm", PAGE.read_text())
        assert (len(nodes), len(norms)) == tuple(map(int, said.groups()))
