"""Gradients exchanged while backward goes on, in the ways there are, beside one exchange after it.

A captured step is a list of launches, so an exchange can stand anywhere in it: that of a bucket of gradients behind the launch
that completes the last of them, in the order of the tape. Every way works on the same launches, with the same numbers. What
`mg.distributed.backward` makes of the step, with a thread that exchanges, is timed beside them.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.devices import address, get_device
from minigrad.exchange import Session
from minigrad.exchange.sums import Room, average, room_for
from minigrad.kernels.cpu.reduce import sum_forward

BUCKETS = 4
WAYS = "nothing", "after", "blocking", "started", "Iallreduce"  # of so many buckets each but the first two
Call = tuple[Callable[..., None], tuple[Any, ...]]


class Bucket:
    """Gradients that are exchanged together, in memory of their own."""

    def __init__(self, session: Session, gradients: list[np.ndarray], communicator: Any) -> None:
        self.session, self.gradients, self.communicator = session, gradients, communicator
        self.size = sum(g.size for g in gradients)
        self.room: Room = room_for(self.size, session.world, gradients[0].dtype, np.empty)
        self.flat = self.room.whole.reshape(-1)
        self.request: Any = None

    def whole(self) -> None:
        """All of it, now."""
        average(self.session, "a bucket", sum_forward, self.gradients, self.gradients, 1.0, *self.room)

    def pack(self) -> None:
        """Gradients one behind the other, and the weight."""
        np.concatenate([g.reshape(-1) for g in self.gradients], out=self.flat[: self.size])
        self.flat[self.size :] = 0
        self.flat[self.size] = 1

    def unpack(self) -> None:
        """Back to where they came from, divided by the sum of the weights."""
        start, total = 0, self.flat[self.size]
        for g in self.gradients:
            np.divide(self.flat[start : start + g.size], total, out=g.reshape(-1))
            start += g.size

    def start(self, earlier: "list[Bucket]") -> None:
        """Parts are on their way; MPI is called for those that were before."""
        self.pack()
        self.request = self.communicator.Ialltoall(self.room.whole, self.room.received)
        for bucket in earlier:
            bucket.request.Test()

    def finish(self) -> None:
        """Parts added up, handed out, and unpacked."""
        self.request.Wait()
        sum_forward(self.room.received.reshape(1, *self.room.received.shape), self.room.part.reshape(1, -1))
        self.communicator.Allgather(self.room.part, self.room.whole)
        self.unpack()

    def start_sum(self, earlier: "list[Bucket]") -> None:
        """MPI's own sum is on its way."""
        from mpi4py import MPI

        self.pack()
        self.request = self.communicator.Iallreduce(MPI.IN_PLACE, self.flat)
        for bucket in earlier:
            bucket.request.Test()

    def finish_sum(self) -> None:
        """It is there."""
        self.request.Wait()
        self.unpack()


def completed(launches: list[Any]) -> tuple[list[tuple[int, np.ndarray]], int]:
    """(the gradients, each with the launch that completes it, in that order; the launch of the optimizer)."""
    update = next(i for i, launch in enumerate(launches) if launch.kernel.startswith("optim."))
    gradients = launches[update].given[1]
    last: dict[int, int] = {}
    for i, launch in enumerate(launches[:update]):
        for argument in launch.given:
            for array in argument if isinstance(argument, list) else [argument]:
                if isinstance(array, np.ndarray):
                    last[address(array)] = i
    return sorted([(last[address(g)], g) for g in gradients], key=lambda pair: pair[0]), update


def cut(gradients: list[tuple[int, np.ndarray]], count: int) -> list[tuple[int, list[np.ndarray]]]:
    """So many buckets of about as many bytes, each with the launch behind which it is complete."""
    total, done = sum(g.nbytes for _, g in gradients), 0
    buckets: list[tuple[int, list[np.ndarray]]] = []
    for i, g in gradients:
        if not buckets or done + g.nbytes / 2 >= total * len(buckets) / count:
            buckets.append((i, []))
        buckets[-1] = i, [*buckets[-1][1], g]
        done += g.nbytes
    return buckets


def calls_of(way: str, count: int, plan: Any, session: Session, communicator: Any) -> tuple[list[Call], int]:
    """The launches of a step with the exchange in it; and how many buckets there came to be."""
    gradients, update = completed(plan.launches)
    calls: list[Call] = [(launch.function, launch.arguments) for launch in plan.launches]
    parts = cut(gradients, count)
    buckets = [Bucket(session, arrays, communicator) for _, arrays in parts]
    if way == "nothing":
        return calls, 0
    if way == "after":
        buckets = [Bucket(session, [g for _, g in gradients], communicator)]
        return [*calls[:update], (buckets[0].whole, ()), *calls[update:]], 1
    made: list[Call] = []
    ends = {i: bucket for (i, _), bucket in zip(parts, buckets, strict=True)}
    for i, call in enumerate(calls):
        if i == update and way != "blocking":
            made += [(b.finish if way == "started" else b.finish_sum, ()) for b in buckets]
        made.append(call)
        if i in ends:
            bucket = ends[i]
            earlier = buckets[: buckets.index(bucket)]
            made.append(
                {
                    "blocking": (bucket.whole, ()),
                    "started": (bucket.start, (earlier,)),
                    "Iallreduce": (bucket.start_sum, (earlier,)),
                }[way]
            )
    return made, len(buckets)


def timed_ways(
    step: Any, overlapped: dict[int, Any], given: list[np.ndarray], session: Session, rounds: int
) -> dict[str, Any]:
    """The median time of a step by each way, and whether the gradients have the bits of those exchanged after it.

    `step` is captured, exchanges nothing, and updates with a learning rate of 0, so that every step is the same; `overlapped`
    are the same steps with `mg.distributed.backward`, by the number of buckets.
    """
    for captured in (step, *overlapped.values()):
        for _ in range(7):
            captured(*given)
    communicator = session.communicator.Dup()
    programs = {}
    for way in WAYS:
        calls, count = calls_of(way, BUCKETS, step.plan, session, communicator)
        programs[way] = calls, count, completed(step.plan.launches)[0]
    for n, captured in overlapped.items():
        launches = captured.plan.launches
        calls = [(launch.function, launch.arguments) for launch in launches]
        count = sum(launch.kernel == "exchange.start" for launch in launches)
        programs[f"thread, {n} buckets"] = calls, count, completed(launches)[0]
    ready = {name: get_device("cpu").program(calls) for name, (calls, _, _) in programs.items()}
    times: dict[str, list[float]] = {name: [] for name in programs}
    bits: dict[str, list[bytes]] = {}
    for _ in range(rounds):
        for name, program in ready.items():  # in turn: what else the machine does meets all alike
            session.communicator.Barrier()
            start = time.perf_counter()
            program()
            times[name].append(time.perf_counter() - start)
            bits[name] = sorted([g.tobytes() for _, g in programs[name][2]])
    return {
        name: {
            "seconds": float(np.median(times[name][2:])),
            "buckets": count,
            "same bits": bits[name] == bits["after"],
        }
        for name, (_, count, _) in programs.items()
    }
