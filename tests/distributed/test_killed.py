"""What is said where one process of several is killed: of it by the launcher, by the others nothing that is not so."""

import re
import time

import pytest
from ranks import PROGRAMS, command, ended, start

from minigrad import checkpoint
from minigrad.distributed import launch

BOUND = 60  # seconds, the start of Python and the import of minigrad on a busy machine among them


def fails(given, n):
    """(output, errors) of a run that must fail, once the last process that could write is gone; all are gone soon."""
    began = time.monotonic()
    found = ended(start(given), BOUND + 30, n)
    assert time.monotonic() - began < BOUND
    assert found.status != 0, found.output
    return found.output, found.errors


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_launcher_names_the_rank_that_was_killed_and_no_other(tmp_path, n):
    _, errors = fails(launch.command(n, [str(PROGRAMS / "faults.py"), "kill", str(tmp_path)]), n)
    (line,) = re.findall(r"^minigrad: rank .*$", errors, re.MULTILINE)
    assert line.startswith(f"minigrad: rank {n - 1} was ended by SIGKILL on ")
    checkpoint.load(tmp_path / "last.safetensors")


@pytest.mark.slow
def test_without_the_launcher_the_survivors_blame_nobody(tmp_path):
    """mpiexec says that one was killed, of no rank, and ends the others before they find out that one does not come."""
    output, errors = fails(command(3, "faults.py", "kill", tmp_path), 3)
    assert re.search(r"EXIT CODE: 9\b", output), output
    assert "minigrad: rank" not in errors
    assert "Traceback" not in errors
    checkpoint.load(tmp_path / "last.safetensors")
