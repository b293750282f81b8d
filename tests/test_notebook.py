"""What notebooks show: HTML that holds the values, whatever they are called."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

import minigrad as mg
from minigrad.notebook import MOST_ROWS, table
from minigrad.train import History


def captured_plan():
    step = mg.capture(lambda x: (x * 2.0).sum(), device="reference")
    step(np.ones(3, "f4"))
    return step.plan


def tape():
    x = mg.tensor([1.0, 2.0], device="reference", requires_grad=True)
    return mg.inspect.table((x * x).sum(), names={"<x & y>": x})


SHOWN = {
    "tensor": (lambda: mg.tensor([1.5, 2.0], device="reference"), "1.5"),
    "module": (lambda: mg.nn.Sequential(mg.nn.Linear(3, 2), mg.nn.ReLU()), "8 parameters"),
    "history": (lambda: History(epochs=[{"epoch": 1, "<loss>": 0.25}]), "0.25"),
    "empty history": (History, "0 epochs"),
    "tape": (tape, "Mul"),
    "plan": (captured_plan, "launches"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_notebooks_show(name):
    make, expected = SHOWN[name]
    root = ET.fromstring(make()._repr_html_())  # well formed, so nothing is left unescaped
    assert expected in "".join(root.itertext())


def test_names_are_escaped():
    html = tape()._repr_html_()
    assert "&lt;x &amp; y&gt;" in html
    assert "<x & y>" not in html


def test_columns_of_text_stay_columns_and_bounded():
    """In what notebooks show `pre` has a letter of its own, and a model of hundreds of layers as many lines."""
    for name in ("tensor", "module"):
        html = SHOWN[name][0]()._repr_html_()
        style = ET.fromstring(html).find("pre").get("style")
        assert "font-family: monospace" in style
        assert "white-space: pre" in style
        assert "overflow: auto" in style


def test_long_tables_lose_their_middle():
    html = table("title", ["n"], [[str(i)] for i in range(MOST_ROWS + 7)])
    assert "7 more" in html
    assert html.count("<tr>") == 1 + MOST_ROWS + 1
