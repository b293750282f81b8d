"""The points of a sweep, one after another or side by side: joblib runs them on this machine, or on a cluster that it reaches.

A point is a folder. What it gives is written there by the process that works on it, so that nothing is lost when the sweep is
ended, and a cluster's machines need a folder that all of them see. A point that fails, by an error or since its process is
killed, leaves `failed.json` there; the others are done all the same.
"""

import contextlib
import json
import os
import platform
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import minigrad as mg

MOST_KILLS = 3  # processes of a point, after which a cluster that begins it again is told that it failed


def run_points(
    points: Mapping[str, Path], work: Callable[[str], Any], jobs: int = 1, backend: str | None = None
) -> dict[str, str]:
    """Call `work(name)` for each point, `jobs` at a time, and return why those failed that did, by name.

    `points` are names and folders. `backend` is one of joblib's: "loky" (processes here, the default), "threading", or "dask"
    and "ray" for a cluster, whose own settings say where it is (DASK_SCHEDULER_ADDRESS, RAY_ADDRESS).
    """
    for folder in points.values():
        folder.mkdir(parents=True, exist_ok=True)
        for note in (folder / "failed.json", folder / "at work", folder / "done"):
            note.unlink(missing_ok=True)
    if jobs == 1 and backend is None:
        failed = {name: attempt(name, points[name], work) for name in points}
    else:
        failed = side_by_side(points, work, jobs, backend)
    return {name: why for name, why in failed.items() if why is not None}


def attempt(name: str, folder: Path, work: Callable[[str], Any], threads: int | None = None) -> str | None:
    """Work on a point; what went wrong, or None. An interruption goes on its way.

    A process that is killed leaves its line in the note "at work". A cluster begins the point again by itself, and again.
    """
    if threads is not None:
        mg.set_num_threads(threads)
    at_work = folder / "at work"
    killed = len(at_work.read_text().splitlines()) if at_work.exists() else 0
    if killed >= MOST_KILLS:
        why = f"the process at work on it was killed, {killed} times"
        note_failure(folder, why)
        at_work.unlink()
        return why
    with at_work.open("a") as note:
        note.write(f"{os.getpid()} on {platform.node()}\n")
    try:
        work(name)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        note_failure(folder, why, traceback.format_exc())
        return why
    finally:
        at_work.unlink(missing_ok=True)
    return None


def note_failure(folder: Path, why: str, trace: str | None = None) -> None:
    """Write down why a point failed."""
    (folder / "failed.json").write_text(json.dumps({"why": why, "traceback": trace}, indent=1) + "\n")


def side_by_side(
    points: Mapping[str, Path], work: Callable[[str], Any], jobs: int, backend: str | None
) -> dict[str, str | None]:
    """`run_points` by joblib. A process that is killed takes its pool with it: the points that were at work are then begun
    again one at a time, so that the one whose process is killed once more is known, and the others after them side by side.
    """
    import joblib

    threads = max(1, mg.get_num_threads() // jobs) if backend in (None, "loky", "threading") else None
    failed: dict[str, str | None] = {}
    while todo := [name for name in points if name not in failed]:
        suspects = [name for name in todo if (points[name] / "at work").exists()]
        names = suspects[:1] or todo
        try:
            with chosen(backend):
                calls = [joblib.delayed(noted)(name, points[name], work, threads) for name in names]
                failed |= dict(joblib.Parallel(n_jobs=jobs)(calls))
        except ended_pools(backend):
            ended = {name: end for name in names if (end := end_of(points[name])) is not None}
            if suspects and not ended:
                ended = {names[0]: "the process at work on it was killed, 2 times"}
                note_failure(points[names[0]], ended[names[0]])
            elif not ended and not any((points[name] / "at work").exists() for name in names):
                raise  # no process lives long enough to begin
            failed |= {name: end or None for name, end in ended.items()}
    return failed


def ended_pools(backend: str | None) -> tuple[type[Exception], ...]:
    """The errors by which a pool says that a process of it was killed."""
    if backend == "ray":
        from ray.exceptions import RayActorError

        return (RayActorError,)
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    return (TerminatedWorkerError,)


def end_of(folder: Path) -> str | None:
    """Of a point whose pool is gone: why it failed, "" where it was done, None where it was not."""
    if (folder / "done").exists():
        return ""
    if (folder / "failed.json").exists():
        return str(json.loads((folder / "failed.json").read_text())["why"])
    return None


def noted(name: str, folder: Path, work: Callable[[str], Any], threads: int | None) -> tuple[str, str | None]:
    """`attempt`, which leaves a note of its end for a sweep whose pool breaks."""
    why = None if (folder / "done").exists() else attempt(name, folder, work, threads)
    if why is None:
        (folder / "done").touch()
    return name, why


@contextlib.contextmanager
def chosen(backend: str | None) -> Any:
    """Inside, joblib uses a backend."""
    import joblib

    if backend is None:
        yield
        return
    if backend == "ray":
        from ray.util.joblib import register_ray

        register_ray()
    if backend == "dask":
        from dask.distributed import Client

        with Client(), joblib.parallel_config(backend="dask"):
            yield
        return
    with joblib.parallel_config(backend=backend):
        yield
