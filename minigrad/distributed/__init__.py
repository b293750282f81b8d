"""Training in several processes, on one machine or many: each has a part of every batch, and all have the same model.

    mpiexec -n 4 python script.py            or: minigrad launch -n 4 script.py

`init()` in the script makes the processes know each other; `mg.train.fit` is then told nothing more. A loop of your own calls
`broadcast(model)` once and `average_gradients(model, samples)` between backward and the optimizer's step, or uses `Averaging`,
an optimizer that does; `backward(loss, model, samples)` averages while it goes back.

    processes   init, rank, world
    gradients   broadcast, average_gradients, Averaging
    overlap     backward
    alike       optimizers and data, compared once
    launch      what `minigrad launch` starts
"""

from minigrad.distributed.gradients import Averaging, average_gradients, broadcast
from minigrad.distributed.overlap import backward
from minigrad.distributed.processes import init
from minigrad.exchange import RankFailed, RanksDiffer, current
from minigrad.nn import convert_sync_batch_norm as convert

__all__ = [
    "Averaging",
    "RankFailed",
    "RanksDiffer",
    "average_gradients",
    "backward",
    "broadcast",
    "convert",
    "init",
    "rank",
    "world",
]

rank: int
"""The number of this process, from 0; 0 before `init`."""
world: int
"""How many processes there are; 1 before `init`."""


def __getattr__(name: str) -> int:
    if name in ("rank", "world"):
        session = current()
        return getattr(session, name) if session is not None else int(name == "world")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
