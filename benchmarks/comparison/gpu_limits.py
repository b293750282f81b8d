"""What this GPU can do: the bandwidth of copying, and the rate of large products as PyTorch reaches it."""

import numpy as np

from benchmarks.comparison.gpu_gemm import PRECISE, product
from benchmarks.comparison.gpu_sides import OURS, PRECISIONS, THEIRS, Case, Ours, Theirs, Work
from benchmarks.comparison.gpu_timing import measured
from benchmarks.comparison.tables import median, spread, table

COPIED = 1 << 28  # float32 numbers
SIDE = 8192  # of the matrices


def copying(n: int) -> Case:
    """Of n float32 numbers from one place to another."""
    x = np.random.default_rng(0).standard_normal(n, np.float32)

    def ours(side: Ours) -> Work:
        given, found = side.put(x), side.room(n)
        device = side.device
        return Work(lambda: device.write(found, given), lambda _: [side.get(found)[::1009]])

    def theirs(side: Theirs) -> Work:
        given, found = side.put(x), side.room(n)
        return Work(lambda: found.copy_(given), lambda _: [side.get(found)[::1009]])

    return Case(f"copy {x.nbytes / 1e6:.0f} MB", 2 * x.nbytes, 0, [x[::1009]], {OURS: ours, THEIRS: theirs})


def compare(sides: list, cache: int, *, rounds: int, seconds: float, copied: int = COPIED, length: int = SIDE) -> dict:
    """Samples of a large copy, and of PyTorch's product of large matrices if it takes part."""
    how = {"cache": cache, "rounds": rounds, "seconds": seconds}
    case = copying(copied)
    found = {
        "bytes": case.nbytes,
        "copy": measured(case, sides, "float32", tolerance=0, **how),
        "side": length,
        "operations": 2 * length**3,
        "products": {},
    }
    theirs = [side for side in sides if side.name == THEIRS]
    if theirs:
        case = product((length, length, length, False, False))
        for precision in PRECISIONS:
            found["products"][precision] = measured(case, theirs, precision, tolerance=PRECISE[precision], **how)
    return found


def bandwidth(result: dict) -> float:
    """Bytes per second, read and written, of the fastest copy."""
    return max(result["bytes"] / median(values) for values in result["copy"]["seconds"].values())


def rate(result: dict, precision: str) -> float | None:
    """Floating-point operations per second of a large product; None if PyTorch took no part."""
    values = result["products"].get(precision, {}).get("seconds", {}).get(THEIRS)
    return result["operations"] / median(values) if values else None


def report(result: dict) -> str:
    """The limits."""
    rows = [
        [f"copy, {name}", f"{result['bytes'] / median(values) / 1e9:.0f} GB/s", f"{spread(values):.0%}"]
        for name, values in result["copy"]["seconds"].items()
    ]
    length = result["side"]
    for precision in PRECISIONS:
        what = f"product {length} x {length} x {length} in {precision}, {THEIRS}"
        reached = rate(result, precision)
        if reached is None:
            rows.append([what, "unknown", ""])
        else:
            values = result["products"][precision]["seconds"][THEIRS]
            rows.append([what, f"{reached / 1e12:.1f} TFLOP/s", f"{spread(values):.0%}"])
    return table("Limits of this GPU", ["", "rate", "+-"], rows)


def targets(result: dict) -> list[dict]:
    """There are none."""
    return []
