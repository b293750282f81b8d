"""Networks in training on the GPU: how batches get to a contender, and how its steps are timed.

`on the GPU`: all batches lie in the GPU's memory before the clock starts, as batches prepared ahead do. `NumPy`: each step
is handed arrays of the host, and copying them is part of it. Time is that between two events of the device, one before
the first step and one after the last, so that the host's work counts where the GPU waits for it; the loss is read now and
then and at the end.
"""

import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from benchmarks.comparison.gpu_sides import OURS, no_collection
from benchmarks.comparison.processes import in_turn

WARM = 10  # steps before a captured one has its graph
RESIDENT, HANDED = "on the GPU", "NumPy"

Batches = list[tuple[np.ndarray, np.ndarray]]


class Trainer(NamedTuple):
    """A contender, and the batches that it takes in turn."""

    side: Any
    precision: str
    contender: Any  # with step(images, labels) and loss(what the step returned)
    batches: list[tuple[Any, Any]]


def fed(side: Any, captured: bool, feed: str, batches: Batches) -> list[tuple[Any, Any]]:
    """The batches as a contender gets them; minigrad's captured steps take what its Loader stages."""
    if feed == HANDED:
        return batches
    if side.name != OURS:
        return [(side.put(images), side.put(labels)) for images, labels in batches]
    stager = side.device.stager()
    if captured and stager is not None:
        return [stager.arrived(stager.stage(batch)) for batch in batches]
    return [tuple(mg.tensor(array, device=side.device) for array in batch) for batch in batches]


def warm_up(trainer: Trainer) -> None:
    """Until the step runs as it will when it is timed."""
    with trainer.side.precision(trainer.precision), no_collection():
        for i in range(WARM):
            loss = trainer.contender.step(*trainer.batches[i % len(trainer.batches)])
        trainer.contender.loss(loss)
        trainer.side.synchronize()


def step_seconds(trainer: Trainer, steps: int, read_every: int) -> float:
    """What one step takes, of so many."""
    step, loss, batches = trainer.contender.step, trainer.contender.loss, trainer.batches

    def work() -> None:
        for i in range(steps):
            found = step(*batches[i % len(batches)])
            if (i + 1) % read_every == 0:
                loss(found)
        if steps % read_every:
            loss(found)

    with trainer.side.precision(trainer.precision), mg.no_compile():
        return trainer.side.seconds(work) / steps


def steps_in_turn(trainers: dict[str, Trainer], rounds: int, steps: int, read_every: int) -> dict[str, list[float]]:
    """Samples of seconds for one step of each."""
    samples: dict[str, list[float]] = {name: [] for name in trainers}
    for i in range(rounds):
        for name in in_turn(list(trainers), i):
            samples[name].append(step_seconds(trainers[name], steps, read_every))
    return samples


def made_of(makers: dict[str, Callable[[], tuple[Trainer, dict]]]) -> tuple[dict, dict, dict[str, str]]:
    """Of what makes and checks contenders: (trainers, what they were found to compute, why others failed), by name."""
    trainers, found, failed = {}, {}, {}
    for name, make in makers.items():
        try:
            trainers[name], found[name] = make()
        except Exception as error:
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return trainers, found, failed


def left_out_and_failed(failed: dict[str, str], optional: str) -> dict:
    """Entries of a result: a contender whose name has `optional` in it need not run everywhere."""
    left_out = {name: why for name, why in failed.items() if optional in name}
    return {"left_out": left_out, "failed": [f"{name}: {why}" for name, why in failed.items() if name not in left_out]}
