"""A model as a picture, as papers print networks: SVG, written here."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minigrad.checks import integer
from minigrad.inspect.drawing import GAP, HEIGHT, SVG, Box, drawn, edges, escaped, svg_head, top
from minigrad.inspect.layered import layered
from minigrad.inspect.model_graph import ModelBlock, Unit, blocks_of, units_of
from minigrad.inspect.modules import input_of
from minigrad.nn import Module
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

HEADER = 26.0  # of a frame: its name and what comes out
PAD = 14.0  # in a frame, on each side
BETWEEN = 30.0  # blocks
GUTTER = 44.0  # between columns, for the line from one to the next
MARGIN = 18.0
CAPTION = 30.0
TALL = 1.25  # the height of a picture in its widths, where nobody says how many columns


@dataclass
class Part:
    """A drawn block: its size, where arrows come in at its top and go out at its bottom, and the SVG with 0 at its top left."""

    width: float
    height: float
    enters: float
    leaves: float
    parts: list[str] = field(default_factory=list)


def draw_model(
    model: Module,
    example: tuple[int, ...] | Tensor | np.ndarray,
    path: str | os.PathLike[str] | None = None,
    *,
    columns: int | None = None,
    dtype: "DTypeLike | None" = None,
) -> SVG:
    """A model as an SVG picture, also written to the file `path` if given: a box for each layer, a frame for each module.

    One forward in evaluation mode tells what reads what, so the picture is of what the model does, not of how it was written
    down; the model is afterwards as it was before. In a box stand the layer, with the normalization and activation right after
    it, the shape of the result without the batch, and the number of parameters. Modules that hold others get a frame if they
    follow one another; where a layer reads something from further up, all boxes are in one graph without frames. Pointing at a
    box shows the names of its modules.

    Args:
        model: on any device.
        example: a batch, or the shape of one, batch included; zeros (of `dtype`, by default the parameters') stand for either.
        path: where to write it.
        columns: side by side, read from left to right; by default as many as make a picture that fits a page.

    Raises:
        TypeError: the example is no batch and no shape.
        ValueError: no column.
    """
    x = input_of(model, example, dtype, "draw_model")
    units = units_of(model, x)
    parts = [part_of(block, units) for block in blocks_of(units)]
    count = fitting(parts) if columns is None else integer("columns", columns, 1)
    total = sum({id(p): p.size for p in model.parameters()}.values())
    picture = assembled(in_columns(parts, count), f"{type(model).__name__}: {total:,} parameters")
    if path is not None:
        Path(path).write_text(picture, encoding="utf-8")
    return picture


def box_of(unit: Unit, sources: list[int]) -> Box:
    """The box of a unit."""
    below = amount(unit.shape, unit.parameters)
    return Box(unit.kind, unit.title, below, ", ".join(unit.modules) or "the batch's inputs", sources=sources)


def amount(shape: tuple[int, ...], parameters: int) -> str:
    """A shape, and how many parameters it took."""
    size = "×".join(map(str, shape)) or "1"
    return f"{size} · {parameters:,}" if parameters else size


def part_of(block: ModelBlock, units: list[Unit]) -> Part:
    """A block: a box alone, or a graph, in a frame if the block has a name and more than one box."""
    if len(block.units) == 1:
        box = box_of(units[block.units[0]], [])
        if block.name:
            box.tooltip = f"{block.name}: {box.tooltip}"
        return Part(box.width, HEIGHT, box.width / 2, box.width / 2, [drawn(box, box.width / 2, 0)])
    number = {unit: i for i, unit in enumerate(block.units, 1)}  # 0 is what comes from outside
    boxes = [Box("input", "", "", "")]
    for unit in block.units:
        boxes.append(box_of(units[unit], [number.get(source, 0) for source in units[unit].sources]))
    if not units[block.units[0]].sources:  # the whole model: it begins with its input
        boxes = [Box(b.kind, b.title, b.below, b.tooltip, sources=[s - 1 for s in b.sources]) for b in boxes[1:]]
        return graph_part(boxes, 0)
    part = graph_part(boxes, 1)
    if not block.name:
        return part
    last = units[block.units[-1]]
    parameters = sum(units[unit].parameters for unit in block.units)
    about = amount(last.shape, parameters) + (" parameters" if parameters else "")
    # The line to the first boxes passes between the name and what comes out.
    left = max(PAD, 9 * len(block.name) + 30 - part.enters)
    width = max(left + part.width + PAD, left + part.enters + 6.4 * len(about) + 30)
    frame = (
        f'<rect width="{width:.1f}" height="{part.height + HEADER + PAD:.1f}" rx="8" fill="#fafafa" stroke="#c4c8cf"/>'
        f'<text x="12" y="18" font-size="13" font-weight="600" fill="#1f2937" text-anchor="start">{escaped(block.name)}</text>'
        f'<text x="{width - 12:.1f}" y="18" font-size="11" fill="#4b5563" text-anchor="end">{escaped(about)}</text>'
    )
    enters, leaves = left + part.enters, left + part.leaves
    lines = (
        f'<path d="M{enters:.1f} 0 V{HEADER:.1f}" fill="none" stroke="#6b7280" stroke-width="1.3"/>'
        f'<path d="M{leaves:.1f} {HEADER + part.height:.1f} v{PAD:.1f}" fill="none" stroke="#6b7280" stroke-width="1.3"/>'
    )
    inner = f'<g transform="translate({left:.1f} {HEADER:.1f})">'
    return Part(width, part.height + HEADER + PAD, enters, leaves, [frame, lines, inner, *part.parts, "</g>"])


def graph_part(boxes: list[Box], unseen: int) -> Part:
    """A graph of boxes, of which so many at the beginning are only where arrows begin: these are above the part."""
    layout = layered([box.sources for box in boxes], [box.width for box in boxes], GAP)
    shift = HEIGHT if unseen else 0.0
    if unseen:
        layout.x[0] = layout.x[-1]  # so that what comes in goes on straight down when it comes out
    right = max(
        *(x + box.width / 2 for x, box in zip(layout.x[unseen:], boxes[unseen:], strict=True)),
        *(x for bends in layout.bends.values() for x in bends),
    )
    left = min(
        *(x - box.width / 2 for x, box in zip(layout.x[unseen:], boxes[unseen:], strict=True)),
        *(x for bends in layout.bends.values() for x in bends),
        right,
    )
    placed = list(zip(boxes, layout.x, layout.layer, strict=True))[unseen:]
    parts = [
        f'<g transform="translate({-left:.1f} {-shift:.1f})"><g fill="none" stroke="#6b7280" stroke-width="1.3">',
        *edges(boxes, layout),
        "</g>",
        *[drawn(box, x, top(layer)) for box, x, layer in placed],
        "</g>",
    ]
    height = top(max(layout.layer)) + HEIGHT - shift
    return Part(right - left, height, layout.x[0] - left, layout.x[-1] - left, parts)


def fitting(parts: list[Part]) -> int:
    """How many columns make a picture whose height is nearest to TALL times its width."""

    def misfit(count: int) -> float:
        columns = in_columns(parts, count)
        return abs(math.log(max(map(height_of, columns)) / (width_of(columns) * TALL)))

    return min(range(1, min(len(parts), 6) + 1), key=misfit)


def in_columns(parts: list[Part], count: int) -> list[list[Part]]:
    """The parts in at most so many columns, the highest of which is as low as can be."""
    limits = sorted({height_of(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)})
    for limit in limits:
        columns: list[list[Part]] = [[]]
        for part in parts:
            if columns[-1] and height_of([*columns[-1], part]) > limit:
                columns.append([])
            columns[-1].append(part)
        if len(columns) <= count and all(height_of(column) <= limit for column in columns):
            break
    return columns


def height_of(column: list[Part]) -> float:
    """The height of a column."""
    return sum(part.height for part in column) + BETWEEN * (len(column) - 1)


def sides(column: list[Part]) -> tuple[float, float]:
    """How far a column reaches to the left and right of the line that its arrows go down."""
    return max(part.enters for part in column), max(part.width - part.enters for part in column)


def width_of(columns: list[list[Part]]) -> float:
    """The width of columns side by side."""
    return sum(sum(sides(column)) for column in columns) + GUTTER * (len(columns) - 1)


def assembled(columns: list[list[Part]], caption: str) -> SVG:
    """The picture."""
    width, height = width_of(columns) + 2 * MARGIN, max(map(height_of, columns)) + 2 * MARGIN + CAPTION
    pieces, arrows = [], []
    left, before = MARGIN, None  # before: where the latest arrow begins
    for column in columns:
        middle, right = sides(column)
        y = MARGIN + CAPTION
        for i, part in enumerate(column):
            x = left + middle - part.enters
            pieces += [f'<g transform="translate({x:.1f} {y:.1f})">', *part.parts, "</g>"]
            if before is not None:
                arrows.append(line(before, (x + part.enters, y), left - GUTTER / 2 if i == 0 else None))
            before = x + part.leaves, y + part.height
            y += part.height + BETWEEN
        left += middle + right + GUTTER
    text = f'<text x="{MARGIN:.0f}" y="{MARGIN + 12:.0f}" font-size="14" font-weight="600" fill="#1f2937" text-anchor="start">'
    return SVG(
        "\n".join(
            [
                *svg_head(width, height, caption),
                f"{text}{escaped(caption)}</text>",
                *pieces,
                '<g fill="none" stroke="#6b7280" stroke-width="1.3" stroke-linejoin="round">',
                *arrows,
                "</g>",
                "</svg>",
            ]
        )
        + "\n"
    )


def line(start: tuple[float, float], end: tuple[float, float], gutter: float | None) -> str:
    """The arrow from one part to the next: below it, or through a gutter to the top of the next column."""
    (x, y), (to_x, to_y) = start, end
    if gutter is None:
        middle = (y + to_y) / 2
        path = f"M{x:.1f} {y:.1f} C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y - 1.5:.1f}"
    else:
        path = f"M{x:.1f} {y:.1f} v8 H{gutter:.1f} V{to_y - 12:.1f} H{to_x:.1f} V{to_y - 1.5:.1f}"
    return f'<path d="{path}" marker-end="url(#arrow)"/>'
