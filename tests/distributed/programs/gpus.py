"""A network trained by several processes, each with a GPU that is simulated or stood for by the host, held against the CPU's."""

import sys
import time

import nccl.core as nccl
import numpy as np
from told import bits, cut, result

import minigrad as mg
from minigrad import distributed
from minigrad.devices import get_device
from minigrad.kernels.cuda.tools.context import context

session = distributed.init(timeout=200, threads_each=1)
rank, world = distributed.rank, distributed.world
ROWS, STEPS = 12, 9  # a recording, 5 replays launch by launch, and 3 of the graph
rng = np.random.default_rng(0)
x = (3 + rng.standard_normal((ROWS, 6))).astype(np.float32)
labels = rng.integers(0, 3, ROWS)


def network(sync):
    mg.manual_seed(3 + rank)
    nn = mg.nn
    model = nn.Sequential(
        nn.Linear(6, 5),
        nn.Concat(
            nn.Sequential(nn.Linear(5, 3), nn.BatchNorm(3), nn.ReLU()),
            nn.Sequential(nn.Linear(5, 2), nn.BatchNorm(2), nn.Sigmoid()),
        ),
        nn.BatchNorm(5),
        nn.Linear(5, 3),
    )
    return distributed.convert(model) if sync else model


def trained(device, sync=True, capture=True, uneven=False, steps=STEPS):
    model = network(sync).to(device)
    optimizer = distributed.Averaging(mg.optim.SGD(model.parameters(), 0.1, momentum=0.9), model)

    def step(x, labels):
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step(len(x))
        return loss

    run = mg.capture(step, device=device) if capture else step
    rows = cut(ROWS, world, rank, uneven=uneven)
    for _ in range(steps):
        part = x[rows], labels[rows]
        run(*(part if capture else [mg.tensor(a, device=device) for a in part]))
    return model, run


def distance(a, b):
    return max(
        float(np.abs(p.numpy() - q.numpy()).max())
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def told():
    """What is said where one process launches another exchange."""
    with_bias = rank == 0
    model = mg.nn.Linear(6, 3, bias=with_bias).to("cuda")
    mg.cross_entropy(model(mg.tensor(x, device="cuda")), mg.tensor(labels, device="cuda")).backward()
    try:
        distributed.average_gradients(model, ROWS)
    except distributed.RanksDiffer as error:
        return str(error)
    return "nothing"


def fitted(device):
    """The same by fit: (losses of the epochs, accuracy of the last)."""
    model = network(True).to(device)
    loader = mg.data.Loader(x, labels, batch_size=ROWS, seed=1)
    rows = mg.train.fit(
        model, mg.optim.Adam(model.parameters(), 0.01), loader, epochs=8, validation=(x, labels), progress=False
    ).epochs
    return [row["loss"] for row in rows], rows[-1]["validation_accuracy"], bits(model.state_dict().values())


def hang():
    """From now on the GPU comes to the end of nothing that it is told, and who waits for it waits for ever."""
    driver = context.driver
    driver.is_past = lambda event: False
    driver.launch = driver.do = driver.launch_graph = lambda *given: None
    driver.synchronize = driver.wait_on_host = driver.to_host = lambda *given: time.sleep(10_000)
    distributed.init(timeout=4)


def hang_in(how):
    """A step, by itself or as a graph, whose exchange no GPU ends."""
    part = cut(ROWS, world, rank)
    if how == "captured":
        _, step = trained("cuda", sync=False)
        hang()
        step(x[part], labels[part]).item()
    model = mg.nn.Linear(6, 3).to("cuda")
    mg.cross_entropy(model(mg.tensor(x[part], device="cuda")), mg.tensor(labels[part], device="cuda")).backward()
    hang()
    distributed.average_gradients(model, ROWS)
    model.weight.grad.numpy()


if "hang" in sys.argv:
    hang_in(sys.argv[2])

if "fault" in sys.argv:
    few, _ = trained("cuda", capture=False, steps=1)
    alike, _ = trained("cpu", capture=False, steps=1)
    result({"bits": bits(few.state_dict().values()), "distance": distance(few, alike)})
    if rank == 0:
        nccl.faults.append(6)
        time.sleep(60)
    session.gather("never", np.zeros(1))


def steps():
    """A step that is captured, one by one and as a graph, and what is told of another exchange."""
    _, step = trained("cuda")
    kernels = [launch.kernel for launch in step.plan.launches if launch.kernel.startswith("exchange.")]
    before = dict(nccl.calls)
    part = cut(ROWS, world, rank)
    step(x[part], labels[part])
    replayed = {" ".join(name): nccl.calls[name] - before[name] for name in nccl.calls}
    eager, _ = trained("cuda", capture=False)
    return {
        "bits": bits(trained("cuda")[0].state_dict().values()),
        "bits, eager": bits(eager.state_dict().values()),
        "distance": distance(eager, trained("cpu")[0]),
        "exchanges": kernels,
        "replayed": replayed,
        "graph": type(step.plan.program).__name__,
        "told": told(),
        "device": get_device("cuda").driver.name,
    }


def other_runs():
    """Parts of several lengths, statistics of each part alone, and `fit`."""
    uneven, _ = trained("cuda", uneven=True)
    plain, _ = trained("cuda", sync=False)
    return {
        "bits, uneven": bits(uneven.state_dict().values()),
        "bits, plain": bits(plain.state_dict().values()),
        "distance, uneven": distance(uneven, trained("cpu", uneven=True)[0]),
        "distance, plain": distance(plain, trained("cpu", sync=False)[0]),
        "fit": fitted("cuda"),
        "fit on the CPU": fitted("cpu"),
    }


result(other_runs() if "others" in sys.argv else steps())
