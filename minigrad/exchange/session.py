"""The processes of a run, numbered from 0 (their ranks), and the exchanges between them.

MPI carries the messages; this decides in which order they are added up. Every exchange is counted and has a label, and both
go with it, so that processes that have gone different ways find out at once. All of them make the same exchanges in the
same order, from one thread.
"""

import contextlib
import json
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigrad.exchange.errors import RankFailed, RanksDiffer
from minigrad.exchange.gpus import Gpus
from minigrad.exchange.watch import Watch
from minigrad.kernels.build.settings import install

HEADER = 24  # bytes before what is gathered: the number of the exchange, a checksum of its label, the bytes to come
SHARED_MEMORY = "/dev/shm/mpich_shm_"
NOTHING = np.empty(0)
LISTED = 12  # differences that an error names

_current: "Session | None" = None


def current() -> "Session | None":
    """The processes that `start` has found; None before."""
    return _current


def start(timeout: float) -> "Session":
    """Begin to work together with the processes that `mpiexec` has started along with this one; once is enough."""
    global _current
    if _current is None:
        _current = Session(world_of_mpi(), timeout)
    _current.timeout = timeout
    return _current


def world_of_mpi() -> Any:
    """MPI's communicator of all processes."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(f"working in several processes needs mpi4py and an MPI: {install('mpi')}") from error
    if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
        raise RuntimeError(
            "this MPI cannot be called from several threads, which watching the other processes needs (MPI_THREAD_MULTIPLE); "
            f"that of `{install('mpi')}` can"
        )
    return MPI.COMM_WORLD


def twin(communicator: Any) -> Any:
    """A channel of our own among the same processes, on which an error of MPI's is an exception."""
    from mpi4py import MPI

    found = communicator.Dup()
    found.Set_errhandler(MPI.ERRORS_RETURN)
    return found


