"""Draw which room of the code uses which, from its imports.

    python tools/draw_imports.py [OUTPUT]

OUTPUT is docs/figures/imports.svg by default. An arrow that follows from others is left out. tests/test_rooms.py holds the
map in CONTRIBUTING.md against the same imports.
"""

import ast
import functools
import itertools
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from minigrad.inspect import drawing
from minigrad.inspect.layered import layered

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"minigrad": "minigrad", "kernels": "minigrad.kernels"}  # folder: the name it is imported by
SCRIPTS = "examples/", "tools/"  # folders of scripts that the map speaks of


# The boxes of the picture, each above those that it uses, and the rooms in them: files by their folder if not by name.
BOXES = {
    "face": ("minigrad/__init__.py", "minigrad/cli/"),
    "sklearn": ("minigrad/sklearn/",),
    "train": ("minigrad/train/",),
    "distributed": ("minigrad/distributed/",),
    "inspect": ("minigrad/inspect/",),
    "onnx": ("minigrad/onnx/",),
    "interop": (
        "minigrad/interop/",
        "minigrad/array_api.py",
        "minigrad/dlpack.py",
    ),
    "models": ("minigrad/models/",),
    "checkpoint": ("minigrad/checkpoint/",),
    "data": ("minigrad/data/",),
    "testing": ("minigrad/testing.py",),
    "capture": ("minigrad/capture/",),
    "optim": ("minigrad/optim/",),
    "nn": ("minigrad/nn/",),
    "random": ("minigrad/random.py",),
    "derivatives": ("minigrad/derivatives.py", "minigrad/jacobians.py", "minigrad/recompute.py"),
    "ops": ("minigrad/ops/",),
    "engine": (
        "minigrad/tensor.py",
        "minigrad/tape.py",
        "minigrad/gradients.py",
        "minigrad/results.py",
        "minigrad/anomaly.py",
        "minigrad/modes.py",
        "minigrad/changes.py",
    ),
    "devices": ("minigrad/devices/",),
    "exchange": ("minigrad/exchange/",),
    "basics": (
        "minigrad/arrays.py",
        "minigrad/checks.py",
        "minigrad/notebook.py",
        "minigrad/types.py",
        "minigrad/version.py",
    ),
    "reference": ("kernels/reference/",),
    "cpu": ("kernels/cpu/",),
    "cpu/parts": ("kernels/cpu/parts/",),
    "cpu/vector": ("kernels/cpu/vector/",),
    "cpu/tools": ("kernels/cpu/tools/",),
    "cuda": ("kernels/cuda/",),
    "cuda/parts": ("kernels/cuda/parts/",),
    "cuda/host": ("kernels/cuda/host/",),
    "cuda/tools": ("kernels/cuda/tools/",),
    "build": ("kernels/build/",),
    "contract, shapes, formulas": ("kernels/", "kernels/expressions/"),
}
BY_NAME = {  # imported by a name in a string
    "minigrad/__init__.py": {
        *("minigrad/train/", "minigrad/inspect/", "minigrad/data/", "minigrad/checkpoint/", "minigrad/interop/"),
        "minigrad/distributed/",
        "minigrad/onnx/",
        "minigrad/sklearn/",
    },
    "minigrad/devices/": {"kernels/reference/", "kernels/cpu/"},
}


def rooms() -> dict[str, set[str]]:
    """{room: rooms that it may use} by the table in CONTRIBUTING.md; of those that may use everything, nothing is said."""
    lines = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| room "))
    rows = [
        line.strip("| ").split(" | ") for line in itertools.takewhile(lambda line: line[:1] == "|", lines[start + 2 :])
    ]
    cells = {row[0].strip("`"): row[2].strip().split(", ") for row in rows}
    found = {}
    for room, cell in cells.items():
        if cell == ["everything"]:
            continue
        found[room] = {name.strip("`") for name in cell if name != "nothing"}
        for whole in [name for name in found[room] if name.startswith("everything in `")]:
            folder = whole.partition("`")[2]
            found[room] = found[room] - {whole} | {other for other in cells if other.startswith(folder)} - {room}
    return found


