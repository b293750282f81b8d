"""Averages while the processes compute: a thread that exchanges, on a channel of its own."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from minigrad.exchange import sums
from minigrad.exchange.channel import Channel
from minigrad.exchange.errors import RanksDiffer
from minigrad.kernels.cpu.tools.threads import limited


class Started:
    """An average that was begun, and in a captured step is begun by each replay."""

    def __init__(self) -> None:
        self.future: Future[None] | None = None


class Beside:
    """The thread: it makes averages one after another, in the order in which they were begun.

    The exchanges that layers make meanwhile go their own way, by the session, so neither waits for the other.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.thread = ThreadPoolExecutor(1, "minigrad exchanges gradients")
        self.error: RanksDiffer | None = None

    def start(
        self,
        started: Started,
        label: str,
        add: sums.Sum,
        arrays: Sequence[np.ndarray],
        weight: float,
        whole: np.ndarray,
        received: np.ndarray,
        part: np.ndarray,
    ) -> None:
        """Begin what `sums.average` does, in place. Nobody else touches the arrays until it was finished."""
        started.future = self.thread.submit(self.average, label, add, arrays, weight, sums.Room(whole, received, part))

    def average(self, label: str, add: sums.Sum, arrays: Sequence[np.ndarray], weight: float, room: sums.Room) -> None:
        """In the thread, on one core. Once processes differ, no exchange has its counterpart."""
        if self.error is not None:
            raise self.error
        try:
            with limited(1):
                sums.average(self.channel, label, add, arrays, arrays, weight, *room)
        except RanksDiffer as error:
            self.error = error
            raise


def finish(averages: Sequence[Started], arrays: Sequence[np.ndarray]) -> None:
    """Wait for averages that were begun; their arrays are among the arguments, as what a captured step has to keep."""
    for started in averages:
        if started.future is not None:
            started.future.result()
