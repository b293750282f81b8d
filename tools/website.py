"""What MkDocs does not do by itself for the site: `mkdocs build --strict` calls this file, which mkdocs.yml names.

The pages in docs/ stay as they are to be read where the sources are hosted. For the site

- README, CONTRIBUTING, CHANGELOG and the page on measuring become pages too;
- a link to a file of sources leads to a page with that file;
- a notebook becomes a page of its cells and of the outputs that are kept in it, beside the notebook itself;
- the reference is written from `__all__`: a page for every public module, an entry for each of its names;
- a quotation (see pages.py) has the name of its file above it.
"""

import ast
import json
import posixpath
import re
import sys
from collections.abc import Iterator, Mapping
from html import escape
from inspect import cleandoc
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import minigrad as mg

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {  # pages that are not in docs/, and what they are called on the site
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "measuring.md",
}
FENCE = re.compile(r"^( *)(```+)[^\n]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)
QUOTATION = re.compile(r"^```(\w+) ([^\s{][^\n]*)$", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
HIDDEN = "---\nsearch:\n  exclude: true\n---\n\n"
LANGUAGES = {".py": "python", ".json": "json", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml", ".js": "js"}

Made = dict[str, str]  # pages that are made for the site: where each one is, and what is on it


# The reference


def public_modules(module: ModuleType = mg) -> Iterator[tuple[str, ModuleType]]:
    """(name as users write it, module) of minigrad and of all modules among its public names, and theirs."""
    yield re.sub("^minigrad", "mg", module.__name__), module
    for name in module.__all__:
        if isinstance(inner := getattr(module, name), ModuleType):
            yield from public_modules(inner)


def homes() -> dict[int, str]:
    """{identity of a thing: its public name, where it has several the first that is its own}."""
    names = [
        (f"{name}.{public}", getattr(module, public)) for name, module in public_modules() for public in module.__all__
    ]
    names.sort(key=lambda named: named[0].endswith(f".{getattr(named[1], '__name__', '')}"), reverse=True)
    return {id(thing): name for name, thing in reversed(names)}


def reference() -> Made:
    """A page for each public module."""
    home = homes()
    return {f"reference/{name}.md": module_page(name, module, home) for name, module in public_modules()}


def module_page(name: str, module: ModuleType, home: Mapping[int, str]) -> str:
    """What the module's docstring says, a table of its names, and an entry for each that has its home here."""
    table, entries = ["| name | |", "|---|---|"], []
    for public in module.__all__:
        thing = getattr(module, public)
        at_home = home[id(thing)]
        table.append(f"| [`{name}.{public}`]({place(at_home, thing)}) | {first(thing)} |")
        if at_home == f"{name}.{public}" and not isinstance(thing, ModuleType):
            entries.append(entry(at_home, thing))
    return "\n\n".join([f"# {name}", introduction(module), "\n".join(table), *entries]) + "\n"


def place(home: str, thing: object) -> str:
    """Where the reference speaks of something."""
    module = home if isinstance(thing, ModuleType) else home.rpartition(".")[0]
    return f"{module}.md" if isinstance(thing, ModuleType) else f"{module}.md#{identifier(home, thing)}"


def identifier(home: str, thing: object) -> str:
    """What the reference calls it: as it is imported; where a module has the same name, as it is called there."""
    path = re.sub("^mg", "minigrad", home)
    return f"{thing.__module__}.{home.rpartition('.')[2]}" if path in sys.modules else path


def entry(home: str, thing: object) -> str:
    """What mkdocstrings is asked for."""
    label = home.rpartition(".")[2]
    return f'::: {identifier(home, thing)}\n    options:\n      heading: "{home}"\n      toc_label: {label}'


def first(thing: object) -> str:
    """The first sentence of a docstring, for a table."""
    paragraph = cleandoc(thing.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    sentence = re.split(r"(?<=[^.])\. (?=[A-Z`])|:$", paragraph)[0].removesuffix(".")
    return sentence.replace("|", "\\|").replace("__", "\\_\\_")


def introduction(module: ModuleType) -> str:
    """A module's docstring, with those of its paragraphs that are programs shown as such."""
    return "\n\n".join(
        f"```python\n{paragraph}\n```" if is_program(paragraph) else paragraph
        for paragraph in cleandoc(module.__doc__ or "").split("\n\n")
    )


def is_program(paragraph: str) -> bool:
    """Whether a paragraph can be compiled; a word or two by themselves are none."""
    try:
        return not all(isinstance(node, ast.Expr) for node in ast.parse(paragraph).body) or "(" in paragraph
    except SyntaxError:
        return False


# Notebooks


def notebook_page(notebook: Mapping[str, Any], name: str) -> str:
    """A notebook's cells, and the outputs that are kept in it."""
    cells = [shown for cell in notebook["cells"] for shown in shown_cell(cell)]
    note = f"This page is a notebook, [{name}]({name}): download it and run it."
    return "\n\n".join([cells[0], note, *cells[1:]]) + "\n"


def shown_cell(cell: Mapping[str, Any]) -> Iterator[str]:
    """A cell in Markdown, then its outputs."""
    source = text(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield fenced(source, "python")
    for output in cell["outputs"]:
        yield shown_output(output, cell["metadata"].get("alt", ""))


def shown_output(output: Mapping[str, Any], alt: str) -> str:
    """What a cell printed, drew or gave."""
    if output["output_type"] == "stream":
        return fenced(text(output["text"]).rstrip("\n"), "text")
    if output["output_type"] == "error":
        return fenced(f"{output['ename']}: {output['evalue']}", "text")
    data = output["data"]
    if "image/png" in data:
        return f'<img alt="{escape(alt)}" src="data:image/png;base64,{"".join(text(data["image/png"]).split())}">'
    if "text/html" in data:
        lines = [
            line for line in text(data["text/html"]).splitlines() if line.strip()
        ]  # a blank one would end the block
        return '<div class="output">\n' + "\n".join(lines) + "\n</div>"
    return fenced(text(data["text/plain"]), "text")


def text(lines: str | list[str]) -> str:
    """A notebook's text, which may be cut into lines."""
    return lines if isinstance(lines, str) else "".join(lines)


def fenced(code: str, language: str) -> str:
    """A block of code."""
    return f"```{language}\n{code}\n```"


# Links and quotations


def source_of(page: str) -> str:
    """The file in the repository that a page of the site is made of."""
    named = {where: file for file, where in OUTSIDE.items()}
    notebook = posixpath.join("docs", page.removesuffix(".md") + ".ipynb")
    return named.get(page) or (notebook if (ROOT / notebook).is_file() else posixpath.join("docs", page))


def page_of(file: str) -> str | None:
    """The page of the site that shows a file in the repository; None if there is no such file."""
    path = ROOT / file
    if path.is_dir() and (path / "README.md").is_file():
        file, path = posixpath.join(file, "README.md"), path / "README.md"
    if file in OUTSIDE:
        return OUTSIDE[file]
    if file.startswith("docs/"):
        page = re.sub(r"\.ipynb$", ".md", file.removeprefix("docs/"))
        return page if path.is_file() else None
    return f"source/{file}.md" if path.is_file() and file != ".." and not file.startswith("../") else None


def outside_fences(markdown: str) -> Iterator[tuple[bool, str]]:
    """(whether it is text, piece): a page cut into its text and its blocks of code."""
    end = 0
    for fence in FENCE.finditer(markdown):
        yield True, markdown[end : fence.start()]
        yield False, fence[0]
        end = fence.end()
    yield True, markdown[end:]


def linked(markdown: str, source: str) -> Iterator[str]:
    """The files in the repository to which a page leads."""
    for is_text, piece in outside_fences(markdown):
        for link in LINK.finditer(piece) if is_text else ():
            yield posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))


def for_the_site(markdown: str, page: str) -> str:
    """A page with its links as they are on the site, and with quotations that say what they quote."""
    source = source_of(page)

    def link(found: re.Match[str]) -> str:
        target = page_of(posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1])))
        if target in (
            None,
            page,
        ):  # of nothing that is here, and MkDocs complains; or a notebook's own, to be downloaded
            return found[0]
        heading = found[2] or ""
        return posixpath.relpath(target, posixpath.dirname(page)) + heading

    def title(found: re.Match[str]) -> str:
        return f'```{found[1]} title="{escape(found[2])}"'

    pieces = (
        LINK.sub(link, piece) if is_text else QUOTATION.sub(title, piece, count=1)
        for is_text, piece in outside_fences(markdown)
    )
    return "".join(pieces)


