"""Gradients exchanged while backward goes on, held against those exchanged after it, bit for bit."""

import sys

import numpy as np
from told import bits, cut, result

import minigrad as mg
from minigrad import distributed, nn
from minigrad.exchange.channel import Channel

session = distributed.init(timeout=200)
rank, world = distributed.rank, distributed.world
ROWS = 60


class Network(nn.Module):
    """Layers of many sizes; one is used twice, one is computed again in backward, one gets no gradient."""

    def __init__(self, sync):
        mg.manual_seed(3)
        self.first = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm(6), nn.ReLU())
        self.pool, self.twice = nn.GlobalAvgPool(), nn.Linear(6, 6)
        self.again = nn.Sequential(nn.Linear(6, 900), nn.BatchNorm(900), nn.Sigmoid())
        self.last, self.unused = nn.Linear(900, 4), nn.Linear(3, 3)
        if sync:
            distributed.convert(self)

    def forward(self, x):
        h = self.twice(mg.relu(self.twice(self.pool(self.first(x)))))
        return self.last(mg.recompute(self.again, h))


rng = np.random.default_rng(0)
x = (3 + rng.standard_normal((ROWS, 6, 6, 2))).astype(np.float32)
labels = rng.integers(0, 4, ROWS)


def trained(
    overlap, *, sync=True, capture=True, uneven=False, device="cpu", hook=False, twice=False, buckets=4, steps=9
):
    """(the network after some steps, its last gradients, the launches of a step)."""
    model = Network(sync).to(device)
    distributed.broadcast(model)
    optimizer = mg.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    if hook:
        model.last.weight.register_hook(lambda grad: grad * 2)

    def step(x, labels):
        optimizer.zero_grad()
        if twice:
            (mg.cross_entropy(model(x), labels) * 0.5).backward()
        loss = mg.cross_entropy(model(x), labels)
        if overlap:
            distributed.backward(loss, model, len(x), buckets)
        else:
            loss.backward()
            distributed.average_gradients(model, len(x))
        optimizer.step()
        return loss

    run = mg.capture(step) if capture else step
    rows = cut(ROWS, world, rank, uneven=uneven)
    for _ in range(steps):
        part = x[rows], labels[rows]
        run(*(part if capture else [mg.tensor(a, device=device) for a in part]))
    tensors = [*model.state_dict().values(), *[p.grad for p in model.parameters() if p.grad is not None]]
    launches = [launch.kernel for launch in run.plan.launches] if capture else []
    return bits(tensors), launches


CASES = {
    "captured": {},
    "eager": {"capture": False},
    "plain batch norm": {"sync": False},
    "uneven": {"uneven": True},
    "reference": {"device": "reference", "capture": False, "steps": 2},
    "a hook": {"hook": True},
    "added to": {"twice": True},
    "added to, eager": {"twice": True, "capture": False},
}


def changed_on_the_way():
    """What is said where a gradient is added to after it went to the others."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    distributed.broadcast(model)

    class Again(mg.Op):
        def forward(self, x):
            return x.copy()

        def backward(self, dy):
            model[2].weight.grad._data += 1
            model[2].weight.grad._version[0] += 1
            return (dy,)

    loss = model[2](model[1](Again.apply(model[0](mg.tensor(x[:, 0, :3].reshape(ROWS, 6)))))).sum()
    try:
        distributed.backward(loss, model)
    except RuntimeError as error:
        return str(error)


def differing():
    """What is said where one process has gradients of other parameters."""
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])
    distributed.broadcast(model)
    layers = [model[i] for i in ((0, 1, 2) if rank else (0, 1, 3))]
    h = mg.tensor(np.ones((2, 4), np.float32))
    for layer in layers:
        h = layer(h)
    try:
        distributed.backward(h.sum(), model)
    except distributed.RanksDiffer as error:
        return str(error)


def fails(act):
    """One process fails in its thread, in the middle of an exchange."""
    swap = Channel.swap

    def swap_then(self, parts, received, label):
        if rank == world - 1 and self is not session and self.count > 9:
            act()
        swap(self, parts, received, label)

    Channel.swap = swap_then
    trained(True, steps=50)


if len(sys.argv) > 1:
    import os
    import signal
    import time

    session.beside()
    distributed.init(float(sys.argv[2]))
    fails({"kill": lambda: os.kill(os.getpid(), signal.SIGKILL), "hang": lambda: time.sleep(600)}[sys.argv[1]])

found = {}
for name, options in CASES.items():
    after, _ = trained(False, **options)
    before, launches = trained(True, **options)
    found[name] = {"after": after, "while": before, "launches": launches}
for buckets in (1, 2, 9):
    before, launches = trained(True, buckets=buckets)
    found[f"{buckets} buckets"] = {"after": found["captured"]["after"], "while": before, "launches": launches}
result({"cases": found, "changed": changed_on_the_way(), "differing": differing()})