def remove_names_of_shared_memory() -> None:
    """Remove the names of the memory that MPICH shares among the processes on this machine, which all have open by now.

    The memory stays as long as one of them lives. The name would stay for ever where the run fails or is killed: MPICH removes
    it at a good end only. Names that this process has mapped belong to no other run.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            name = line.partition(SHARED_MEMORY)[2]
            if name and "/" not in name:
                Path(SHARED_MEMORY + name).unlink(missing_ok=True)


class Session:
    """The processes of a run.

    `rank` is the number of this one and `world` how many there are; `timeout` is how many seconds one waits in an exchange
    for the others before the run ends.
    """

    def __init__(self, communicator: Any, timeout: float) -> None:
        self.communicator = twin(communicator)
        self.rank: int = communicator.Get_rank()
        self.world: int = communicator.Get_size()
        self.timeout = timeout
        self.count = 0  # exchanges begun
        self.at: tuple[int, str, float] | None = None  # the exchange at work: its number, its label, since when
        self.packets: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        self.between_gpus: Gpus | None = None
        self.launched = 0  # a checksum of what GPUs were told to exchange since that was compared
        self.watch = None
        if self.world > 1:
            self.watch = Watch(self, twin(communicator))  # by which all have begun, and have the memory they share
            remove_names_of_shared_memory()

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def gpus(self, stream: Any) -> Gpus:
        """The GPUs of all processes, of which each asks at the same time; `stream` is the one that this one works on."""
        if self.between_gpus is None:
            self.between_gpus = Gpus(self, int(stream))
        return self.between_gpus

    def note(self, label: str, nbytes: int) -> None:
        """GPUs are told to exchange something: to be compared with what others are told."""
        self.launched = zlib.crc32(f"{label} {nbytes};".encode(), self.launched)

    def exchange(self, label: str, work: Callable[[], Any]) -> Any:
        """Do `work`, which calls MPI, so that the watch knows of it."""
        self.count += 1
        self.at = self.count, label, time.monotonic()
        try:
            return work()
        except Exception as error:
            if type(error).__module__.startswith("mpi4py") and self.watch is not None:
                self.watch.broke(f"{label} (exchange {self.count}): {error}")  # which does not return
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
        self.exchange(label, lambda: self.communicator.Allgather(sent, received))
        headers = received[:, :HEADER].view(np.int64)
        if (headers != header).any():
            raise self.parted(label, nbytes)
        return received[:, HEADER:].view(values.dtype)

    def parted(self, label: str, nbytes: int) -> RanksDiffer:
        """The error for processes that make different exchanges."""
        mine = f"{label!r} of {nbytes:,} bytes, its exchange {self.count:,}"
        everyone = self.exchange("finding out who differs", lambda: self.communicator.allgather(mine))
        differing = [f"rank {rank} is at {said}" for rank, said in enumerate(everyone) if said != everyone[0]]
        return RanksDiffer(
            f"the processes do not do the same: rank 0 is at {everyone[0]}, {', '.join(differing[:LISTED])}. All must run "
            "the same script with models of the same shapes"
        )

    def check(self, label: str, nbytes: int) -> None:
        """RanksDiffer, in every process, unless all are about to make the same large exchange."""
        self.gather(label, NOTHING, nbytes)

    def swap(self, parts: np.ndarray, received: np.ndarray, label: str) -> None:
        """received[r] = what process r has in its parts[rank of this one]; both `(world, chunk)`."""
        self.exchange(label, lambda: self.communicator.Alltoall(parts, received))

    def collect(self, part: np.ndarray, whole: np.ndarray, label: str) -> None:
        """whole[r] = the part of process r; `(world, chunk)`."""
        self.exchange(label, lambda: self.communicator.Allgather(part, whole))

    def send(self, arrays: Sequence[np.ndarray], label: str) -> None:
        """Put the arrays of rank 0 into those of all others."""
        self.check(label, sum(array.nbytes for array in arrays))
        self.exchange(label, lambda: [self.communicator.Bcast(array) for array in arrays])

    def everyone(self, value: Any, label: str) -> list[Any]:
        """The values of all processes, by rank: numbers, strings, lists and dicts."""
        return [
            json.loads(text) for text in self.exchange(label, lambda: self.communicator.allgather(json.dumps(value)))
        ]

    def from_first(self, value: Any, label: str) -> Any:
        """The value that rank 0 has: numbers, strings, lists and dicts."""
        text = self.exchange(label, lambda: self.communicator.bcast(json.dumps(value) if self.leads else None))
        return json.loads(text)

    def done_by_first(self, task: Callable[[], object], label: str) -> None:
        """Let rank 0 do something that may fail, such as writing a file; all wait for it, and end with its error."""
        error: Exception | None = None
        if self.leads:
            try:
                task()
            except Exception as caught:
                error = caught
        said = self.from_first(None if error is None else f"{type(error).__name__}: {error}", label)
        if error is not None:
            raise error
        if said is not None:
            raise RankFailed(f"rank 0 failed at {label}: {said}")

    def agree(self, what: str, mine: Mapping[str, Any]) -> None:
        """RanksDiffer, in every process, unless all have the same numbers, strings, lists and dicts here."""
        text = json.dumps(mine, sort_keys=True, default=repr)
        everyone = self.exchange(f"comparing {what}", lambda: self.communicator.allgather(text))
        problems = []
        first = flat(json.loads(everyone[0]))
        for rank, said in enumerate(everyone):
            if said != everyone[0]:
                problems += [f"rank {rank}: {line}" for line in differences(first, flat(json.loads(said)))]
        if problems:
            more = f"\n  and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
            raise RanksDiffer(f"the processes differ in {what}:\n  " + "\n  ".join(problems[:LISTED]) + more)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a nest of dicts by their dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    pairs: Iterable[tuple[str, Any]] = ((f"{name}.{key}" if name else key, part) for key, part in value.items())
    return {key: leaf for path, part in pairs for key, leaf in flat(part, path).items()}


def differences(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What another process has in other ways than rank 0."""
    nothing = "nothing"
    return [
        f"{name} is {other.get(name, nothing)!r}, where rank 0 has {first.get(name, nothing)!r}"
        for name in dict.fromkeys([*first, *other])
        if first.get(name, nothing) != other.get(name, nothing)
    ]
