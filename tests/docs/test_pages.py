"""The pages in docs/ and the README: their code runs, prints what they say, and their links lead somewhere."""

import itertools
import math
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from minigrad.data import cifar10
from minigrad.devices.registry import DEVICES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (
    "how-autograd-works",
    "an-op-in-one-sitting",
    "convolution",
    "formulas",
    "batch-normalization",
    "training",
    "data",
    "predicting",
    "scikit-learn",
    "capture",
    "cuda",
    "cuda-without-a-card",
    "interop",
    "sharing-memory",
    "attention",
    "recurrent",
    "resampling",
    "derivatives",
    "array-api",
)  # those whose code is run
LONG = {
    "convolution",
    "training",
    "data",
    "scikit-learn",
    "cuda",
    "cuda-without-a-card",
    "sharing-memory",
    "attention",
    "recurrent",
    "derivatives",
    "an-op-in-one-sitting",
}
ROUGH = {
    "training": 0.03,
    "scikit-learn": 0.03,
}  # by how much a number may differ where hundreds of steps have multiplied rounding errors
NEEDS = {
    "training": ("safetensors", "PIL", "matplotlib", "sklearn"),
    "predicting": ("safetensors",),
    "data": ("pyarrow",),
    "scikit-learn": ("sklearn",),
    "cuda": ("greenlet", "minigrad.kernels.cuda.tools.language"),
    "cuda-without-a-card": ("minigrad.kernels.cuda.tools.language",),
    "sharing-memory": ("torch", "jax"),
    "interop": ("torch", "safetensors", "onnx", "onnxruntime"),
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?")
LINK = re.compile(r"\]\(([^)\s]+)\)")

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="not run from the sources")


def assert_same_text(came, expected, tolerance=1e-6):
    """All but the numbers to the letter; numbers to a thousandth, or to `tolerance`: machines round differently."""
    assert NUMBER.sub("0", came) == NUMBER.sub("0", expected)
    pairs = zip(NUMBER.findall(came), NUMBER.findall(expected), strict=True)
    wrong = [(a, b) for a, b in pairs if not math.isclose(float(a), float(b), rel_tol=1e-3, abs_tol=tolerance)]
    assert not wrong, f"(came, expected): {wrong}"


def blocks(page):
    return BLOCK.findall((DOCS / f"{page}.md").read_text(encoding="utf-8"))


def run_example(folder, monkeypatch):
    """Run the script of how-autograd-works as the page says, in a folder of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["see_the_tape.py"])
    runpy.run_path(str(ROOT / "examples" / "see_the_tape.py"), run_name="__main__")


def simulate(monkeypatch):
    """Let the page make the simulator, or the host, the device "cuda", until the test ends."""
    from minigrad.kernels.cuda.tools.launch import context

    for name in ("driver", "stream", "empty", "tables"):
        monkeypatch.setattr(context, name, getattr(context, name))
    context.tables = {}
    monkeypatch.setenv("MINIGRAD_CUDA", "simulator")
    monkeypatch.setitem(DEVICES, "cuda", None)
    del DEVICES["cuda"]


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow) if page in LONG else page for page in PAGES]
)
def test_python_blocks_print_what_the_page_says(page, tmp_path, monkeypatch, capsys):
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package, exc_type=ImportError)
    if page.startswith("cuda"):
        simulate(monkeypatch)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    ran = 0
    for (language, code), (_, expected) in itertools.pairwise(blocks(page)):
        if language == "python":
            exec(compile(code, f"{page}.md", "exec"), names)
            assert_same_text(capsys.readouterr().out, expected, ROUGH.get(page, 1e-6))
            ran += 1
    assert ran == sum(language == "python" for language, _ in blocks(page)) > 1


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_code_has_its_output(page):
    languages = [language for language, _ in blocks(page)]
    assert set(languages) <= {"python", "text", "console"}
    after = [
        following for language, following in zip(languages, [*languages[1:], ""], strict=True) if language == "python"
    ]
    assert set(after) == {"text"}


@pytest.mark.slow
def test_readme_trains_on_cifar10(tmp_path, monkeypatch, rng, capsys):
    pytest.importorskip("safetensors")
    for name in cifar10.FILES:
        records = rng.integers(0, 256, (4, cifar10.RECORD), dtype=np.uint8)
        records[:, 0] = np.arange(4)
        (tmp_path / name).write_bytes(records.tobytes())
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for language, code in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(code, "README.md", "exec"), {"__name__": "page"})
    assert len(Path("runs/inception/history.csv").read_text().splitlines()) == 1 + 10


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{path.name}" for path in DOCS.glob("*.md"))])
def test_links_lead_to_files_and_headings_that_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in LINK.findall(BLOCK.sub("", text)):
        if link.startswith("https://"):
            continue
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], link


def test_example_prints_what_the_page_says(tmp_path, monkeypatch, capsys):
    run_example(tmp_path, monkeypatch)
    page = blocks("how-autograd-works")
    (expected,) = [text for (language, _), (_, text) in itertools.pairwise(page) if language == "console"]
    assert_same_text(capsys.readouterr().out, expected)


def test_figure_is_the_one_that_the_example_draws(tmp_path, monkeypatch):
    run_example(tmp_path, monkeypatch)
    figure = (DOCS / "figures" / "tape.svg").read_text(encoding="utf-8")
    assert_same_text((tmp_path / "tape.svg").read_text(encoding="utf-8"), figure)


def test_comparison_notices_a_different_number():
    with pytest.raises(AssertionError):
        assert_same_text("norm 0.41", "norm 0.42")


def test_comparison_notices_a_different_word():
    with pytest.raises(AssertionError):
        assert_same_text("WRONG Exp", "good Exp")
