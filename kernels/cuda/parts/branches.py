"""Many matrices of m rows in one launch: a kernel takes up to MOST of them, and a block finds the one that it is for.

A launch costs what a small matrix does, so the normalizations at the ends of a module's branches share theirs. The blocks of
one matrix, its panels and chunks, come after those of the one before; a block knows by its number which is meant. Its tile of
threads is laid out anew for each matrix, by the number of columns: sums have the order that they have in a launch for one
matrix, and so the same bits. Threads that the tile has no place for have no rows, and wait with the others.

All are given by value, in the launch: their number is compiled in, one or MOST, and of one nothing is looked up.
"""

import itertools
import math
from typing import Any, NamedTuple

from minigrad.kernels.cuda.parts.columns import Place, my_columns, owned_columns, place_in_block
from minigrad.kernels.cuda.tools.language import Choice, cuda, device_function, uint32
from minigrad.kernels.cuda.tools.launch import UInt

MOST = 4  # the branches of a module of Inception
BRANCHES = Choice("BRANCHES", 1)  # how many matrices a kernel takes, 1 or MOST


class Blocks(NamedTuple):
    """A matrix's share of the grid, from block `first` on: chunks x panels tiles of across x down threads."""

    first: UInt
    chunks: UInt
    panels: UInt
    across: UInt
    down: UInt


class Rows(NamedTuple):
    """The rows of x, m of c numbers, `chunk` of them to a block; rows of y and dy have `width`, x's begin at `column`."""

    m: UInt
    c: UInt
    chunk: UInt
    width: UInt
    column: UInt
    blocks: Blocks


class Part(NamedTuple):
    """What of x a thread goes over: rows start to end of a chunk, four columns, of which `owned` are there."""

    chunk: Any
    start: Any
    end: Any
    j: Any
    owned: Any
    place: Any


@device_function
def own(branches):
    """What this block's branch is given, which has its `rows`."""
    if BRANCHES == 1:
        return branches[0]
    block = uint32(cuda.blockIdx.x)
    if block < branches[1].rows.blocks.first:
        return branches[0]
    if block < branches[2].rows.blocks.first:
        return branches[1]
    if block < branches[3].rows.blocks.first:
        return branches[2]
    return branches[3]


@device_function
def own_tile(blocks):
    """(the number of this block's chunk, the Place of this thread)."""
    if BRANCHES == 1:
        return uint32(cuda.blockIdx.y), place_in_block(cuda.blockIdx.x)
    number, i = uint32(uint32(cuda.blockIdx.x) - blocks.first), uint32(cuda.threadIdx.x)
    chunk, y = uint32(number // blocks.panels), uint32(i // blocks.across)
    x, panel = uint32(i - y * blocks.across), uint32(number - chunk * blocks.panels)
    return chunk, Place(x, y, blocks.across, blocks.down, panel)


@device_function
def part_of(rows, is_last_first):
    """The Part of this thread; with is_last_first, of the blocks that come first is the last chunk."""
    chunk, place = own_tile(rows.blocks)
    if is_last_first:
        chunk = uint32(rows.blocks.chunks - uint32(1) - chunk)
    start = uint32(chunk * rows.chunk)
    end = uint32(min(uint32(start + rows.chunk), rows.m))
    return Part(chunk, start, end, my_columns(rows.c, place), owned_columns(rows.c, place), place)


@device_function
def own_part(rows):
    """The Part of this thread."""
    return part_of(rows, False)


@device_function
def latest_first(rows):
    """That of a block that goes over rows again: in the opposite order of the first pass."""
    return part_of(rows, True)


@device_function
def first_row(part):
    """The first row of this thread; the end, if the tile has no place for it."""
    return uint32(part.start + part.place.y) if part.place.y < part.place.down else part.end


def rows_of(x, width, column, tile):
    """The Rows of x (m, c), by a tile ((chunks, panels), (across, down), rows of a chunk)."""
    (chunks, panels), (across, down), chunk = tile
    return Rows(*x.shape, chunk, width, column, Blocks(0, chunks, panels, across, down))


def for_one_or_most(kernel):
    """(kernel for one matrix, kernel for MOST)."""
    return kernel.variant(BRANCHES=1), kernel.variant(BRANCHES=MOST)


def grid_of(rows):
    """(grid, block) of a kernel for one matrix."""
    blocks = rows.blocks
    return (blocks.panels, blocks.chunks), (blocks.across, blocks.down)


def launch_branches(branches, *shared):
    """Launch for each (kernels, what one branch is given) those kernels, once for up to MOST branches; all take `shared`."""
    alike = {}
    for kernels, given in branches:
        alike.setdefault(kernels, []).append(given)
    for (for_one, for_most), given in alike.items():
        for i in range(0, len(given), MOST):
            some = given[i : i + MOST]
            if len(some) == 1:
                for_one[grid_of(some[0].rows)](*shared, some)
                continue
            counts, threads = zip(*[map(math.prod, grid_of(each.rows)) for each in some], strict=True)
            for_most[sum(counts), max(threads)](*shared, one_after_another(some, counts))


def one_after_another(branches, counts):
    """MOST branches of so many blocks each, one after another; where there are fewer, the last ones have no blocks."""
    missing = MOST - len(branches)
    firsts = [*itertools.accumulate(counts, initial=0), *[sum(counts)] * missing][:MOST]
    return [
        each._replace(rows=each.rows._replace(blocks=each.rows.blocks._replace(first=first)))
        for each, first in zip(branches + [branches[-1]] * missing, firsts, strict=True)
    ]
