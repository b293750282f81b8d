"""The two branches of a captured step's graph: whatever order they leave open, the bits are those of one chain."""

import numpy as np
import pytest

pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)

import minigrad as mg
from minigrad import nn
from minigrad.devices import cuda, cuda_branches
from minigrad.devices.cuda_branches import Place, Use, places

REPLAYS = 9  # the first 5 go launch by launch


def network():
    """Convolutions, one of them depthwise, with their norms, Dropout, and products."""
    mg.manual_seed(3)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm(8), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        *(nn.Flatten(), nn.Linear(8 * 16, 12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 5)),
    ).to("cuda")


def trained(captured, accumulate=1, clip=None):
    """(losses, parameters) after some steps."""
    model = network()
    optimizer = mg.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step(images, labels):
        optimizer.zero_grad()
        for _ in range(accumulate):
            loss = mg.cross_entropy(model(images), labels)
            loss.backward()
        if clip:
            mg.optim.clip_grad_norm(model.parameters(), clip)
        optimizer.step()
        return loss

    run = mg.capture(step, device="cuda") if captured else step
    rng = np.random.default_rng(5)
    losses = []
    for i in range(REPLAYS):
        rows = (4, 6)[i % 2 if clip else 0]  # with clipping, two recordings in turn
        for _ in range(2 if clip else 1):
            images, labels = rng.normal(size=(rows, 8, 8, 3)).astype(np.float32), rng.integers(0, 5, rows)
            losses.append(run(mg.tensor(images).to("cuda"), labels).item())
    return losses, [p.numpy() for p in model.parameters()]


def same(some, others):
    assert some[0] == others[0]
    for a, b in zip(some[1], others[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"accumulate": 2}, {"clip": 0.1}], ids=["plain", "accumulated", "clipped"])
def test_any_order_that_a_graph_leaves_open_gives_the_bits_of_an_eager_step(branching, given):
    same(trained(True, **given), trained(False, **given))


@pytest.mark.slow
def test_a_dependency_that_is_missing_is_noticed(branching, monkeypatch):
    monkeypatch.setattr(cuda, "places", lambda uses: [Place(place.beside, None) for place in places(uses)])
    with pytest.raises(RuntimeError, match="neither waits for the other"):
        trained(True)


def order_of(found):
    """For each launch those that come before it, by its branch and by what it and they wait for."""
    before, last = [], {}
    for i, place in enumerate(found):
        direct = {last.get(place.beside), place.after} - {None}
        before.append(direct.union(*[before[j] for j in direct]))
        last[place.beside] = i
    return before


@pytest.mark.parametrize("seed", range(20))
def test_launches_that_share_memory_keep_their_order(seed):
    rng = np.random.default_rng(seed)

    def some(most):
        return [(int(a), int(a + n)) for a, n in zip(rng.integers(0, 60, most), rng.integers(1, 8, most), strict=True)]

    uses = [Use(some(2), some(1), bool(rng.random() < 0.05), bool(rng.random() < 0.4)) for _ in range(40)]
    found = places(uses)
    before = order_of(found)
    for i, use in enumerate(uses):
        for j in range(i):
            assert not uses[j].comes_first(use) or j in before[i]
    assert any(j not in before[i] for i in range(40) for j in range(i))


def test_memory_that_a_pool_gives_to_another_array_orders_two_launches():
    gradient = Use([(0, 8), (8, 16)], [(16, 24)], False, True)
    elsewhere, again = Use([(24, 32)], [(32, 40)], False, False), Use([(24, 32)], [(4, 12)], False, False)
    assert places([gradient, elsewhere, again]) == [Place(True, None), Place(False, None), Place(False, 0)]


def test_an_unknown_function_waits_for_all_and_all_wait_for_it():
    known, gradient = Use([], [(0, 8)], False, False), Use([], [(8, 16)], False, True)
    unknown = cuda_branches.use_of(lambda: None, ())
    assert places([gradient, unknown, gradient, known]) == [
        Place(True, None), Place(False, 0), Place(True, 1), Place(False, None),
    ]  # fmt: skip