@functools.cache
def modules() -> dict[str, Path]:
    """All modules, by the name that they are imported by; scripts in other folders by their path."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder != "minigrad" or parts[0] != "kernels":  # where the link to the other folder is followed
                found[".".join((package, *parts)).removesuffix(".__init__")] = path
    scripts = [path for folder in SCRIPTS for path in sorted((ROOT / folder).glob("*.py"))]
    return {**found, **{str(path.relative_to(ROOT)): path for path in scripts}}


def imports(source: str) -> list[tuple[str, str]]:
    """(what is imported, kind) of a module's text; `from a import b` gives a.b.

    Kinds are "import" at the top of the module, "late" inside a function, "types" for the type checker alone.
    """
    found = []

    def visit(node: ast.AST, kind: str) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, kind) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.extend((f"{node.module}.{alias.name}", kind) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, "types")
            for child in node.orelse:
                visit(child, kind)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, "late" if inside and kind == "import" else kind)

    visit(ast.parse(source), "import")
    return found


@functools.cache
def graph() -> dict[str, dict[str, set[str]]]:
    """{module: {module it imports: kinds}}. What is imported by a name in a string (a family of kernels) is not seen."""
    paths = modules()
    found: dict[str, dict[str, set[str]]] = {name: {} for name in paths}
    for name, path in paths.items():
        for imported, kind in imports(path.read_text()):
            target = imported if imported in paths else imported.rpartition(".")[0]  # a module, or a name in one
            if target in paths and target != name:
                found[name].setdefault(target, set()).add(kind)
    return found


def room_of(module: str, places: Iterable[str]) -> str:
    """The place that a module is in: the file itself, or the innermost of the folders."""
    path = str(modules()[module].relative_to(ROOT))
    fitting = [place for place in places if path == place or (place.endswith("/") and path.startswith(place))]
    if not fitting:
        raise ValueError(f"{path} is in no room of the map in CONTRIBUTING.md")
    return max(fitting, key=len)


def uses(places: Collection[str], kinds: Collection[str] = ("import", "late")) -> dict[str, set[str]]:
    """{place: places that its modules import from}."""
    home = {module: room_of(module, places) for module in modules()}
    found: dict[str, set[str]] = {place: set() for place in places}
    for module, imported in graph().items():
        found[home[module]].update(home[target] for target, found in imported.items() if found & set(kinds))
    return {place: targets - {place} for place, targets in found.items()}


def reachable(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """{node: all nodes that arrows lead to from it}."""
    found = {node: set(targets) for node, targets in edges.items()}
    for middle in found:
        for node in found:
            if middle in found[node]:
                found[node] |= found[middle]
    return found


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """The sets of nodes that each lead to all others of the set."""
    beyond = reachable(edges)
    found: list[set[str]] = []
    for node in edges:
        circle = {other for other in beyond[node] if node in beyond[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def picture() -> drawing.SVG:
    """The boxes from top to bottom; what uses a box above it is tied to it by a red arrow."""
    names = list(BOXES)
    box_of = {place: name for name, places in BOXES.items() for place in places}
    found = uses([*box_of, *SCRIPTS])
    edges = {
        name: {box_of[other] for place in BOXES[name] for other in found[place] | BY_NAME.get(place, set())} - {name}
        for name in names
    }
    down = {name: {other for other in edges[name] if names.index(other) > names.index(name)} for name in names}
    beyond = reachable(down)
    shown = {name: {n for n in below if not any(n in beyond[m] for m in below)} for name, below in down.items()}
    boxes = []
    for name, places in BOXES.items():
        kind = "leaf" if places[0].startswith("kernels/") else "op"
        below = places[0] + (" ..." if len(places) > 1 else "")
        about = f"{', '.join(places)}: uses {', '.join(sorted(edges[name])) or 'nothing'}"
        boxes.append(
            drawing.Box(kind, name, below, about, sources=[i for i, n in enumerate(names) if name in shown[n]])
        )
    layout = layered([box.sources for box in boxes], [box.width for box in boxes], drawing.GAP)
    back = [BACK]
    for start, end in ((names.index(n), names.index(m)) for n in names for m in sorted(edges[n] - down[n])):
        x, y = layout.x[start] + 16, drawing.top(layout.layer[start])
        to_x, to_y = layout.x[end] + 16, drawing.top(layout.layer[end]) + drawing.HEIGHT + 2
        middle = (y + to_y) / 2
        path = f"M{x:.1f} {y:.1f} C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"
        back.append(f'<path d="{path}" fill="none" stroke="#c0392b" stroke-width="1.6" marker-end="url(#back)"/>')
    return drawing.svg(boxes, layout, "The rooms of the code, and which uses which", back)


BACK = (
    '<defs><marker id="back" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0.8 L7.5 4 L0 7.2 z" fill="#c0392b"/></marker></defs>'
)


if __name__ == "__main__":
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "figures" / "imports.svg"
    output.write_text(picture(), encoding="utf-8")
    print(output)
