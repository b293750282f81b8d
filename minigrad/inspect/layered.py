"""Layered drawing of a graph that has a direction (the method of Sugiyama, Tagawa and Toda 1981), in three steps.

Layers by the longest path; the order within a layer by barycenters, keeping the order with the fewest crossings; then
places across, by least squares. An edge over several layers runs through a place of its own in each layer between; edges
that leave the same node share these places and branch off.
"""

import itertools
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

SWEEPS = 12  # that look for a better order
ORDERED = 250_000  # items that they look at, in all; a larger graph gets fewer sweeps
PASSING = 14.0  # width of the place where an edge passes through a layer
SETTLING = 400  # sweeps that bring the places nearer to the best ones
SETTLED = 2_000_000  # items that they move, in all
FURTHER = 1.95  # than a layer alone would ask for; from 2 on the sweeps go astray
UNSEEN = 0.002  # a move that counts for none: a fraction of a pixel


@dataclass(frozen=True)
class Layout:
    """Where the nodes are."""

    layer: list[int]  # of each node, 0 on top
    x: list[float]  # of each node's centre
    bends: dict[tuple[int, int], list[float]]  # of an edge (from, to): its x in each layer between, from the top


@dataclass
class Item:
    """A node, or the place where an edge passes through a layer."""

    layer: int
    width: float
    rank: int  # for ties in the order: ops, then passing edges, then leaves
    depth: int  # the longest path that leads here; less than any op's for a leaf
    height: int  # the longest path from here
    reads: int = 1  # the number of ops that it reads
    readers: int = 1  # the number of ops that read it
    above: list[int] = field(default_factory=list)  # neighbours in the layer above
    below: list[int] = field(default_factory=list)
    x: float = 0.0


def layered(sources: Sequence[Sequence[int]], widths: Sequence[float], gap: float) -> Layout:
    """Places for nodes of these widths, at least `gap` apart, where node i reads from the nodes `sources[i]`.

    Nodes are numbered so that all sources of a node come before it. A node without sources is a leaf: it is put right above
    the first node that reads it.
    """
    depth, height = longest_paths(sources)
    layer = layers(sources, depth)
    readers = Counter(source for reads in sources for source in set(reads))
    items = []
    for i, width in enumerate(widths):
        reads = sum(bool(sources[source]) for source in set(sources[i]))
        items.append(Item(layer[i], width, 0 if sources[i] else 2, depth[i], height[i], reads, readers[i]))
    passing: dict[tuple[int, int], int] = {}  # (source, layer): the item
    for target in range(len(sources)):
        for source in dict.fromkeys(sources[target]):
            upper = source
            for between in range(layer[source] + 1, layer[target]):
                place = passing.setdefault((source, between), len(items))
                if place == len(items):
                    items.append(Item(between, PASSING, 1, depth[source], 0, above=[upper]))
                    items[upper].below.append(place)
                upper = place
            items[target].above.append(upper)
            items[upper].below.append(target)
    place_across(items, ordered(items), gap)
    bends = {
        (source, target): [items[passing[source, between]].x for between in range(layer[source] + 1, layer[target])]
        for target, reads in enumerate(sources)
        for source in reads
    }
    return Layout(layer, [item.x for item in items[: len(widths)]], bends)


