"""What the benchmark of other work starts, it ends."""

import time
from pathlib import Path

import pytest

from benchmarks import bench_contention
from benchmarks.bench_contention import BUSY, running


def processor_time(process):
    """Ticks of processor time that a process has had."""
    return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11])


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux's /proc")
def test_busy_processes_compute():
    with running(BUSY, 2) as busy:
        deadline = time.monotonic() + 60
        before = [processor_time(process) for process in busy]
        while not all(processor_time(p) > ticks for p, ticks in zip(busy, before, strict=True)):
            assert time.monotonic() < deadline, "a busy process is idle"
            time.sleep(0.02)


def test_busy_processes_end_with_the_measurement():
    with pytest.raises(ZeroDivisionError), running(BUSY, 2) as busy:
        assert [process.poll() for process in busy] == [None, None]
        1 / 0  # noqa: B018 - whatever goes wrong in a measurement
    assert all(process.returncode is not None for process in busy)


def test_busy_process_ends_with_the_one_that_started_it():
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {BUSY!r}]).pid, flush=True); sys.stdin.read()"
    with running(code, 1) as (parent,):
        # its first line, the process id, has been read as the sign that it is ready; the next is that of its child
        assert parent.stdout.readline() == "at work\n"
        parent.kill()
        assert parent.stdout.read() == ""  # the child has the pipe too: this ends when both have ended


def test_process_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="ended with 3 before it was ready"), running("raise SystemExit(3)", 1):
        pass


def test_training_that_ends_early_is_an_error(monkeypatch):
    monkeypatch.setattr(bench_contention, "TRAINING", "print('ready', flush=True)")
    with pytest.raises((RuntimeError, BrokenPipeError)):
        bench_contention.Trainings().track_seconds(1)
