"""Processes that share tests and die: each test is run once, and the run ends."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("xdist")
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a process cannot kill itself so here")

TESTS = Path(__file__).parent
CONFTEST = """
from sharing import Sharing


def pytest_xdist_make_scheduler(config, log):
    return Sharing(config, log)
"""
DIES = "def test_{0}():\n    log({0})\n    os.kill(os.getpid(), signal.SIGKILL)\n"
PASSES = "def test_{0}():\n    log({0})\n    time.sleep({1})\n"
HEAD = """
import os, signal, time


def log(number):
    with open("log", "a") as file:
        file.write(f"{number}\\n")


"""


def run(folder, processes, *files):
    """(exit code, output, numbers of the tests in the order they began) of a run of files, each a word of letters:

    d for a test that dies, s for one that takes a moment, p for another one.
    """
    (folder / "conftest.py").write_text(CONFTEST)
    number = 0
    for i, kinds in enumerate(files):
        text = HEAD
        for kind in kinds:
            text += DIES.format(number) if kind == "d" else PASSES.format(number, 0.5 if kind == "s" else 0)
            number += 1
        (folder / f"test_{i}.py").write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        str(processes),
        "--dist",
        "loadfile",
        "-p",
        "no:cacheprovider",
    ]
    environment = {"PATH": "", "PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    began = [int(line) for line in (folder / "log").read_text().split()]
    return result.returncode, result.stdout + result.stderr, began


@pytest.mark.parametrize(
    ("processes", "files"),
    [
        pytest.param(1, ["d", "p", "p", "p"], marks=pytest.mark.slow),  # the replacement is given single tests
        (1, ["dpp", "p"]),
        pytest.param(1, ["p", "ppd"], marks=pytest.mark.slow),  # nothing is left for it
        pytest.param(2, ["d", "p", "s", "p", "p"], marks=pytest.mark.slow),
        pytest.param(2, ["pdp", "sss", "p"], marks=pytest.mark.slow),
        pytest.param(2, ["sd", "p", "p", "sss"], marks=pytest.mark.slow),
        pytest.param(2, ["d", "pp", "dp", "d", "p"], marks=pytest.mark.slow),
        pytest.param(3, ["d", "d", "d", "p", "p", "p"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_run_goes_on_when_processes_die(tmp_path, processes, files):
    code, output, began = run(tmp_path, processes, *files)
    kinds = "".join(files)
    assert sorted(began) == list(range(len(kinds))), output
    assert code == 1
    assert f"{kinds.count('d')} failed, {len(kinds) - kinds.count('d')} passed" in output
    for number, kind in enumerate(kinds):
        crashed = re.search(rf"crashed while running 'test_\d+.py::test_{number}'", output)
        assert bool(crashed) == (kind == "d")


@pytest.mark.slow
def test_a_run_in_which_none_dies(tmp_path):
    code, output, began = run(tmp_path, 2, "pp", "p", "ppp", "p")
    assert (code, sorted(began)) == (0, list(range(7))), output
