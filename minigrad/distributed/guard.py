"""Runs one process of several and says which it was, if it is killed: a killed process can't, and mpiexec names no rank.

Started by `minigrad launch` as a file of its own, which imports nothing but the standard library.
"""

import ctypes
import os
import signal
import subprocess
import sys
from typing import Any

RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


PR_SET_PDEATHSIG = 1  # of prctl


def dies_with_parent() -> None:
    """In the child, before its command begins: let the kernel kill it when this process is killed. Linux has that."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Run the command that the arguments are; its exit status, 128 + n if signal n ended it.

    mpiexec sends signals to a whole group of processes, others to this one alone. On Linux the command has a group of its own
    and gets from here what comes here, once; elsewhere it is in the group, and gets what is sent to that.
    """
    linux = sys.platform == "linux"
    own: dict[str, Any] = {"process_group": 0, "preexec_fn": dies_with_parent} if linux else {}
    child = subprocess.Popen(sys.argv[1:], close_fds=False, **own)  # what mpiexec talks by is among the open files

    def pass_on(number: int, _: object) -> None:
        if linux:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    status = child.wait()
    if status < 0:
        rank = next((os.environ[name] for name in RANKS if name in os.environ), "?")
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = "; perhaps the machine had no memory left" if name == "SIGKILL" else ""
        print(f"minigrad: rank {rank} was ended by {name} on {os.uname().nodename}{hint}", file=sys.stderr, flush=True)
        return 128 - status
    return status


if __name__ == "__main__":
    sys.exit(main())
