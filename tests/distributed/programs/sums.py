"""Averages, merged statistics, gradients, the layers and captured steps of several processes, held against one process."""

import numpy as np
from told import bits, cut, result

import minigrad as mg
from minigrad import distributed
from minigrad.exchange.sums import SHORT, average, in_order, merge_statistics, room_for
from minigrad.kernels.cpu.reduce import sum_forward

session = distributed.init(timeout=200)
rank, world = distributed.rank, distributed.world
ROWS = 60


def averages():
    """By size and dtype: the largest error against the exact average in units of rounding, and the bits."""
    found = {}
    for dtype in (np.float32, np.float64):
        for size in (1, 3, SHORT // np.dtype(dtype).itemsize // world * world - world, 10_007):
            rng = np.random.default_rng(size)
            everyone = rng.standard_normal((world, size)).astype(dtype) * 10.0 ** rng.integers(-3, 3, (world, 1))
            everyone = everyone.astype(dtype)
            weights = np.arange(1, world + 1) * 7
            arrays = [everyone[rank, : size // 2].copy(), everyone[rank, size // 2 :].copy()]
            room = room_for(size, world, np.dtype(dtype), np.empty)
            average(session, "a test", sum_forward, arrays, arrays, weights[rank], *room)
            wide = everyone.astype(np.longdouble)
            exact = (wide * weights[:, None]).sum(axis=0) / weights.sum()
            scale = (np.abs(wide) * weights[:, None]).sum(axis=0) / weights.sum()
            error = float((np.abs(np.concatenate(arrays) - exact) / scale).max() / np.finfo(dtype).eps)
            found[f"{np.dtype(dtype)} {size}"] = {"error": error, "bits": bits(arrays)}
    return found


def short_and_long_agree():
    """The same numbers added by either way."""
    rng = np.random.default_rng(5)
    everyone = rng.standard_normal((world, 100)).astype(np.float32)
    y = np.empty((1, 100), np.float32)
    sum_forward(everyone.reshape(1, world, 100), y)
    return bool((y[0] == in_order(everyone).astype(np.float32)).all())


def statistics(mean, spread):
    """The error of merged statistics of uneven parts, relative to the deviation and the variance."""
    x = np.random.default_rng(1).normal(mean, spread, (ROWS, 5))
    own = x[cut(ROWS, world, rank, uneven=True)]
    mean, var, unbiased = own.mean(axis=0), own.var(axis=0), np.empty(5)
    merge_statistics(session, len(own), [mean], [var], [unbiased])
    exact = x.astype(np.longdouble)
    deviation = exact.std(axis=0)
    return {
        "mean": float(np.abs((mean - exact.mean(axis=0)) / deviation).max()),
        "var": float(np.abs(var / exact.var(axis=0) - 1).max()),
        "unbiased": float(np.abs(unbiased / exact.var(axis=0, ddof=1) - 1).max()),
        "bits": bits([mean, var, unbiased]),
    }


def network(sync):
    mg.manual_seed(3)
    nn = mg.nn
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm(6), nn.ReLU(),
        nn.Concat(nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm(4), nn.ReLU()), nn.Sequential(nn.BatchNorm(6), nn.Sigmoid())),
        nn.GlobalAvgPool(), nn.Linear(10, 8, bias=False), nn.BatchNorm(8, gamma=False), nn.Linear(8, 4),
    )  # fmt: skip
    return distributed.convert(model) if sync else model


rng = np.random.default_rng(0)
x = (3 + rng.standard_normal((ROWS, 6, 6, 2))).astype(np.float32)
labels = rng.integers(0, 4, ROWS)


def trained(rows, *, sync=True, capture=True, steps=20, x=x, device="cpu"):
    """A network trained on a part of the batch, by the loop of a user."""
    model = network(sync).to(device)
    optimizer = distributed.Averaging(mg.optim.SGD(model.parameters(), 0.1, momentum=0.9), model)

    def step(x, labels):
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step(len(x))
        return loss

    step = mg.capture(step) if capture else step
    for _ in range(steps):
        part = x[rows], labels[rows]
        step(*(part if capture else map(lambda a: mg.tensor(a, device=device), part)))
    return model


def alone(**options):
    """The same by this process with the whole batch."""
    import minigrad.exchange.session as sessions

    known, sessions._current = sessions._current, sessions.Session.__new__(sessions.Session)
    sessions._current.world, sessions._current.rank = 1, 0
    try:
        return trained(slice(None), sync=False, **options)
    finally:
        sessions._current = known


def distance(a, b):
    return max(
        float(np.abs(p.numpy() - q.numpy()).max())
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


even, uneven = cut(ROWS, world, rank), cut(ROWS, world, rank, uneven=True)
captured = trained(even)
whole = alone()
plain = trained(even, sync=False)
lopsided = trained(uneven)
found = {
    "averages": averages(),
    "short_and_long_agree": short_and_long_agree(),
    "statistics": statistics(0.0, 1.0),
    "statistics of a large mean": statistics(1e6, 0.1),
    "bits": bits(captured.state_dict().values()),
    "bits, eager": bits(trained(even, capture=False).state_dict().values()),
    "bits, plain batch norm": bits(plain.state_dict().values()),
    "bits, uneven": bits(lopsided.state_dict().values()),
    "distance": distance(captured, whole),
    "distance, uneven": distance(lopsided, whole),
    "distance, plain batch norm": distance(plain, whole),
    "distance, reference": distance(
        trained(even, steps=2, device="reference", capture=False).to("cpu"), alone(steps=2)
    ),
}
captured.eval(), whole.eval()
found["distance in evaluation"] = float(np.abs(captured(x).numpy() - whole(x).numpy()).max())
result(found)
