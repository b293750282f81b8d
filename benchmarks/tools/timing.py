"""Single pieces of work, checked and timed: by all contenders in turn, each as a replay of many calls.

On a GPU the calls of a replay take different arrays in turn, so that no cache still holds them.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tools.sides import Burst, Side, taking_part

LONG = 1e-3  # seconds of the replay that is timed: what lies between two replays does not count then
MOST_CALLS = 256  # of a replay
MOST_SETS = 64  # of inputs
TOLERANCE = {"cpu": 2e-5, "float32": 1e-4, "bf16_3x": 1e-4, "tf32": 3e-3, "bf16": 1e-2}  # relative error that may be


class Job(NamedTuple):
    """One call on arrays of its own."""

    call: Callable[[], Any]
    results: Callable[[Any], list[np.ndarray]]  # of what the call returned: what is compared with `Case.expected`
    times: float = 1.0  # how many times what the case counts one call does


class Case(NamedTuple):
    """The same work for all contenders."""

    name: str
    operations: int  # floating-point
    nbytes: int  # the fewest that it moves
    expected: list[np.ndarray]  # in float64, or a part of the results
    builders: dict[str, Callable[[Any], Job]]  # by contender, given its framework; each call takes other memory


class Timed(NamedTuple):
    """A replay, and how many calls it is of, each of them as often as it does what its case counts."""

    replay: Callable[[], Any]
    calls: float
    error: float
    once: float  # seconds of a call


def relative_error(found: list[np.ndarray], expected: list[np.ndarray], each: bool = False) -> float:
    """The largest of ||found - expected|| / ||expected||; infinite for NaN or another shape.

    `each` takes the largest difference of an element instead, against the root of the mean square of all.
    """
    worst = 0.0
    for got, right in zip(found, expected, strict=True):
        if got.shape != right.shape:
            return math.inf
        difference = np.abs(got.astype(float) - right)
        error = float(difference.max() if each else np.sqrt(np.square(difference).mean()))
        error /= float(np.sqrt(np.square(right.astype(float)).mean())) or 1.0
        worst = max(worst, error) if math.isfinite(error) else math.inf
    return worst


def sets_of(nbytes: int, cache: int) -> int:
    """How many sets of arrays to take in turn, so that none is still in the cache when it comes again."""
    return min(MOST_SETS, max(1, math.ceil(4 * cache / max(1, nbytes))))


def checked(case: Case, framework: Any, spec: dict, tolerance: float) -> Timed:
    """A contender's work as a replay that is long enough to be timed. RuntimeError if it computes something wrong."""
    build, sets = case.builders[spec["contender"]], sets_of(case.nbytes, spec.get("cache", 0))
    works = [build(framework) for _ in range(sets)]
    error = relative_error(works[0].results(works[0].call()), case.expected, each=spec["device"] == "cpu")
    if not error <= tolerance:
        raise RuntimeError(f"{case.name}: its relative error is {error:.1e}, at most {tolerance:g} was expected")
    calls = [work.call for work in works]
    for call in calls:
        call()
    once = framework.seconds(lambda: [call() for call in calls])
    passes = max(1, min(math.ceil(LONG / max(once, 1e-9)), MOST_CALLS // len(calls)))
    return Timed(framework.replay(calls * passes), len(calls) * passes * works[0].times, error, once / len(calls))


def prepare(
    spec: dict, framework: Any, cases: Iterable[Case], tolerance: dict[str, float] = TOLERANCE
) -> tuple[dict, Burst]:
    """A contender that has computed what it should in all of its cases, and the function that does a burst of one."""
    limit = tolerance["cpu" if spec["device"] == "cpu" else spec["precision"]]
    timed, nbytes = {}, {}
    for case in cases:
        timed[case.name] = checked(case, framework, spec, limit)
        nbytes[case.name] = case.nbytes

    def burst(case: str, seconds: float) -> dict:
        """The seconds of one call, from as many replays as take about that long."""
        replay, calls, _, _ = timed[case]

        def repeated() -> None:
            for _ in range(count):
                replay()

        with framework.no_compile():
            replay()
            count = max(1, round(seconds / max(framework.seconds(replay), 1e-9)))
            return {"seconds": framework.seconds(repeated) / count / calls}

    answer = {
        "cases": list(timed),
        "errors": {name: t.error for name, t in timed.items()},
        "bytes": nbytes,
        "once": sum(t.once for t in timed.values()),
    }
    return answer, burst


def measured(
    section: str, rows: dict[str, tuple[Side, dict]], cases: list[str], *, rounds: int, seconds: float
) -> dict:
    """Seconds of one call and relative errors, by case and contender; who was left out, and what failed.

    Where memory does not allow all at once, one case is prepared and timed after the other.
    """
    at_once = all(side.all_at_once for side, _ in rows.values())
    found: dict[str, Any] = {"left_out": {}, "failed": [], "seconds": {}, "errors": {}, "bytes": {}}
    for group in [cases] if at_once else [[case] for case in cases]:
        given = {label: (side, {**settings, "cases": group}) for label, (side, settings) in rows.items()}
        with taking_part(section, given) as party:
            answers = {label: w.answer for label, w in party.workers.items()}
            found["seconds"] |= party.rounds(rounds, {case: {"case": case, "seconds": seconds} for case in group})
            for case in group:
                found["errors"][case] = {label: a["errors"][case] for label, a in answers.items() if case in a["cases"]}
            for answer in answers.values():
                found["bytes"] |= answer["bytes"]
            found["left_out"] |= party.left_out
            found["failed"] += [why if at_once else f"{group[0]}, {why}" for why in party.failed]
    return found