def longest_paths(sources: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """For each node, the number of ops on the longest path that ends in it, itself counted, and that starts below it."""
    depth, height = [0] * len(sources), [0] * len(sources)
    for node, reads in enumerate(sources):
        if reads:
            depth[node] = 1 + max(depth[source] for source in reads)
    for node in reversed(range(len(sources))):
        for source in sources[node]:
            height[source] = max(height[source], height[node] + 1)
    return depth, height


def layers(sources: Sequence[Sequence[int]], depth: Sequence[int]) -> list[int]:
    """The layer of each node, by the longest path to it.

    Leaves, and chains of ops that hang from leaves only, come down to the first node that reads them.
    """
    readers: list[list[int]] = [[] for _ in sources]
    for node, reads in enumerate(sources):
        for source in set(reads):
            readers[source].append(node)
    hangs = [False] * len(sources)
    for node, reads in enumerate(sources):
        ops = [source for source in set(reads) if sources[source]]
        hangs[node] = not ops or (len(ops) == 1 and hangs[ops[0]] and len(readers[ops[0]]) == 1)
    layer = list(depth)
    for node in reversed(range(len(sources))):
        if hangs[node] and readers[node]:
            layer[node] = min(layer[reader] for reader in readers[node]) - 1
    return layer


def ordered(items: list[Item]) -> list[list[int]]:
    """The items of each layer from left to right: sweeps by barycenter, the order with the fewest crossings kept."""
    rows: list[list[int]] = [[] for _ in range(max(item.layer for item in items) + 1)]
    for i in sorted(range(len(items)), key=lambda i: items[i].rank):
        rows[items[i].layer].append(i)
    best, fewest = rows, crossings(items, rows)
    for sweep in range(sweeps(4, SWEEPS, ORDERED, len(items))):
        if not fewest:
            break
        rows = [list(row) for row in rows]
        position = {i: p for row in rows for p, i in enumerate(row)}
        down = sweep % 2 == 0
        for row in rows if down else rows[::-1]:
            sort_by_barycenter(items, row, position, down)
        exchange_all(items, rows, position)
        count = crossings(items, rows)
        if count < fewest:
            best, fewest = rows, count
    return best


def sweeps(least: int, most: int, work: int, items: int) -> int:
    """How many sweeps over so many items: what the work allows, within bounds."""
    return max(least, min(most, work // items))


def sort_by_barycenter(items: list[Item], row: list[int], position: dict[int, int], down: bool) -> None:
    """Put each item of a layer where the mean of its neighbours in the layer before is."""
    center: dict[int, float] = {}
    for i in row:
        neighbours = items[i].above if down else items[i].below
        center[i] = sum([position[n] for n in neighbours]) / len(neighbours) if neighbours else position[i]
    row.sort(key=lambda i: (center[i], items[i].rank))
    position |= {i: p for p, i in enumerate(row)}


def exchange_all(items: list[Item], rows: list[list[int]], position: dict[int, int]) -> None:
    """Exchange neighbours in all layers until none is better for it; layers are looked at again if one beside changed."""
    all_rows = set(range(len(rows)))
    waits = set(all_rows)
    while waits:
        for k in range(len(rows)):
            if k in waits and not exchange(items, rows[k], position):
                waits.remove(k)
            elif k in waits:
                waits |= {k - 1, k + 1} & all_rows


def exchange(items: list[Item], row: list[int], position: dict[int, int]) -> bool:
    """Exchange neighbours in a layer where fewer edges cross then; whether there were any."""
    above = {i: sorted([position[n] for n in items[i].above]) for i in row}
    below = {i: sorted([position[n] for n in items[i].below]) for i in row}
    better = False
    for p in range(len(row) - 1):
        left, right = row[p], row[p + 1]
        now = crossed(above[left], above[right]) + crossed(below[left], below[right])
        if now and crossed(above[right], above[left]) + crossed(below[right], below[left]) < now:
            row[p], row[p + 1] = right, left
            position[left], position[right] = p + 1, p
            better = True
    return better


def crossed(left: list[int], right: list[int]) -> int:
    """How many edges cross of two neighbours in a layer, whose other ends are at these positions, in order."""
    if not left or not right or left[-1] <= right[0]:
        return 0
    return sum(bisect_left(right, end) for end in left)


def crossings(items: list[Item], rows: list[list[int]]) -> int:
    """How many pairs of edges between neighbouring layers cross."""
    total = 0
    for row, next_row in itertools.pairwise(rows):
        position = {i: p for p, i in enumerate(next_row)}
        ends: list[int] = []  # of the edges further to the left
        for upper in row:
            targets = [position[i] for i in items[upper].below]
            total += sum(len(ends) - bisect_right(ends, t) for t in targets)
            for t in targets:
                insort(ends, t)
    return total


def place_across(items: list[Item], rows: list[list[int]], gap: float) -> None:
    """Give every item its x: the least weighted sum of squared distances across, over all edges, that the order allows.

    The sum is quadratic and each layer's constraints are its own, so solving for one layer after the other comes ever
    closer to the best places. Edges are between neighbouring layers: those of even number are solved for all at once, then
    the odd ones. Each goes further than it needs to, by FURTHER, which is what straightens long edges soon (successive
    over-relaxation).
    """
    halves = [Half(items, rows, parity, gap) for parity in (0, 1)]
    x = np.zeros(len(items))
    for half in halves:
        x[half.items] = half.spread(np.zeros(len(half.items)))
    for _ in range(sweeps(40, SETTLING, SETTLED, len(items))):
        moved = 0.0
        for half in halves:
            before = x[half.items]
            x[half.items] = half.spread(before + FURTHER * (half.wishes(x) - before))
            moved = max(moved, float(np.abs(x[half.items] - before).max(initial=0.0)))
        if moved < UNSEEN:
            break
    left = min(place - item.width / 2 for place, item in zip(x.tolist(), items, strict=True))
    for place, item in zip(x.tolist(), items, strict=True):
        item.x = place - left


class Half:
    """Every other layer: its items, from left to right and layer after layer, and the edges that end in them."""

    def __init__(self, items: list[Item], rows: list[list[int]], parity: int, gap: float) -> None:
        mine = rows[parity::2]
        self.items = np.array([i for row in mine for i in row], np.intp)
        self.offsets = np.array([offset for row in mine for offset in kept_apart(items, row, gap)])
        self.first = np.array([i == 0 for row in mine for i in range(len(row))], bool)  # of its layer
        ends: list[int] = []
        others: list[int] = []
        weights: list[float] = []
        for p, i in enumerate(self.items.tolist()):
            for upper in items[i].above:
                ends.append(p)
                others.append(upper)
                weights.append(straightness(items[upper], items[i]))
            for lower in items[i].below:
                ends.append(p)
                others.append(lower)
                weights.append(straightness(items[i], items[lower]))
        self.ends, self.others = np.array(ends, np.intp), np.array(others, np.intp)
        self.pull = np.array(weights)
        self.weights = np.bincount(self.ends, self.pull, len(self.items))

    def wishes(self, x: np.ndarray) -> np.ndarray:
        """Where each item would be without the others: the weighted mean of its neighbours."""
        return np.bincount(self.ends, self.pull * x[self.others], len(self.items)) / self.weights

    def spread(self, wishes: np.ndarray) -> np.ndarray:
        """Places in their order and kept apart, as near to the wishes as that allows."""
        return in_order(wishes - self.offsets, self.weights, self.first) + self.offsets


def straightness(upper: Item, lower: Item) -> float:
    """How much an edge between neighbouring layers wants to be straight: long edges, and the longer of two branches."""
    if upper.rank == lower.rank == 1:
        weight = 20.0
    elif (
        upper.height == lower.height + 1 and lower.depth == upper.depth + 1 and upper.readers <= 2 and lower.reads <= 2
    ):
        weight = 100.0
    else:
        weight = 1.0
    return weight if upper.depth else weight / 1000  # leaves come to the ops, not the ops to the leaves


def kept_apart(items: list[Item], row: list[int], gap: float) -> list[float]:
    """What each item of a row must keep from the first, so that none overlap."""
    offsets = [0.0]
    for left, right in itertools.pairwise(row):
        offsets.append(offsets[-1] + (items[left].width + items[right].width) / 2 + gap)
    return offsets


def in_order(wishes: np.ndarray, weights: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The numbers that rise within each layer and have the least weighted sum of squared distances from the wishes.

    `first` is true where a layer begins. Isotonic regression by pooling neighbours that are out of order (Ayer et al.
    1955), in all layers at once, and all that are out of order at once.
    """
    means, counts = wishes, np.ones(len(wishes), np.intp)
    while True:
        falls = (means[1:] < means[:-1]) & ~first[1:]
        if not falls.any():
            return np.repeat(means, counts)
        heads = np.flatnonzero(np.concatenate([[True], ~falls]))
        means = np.add.reduceat(means * weights, heads)
        weights, counts = np.add.reduceat(weights, heads), np.add.reduceat(counts, heads)
        means, first = means / weights, first[heads]
