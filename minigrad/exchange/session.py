"""The processes of a run, numbered from 0 (their ranks), and the exchanges between them.

MPI carries the messages; this decides in which order they are added up.
"""

import contextlib
import json
import multiprocessing
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minigrad.exchange.beside import Beside
from minigrad.exchange.channel import LISTED, Channel, twin
from minigrad.exchange.errors import RankFailed, RanksDiffer
from minigrad.exchange.gpus import Gpus
from minigrad.exchange.watch import SIZES, Watch, initialize, meeting, told
from minigrad.kernels.build.settings import install

if TYPE_CHECKING:
    from minigrad.devices import Device

SHARED_MEMORY = "/dev/shm/mpich_shm_"

_current: "Session | None" = None


def current() -> "Session | None":
    """The processes that `start` has found; None before."""
    return _current


def start(timeout: float) -> "Session":
    """Begin to work together with the processes that `mpiexec` has started along with this one; once is enough."""
    global _current
    if _current is None:
        with meeting(timeout):
            _current = Session(world_of_mpi(), timeout)
    _current.timeout = timeout
    return _current


def world_of_mpi() -> Any:
    """MPI's communicator of all processes."""
    try:
        import mpi4py

        if mpi4py.rc.initialize:
            mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(f"working in several processes needs mpi4py and an MPI: {install('mpi')}") from error
    if not MPI.Is_initialized():
        if multiprocessing.parent_process() is not None and told(SIZES):
            raise RuntimeError(
                "mg.distributed.init() was called in a process that multiprocessing has started, a Loader's worker perhaps, of "
                'which mpiexec does not know: put what the script does below `if __name__ == "__main__":`'
            )
        initialize(MPI)
    if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
        raise RuntimeError(
            "this MPI cannot be called from several threads, which watching the other processes needs (MPI_THREAD_MULTIPLE); "
            f"that of `{install('mpi')}` can"
        )
    return MPI.COMM_WORLD


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


class Part(NamedTuple):
    """How the loss of a batch counts that is one of several in a step, whose gradients are added up and then averaged."""

    weight: float  # of this process in that average
    factor: float  # how many times as much the loss is scaled here as in all processes on average


class Session(Channel):
    """The processes of a run.

    `rank` is the number of this one and `world` how many there are; `timeout` is how many seconds one waits in an exchange
    for the others before the run ends.
    """

    def __init__(self, communicator: Any, timeout: float) -> None:
        super().__init__(twin(communicator))
        self.timeout = timeout
        self.between_gpus: Gpus | None = None
        self.launched = 0  # a checksum of what GPUs were told to exchange since that was compared
        self.thread: Beside | None = None
        self.part: Part | None = None  # of a step of several batches, the one that goes backward
        if self.world > 1:
            self.watch = Watch(self, twin(communicator))  # by which all have begun, and have the memory they share
            self.broke = self.watch.broke
            remove_names_of_shared_memory()

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    @property
    def channels(self) -> list[Channel]:
        """Where exchanges may be at work."""
        return [self] if self.thread is None else [self, self.thread.channel]

    def beside(self) -> Beside:
        """The thread that exchanges while this one computes, for which all processes ask at the same time."""
        if self.thread is None:
            self.check("a channel for gradients")
            communicator = self.exchange("a channel for gradients", lambda: twin(self.communicator))
            self.thread = Beside(Channel(communicator, self.broke))
        return self.thread

    def gpus(self, device: "Device") -> Gpus:
        """The GPUs of all processes, of which each asks at the same time; `device` is that of this one."""
        if self.between_gpus is None:
            self.between_gpus = Gpus(self, device)
        return self.between_gpus

    def note(self, label: str, nbytes: int) -> None:
        """GPUs are told to exchange something: to be compared with what others are told."""
        self.launched = zlib.crc32(f"{label} {nbytes};".encode(), self.launched)

    def send(self, arrays: Sequence[np.ndarray], label: str) -> None:
        """Put the arrays of rank 0 into those of all others."""
        self.check(label, sum(array.nbytes for array in arrays))
        self.exchange(label, lambda: [self.communicator.Bcast(array) for array in arrays])

    def everyone(self, value: Any, label: str) -> list[Any]:
        """The values of all processes, by rank: numbers, strings, lists and dicts."""
        self.check(label)
        said = json.dumps(value)
        return [json.loads(text) for text in self.exchange(label, lambda: self.communicator.allgather(said))]

    def from_first(self, value: Any, label: str) -> Any:
        """The value that rank 0 has: numbers, strings, lists and dicts."""
        self.check(label)
        text = self.exchange(label, lambda: self.communicator.bcast(json.dumps(value) if self.leads else None))
        return json.loads(text)

    def done_by_first(self, task: Callable[[], object], label: str, where: str = "") -> None:
        """Let rank 0 do something that may fail, such as writing a file; all wait for it, and end with its error.

        `where` it does so is told with the error, and need not be the same in all.
        """
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
            raise RankFailed(f"rank 0 failed at {label}{where and ' '}{where}: {said}")

    def agree(self, what: str, mine: Mapping[str, Any], mend: str = "") -> None:
        """RanksDiffer, in every process, unless all have the same numbers, strings, lists and dicts here.

        `mend` says what to do about it, where that is not plain from the names of what differs.
        """
        text = json.dumps(mine, sort_keys=True, default=repr)
        if self.count:  # not the first time, when versions are compared, of which another one may check otherwise
            self.check(f"comparing {what}")
        everyone = self.exchange(f"comparing {what}", lambda: self.communicator.allgather(text))
        problems = []
        first = flat(json.loads(everyone[0]))
        for rank, said in enumerate(everyone):
            if said != everyone[0]:
                problems += [f"rank {rank}: {line}" for line in differences(first, flat(json.loads(said)))]
        if problems:
            more = f"\n  and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
            raise RanksDiffer(
                f"the processes differ in {what}:\n  " + "\n  ".join(problems[:LISTED]) + more + (mend and f"\n{mend}")
            )


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
