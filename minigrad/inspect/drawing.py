"""The tape as a picture: SVG, written here."""

import html
import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from minigrad.inspect.graph import TapeGraph, kept_arrays, shape_of, short_line, source_line
from minigrad.inspect.layered import Layout, layered
from minigrad.inspect.text import number_of_bytes
from minigrad.nn import Module
from minigrad.results import op_of
from minigrad.tape import Op
from minigrad.tensor import Tensor

HEIGHT = 40.0  # of a box
DISTANCE = 34.0  # between layers
GAP = 22.0  # between boxes
MARGIN = 16.0
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"
STYLE = {  # kind: fill, stroke, corner radius, dashes
    "op": ("#eaf0fb", "#4a6fb5", 6, ""),
    "result": ("#e3f4e8", "#2e8b57", 6, ""),
    "leaf": ("#fdf1d3", "#c08a1e", 20, ""),
    "constant": ("#f5f5f5", "#9a9a9a", 20, "4 3"),
    "input": ("#f5f5f5", "#9a9a9a", 20, ""),
    "convolution": ("#eaf0fb", "#4a6fb5", 6, ""),
    "pooling": ("#fbe9e7", "#c0504d", 6, ""),
    "dense": ("#fdf1d3", "#c08a1e", 6, ""),
    "join": ("#e3f4e8", "#2e8b57", 6, ""),
    "layer": ("#f0ecf8", "#7a5fb0", 6, ""),
}


class SVG(str):
    """The text of an SVG file, which notebooks show as a picture."""

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return str(self)


@dataclass
class Box:
    """A node of the picture."""

    kind: str
    title: str
    below: str
    tooltip: str
    number: str = ""
    sources: list[int] = field(default_factory=list)
    of: Op | Tensor | tuple[Op, int] | None = None  # an op, a leaf, or input so-and-so of an op

    @property
    def width(self) -> float:
        """Wide enough for its text in any common font."""
        beside = 14 * len(self.number) + 8 if self.number else 0
        return max(56.0, 8.6 * len(self.title) + beside, 7.0 * len(self.below)) + 18


def draw(
    loss: Tensor,
    path: str | os.PathLike[str] | None = None,
    names: Mapping[str, Tensor] | None = None,
    model: Module | None = None,
) -> SVG:
    """The tape of a tensor as an SVG picture, also written to the file `path` if given.

    Leaves are yellow, ops blue, the tensor itself green; what was recorded by `record()` but needs no gradient is grey. An
    arrow is a tensor that is passed on; backward goes the other way. Pointing at an op shows its formula, the bytes it keeps
    and its line of code. `names` and `model` name the leaves, as in `table`. Raises RuntimeError if there is no tape.
    """
    boxes = boxes_of(TapeGraph(loss, names, model))
    layout = layered([box.sources for box in boxes], [box.width for box in boxes], GAP)
    title = f"The tape of {boxes[-1].title}, {sum(bool(box.number) for box in boxes)} ops"
    picture = svg(boxes, layout, title)
    if path is not None:
        Path(path).write_text(picture, encoding="utf-8")
    return picture


def boxes_of(graph: TapeGraph) -> list[Box]:
    """A box for each op, leaf and recorded constant, all sources of a box before it."""
    boxes: list[Box] = []
    where: dict[Op | Tensor | tuple[str, tuple[int, ...]], int] = {}
    for op in graph.ops:
        constants = graph.constants(op)
        reads: list[int] = []
        for i, source in enumerate(op.sources or ()):
            if isinstance(source, Tensor) and source not in where:
                where[source] = len(boxes)
                name, shape, dtype = graph.leaves[source], source.shape, source.dtype
                boxes.append(Box("leaf", name, str(shape), f"leaf {name}: {dtype}{list(shape)}", of=source))
            if source is not None:
                reads.append(where[source if isinstance(source, Tensor) else op_of(source) or op])
            elif i in constants:
                constant = constants[i]
                named = constant.name in graph.given.values()
                key = (constant.name, constant.shape)
                if not named or key not in where:
                    where[key] = len(boxes)
                    title, below = (constant.name, str(constant.shape)) if named else ("constant", constant.name)
                    about = f"needs no gradient: {constant.dtype}{list(constant.shape)}"
                    boxes.append(Box("constant", title, below.removeprefix("constant "), about, of=(op, i)))
                reads.append(where[key])
        where[op] = len(boxes)
        boxes.append(Box("op", op._title(), shape_of(op), tooltip(op), f"#{graph.numbers[op]}", reads, op))
    boxes[-1].kind = "result"
    return boxes


def tooltip(op: Op) -> str:
    """What there is to say about an op."""
    kept = sum(a.nbytes for a in kept_arrays(op))
    results = ", ".join(f"{result.dtype}{list(result.shape)}" for result in op._results())
    lines = [type(op).formula or type(op).__name__, f"result{'s' if op._several else ''} {results}"]
    lines.append(f"keeps {number_of_bytes(kept)} for backward")
    if op.line:
        lines.append(f"{short_line(op.line)}  {source_line(op.line)}".strip())
    return "\n".join(lines)


