"""CONTRIBUTING's list of the files of an op is complete and true, and pages show the sources as they are."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `([^`]+)` \| (.+) \|$", re.MULTILINE)
WORDS = {  # what names a family: itself, one of its ops, the layer
    "attention": ("attention", "Attention", "scaled_dot_product_attention", "MultiheadAttention"),
    "conv": ("conv", "conv2d", "Conv2d"),
    "dropout": ("dropout", "Dropout"),
    "elementwise": ("elementwise", "sigmoid", "Sigmoid", "activations"),
    "gemm": ("gemm", "linear", "Linear"),
    "layer_norm": ("layer_norm", "LayerNorm"),
    "loss": ("loss", "cross_entropy"),
    "lrn": ("lrn", "local_response_norm", "LocalResponseNorm"),
    "movement": ("movement", "concat", "Concat"),
    "norm": ("norm", "batch_norm", "BatchNorm"),
    "pointwise": ("pointwise", "gelu"),
    "pool": ("pool", "max_pool2d", "MaxPool2d"),
    "recurrent": ("recurrent", "lstm", "LSTM"),
    "reduce": ("reduce", "mean", "reductions"),
}
LRN_HAS_NONE = {
    "kernels/formulas.py",  # it takes its exp from there, and no more
    "kernels/work.py",  # it reads and writes each array once
}

pytestmark = pytest.mark.skipif(not (ROOT / "CONTRIBUTING.md").exists(), reason="not run from the sources")


def places():
    """{file: what goes there} of the list, files with <family> in their names."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = re.search(r"^## Adding an op$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    return dict(ROW.findall(section[1]))


def names(text, words):
    """Whether a text has one of the words, as a word or a part of one between underscores."""
    return any(re.search(rf"(?<![a-zA-Z0-9]){word}(?![a-zA-Z0-9])", text) for word in words)


def mentions(file, words):
    return names((ROOT / file).read_text(encoding="utf-8"), words)


def is_in(family, file):
    """Whether a family has its own file, or is mentioned in the one for all."""
    own = file.replace("<family>", family)
    return (ROOT / own).exists() if own != file else mentions(file, WORDS[family])


PLACES = places()


def test_the_list_was_found():
    assert {"kernels/reference/<family>.py", "minigrad/ops/<family>.py", "CHANGELOG.md"} < set(PLACES)


@pytest.mark.parametrize("family", sorted(WORDS))
def test_every_family_is_in_all_places_of_the_list(family):
    always = [file for file, what in PLACES.items() if not re.search(r"\bif\b|where there is one", what)]
    assert len(always) >= 12
    assert [file for file in always if not is_in(family, file)] == []


@pytest.mark.parametrize("file", sorted(PLACES))
def test_local_response_norm_is_in_each_place(file):
    assert mentions(file.replace("<family>", "lrn"), WORDS["lrn"]) == (file not in LRN_HAS_NONE)


def test_local_response_norm_is_in_no_place_that_the_list_lacks():
    listed = {file.replace("<family>", "lrn") for file in PLACES}
    found = set()
    for room in ("kernels", "minigrad", "tests", "benchmarks"):
        for path in (ROOT / room).rglob("*.*"):
            if path.suffix in (".py", ".md", ".json") and "__pycache__" not in path.parts:
                found.add(path.relative_to(ROOT).as_posix())
    found = {file for file in found if mentions(file, WORDS["lrn"])}
    # the layer's file, and those of rules and readers of ONNX, of which the list speaks
    beside = {file for file in found if re.match(r"minigrad/(nn/|onnx/\w+_(nodes|runs)\.py)", file)}
    itself = {Path(__file__).relative_to(ROOT).as_posix()}
    assert found - beside - itself - listed == set()
    assert len(beside) == 4


@pytest.mark.parametrize("file", sorted(set(PLACES) - LRN_HAS_NONE))
def test_page_of_an_op_shows_each_place(file):
    page = (ROOT / "docs" / "an-op-in-one-sitting.md").read_text(encoding="utf-8")
    assert f"`{file.replace('<family>', 'lrn')}`" in page


# What pages show of the sources.


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(ROOT / "tools" / "pages.py"))


def test_pages_show_sources_and_measurements_as_they_are(tool):
    pages = tool["pages"]()
    assert {"README.md", "an-op-in-one-sitting.md", "convolution.md"} <= {path.name for path in pages}
    stale = [str(path) for path in pages if tool["up_to_date"](path) != path.read_text(encoding="utf-8")]
    assert stale == []  # python tools/pages.py writes them anew


def test_page_of_an_op_quotes_the_sources(tool):
    page = (ROOT / "docs" / "an-op-in-one-sitting.md").read_text(encoding="utf-8")
    assert len(tool["QUOTATION"].findall(page)) >= 15


def test_quotation_of_other_code_is_noticed(tool):
    page = "```python kernels/activations.py\nIDENTITY = 7\n```\n"
    assert "IDENTITY, RELU, SIGMOID = 0, 1, 2" in tool["with_quotations"](page)


@pytest.mark.parametrize("what", ["no_such_name", "Op.no_such_method", '"no such text"'])
def test_quotation_of_what_is_not_there_is_an_error(tool, what):
    with pytest.raises(LookupError):
        tool["with_quotations"](f"```python minigrad/tape.py: {what}\n```\n")


def test_method_is_quoted_without_its_indentation(tool):
    page = tool["with_quotations"]("```python minigrad/tape.py: Op.save\n```\n")
    assert page.splitlines()[1].startswith("def save(self")
    assert page.splitlines()[2].startswith('    """')


def test_number_of_lines_is_counted_anew(tool):
    lines = len((ROOT / "minigrad" / "tape.py").read_text(encoding="utf-8").splitlines())
    page = "| 1 | [`tape`](minigrad/tape.py) | 1,007 | the tape |\n| together |  | 3 |  |\n"
    counted = f"| 1 | [`tape`](minigrad/tape.py) | {lines:,} | the tape |\n| together |  | {lines:,} |  |\n"
    assert tool["with_line_counts"](page) == counted


def test_readme_says_how_much_to_read_first():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.search(r"^Some ([\d,]+) lines, in this order", text, re.MULTILINE)[1]
    counted = re.search(r"^\| together \|  \| ([\d,]+) \|", text, re.MULTILINE)[1]
    assert abs(int(counted.replace(",", "")) - int(said.replace(",", ""))) <= 100
