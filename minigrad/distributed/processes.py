"""The processes that were started together."""

import hashlib
import os
import platform
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

import numba
import numpy as np

from minigrad.checks import number
from minigrad.exchange import Session, current, start
from minigrad.exchange.watch import SIZES, told
from minigrad.kernels.cpu.tools import threads
from minigrad.version import __version__

SEEN = "CUDA_VISIBLE_DEVICES"  # the GPUs that CUDA lets a process see


def init(timeout: float = 600.0, threads_each: int | None = None) -> Session:
    """Find the processes that `mpiexec` has started along with this one; alone, it is the only one.

    All call it, with the same script, arguments, and versions of minigrad, NumPy, Numba and Python; else each raises an error
    that names the rank and what differs. From then on an uncaught exception in one of them ends all, each with a line that
    says which. More calls change only the timeout.

    Args:
        timeout: how many seconds one waits in an exchange for the others, and here, before all end, each saying where they are.
            Longer than the slowest thing that one does while others wait: compiling kernels, writing a checkpoint.
        threads_each: of minigrad's kernels in each process; by default those of the machine are shared out among the processes
            on it, unless the number was chosen before. The bits do not depend on it.

    Returns:
        The session, with `rank` and `world`.

    Raises:
        ImportError: mpi4py is not installed.
        RanksDiffer: the processes are not of one kind.
        RuntimeError: this is a process that one of them has started by multiprocessing, as a Loader's worker is.
    """
    timeout = number("timeout", timeout, 10.0**9)
    begun = current() is not None
    session = start(timeout)
    if not begun and session.world > 1:
        session.agree("version or script", kind_of_process())
        share_machine(session, threads_each)
    return session


def kind_of_process() -> dict[str, object]:
    """What must be the same in all processes."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return {
        "minigrad": __version__,
        "minigrad's code": own_code(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "python": platform.python_version(),
        "the machine's byte order": sys.byteorder,
        "the script": None if main is None else {"name": Path(main).name, "sha256": digest(Path(main))},
        "its arguments": sys.argv[1:],
    }


def digest(*files: Path) -> str:
    """A checksum of files."""
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def own_code() -> str:
    """A checksum of minigrad's sources."""
    package = Path(__file__).resolve().parents[1]
    kernels = Path(sys.modules["minigrad.kernels"].__file__ or "").parent
    return digest(*sorted(package.rglob("*.py")), *sorted(kernels.rglob("*.py")))


def share_machine(session: Session, threads_each: int | None) -> None:
    """Give each process on a machine its part of the threads, and a GPU of its own, unless the user has chosen."""
    from mpi4py import MPI

    here = session.communicator.Split_type(MPI.COMM_TYPE_SHARED)
    place, several = here.Get_rank(), here.Get_size()
    here.Free()
    choose_gpu(place)
    everywhere = threads.available_threads()
    if threads_each is None and threads.get_num_threads() == everywhere:
        threads_each = max(1, everywhere // several)
    if threads_each is not None:
        threads.set_num_threads(threads_each)


def choose_gpu(place: int, environment: MutableMapping[str, str] = os.environ) -> None:
    """Let CUDA see one GPU, as it does when it is first used: of those there are the one for the `place`-th process here."""
    seen = environment.get(SEEN)
    several = seen is None or "," in seen
    if several:
        names = [str(place)] if seen is None else [name.strip() for name in seen.split(",")]
        environment[SEEN] = names[place % len(names)]


def started_among(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes an `mpiexec` has started along with this one, by what it tells them; 1 if there was none."""
    return told(SIZES, environment) or 1
