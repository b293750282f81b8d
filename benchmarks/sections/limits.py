"""What a GPU can do: the bandwidth of copying, and the rate of large products as PyTorch reaches it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.sections import gemm
from benchmarks.tools.frameworks import OURS
from benchmarks.tools.sides import Burst, Campaign, Side
from benchmarks.tools.tables import left_out, median, spread, table
from benchmarks.tools.timing import TOLERANCE, Case, Job, measured
from benchmarks.tools.timing import prepare as checked

COPIED = 1 << 28  # float32 numbers
LENGTH = 8192  # of a side of the matrices
COPY, PRODUCT = "copy", "product"
CONTENDERS = (OURS, "PyTorch")


def prepare(spec: dict, framework: Any) -> tuple[dict, Burst]:
    """The copy or the product of this contender, checked, and the function that does a burst of it."""
    (name,) = spec["cases"]
    if name == COPY:
        return checked(spec, framework, [copying(COPIED)], dict.fromkeys(TOLERANCE, 0.0))
    return checked(spec, framework, [gemm.product(name, (LENGTH, LENGTH, LENGTH, False, False), "cuda")])


def copying(n: int) -> Case:
    """Of n float32 numbers from one place to another."""
    x = np.random.default_rng(0).standard_normal(n, np.float32)

    def ours(framework: Any) -> Job:
        given, found = framework.put(x), framework.room(n)
        return Job(lambda: framework.home.write(found, given), lambda _: [framework.get(found)[::1009]])

    def theirs(framework: Any) -> Job:
        given, found = framework.put(x), framework.room(n)
        return Job(lambda: found.copy_(given), lambda _: [framework.get(found)[::1009]])

    return Case(COPY, 0, 2 * x.nbytes, [x[::1009]], {OURS: ours, "PyTorch": theirs})


def plan(run: Campaign) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Once."""
    length = {"rounds": 3, "seconds": 0.005} if run.quick else {"rounds": 15, "seconds": 0.03}
    yield "the limits of the GPU", lambda: compare(run.sides, **length)


def compare(sides: list[Side], *, rounds: int, seconds: float) -> dict:
    """Samples of a large copy by both, and of large products in each precision by PyTorch."""
    copies = {name: (sides[0], {"contender": name}) for name in CONTENDERS}
    products = {side.precision: (side, {"contender": "PyTorch"}) for side in sides}
    copied = measured("limits", copies, [COPY], rounds=rounds, seconds=seconds)
    multiplied = measured("limits", products, [PRODUCT], rounds=rounds, seconds=seconds)
    return {
        "bytes": 8 * COPIED,
        "side": LENGTH,
        "operations": 2 * LENGTH**3,
        "left_out": copied["left_out"],
        "failed": copied["failed"] + multiplied["failed"],
        "copy": copied["seconds"][COPY],
        "products": multiplied["seconds"][PRODUCT],
    }


def bandwidth(result: dict) -> float:
    """Bytes per second, read and written, of the fastest copy."""
    return max(result["bytes"] / median(values) for values in result["copy"].values())


def rate(result: dict, precision: str) -> float | None:
    """Floating-point operations per second of a large product; None if PyTorch took no part."""
    values = result["products"].get(precision)
    return result["operations"] / median(values) if values else None


def report(result: dict) -> str:
    """The limits."""
    rows = [
        [f"copy, {name}", f"{result['bytes'] / median(values) / 1e9:.0f} GB/s", f"{spread(values):.0%}"]
        for name, values in result["copy"].items()
    ]
    rows += [
        [
            f"product of {result['side']}² in {precision}, PyTorch",
            f"{rate(result, precision) / 1e12:.1f} TFLOP/s",
            f"{spread(v):.0%}",
        ]
        for precision, v in result["products"].items()
    ]
    return "\n".join([table("Limits of this GPU", ["", "rate", "+-"], rows), *left_out(result), ""])


def targets(result: dict) -> list[dict]:
    """There are none."""
    return []
