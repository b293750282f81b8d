"""A step beside other work: what is started is ended, and what is measured is told."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks import bench_contention
from benchmarks.sections import contention
from benchmarks.sections.contention import ALONE, BUSY, ONE, OURS, SPINNING, TRAINING, running


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


def test_training_goes_on_until_it_is_ended(monkeypatch):
    root = str(Path(contention.__file__).parents[2])
    with running(contention.TRAIN, 1, root, "MNIST, captured", "0") as (process,):
        assert process.poll() is None


@pytest.fixture
def result():
    """Steps that take 1 alone, 2 beside one process, 4 beside two and 2 beside another training."""
    times = {ALONE: 1.0, "1 busy process": 2.0, "2 busy processes": 4.0, TRAINING: 2.0}
    labels = {OURS: 1.0, SPINNING: 0.5, ONE: 2.0}
    samples = {name: {label: [seconds * f] * 3 for label, f in labels.items()} for name, seconds in times.items()}
    return {"work": "MNIST, captured", "threads": 2, "cores": 2, "left_out": {}, "samples": samples}


def test_times_are_told_as_shares(result):
    found = {t["what"].partition(", captured, ")[2]: (t["measured"], t["reached"]) for t in contention.targets(result)}
    assert found == {
        "alone, against spinning": (2.0, False),
        "beside 1 busy process, against a fair share": (pytest.approx(2 / 1.5), True),
        "beside 2 busy processes, against a fair share": (2.0, False),
        "beside another training": (2.0, True),
    }
    assert "4,000,000" in contention.report(result)


def test_company_of_two_threads(monkeypatch):
    monkeypatch.setattr(contention.machine, "physical_cores", lambda: [3, 5])
    found = contention.company("MNIST, eager", 2)
    assert list(found) == [ALONE, "1 busy process", "2 busy processes", TRAINING]
    assert [count for count, _ in found.values()] == [0, 1, 2, 1]
    assert all(given[-2:] == ["3", "5"] for count, given in found.values() if count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are pinned")
def test_a_step_is_timed_in_each_company(monkeypatch):
    cores = contention.machine.physical_cores()
    if len(cores) < 2:
        pytest.skip("needs two cores")
    monkeypatch.setattr(contention, "PEERS", {})
    found = contention.compare(contention.Processes(2), "MNIST, captured", rounds=1, steps=2)
    assert not found["failed"]
    assert all(len(seconds) == 1 for of_company in found["samples"].values() for seconds in of_company.values())
    assert len(contention.targets(found)) == 4
