"""Processes that compile kernels beside this one: what they do, and what happens where they cannot."""

import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from minigrad.kernels.cpu import elementwise
from minigrad.kernels.cpu.tools import ahead, workers
from minigrad.kernels.cpu.tools.workers import helped, taken

BEGIN = """
import pickle, sys, os
pickle.load(sys.stdin.buffer)
def tell(answer):
    sys.stdout.buffer.write(pickle.dumps(answer))
    sys.stdout.buffer.flush()
def task():
    return pickle.loads(pickle.load(sys.stdin.buffer))
"""
READY = BEGIN + "tell([])\n"
WORKS = READY + "while True: tell([(name, 1.0) for name in task()])"
DIES = READY + "task(); os._exit(3)"
CANNOT = READY + "task(); tell('ValueError: no')"
NEVER_READY = BEGIN + "import time; time.sleep(1000)"
NO_PYTHON = "print('hello')"


@pytest.fixture
def said(monkeypatch):
    """What is counted as compiled by others, and what is warned of."""
    counted, warned = [], []
    monkeypatch.setattr(workers.progress, "count", lambda name, seconds: counted.append(name))
    monkeypatch.setattr(workers.progress, "silent", True)
    monkeypatch.setattr(workers, "warn_once", lambda kind, message: warned.append(message))
    return counted, warned


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("count", [1, 3])
def test_workers_do_all_tasks(monkeypatch, said, count):
    monkeypatch.setattr(workers, "CODE", WORKS)
    tasks = deque([[f"{i}a", f"{i}b"] for i in range(10)])
    with helped(count, tasks) as failed:
        until(lambda: not tasks)
    assert sorted(said[0]) == sorted(f"{i}{x}" for i in range(10) for x in "ab")
    assert failed == said[1] == []


@pytest.mark.parametrize(("code", "why"), [(DIES, "it ended with status 3"), (CANNOT, "ValueError: no")])
def test_what_a_worker_fails_at_is_left_to_this_process_which_says_so(monkeypatch, said, code, why):
    monkeypatch.setattr(workers, "CODE", code)
    tasks = deque([["a"], ["b"]])
    with helped(1, tasks) as failed:
        until(lambda: len(tasks) == 1)
        rest = list(taken(tasks))
    assert failed == ["a"]
    assert rest == [["b"]]
    assert said[1] == [f"a process that compiled kernels failed ({why}); this one compiles those itself"]


@pytest.mark.parametrize("code", [NEVER_READY, NO_PYTHON, "import nothing_of_that_name"])
def test_a_worker_that_never_begins_is_not_waited_for(monkeypatch, said, code):
    monkeypatch.setattr(workers, "CODE", code)
    tasks = deque([["a"], ["b"]])
    with helped(1, tasks) as failed:
        assert list(taken(tasks)) == [["a"], ["b"]]
    assert failed == said[1] == []


def test_an_error_here_ends_the_workers(monkeypatch, said):
    monkeypatch.setattr(workers, "CODE", READY + "task(); import time; time.sleep(1000)")
    started = []
    monkeypatch.setattr(workers.subprocess, "Popen", lambda *a, **k: started.append(POPEN(*a, **k)) or started[-1])
    tasks = deque([["a"]])
    with pytest.raises(KeyboardInterrupt), helped(2, tasks):
        until(lambda: not tasks)
        raise KeyboardInterrupt
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


POPEN = subprocess.Popen


def test_where_no_process_can_be_started_this_one_compiles(monkeypatch, said):
    def refuse(*arguments, **options):
        raise OSError("no more processes")

    monkeypatch.setattr(workers.subprocess, "Popen", refuse)
    with helped(2, deque([["a"]])) as failed:
        pass
    assert failed == []
    assert said[1] == ["no process could be started to compile kernels beside this one: no more processes"]


@pytest.mark.parametrize("program", ["", None, "/opt/blender", b"/usr/bin/uwsgi"])
def test_a_program_that_is_no_python_is_not_started(monkeypatch, program):
    monkeypatch.setattr(workers, "get_executable", lambda: program)
    assert workers.executable() is None
    relu = elementwise.relu_forward.choose(np.ones(3), np.ones(3)).entry()
    tanh = elementwise.tanh_forward.choose(np.ones(3), np.ones(3)).entry()
    monkeypatch.setattr(ahead, "WORTHWHILE", 1)
    assert ahead.worthwhile([[relu], [tanh]]) == 1


