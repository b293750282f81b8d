"""Kernels that only move memory: GB/s, as a share of what copying reaches on this GPU, beside PyTorch's."""

from collections.abc import Iterator

from benchmarks.comparison import inception_networks as networks
from benchmarks.comparison.gpu_kernel_cases import ELEMENTWISE, NORM, OPTIMIZER, Made, cases
from benchmarks.comparison.gpu_sides import OURS, THEIRS
from benchmarks.comparison.gpu_timing import measured, rates
from benchmarks.comparison.tables import median, table, target

TOLERANCE = 1e-4  # relative error: sums of a quarter of a million numbers in float32 among them
WANTED = 0.8  # of the bandwidth of copying
WANTED_OF = (ELEMENTWISE, NORM, OPTIMIZER)
NETWORK = networks.Network(1.0, 1, True)


def parameter_shapes() -> list[tuple[int, ...]]:
    """Of all that is trained in the Inception of width 1."""
    return [a.shape for name, a in networks.initial_arrays(NETWORK).items() if not networks.is_statistic(name)]


def compare(
    sides: list, cache: int, copying: float, *, rounds: int, seconds: float, made: Iterator[Made] | None = None
) -> dict:
    """All cases; `copying` is the bandwidth of copying, in bytes per second."""
    found = {}
    for group, make in made or cases(parameter_shapes(), cache):
        case = make()
        how = {"tolerance": TOLERANCE, "cache": cache, "rounds": rounds, "seconds": seconds}
        found[case.name] = {"group": group, "bytes": case.nbytes, **measured(case, sides, "float32", **how)}
    return {"copying": copying, "cases": found}


def share(case: dict, copying: float) -> float | None:
    """Of the bandwidth of copying that minigrad reaches; None if it failed."""
    ours = case["seconds"].get(OURS)
    return case["bytes"] / median(ours) / copying if ours else None


def report(result: dict) -> str:
    """Rates, shares and ratios."""
    rows = []
    for name, case in result["cases"].items():
        of_copying = share(case, result["copying"])
        rows.append(
            [
                name,
                f"{case['bytes'] / 1e6:.1f}",
                *rates(case, case["bytes"] / 1e9),
                "" if of_copying is None else f"{of_copying:.0%}",
            ]
        )
    header = ["", "MB", "us", "+-", OURS, THEIRS, f"x {THEIRS}", "of copying"]
    title = f"Kernels that move memory, float32: GB/s of the fewest bytes (copying: {result['copying'] / 1e9:.0f})"
    return table(title, header, rows)


def targets(result: dict) -> list[dict]:
    """The slowest of each group that is to come near copying."""
    found = []
    for group in WANTED_OF:
        of_group = {name: case for name, case in result["cases"].items() if case["group"] == group}
        shares = {name: share(case, result["copying"]) or 0.0 for name, case in of_group.items()}
        if shares:
            lowest = min(shares, key=lambda name: shares[name])
            what = f"{group} kernels, share of the bandwidth of copying: lowest ({lowest})"
            found.append(target(what, 100 * shares[lowest], 100 * WANTED, at_least=True, unit="%"))
    return found
