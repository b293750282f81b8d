"""Runs one process of several and says which it was, if it is killed: a killed process can't, and mpiexec names no rank.

Started by `minigrad launch` as a file of its own, which imports nothing but the standard library.
"""

import os
import signal
import subprocess
import sys

RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def main() -> int:
    """Run the command that the arguments are; its exit status, 128 + n if signal n ended it."""
    child = subprocess.Popen(sys.argv[1:], close_fds=False)  # what mpiexec talks by is among the open files
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: child.send_signal(number))
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
