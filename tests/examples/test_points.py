"""Sweeps by joblib: all points are done, also where one fails or its process is killed, and what is done is not done again."""

import functools
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest

pytest.importorskip("joblib")


@pytest.fixture
def points(scripts, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where other processes find this file, as pytest names it
    import points

    return points


def work(folder, name):
    """A point whose name says what becomes of it."""
    with open(folder / "log", "a") as log:
        log.write(f"{name}\n")
    if name == "fails":
        raise ValueError("no such thing")
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"{name}.result").write_text(name)


def kill(name):
    """A point that the system ends, as one that takes all memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def run(points, folder, names, **how):
    return points.run_points({name: folder / name for name in names}, functools.partial(work, folder), **how)


@pytest.mark.parametrize(
    "how", [{}, {"jobs": 2}, {"jobs": 3, "backend": "threading"}], ids=["in turn", "processes", "threads"]
)
def test_all_points_are_done_and_a_failure_is_recorded(points, tmp_path, how):
    failed = run(points, tmp_path, ["a", "fails", "b", "c"], **how)
    assert failed == {"fails": "ValueError: no such thing"}
    assert {path.name for path in tmp_path.glob("*.result")} == {"a.result", "b.result", "c.result"}
    assert "no such thing" in json.loads((tmp_path / "fails" / "failed.json").read_text())["traceback"]
    assert not (tmp_path / "a" / "failed.json").exists()


@pytest.mark.slow
def test_a_point_whose_process_is_killed_does_not_take_the_others_along(points, tmp_path):
    failed = run(points, tmp_path, ["a", "dies", "b", "c", "d"], jobs=2)
    assert list(failed) == ["dies"]
    assert "was killed, 2 times" in failed["dies"]
    assert sorted(path.stem for path in tmp_path.glob("*.result")) == ["a", "b", "c", "d"]
    assert (tmp_path / "dies" / "failed.json").exists()


@pytest.mark.slow
def test_a_cluster_is_told_of_a_point_whose_processes_are_killed(points, tmp_path):
    """It begins such a point again by itself, and would not come to an end with it."""
    folder = tmp_path / "dies"
    folder.mkdir()
    for killed in range(points.MOST_KILLS):
        process = multiprocessing.get_context("spawn").Process(target=points.attempt, args=("dies", folder, kill))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        assert len((folder / "at work").read_text().splitlines()) == killed + 1
    assert points.attempt("dies", folder, kill) == "the process at work on it was killed, 3 times"
    assert "killed, 3 times" in json.loads((folder / "failed.json").read_text())["why"]
    assert not (folder / "at work").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_on_a_cluster_all_points_are_done(points, tmp_path, monkeypatch, backend):
    pytest.importorskip("dask.distributed" if backend == "dask" else backend, reason=f"needs {backend}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # of the cluster's processes
    failed = run(points, tmp_path, ["a", "fails", "dies", "b", "c"], jobs=2, backend=backend)
    assert sorted(failed) == ["dies", "fails"]
    assert sorted(path.stem for path in tmp_path.glob("*.result")) == ["a", "b", "c"]


def test_a_failed_point_is_tried_again(points, tmp_path):
    run(points, tmp_path, ["fails"], jobs=2)
    (tmp_path / "log").unlink()
    run(points, tmp_path, ["fails"], jobs=2)
    assert (tmp_path / "log").read_text() == "fails\n"


@pytest.mark.slow
def test_networks_trained_side_by_side_have_the_bits_of_those_in_turn(start, small, tmp_path):
    options = [
        "--epochs",
        "1",
        "--images",
        "40",
        "--test-images",
        "10",
        "--batch",
        "10",
        "--lr",
        "0.01",
        "--lr",
        "1e30",
    ]
    results = {}
    for name, more in (("in turn", []), ("side by side", ["--jobs", "2"])):
        code, printed = start("sweep_learning_rate", tmp_path / name, *options, *more)
        assert code == 0, printed
        results[name] = json.loads((tmp_path / name / "results.json").read_text())["networks"]
    for name, result in results["in turn"].items():
        other = results["side by side"][name]
        assert other["diverged"] == result["diverged"]
        assert [row.get("loss") for row in other["epochs"]] == [row.get("loss") for row in result["epochs"]]
    assert any(result["diverged"] for result in results["in turn"].values())