def svg(boxes: list[Box], layout: Layout, title: str, more: Iterable[str] = ()) -> SVG:
    """The picture of placed boxes, and of `more` that is drawn among them."""
    right = max(
        max(x + box.width / 2 for x, box in zip(layout.x, boxes, strict=True)),
        max((x for bends in layout.bends.values() for x in bends), default=0.0),
    )
    width, height = right + 2 * MARGIN, (max(layout.layer) + 1) * (HEIGHT + DISTANCE) - DISTANCE + 2 * MARGIN
    parts = [
        *svg_head(width, height, title),
        f'<g transform="translate({MARGIN:.0f} {MARGIN:.0f})">',
        '<g fill="none" stroke="#6b7280" stroke-width="1.3">',
        *edges(boxes, layout),
        "</g>",
        *more,
        *[drawn(box, x, top(layer)) for box, x, layer in zip(boxes, layout.x, layout.layer, strict=True)],
        "</g>",
        "</svg>",
    ]
    return SVG("\n".join(parts) + "\n")


def svg_head(width: float, height: float, title: str) -> list[str]:
    """How a picture begins: its size, title, the head of an arrow, and white paper."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" font-family="{FONT}" text-anchor="middle">',
        f"<title>{escaped(title)}</title>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.8 L7.5 4 L0 7.2 z" fill="#6b7280"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#ffffff"/>',
    ]


def top(layer: int) -> float:
    """The y of the upper side of a layer's boxes."""
    return layer * (HEIGHT + DISTANCE)


def edges(boxes: list[Box], layout: Layout) -> list[str]:
    """The arrows, each from the lower side of its source to a place of its own on the upper side of its target.

    What an arrow shares with another one from the same source is drawn once.
    """
    paths = []
    shared: set[tuple[int, int]] = set()  # (source, layer): an arrow passes there already
    for target, box in enumerate(boxes):
        ends = [(layout.bends[source, target] or [layout.x[source]])[-1] for source in box.sources]
        for source, port in zip(box.sources, ports(ends, layout.x[target], box.width), strict=True):
            xs = [layout.x[source], *layout.bends[source, target], layout.x[target] + port]
            first = layout.layer[source]
            drawn_before = 0
            for i in range(len(xs) - 2):
                if (source, first + i) not in shared:
                    break
                drawn_before += 1
            shared |= {(source, first + i) for i in range(len(xs) - 2)}
            paths.append(arrow(xs[drawn_before:], first + drawn_before))
    return paths


def ports(ends: list[float], center: float, width: float) -> list[float]:
    """Where arrows that come from these x meet a box, as distances from its centre: what comes from above in the middle."""
    order = sorted(range(len(ends)), key=lambda i: ends[i])
    middle = [i for i in order if abs(ends[i] - center) < 1]
    left = [i for i in order if ends[i] <= center - 1]
    right = [i for i in order if ends[i] >= center + 1]
    half = (len(middle) - 1) / 2
    offsets = [0.0] * len(ends)
    for k, i in enumerate(middle):
        offsets[i] = k - half
    for k, i in enumerate(reversed(left), 1):
        offsets[i] = -half - k
    for k, i in enumerate(right, 1):
        offsets[i] = half + k
    furthest = max((abs(offset) for offset in offsets), default=0.0)
    step = min(18.0, (width / 2 - 8) / furthest) if furthest else 0.0
    return [offset * step for offset in offsets]


def arrow(xs: list[float], layer: int) -> str:
    """An arrow from `layer` at xs[0] through the layers below it at xs[1:-1] to xs[-1]."""
    y = top(layer) + HEIGHT
    path = [f"M{xs[0]:.1f} {y:.1f}"]
    for i, (start, end) in enumerate(itertools.pairwise(xs)):
        last = i == len(xs) - 2
        below = y + DISTANCE - (1.5 if last else 0)
        middle = (y + below) / 2
        path.append(f"C{start:.1f} {middle:.1f} {end:.1f} {middle:.1f} {end:.1f} {below:.1f}")
        y = below
        if not last:
            y += HEIGHT
            path.append(f"V{y:.1f}")
    return f'<path d="{" ".join(path)}" marker-end="url(#arrow)"/>'


def drawn(box: Box, x: float, y: float) -> str:
    """A box with its texts."""
    fill, stroke, radius, dashes = STYLE[box.kind]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    left = x - box.width / 2
    number = weight = ""
    if box.number:
        corner = f'x="{left + 7:.1f}" y="{y + 16:.1f}" text-anchor="start"'
        number = f'<text {corner} font-size="10" fill="#7a8699">{box.number}</text>'
        weight = ' font-weight="600"'
    return (
        f"<g><title>{escaped(box.tooltip)}</title>"
        f'<rect x="{left:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{HEIGHT:.0f}" rx="{radius}" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="1.2"{dashed}/>'
        f'<text x="{x:.1f}" y="{y + 17:.1f}" font-size="13" fill="#1f2937"{weight}>{escaped(box.title)}</text>'
        f'<text x="{x:.1f}" y="{y + 32:.1f}" font-size="11" fill="#4b5563">{escaped(box.below)}</text>{number}</g>'
    )


def escaped(text: str) -> str:
    """Text for XML."""
    return html.escape(text, quote=False)
