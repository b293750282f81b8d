"""Exchanges one after another: counted, labelled, and compared before they are made.

Every exchange has a number and a label, and both go with it, so that processes that have gone different ways find out at once.
They do so by messages from each to each, which may be of any length when they come: MPI's collective calls end the process,
whatever it has asked for, where others have called another one or with other lengths. Those follow when all agree.
"""

import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.exchange.errors import RanksDiffer

HEADER = 24  # bytes before what is gathered: the number of the exchange, a checksum of its label, the bytes to come
NOTHING = np.empty(0)
LISTED = 12  # differences that an error names


def twin(communicator: Any) -> Any:
    """A communicator of our own among the same processes, on which an error of MPI's is an exception."""
    from mpi4py import MPI

    found = communicator.Dup()
    found.Set_errhandler(MPI.ERRORS_RETURN)
    return found


def new_status() -> Any:
    """Room for what MPI says of a message."""
    from mpi4py import MPI

    return MPI.Status()


class Channel:
    """What processes exchange, all of them the same in the same order, each from one thread at a time.

    `rank` is the number of this process and `world` how many there are. `broke` is told of an error of MPI's, after which
    nobody can go on, and does not return.
    """

    def __init__(self, communicator: Any, broke: Callable[[str], None] | None = None) -> None:
        self.communicator, self.broke = communicator, broke
        self.rank: int = communicator.Get_rank()
        self.world: int = communicator.Get_size()
        self.count = 0  # exchanges begun
        self.at: tuple[int, str, float] | None = None  # the exchange at work: its number, its label, since when
        self.over = False  # whether the run is about to end: nothing may follow, a checkpoint least of all
        self.packets: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        self.others = [rank for rank in range(self.world) if rank != self.rank]
        self.came = new_status()

    def exchange(self, label: str, work: Callable[[], Any]) -> Any:
        """Do `work`, which calls MPI, so that the watch knows of it."""
        while self.over:
            time.sleep(1)
        self.count += 1
        self.at = self.count, label, time.monotonic()
        try:
            return work()
        except Exception as error:
            if type(error).__module__.startswith("mpi4py") and self.broke is not None:
                self.broke(f"{label} (exchange {self.count}): {error}")
            raise
        finally:
            self.at = None

    def gather(self, label: str, values: np.ndarray, nbytes: int | None = None) -> np.ndarray:
        """The arrays of all processes, `(world, size)`, of the dtype that they all have; flat, short, and equally long.

        The result is used again by the next call with this label. RanksDiffer, in every process, if another one makes
        another exchange, or one of another number of bytes: those of `values`, unless it is said.
        """
        nbytes = values.nbytes if nbytes is None else nbytes
        key = label, values.nbytes
        if key not in self.packets:
            size = HEADER + values.nbytes
            self.packets[key] = np.empty(size, np.uint8), np.empty((self.world, size), np.uint8)
        sent, received = self.packets[key]
        header = sent[:HEADER].view(np.int64)
        header[:] = self.count + 1, zlib.crc32(label.encode()), nbytes
        sent[HEADER:] = values.reshape(-1).view(np.uint8)
        self.exchange(label, lambda: self.to_all(sent, received))
        headers = received[:, :HEADER].view(np.int64)
        if (headers != header).any():
            raise self.parted(label, nbytes)
        return received[:, HEADER:].view(values.dtype)

    def to_all(self, sent: np.ndarray, received: np.ndarray) -> None:
        """received[r] = what process r has sent to all; where that is not as long as this, its header."""
        communicator, came = self.communicator, self.came
        on_their_way = [communicator.Isend(sent, rank) for rank in self.others]
        received[self.rank] = sent
        for rank in self.others:
            communicator.Probe(rank, status=came)
            if came.count == len(sent):
                communicator.Recv(received[rank], rank)
            else:
                other = np.empty(came.count, np.uint8)
                communicator.Recv(other, rank)
                received[rank, :HEADER] = other[:HEADER]
        for request in on_their_way:
            request.Wait()

    def parted(self, label: str, nbytes: int) -> RanksDiffer:
        """The error for processes that make different exchanges."""
        mine = f"{label!r} of {nbytes:,} bytes, its exchange {self.count:,}"
        everyone = self.exchange("finding out who differs", lambda: self.communicator.allgather(mine))
        differing = [f"rank {rank} is at {said}" for rank, said in enumerate(everyone) if said != everyone[0]]
        return RanksDiffer(
            f"the processes do not do the same: rank 0 is at {everyone[0]}, {', '.join(differing[:LISTED])}. All must run "
            "the same script with models of the same shapes"
        )

    def check(self, label: str, nbytes: int = 0) -> None:
        """RanksDiffer, in every process, unless all are about to make the same exchange by a collective call of MPI's."""
        self.gather(label, NOTHING, nbytes)

    def swap(self, parts: np.ndarray, received: np.ndarray, label: str) -> None:
        """received[r] = what process r has in its parts[rank of this one]; both `(world, chunk)`."""
        self.exchange(label, lambda: self.communicator.Alltoall(parts, received))

    def collect(self, part: np.ndarray, whole: np.ndarray, label: str) -> None:
        """whole[r] = the part of process r; `(world, chunk)`."""
        self.exchange(label, lambda: self.communicator.Allgather(part, whole))
