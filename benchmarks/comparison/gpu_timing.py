"""Work on the GPU, checked and timed: both sides in turn, each as a graph of many calls on arrays that no cache still holds."""

import math
import traceback
from typing import Any, NamedTuple

import numpy as np

from benchmarks.comparison.gpu_sides import OURS, THEIRS, Case, Replay
from benchmarks.comparison.processes import in_turn
from benchmarks.comparison.tables import median, ratio, spread

LONG = 1e-3  # seconds of the graph that is timed: what lies between two graphs does not count then
MOST_CALLS = 256  # of a graph
MOST_SETS = 64  # of inputs


def relative_error(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest of ||found - expected|| / ||expected||; infinite for NaN or another shape."""
    worst = 0.0
    for got, right in zip(found, expected, strict=True):
        if got.shape != right.shape:
            return math.inf
        right = right.astype(float)
        error = float(np.linalg.norm(got.astype(float) - right)) / (float(np.linalg.norm(right)) or 1.0)
        worst = max(worst, error) if math.isfinite(error) else math.inf
    return worst


def sets_of(nbytes: int, cache: int) -> int:
    """How many sets of arrays to take in turn, so that none is still in the cache when it comes again."""
    return min(MOST_SETS, max(1, math.ceil(4 * cache / max(1, nbytes))))


class Timed(NamedTuple):
    """A replay, and how many calls it is of."""

    side: Any
    replay: Replay
    calls: int
    error: float


def prepared(case: Case, side: Any, precision: str, tolerance: float, cache: int) -> Timed:
    """A side's work, checked, as a graph that is long enough to be timed. RuntimeError if it computes something wrong."""
    with side.precision(precision):
        works = [case.builders[side.name](side) for _ in range(sets_of(case.nbytes, cache))]
        error = relative_error(works[0].results(works[0].call()), case.expected)
        if not error <= tolerance:
            raise RuntimeError(f"its relative error is {error:.1e}, at most {tolerance:g} was expected")
        calls = [work.call for work in works]
        for call in calls:
            call()
        once = side.seconds(lambda: [call() for call in calls])
        passes = max(1, min(math.ceil(LONG / max(once, 1e-9)), MOST_CALLS // len(calls)))
        return Timed(side, side.replay(calls * passes), len(calls) * passes, error)


def measured(
    case: Case, sides: list, precision: str, *, tolerance: float, cache: int, rounds: int, seconds: float
) -> dict:
    """Samples of seconds for one call by each side that has this work, taken in turn; the errors; and what failed.

    A failure is told and the others go on: a run on a GPU may be hard to come by.
    """
    timed, failed = {}, []
    for side in sides:
        try:
            if side.name in case.builders:
                timed[side.name] = prepared(case, side, precision, tolerance, cache)
        except Exception as error:
            traceback.print_exc()
            failed.append(f"{side.name}, {case.name}, {precision}: {type(error).__name__}: {error}")
    found = samples(timed, rounds, seconds)
    errors = {name: t.error for name, t in timed.items()}
    timed.clear()
    for side in sides:
        side.release()
    return {"seconds": found, "errors": errors, "failed": failed}


def failures(found: Any) -> list[str]:
    """All that failed in a result, however deep."""
    if isinstance(found, dict):
        own = list(found["failed"]) if "failed" in found else []
        return own + [text for name, value in found.items() if name != "failed" for text in failures(value)]
    return []


def rates(case: dict, work: float) -> list[str]:
    """Cells of a row: minigrad's microseconds and spread, its rate, PyTorch's, and their ratio, where they are known.

    `work` is what one call does, in units of 1e9 or 1e12.
    """
    ours, theirs = (case["seconds"].get(name) for name in (OURS, THEIRS))
    return [
        f"{median(ours) * 1e6:.1f}" if ours else "FAILED",
        f"{spread(ours):.0%}" if ours else "",
        f"{work / median(ours):.4g}" if ours else "",
        f"{work / median(theirs):.4g}" if theirs else "",
        f"{ratio(theirs, ours):.2f}" if ours and theirs else "",
    ]


def samples(timed: dict[str, Timed], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of one call, `rounds` times for each, from as many replays as take about `seconds`."""
    repeats = {}
    for name, t in timed.items():
        repeats[name] = max(1, round(seconds / max(t.side.seconds(t.replay), 1e-9)))
    found: dict[str, list[float]] = {name: [] for name in timed}
    for i in range(rounds):
        for name in in_turn(list(timed), i):
            t = timed[name]
            count = repeats[name]
            found[name].append(
                t.side.seconds(lambda t=t, count=count: [t.replay() for _ in range(count)]) / count / t.calls
            )
    return found
