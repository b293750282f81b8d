"""The site: every public name is in the reference, links lead to pages, and nothing comes from another host."""

import html
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import minigrad as mg

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "website.py"

if not TOOL.exists():
    pytest.skip("not run from the sources", allow_module_level=True)

specification = importlib.util.spec_from_file_location("website", TOOL)
website = importlib.util.module_from_spec(specification)
specification.loader.exec_module(website)


def public_names(module=mg, name="mg"):
    """(name, thing) of all that is public; by another way than the tool's."""
    for public in sorted(set(module.__all__)):
        thing = getattr(module, public)
        yield f"{name}.{public}", thing
        if isinstance(thing, ModuleType):
            yield from public_names(thing, f"{name}.{public}")


PUBLIC = dict(public_names())


def test_public_names_are_found():
    known = {
        "mg.Tensor",
        "mg.conv2d",
        "mg.nn",
        "mg.nn.Linear",
        "mg.nn.init.he_normal",
        "mg.optim.Adam",
        "mg.data.Loader",
    }
    assert known | {"mg.train.fit", "mg.inspect.page", "mg.checkpoint.load", "mg.testing.check_grads"} <= set(PUBLIC)


def test_public_modules_have_a_list_of_their_names():
    modules = {name: thing for name, thing in PUBLIC.items() if isinstance(thing, ModuleType)}
    assert [name for name, module in modules.items() if not getattr(module, "__all__", ())] == []
    assert {name for name, _ in website.public_modules()} == {"mg", *modules}


def test_public_names_are_explained():
    """An int or a union of types cannot be; functions, classes and modules can."""
    can = {name: thing for name, thing in PUBLIC.items() if callable(thing) or isinstance(thing, ModuleType)}
    assert [name for name, thing in can.items() if not (thing.__doc__ or "").strip()] == []


@pytest.fixture(scope="module")
def written():
    return website.reference()


def test_every_public_name_has_its_place_in_the_reference(written):
    """A module a page, everything else an entry; each is linked from the table of its module."""
    for name, thing in PUBLIC.items():
        module = name.rpartition(".")[0]
        (link,) = re.findall(
            rf"^\| \[`{re.escape(name)}`\]\(([^)]+)\)", written[f"reference/{module}.md"], re.MULTILINE
        )
        page, _, anchor = link.partition("#")
        assert f"reference/{page}" in written, link
        if isinstance(thing, ModuleType):
            assert (page, anchor) == (f"{name}.md", "")
        else:
            assert f"::: {anchor}\n" in written[f"reference/{page}"], link
            assert anchor.rpartition(".")[2] in {other.rpartition(".")[2] for other, t in PUBLIC.items() if t is thing}


def test_nothing_has_two_entries(written):
    entries = re.findall(r"^::: (\S+)$", "\n".join(written.values()), re.MULTILINE)
    assert len(entries) == len(set(entries)) == len({id(t) for t in PUBLIC.values() if not isinstance(t, ModuleType)})


def test_programs_in_docstrings_are_shown_as_such():
    assert "```python\nwith mg.inspect.record():" in website.introduction(mg.inspect)
    assert not website.is_program("Optimizers, which update all parameters.")
    assert not website.is_program("Checks")


