"""The text of ops and of kernels, read from their files: nothing is imported or compiled for it."""

import ast
import functools
import inspect
import os
from dataclasses import dataclass
from pathlib import Path

from minigrad.kernels import contract

KERNELS = Path(contract.__file__).parent
DEVICES = ("reference", "cpu", "cuda")
LONGEST = 160  # lines: a kernel, then what it calls of its file, as far as that goes


@dataclass(frozen=True)
class Excerpt:
    """A piece of a file."""

    file: str
    line: int
    text: str


def op_source(kind: type) -> Excerpt | None:
    """The class of an op; None where its text is not to be had, as of one typed in at a prompt."""
    try:
        lines, first = inspect.getsourcelines(kind)
        file = inspect.getsourcefile(kind) or ""
    except (OSError, TypeError):
        return None
    return Excerpt(short(file), first, "".join(lines).rstrip())


def kernel_sources(kernel: str) -> dict[str, Excerpt]:
    """By device, the definition of the kernel "family.name" of the contract, and of what it calls of its file."""
    family, _, name = kernel.partition(".")
    if family not in contract.FAMILIES:
        return {}
    found = {device: definition(KERNELS / device / f"{family}.py", name) for device in DEVICES}
    return {device: source for device, source in found.items() if source is not None}


def definition(path: Path, name: str) -> Excerpt | None:
    """What a file has under a name, then what that uses of the same file and of formulas.py."""
    found = parsed(path)[1].get(name)
    if found is None:
        return None
    parts: list[str] = []
    waiting, seen = [(path, name)], {(path, name)}
    lines = 0
    while waiting:
        file, wanted = waiting.pop(0)
        text, places = parsed(file)
        node = places[wanted]
        first = min([node.lineno, *[d.lineno for d in getattr(node, "decorator_list", [])]])
        piece = text.splitlines()[first - 1 : node.end_lineno]
        if parts and lines + len(piece) > LONGEST:
            continue
        lines += len(piece) + 2
        parts.append("\n".join(piece if file == path else [f"# {short(str(file))}", *piece]))
        for used in uses(node, file):
            if used not in seen and used[1] in parsed(used[0])[1]:
                seen.add(used)
                waiting.append(used)
    return Excerpt(short(str(path)), found.lineno, "\n\n\n".join(parts))


@functools.cache
def parsed(path: Path) -> tuple[str, dict[str, ast.stmt]]:
    """The text of a file and, by name, what it defines: functions, classes and constants."""
    text = path.read_text(encoding="utf-8")
    places: dict[str, ast.stmt] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            places[node.name] = node
        elif isinstance(node, ast.Assign):
            places |= {n.id: node for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return text, places


def uses(node: ast.stmt, path: Path) -> list[tuple[Path, str]]:
    """The names that a definition mentions: of its own file, and of formulas.py."""
    found = []
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            found.append((path, part.id))
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "formulas":
            found.append((KERNELS / "formulas.py", part.attr))
    return found


def short(file: str) -> str:
    """A file of ours from the top of the sources on, any other by its name: pages are passed on."""
    for top, name in ((KERNELS, "kernels"), (Path(__file__).parents[1], "minigrad")):
        if Path(file).is_relative_to(top):
            return f"{name}/{Path(file).relative_to(top).as_posix()}"
    return os.path.basename(file)
