"""Programs in several processes: `run(n, program, ...)` starts them by mpiexec and gives what each rank said at its end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from minigrad.distributed import launch

pytest.importorskip("mpi4py", reason="needs mpi4py and mpich: pip install 'minigrad-bn[mpi]'")

PROGRAMS = Path(__file__).parent / "distributed" / "programs"
ROOT = Path(__file__).resolve().parents[1]


class Ended(NamedTuple):
    status: int
    results: list  # by rank, what `result` of programs/told.py was given last
    output: str
    errors: str


def command(n, program, *arguments):
    return [launch.mpiexec(), "-n", str(n), sys.executable, str(PROGRAMS / program), *map(str, arguments)]


def environment(before=(), **more):
    paths = [*map(str, before), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def ended(process, timeout, n):
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        pytest.fail(f"not over after {timeout} s:\n{output}\n{errors}")
    found = [None] * n
    for line in output.splitlines():
        if "RESULT " in line:  # another rank may have begun a line
            said = json.loads(line.partition("RESULT ")[2])
            found[said["rank"]] = said["result"]
    return Ended(process.returncode, found, output, errors)


def start(command, **more):
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
        start_new_session=True,
    )


def run(n, program, *arguments, timeout=60, **more):
    found = ended(start(command(n, program, *arguments), **more), timeout, n)
    assert found.status == 0, found.errors
    return found.results
