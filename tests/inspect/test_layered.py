import cProfile
import itertools
import pstats

import numpy as np
import pytest

from minigrad.inspect.layered import (
    PASSING,
    Item,
    crossings,
    exchange,
    exchange_all,
    in_order,
    kept_apart,
    layered,
    ordered,
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


def places(wishes, weights, rows, gap=5):
    """`in_order` for rows of items 10 wide: a list for each row."""
    items = [Item(0, 10, 0, 1, 1) for _ in wishes]
    offsets = np.concatenate([kept_apart(items, row, gap) for row in rows])
    first = np.array([p == 0 for row in rows for p in range(len(row))])
    found = in_order(np.array(wishes) - offsets, np.array(weights), first) + offsets
    return [list(found[row]) for row in rows]


def test_wishes_that_do_not_collide_are_granted():
    assert places([0.0, 100.0], [1.0, 1.0], [[0, 1]]) == [[0, 100]]


def test_the_distance_is_shared_by_weight():
    assert places([0.0, 0.0], [3.0, 1.0], [[0, 1]], gap=10) == [pytest.approx([-5, 15])]


def test_rows_do_not_push_one_another():
    assert places([50.0, 60.0, 0.0, 100.0], [1.0] * 4, [[0, 1], [2, 3]]) == [pytest.approx([47.5, 62.5]), [0, 100]]


@pytest.mark.parametrize("seed", range(5))
def test_places_in_order_are_the_best_ones(seed):
    """Against the formula: the m-th is the largest, over where a run begins, of the least mean, over where it ends."""
    rng = np.random.default_rng(seed)
    wishes, weights, first = rng.standard_normal(30), rng.uniform(0.1, 5, 30), np.arange(30) % 10 == 0
    found = in_order(wishes, weights, first)
    for row in range(0, 30, 10):
        w, v = wishes[row : row + 10], weights[row : row + 10]

        def mean(start, end, w=w, v=v):
            return np.average(w[start : end + 1], weights=v[start : end + 1])

        best = [max(min(mean(s, e) for e in range(m, 10)) for s in range(m + 1)) for m in range(10)]
        np.testing.assert_allclose(found[row : row + 10], best, rtol=1e-12)


def chain():
    """900 ops, each with a weight."""
    sources = [[]]
    for _ in range(900):
        sources += [[], [len(sources) - 1, len(sources)]]
    return sources


def skips():
    """900 ops, each of which reads the one before and one of the 30 before."""
    rng = np.random.default_rng(1)
    return [[], [0], *[[node - 1, int(rng.integers(max(0, node - 30), node))] for node in range(2, 901)]]


def there_and_back():
    """120 ops down and 240 up, as in a U-net: the longest edge passes 358 layers."""
    sources = [[], *[[node] for node in range(120)]]
    for partner in reversed(range(1, 121)):
        sources += [[len(sources) - 1, partner], [len(sources)]]
    return sources


@pytest.mark.parametrize(
    ("graph", "most"),
    [
        (chain, 100_000),
        pytest.param(skips, 4_000_000, marks=pytest.mark.slow),
        pytest.param(there_and_back, 1_500_000, marks=pytest.mark.slow),
    ],
)
def test_work_of_large_drawings(graph, most):
    """Counted in function calls, a tenth of a second for 100,000 of them: layer by layer in Python it was many times that."""
    sources = graph()
    with cProfile.Profile() as profile:
        layered(sources, [60.0] * len(sources), 22.0)
    assert pstats.Stats(profile).total_calls < most


def test_a_long_chain_is_a_straight_line():
    sources = chain()
    ops = layered(sources, [60.0] * len(sources), 22.0).x[2::2]
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
