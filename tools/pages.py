"""Write anew what pages show of the sources: code that they quote, and how many lines a file has.

    python tools/pages.py

A block of a page quotes a file where its first line names one:

    ```python kernels/cpu/lrn.py: layout window_sums
    ```python minigrad/ops/__init__.py: "local_response_norm"
    ```python kernels/reference/lrn.py

The first shows definitions by their names (`Class.method` for a part of a class), the second all lines with a text in them,
the third the whole file. In the README, a row of a table that begins with a number and a link to a file has the file's
number of lines after it, and the row that begins with "together" their sum. Tables of speed are made by speed.py, beside this
file. tests/docs holds pages to this.
"""

import ast
import re
import sys
from pathlib import Path

if __name__ != "__main__":
    sys.path.append(str(Path(__file__).parent))

import speed

ROOT = Path(__file__).resolve().parents[1]
QUOTATION = re.compile(r"^(```\w+ (?P<file>[\w./-]+\.\w+)(?:: (?P<what>[^\n]+))?)\n.*?^```$", re.MULTILINE | re.DOTALL)
READING = re.compile(r"^(\| \d+ \| \[[^]]+\]\((?P<file>[^)]+)\)[^|]* \| )[\d,]+( \|)", re.MULTILINE)
TOGETHER = re.compile(r"^(\| together \|  \| )[\d,]+( \|)", re.MULTILINE)


def definition(source: str, name: str) -> str:
    """The lines of a function, class, method or module constant, with its decorators; LookupError if it is not there."""
    found: ast.AST = ast.parse(source)
    for part in name.split("."):
        inside = [node for node in getattr(found, "body", []) if part in names_of(node)]
        if not inside:
            raise LookupError(f"there is no {name}")
        found = inside[0]
    assert isinstance(found, ast.stmt)
    first = min([found.lineno, *[d.lineno for d in getattr(found, "decorator_list", [])]])
    lines = source.splitlines()[first - 1 : found.end_lineno]
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] for line in lines)


def names_of(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []


def quoted(source: str, what: str | None) -> str:
    """What a quotation shows of a file; LookupError if it is not there."""
    if what is None:
        return source.rstrip("\n")
    if what.startswith('"'):
        lines = [line.strip() for line in source.splitlines() if what.strip('"') in line]
        if not lines:
            raise LookupError(f"no line has {what}")
        return "\n".join(lines)
    return "\n\n\n".join(definition(source, name) for name in what.split())


def with_quotations(page: str) -> str:
    """The page, its quotations as the sources are now."""

    def anew(block: re.Match[str]) -> str:
        try:
            source = (ROOT / block["file"]).read_text(encoding="utf-8")
            return f"{block[1]}\n{quoted(source, block['what'])}\n```"
        except (LookupError, OSError) as error:
            raise LookupError(f"{block['file']}: {error}") from None

    return QUOTATION.sub(anew, page)


def with_line_counts(page: str) -> str:
    """The page, its list of files to read with their numbers of lines as they are now."""
    together = 0

    def anew(row: re.Match[str]) -> str:
        nonlocal together
        count = len((ROOT / row["file"]).read_text(encoding="utf-8").splitlines())
        together += count
        return f"{row[1]}{count:,}{row[3]}"

    return TOGETHER.sub(lambda row: f"{row[1]}{together:,}{row[2]}", READING.sub(anew, page))


def up_to_date(path: Path) -> str:
    """A page as it must be."""
    page = path.read_text(encoding="utf-8")
    return speed.with_tables(with_line_counts(with_quotations(page)), path.parent)


def pages() -> list[Path]:
    """All pages."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> None:
    """Write all pages anew."""
    for path in pages():
        page = path.read_text(encoding="utf-8")
        written = up_to_date(path)
        if written != page:
            path.write_text(written, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} is written anew")


if __name__ == "__main__":
    main()