# What MkDocs calls


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """All modules of the reference come into the list of pages, where mkdocs.yml has the first."""
    modules = [{name: f"reference/{name}.md"} for name, _ in public_modules()]
    config.nav = [{"Reference": modules} if part == {"Reference": ["reference/mg.md"]} else part for part in config.nav]
    return config


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Pages that are made for the site."""
    from mkdocs.structure.files import File

    made = reference()
    made.update({page: (ROOT / file).read_text(encoding="utf-8") for file, page in OUTSIDE.items()})
    for file in files:
        if file.src_uri.endswith(".ipynb"):
            name = posixpath.basename(file.src_uri)
            made[file.src_uri.removesuffix(".ipynb") + ".md"] = notebook_page(json.loads(file.content_string), name)
    made.update(sources({**{file.src_uri: file.content_string for file in files.documentation_pages()}, **made}))
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    return files


def sources(pages: Made) -> Made:
    """A page for each file of the sources that a page leads to."""
    files = {file for page, content in pages.items() for file in linked(content, source_of(page))}
    shown = {file: page for file in sorted(files) if (page := page_of(file)) and page.startswith("source/")}
    return {page: source_page(file) for file, page in shown.items()}


def source_page(file: str) -> str:
    """A file of the sources, with the numbers of its lines; the search leaves it out."""
    content = (ROOT / file).read_text(encoding="utf-8").rstrip("\n")
    language = LANGUAGES.get(posixpath.splitext(file)[1], "text")
    return f'{HIDDEN}# {file}\n\n`````{language} linenums="1"\n{content}\n`````\n'


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Links and quotations."""
    return for_the_site(markdown, page.file.src_uri)


def on_page_content(html: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Tables may be wider than a telephone, and are then scrolled; pictures come when they are looked at."""
    return html.replace("<img ", '<img loading="lazy" ')
