"""Starting a script in several processes."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from minigrad.kernels.build.settings import install

GUARD = Path(__file__).with_name("guard.py")


def command(processes: int, script: Sequence[str], hosts: str | None = None) -> list[str]:
    """The command line that starts `script`, a file and its arguments, in so many processes; FileNotFoundError without MPI."""
    where = [] if hosts is None else ["-hostfile", hosts]
    return [mpiexec(), "-n", str(processes), *where, sys.executable, str(GUARD), sys.executable, *script]


def mpiexec() -> str:
    """The mpiexec installed in the same environment as this Python, or else on the path."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise FileNotFoundError(f"there is no mpiexec here; an MPI comes with: {install('mpi')}")
    return found
