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

DEATHS = 2  # of processes at work on a point, until it is said to have failed: another point's may have taken it along


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
    """Work on a point; what went wrong, or None. An interruption goes on its way."""
    if threads is not None:
        mg.set_num_threads(threads)
    at_work = folder / "at work"
    at_work.write_text(f"{os.getpid()} on {platform.node()}\n")
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
    """`run_points` by joblib. A process that is killed takes its pool with it: what was not done is then begun again."""
    import joblib

    threads = max(1, mg.get_num_threads() // jobs) if backend in (None, "loky", "threading") else None
    failed: dict[str, str | None] = {}
    deaths = dict.fromkeys(points, 0)
    while todo := [name for name in points if name not in failed]:
        try:
            with chosen(backend):
                calls = [joblib.delayed(noted)(name, points[name], work, threads) for name in todo]
                failed |= dict(joblib.Parallel(n_jobs=jobs)(calls))
        except joblib.externals.loky.process_executor.TerminatedWorkerError:
            for name in todo:
                if (points[name] / "done").exists():
                    failed[name] = None
                elif (points[name] / "failed.json").exists():
                    failed[name] = json.loads((points[name] / "failed.json").read_text())["why"]
                elif (points[name] / "at work").exists():
                    deaths[name] += 1
                    if deaths[name] == DEATHS:
                        failed[name] = f"the process at work on it was killed, {DEATHS} times"
                        note_failure(points[name], failed[name] or "")
    return failed


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