def test_every_page_is_in_the_list_of_pages():
    """For pages that are added: mkdocs.yml says where on the site they are."""
    listed = set(
        re.findall(r"^ +- (?:\w+: )?([\w/.-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    docs = ROOT / "docs"
    pages = {path.name for path in docs.glob("*.md")}
    pages |= {path.relative_to(docs).as_posix() for path in docs.glob("results/*/README.md")}
    pages |= {path.relative_to(docs).with_suffix(".md").as_posix() for path in docs.rglob("*.ipynb")}
    assert pages | set(website.OUTSIDE.values()) | {"reference/mg.md"} == listed


def test_every_study_is_on_the_page_of_claims():
    page = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    studies = {path.parent.name for path in ROOT.glob("docs/results/*/README.md")} - {"benchmarks", "distributed"}
    assert studies == set(re.findall(r"\(results/(\w+)/README.md\)", page))


LINKS = {
    "to a page": ("[x](training.md#a)", "capture.md", "[x](training.md#a)"),
    "from a folder": ("[x](../../training.md)", "results/mnist/README.md", "[x](../../training.md)"),
    "to a page that is not in docs/": ("[x](../CONTRIBUTING.md#a)", "capture.md", "[x](contributing.md#a)"),
    "from there": ("[x](docs/training.md)", "readme.md", "[x](training.md)"),
    "to a file": ("[x](../kernels/formulas.py)", "capture.md", "[x](source/kernels/formulas.py.md)"),
    "to a folder with a page": ("[x](docs/results/mnist)", "readme.md", "[x](results/mnist/README.md)"),
    "of a notebook": ("[x](../capture.md)", "tutorials/train.md", "[x](../capture.md)"),
    "to a notebook": ("[x](tutorials/train.ipynb)", "index.md", "[x](tutorials/train.md)"),
    "to another site": ("[x](https://example.org/a.md)", "index.md", "[x](https://example.org/a.md)"),
    "to nowhere": ("[x](nowhere.md)", "index.md", "[x](nowhere.md)"),
    "out of the sources": ("[x](../../outside)", "index.md", "[x](../../outside)"),
    "in code": ("```python\na[0](training.md)\n```", "readme.md", "```python\na[0](training.md)\n```"),
}


@pytest.mark.parametrize("which", LINKS)
def test_links_lead_to_pages_of_the_site(which):
    given, page, expected = LINKS[which]
    assert website.for_the_site(given, page) == expected


def test_quotations_say_what_they_quote():
    given = "```python kernels/cpu/pool.py: layout\nx = 1\n```\n"
    expected = '```python title="kernels/cpu/pool.py: layout"\nx = 1\n```\n'
    assert website.for_the_site(given, "capture.md") == expected


CELLS = [
    {"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "Text"]},
    {
        "cell_type": "code",
        "metadata": {"alt": "A <picture>"},
        "source": "draw()",
        "outputs": [
            {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
            {"output_type": "display_data", "data": {"image/png": "iVBO\nRw==\n", "text/plain": "<Figure>"}},
            {"output_type": "execute_result", "data": {"text/html": "<b>\n\nbold</b>", "text/plain": "bold"}},
            {"output_type": "execute_result", "data": {"text/plain": ["42"]}},
            {"output_type": "error", "ename": "ValueError", "evalue": "no"},
        ],
    },
]


def test_a_notebook_becomes_a_page():
    assert website.notebook_page({"cells": CELLS}, "n.ipynb").split("\n\n") == [
        "# Title\nText",
        "This page is a notebook, [n.ipynb](n.ipynb): download it and run it.",
        "```python\ndraw()\n```",
        "```text\none\ntwo\n```",
        '<img alt="A &lt;picture&gt;" src="data:image/png;base64,iVBORw==">',
        '<div class="output">\n<b>\nbold</b>\n</div>',
        "```text\n42\n```",
        "```text\nValueError: no\n```\n",
    ]


# The site as MkDocs builds it


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built by the command that everybody uses, where a warning is an error."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def built(site):
    """{page: its HTML}."""
    return {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_public_name_is_on_the_site(built):
    for name, thing in PUBLIC.items():
        module = name.rpartition(".")[0]
        link = re.search(
            rf'<a [^>]*href="([^"]*)"[^>]*><code>{re.escape(name)}</code>', built[f"reference/{module}.html"]
        )
        assert link, name
        page, _, anchor = link[1].partition("#")
        text = built[f"reference/{page}" if page else f"reference/{module}.html"]
        assert isinstance(thing, ModuleType) or f'id="{anchor}"' in text, name


@pytest.mark.slow
def test_parameters_that_are_taken_from_elsewhere_are_shown(built):
    text = html.unescape(re.sub("<[^>]+>", "", built["reference/mg.train.html"]))
    (shown,) = re.findall(r"^fit\((.*?)\) -> History", text, re.MULTILINE | re.DOTALL)
    for parameter in (
        "model: Module",
        "epochs: int | None = None",
    ):  # in lines of their own where a formatter is installed
        assert re.search(rf"(^|[\s,(]){re.escape(parameter)}(,|$)", shown, re.MULTILINE)


@pytest.mark.slow
def test_nothing_comes_from_another_host(site, built):
    """Links lead elsewhere; scripts, styles, fonts and pictures do not."""
    loads = re.compile(
        r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*href=[\"']?(?:https?:)?//"
    )
    assert {page: found[0] for page, text in built.items() if (found := loads.search(text))} == {}
    styles = "\n".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"url\([\"']?(?:https?:)?//[^)]*\)|@import[^;]*", styles) == []


@pytest.mark.slow
def test_the_site_can_be_searched(site, built):
    import json

    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"] for entry in index["docs"]}
    assert {"training.html", "reference/mg.nn.html#minigrad.nn.Linear", "tutorials/train.html"} <= places
    assert not any(place.startswith("source/") for place in places)
    assert any(page.startswith("source/kernels/") for page in built)