def test_so_many_processes_as_are_of_use(monkeypatch):
    monkeypatch.setattr(ahead, "amount", lambda task: task[0])
    for amounts, count in [
        ([], 1),
        ([9000], 1),
        ([9000, 100, 100], 1),  # not worth to be started
        ([9000, 3000], 2),
        ([9000, 9000, 9000], 3),
        ([20000, 4000, 4000, 4000, 4000], 2),  # nobody is done before the first
    ]:
        assert ahead.worthwhile([[amount] for amount in amounts]) == count, amounts
    monkeypatch.setattr(ahead, "cache_folder", lambda target: None)
    assert ahead.worthwhile([[9000], [9000]]) == 1


HELPED = """
import os, signal, sys, time
from collections import deque
import numpy as np
import minigrad as mg
from minigrad.kernels.build.progress import progress
from minigrad.kernels.cpu import elementwise, gemm
from minigrad.kernels.cpu.tools.ahead import noted
from minigrad.kernels.cpu.tools.launch import CpuKernel
from minigrad.kernels.cpu.tools import workers

def until(tasks):
    while tasks:
        time.sleep(0.01)
"""

FORMULA = """
half, x = mg.elementwise(lambda x: x * 0.5), mg.tensor([1.0, 1.0])
with noted() as wanted:
    half(x)
    mg.relu(x)
tasks = deque([[entry] for entry in wanted])
with workers.helped(1, tasks) as failed:
    until(tasks)
assert not failed, failed
assert len(progress.compiled) == 2, progress.compiled
assert all(CpuKernel.is_kept(*entry) for entry in wanted)
with mg.no_compile():
    assert half(x).tolist() == [0.5, 0.5]
"""

SIGNAL = """
started, popen = [], workers.subprocess.Popen
workers.subprocess.Popen = lambda *given, **named: started.append(popen(*given, **named)) or started[-1]
with noted() as wanted:
    mg.matmul(mg.ones((200, 200)), mg.ones((200, 200)))
tasks = deque([list(wanted)])
with workers.helped(1, tasks):
    until(tasks)
    print(started[0].pid, flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background may have made nothing
    os.kill(os.getpid(), signal.{name})
    time.sleep(100)
"""

SCRIPT = """
print("begins", flush=True)
import threading
import numpy as np
import minigrad as mg
from minigrad.kernels.cpu.tools import ahead, threads

threads.available_threads = lambda: 2
ahead.WORTHWHILE = 1

@mg.capture
def step(x):
    return mg.exp(mg.relu(x - 2.0))

found = []
thread = threading.Thread(target=lambda: found.append(step(np.ones(2, np.float32)).tolist()))
thread.start()
thread.join()
print(found[0])
"""


def test_a_worker_compiles_kernels_of_ours_and_those_made_of_formulas(run_script, tmp_path):
    run_script(HELPED + FORMULA, MINIGRAD_CACHE=str(tmp_path / "cache"))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="asks the system for a process")
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_a_worker_ends_with_the_process_that_started_it(run_script, tmp_path, name):
    code = HELPED + SIGNAL.replace("{name}", name)
    done = run_script(code, check=False, MINIGRAD_CACHE=str(tmp_path / "cache"))
    assert done.returncode != 0
    process = Path(f"/proc/{int(done.stdout)}/stat")
    until(lambda: not process.exists() or process.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_script_is_not_run_again(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "MINIGRAD_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, cwd=tmp_path, env=environment, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["begins", "[1.0, 1.0]"]


@pytest.mark.slow
def test_where_nothing_can_be_kept_this_process_compiles(run_script, tmp_path):
    (tmp_path / "file").write_text("")
    done = run_script(SCRIPT, MINIGRAD_CACHE=str(tmp_path / "file"))
    assert done.stdout.splitlines() == ["begins", "[1.0, 1.0]"]
    assert "(once; not kept)" in done.stderr
