import itertools

import numpy as np
import pytest

import minigrad.inspect.layered as layered_module
from minigrad.inspect.layered import (
    PASSING,
    Item,
    crossings,
    exchange,
    exchange_all,
    kept_apart,
    layered,
    ordered,
    spread,
)


def random_graph(seed):
    """Sources of 40 nodes, a third of them leaves, the last of which reads what no other does; and their widths."""
    rng = np.random.default_rng(seed)
    sources = [[], []]
    for node in range(2, 39):
        leaf = rng.random() < 1 / 3
        sources.append([] if leaf else sorted({int(n) for n in rng.integers(max(0, node - 12), node, 2)}))
    sources.append([node for node in range(39) if not any(node in reads for reads in sources)])
    return sources, list(rng.uniform(40, 120, len(sources)))


@pytest.mark.parametrize("seed", range(5))
def test_every_edge_goes_down(seed):
    sources, widths = random_graph(seed)
    layer = layered(sources, widths, 20).layer
    assert all(layer[source] < layer[node] for node, reads in enumerate(sources) for source in reads)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_overlaps_in_a_layer(seed):
    sources, widths = random_graph(seed)
    layout = layered(sources, widths, 20)
    places = [(layer, x, width) for layer, x, width in zip(layout.layer, layout.x, widths, strict=True)]
    for (source, _), bends in layout.bends.items():
        places += [(layout.layer[source] + 1 + i, x, PASSING) for i, x in enumerate(bends)]
    for layer in range(max(layout.layer) + 1):
        row = sorted({(x, width) for at, x, width in places if at == layer})
        for (left, wide), (right, other) in itertools.pairwise(row):
            assert right - left >= (wide + other) / 2 + 20 - 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_an_edge_bends_once_in_every_layer_between(seed):
    sources, widths = random_graph(seed)
    layout = layered(sources, widths, 20)
    for (source, target), bends in layout.bends.items():
        assert len(bends) == layout.layer[target] - layout.layer[source] - 1


def test_leaves_are_right_above_the_first_node_that_reads_them():
    sources = [[], [0], [1], [2], [], [3, 4]]  # a chain, and a leaf read at its end
    assert layered(sources, [50] * 6, 20).layer == [0, 1, 2, 3, 3, 4]


def test_a_chain_is_a_straight_line_though_leaves_are_beside_it():
    sources = [[], [0]]
    for _ in range(6):
        sources += [[], [len(sources) - 1, len(sources)]]
    chain = [i for i, reads in enumerate(sources) if reads]
    layout = layered(sources, [60.0 + 7 * (i % 4) for i in range(len(sources))], 20)
    assert np.ptp([layout.x[i] for i in chain]) < 2


def test_edges_cross_only_where_they_must():
    sources = [[], [0], [0], [0], [3], [2], [1], [4, 5, 6]]  # three branches, made in the other order
    layout = layered(sources, [50] * 8, 20)
    upper = np.argsort([layout.x[i] for i in (1, 2, 3)])
    lower = np.argsort([layout.x[i] for i in (6, 5, 4)])
    assert list(upper) == list(lower)


def test_order_removes_a_crossing():
    items = [Item(0, 10, 0, 1, 1), Item(0, 10, 0, 1, 1), Item(1, 10, 0, 2, 0), Item(1, 10, 0, 2, 0)]
    for upper, lower in ((0, 3), (1, 2)):
        items[upper].below.append(lower)
        items[lower].above.append(upper)
    assert crossings(items, [[0, 1], [2, 3]]) == 1
    assert crossings(items, ordered(items)) == 0


def test_spread_grants_wishes_that_do_not_collide():
    items = [Item(0, 10, 0, 1, 1) for _ in range(2)]
    assert spread([(0.0, 1.0), (100.0, 1.0)], kept_apart(items, [0, 1], 5)) == [0, 100]


def test_spread_shares_the_distance_by_weight():
    items = [Item(0, 10, 0, 1, 1) for _ in range(2)]
    assert spread([(0.0, 3.0), (0.0, 1.0)], kept_apart(items, [0, 1], 10)) == pytest.approx([-5, 15])


def test_a_long_chain_is_not_solved_again_and_again(monkeypatch):
    """A layer beside which nothing moves is left alone: 900 ops with their weights are drawn in a fraction of a second."""
    solved = []
    monkeypatch.setattr(layered_module, "spread", lambda *given: solved.append(1) or spread(*given))
    sources = [[]]
    for _ in range(900):
        before = len(sources) - 1
        sources += [[], [before, before + 1]]  # a weight, and the op that reads it
    layout = layered(sources, [60.0] * len(sources), 22.0)
    assert len(solved) < 20 * (max(layout.layer) + 1)
    ops = layout.x[2::2]
    assert max(abs(a - b) for a, b in itertools.pairwise(ops)) < 1


def test_layers_are_exchanged_until_none_is_better_for_it():
    rng = np.random.default_rng(0)
    rows = [list(range(12 * k, 12 * k + 12)) for k in range(6)]
    items = [Item(i // 12, 10, 0, 1, 1) for i in range(72)]
    for upper in range(60):
        for lower in {int(n) for n in rng.integers(upper // 12 * 12 + 12, upper // 12 * 12 + 24, 2)}:
            items[upper].below.append(lower)
            items[lower].above.append(upper)
    before = crossings(items, rows)
    position = {i: p for row in rows for p, i in enumerate(row)}
    exchange_all(items, rows, position)
    assert crossings(items, rows) < 0.6 * before
    assert not any(exchange(items, row, position) for row in rows)
