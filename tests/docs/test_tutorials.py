"""The tutorials: notebooks that run, and give what is kept in them."""

import importlib.util
import json
import math
import re
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
NOTEBOOKS = sorted(path.stem for path in TUTORIALS.glob("*.ipynb"))
NEEDS = {
    "export": ("torch", "safetensors", "onnx", "onnxruntime"),
    "train": ("matplotlib", "safetensors"),
    "scale-out": ("matplotlib", "joblib", "mpi4py", "typer"),
}
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?")
TOLERANCE = 0.03  # hundreds of steps multiply rounding errors, which differ between machines
LINK = re.compile(r"\]\(([^)\s]+)\)")

pytestmark = pytest.mark.skipif(not TUTORIALS.exists(), reason="not run from the sources")


def kept(name):
    return json.loads((TUTORIALS / f"{name}.ipynb").read_text(encoding="utf-8"))


def text(lines):
    return lines if isinstance(lines, str) else "".join(lines)


def outputs(notebook):
    """For each cell of code what it gave: its text, in turn, and which kinds of picture."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            yield cell, [shown(output) for output in cell["outputs"] if output.get("name") != "stderr"]


def shown(output):
    """What can be compared of an output."""
    assert output["output_type"] != "error", output
    if output["output_type"] == "stream":
        return text(output["text"])
    if pictures := [kind for kind in sorted(output["data"]) if kind.startswith("image/")]:
        return " ".join(pictures)
    data = output["data"]
    return (
        unescape(re.sub("<[^>]+>", " ", text(data["text/html"]))) if "text/html" in data else text(data["text/plain"])
    )


def assert_alike(came, expected):
    """Words and their order to the letter, numbers roughly."""
    assert NUMBER.sub("0", came) == NUMBER.sub("0", expected)
    pairs = zip(NUMBER.findall(came), NUMBER.findall(expected), strict=True)
    far = [(a, b) for a, b in pairs if not math.isclose(float(a), float(b), rel_tol=TOLERANCE, abs_tol=TOLERANCE)]
    assert not far, f"(came, expected): {far}"


def test_there_are_tutorials():
    assert {"train", "study", "write-an-op", "write-a-kernel", "export", "scale-out"} <= set(NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_gives_what_is_kept_in_it(name):
    pytest.importorskip("nbclient")
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    specification = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    before, now = kept(name), tool.run(TUTORIALS / f"{name}.ipynb")
    for (cell, expected), (_, came) in zip(outputs(before), outputs(now), strict=True):
        if "varies" not in cell["metadata"].get("tags", ()):
            assert_alike("".join(came), "".join(expected))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_was_run_from_top_to_bottom(name):
    counts = [cell["execution_count"] for cell, _ in outputs(kept(name))]
    assert counts == list(range(1, 1 + len(counts)))
    assert any(found for _, found in outputs(kept(name)))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_pictures_are_said_in_words(name):
    for cell, found in outputs(kept(name)):
        assert cell["metadata"].get("alt") or "image/png" not in found, text(cell["source"])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_lead_to_files_that_are_there(name):
    for cell in kept(name)["cells"]:
        for link in LINK.findall(text(cell["source"])) if cell["cell_type"] == "markdown" else ():
            assert link.startswith("https://") or (TUTORIALS / link.partition("#")[0]).exists(), link


def test_comparison_notices_another_number_and_another_word():
    assert_alike("accuracy 0.81", "accuracy 0.82")
    for other in ("accuracy 0.92", "precision 0.82"):
        with pytest.raises(AssertionError):
            assert_alike("accuracy 0.82", other)
