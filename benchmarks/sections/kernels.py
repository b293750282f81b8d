"""Kernels that only move memory, on a GPU: GB/s, as a share of what copying reaches there, beside PyTorch's."""

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.sections import limits
from benchmarks.tools.frameworks import OURS
from benchmarks.tools.kernel_cases import ELEMENTWISE, NORM, OPTIMIZER, cases
from benchmarks.tools.sides import Burst, Campaign, Side
from benchmarks.tools.tables import left_out, median, rate_table, target
from benchmarks.tools.timing import measured
from benchmarks.tools.timing import prepare as checked

CONTENDERS = (OURS, "PyTorch")
TOLERANCE = {"cpu": 1e-4, "float32": 1e-4}  # sums of a quarter of a million numbers in float32 are among them
WANTED = 0.8  # of the bandwidth of copying
WANTED_OF = (ELEMENTWISE, NORM, OPTIMIZER)


def prepare(spec: dict, framework: Any) -> tuple[dict, Burst]:
    """Kernels of this contender, checked, and the function that does a burst of one."""
    made = cases(spec["cache"])
    return checked(spec, framework, (made[name][1](name) for name in spec["cases"]), TOLERANCE)


def plan(run: Campaign) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Once, in float32, where the bandwidth of copying is known."""
    length = {"rounds": 3, "seconds": 0.005} if run.quick else {"rounds": 15, "seconds": 0.03}
    for found in run.results.get("limits", ()):
        copying = limits.bandwidth(found)
        yield "kernels that move memory", lambda copying=copying: compare(run.sides[0], copying, **length)


def compare(side: Side, copying: float, *, rounds: int, seconds: float) -> dict:
    """All cases; `copying` is the bandwidth of copying, in bytes per second."""
    rows = {name: (side, {"contender": name}) for name in CONTENDERS}
    groups = {name: group for name, (group, _) in cases(side.cache).items()}
    found = measured("kernels", rows, list(groups), rounds=rounds, seconds=seconds)
    of_cases = {
        name: {"group": group, **{what: found[what].get(name) for what in ("bytes", "seconds", "errors")}}
        for name, group in groups.items()
    }
    return {"copying": copying, "left_out": found["left_out"], "failed": found["failed"], "cases": of_cases}


def share(case: dict, copying: float) -> float:
    """Of the bandwidth of copying that minigrad reaches; 0 if it failed."""
    ours = case["seconds"].get(OURS)
    return case["bytes"] / median(ours) / copying if ours else 0.0


def report(result: dict) -> str:
    """Rates, ratios and shares."""
    done = {name: case for name, case in result["cases"].items() if case["seconds"]}
    seconds, errors, nbytes = (
        {name: case[what] for name, case in done.items()} for what in ("seconds", "errors", "bytes")
    )
    title = f"Kernels that move memory, float32: GB/s of the fewest bytes (copying: {result['copying'] / 1e9:.0f})"
    shares = ", ".join(f"{name} {share(case, result['copying']):.0%}" for name, case in done.items())
    lines = [rate_table(title, "", OURS, seconds, nbytes, errors), f"Of copying: {shares}"]
    return "\n".join([*lines, *left_out(result), ""])


def targets(result: dict) -> list[dict]:
    """The slowest of each group that is to come near copying."""
    found = []
    for group in WANTED_OF:
        shares = {
            name: share(case, result["copying"]) for name, case in result["cases"].items() if case["group"] == group
        }
        if shares:
            lowest = min(shares, key=lambda name: shares[name])
            what = f"{group} kernels, share of the bandwidth of copying: lowest ({lowest})"
            found.append(target(what, 100 * shares[lowest], 100 * WANTED, at_least=True, unit="%"))
    return found
