"""Matrix products: rates beside NumPy's and PyTorch's, and what the micro-kernel can do in the first-level cache."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.tools.frameworks import OURS
from benchmarks.tools.machine import first_level_cache
from benchmarks.tools.sides import Burst, Campaign, Side, in_words
from benchmarks.tools.tables import left_out, rate_table, ratio, target
from benchmarks.tools.timing import Case, Job, measured
from benchmarks.tools.timing import prepare as checked

LARGE = {"cpu": "1024 x 1024 x 1024", "cuda": "4096 x 4096 x 4096"}
PEAK = "micro-kernel in L1"
MLP = {  # forward, and the gradients of weights and input, of the MNIST network's first layer
    "60 x 784 x 100 (x W)": (60, 784, 100, False, False),
    "784 x 60 x 100, A' (dW)": (784, 60, 100, True, False),
    "60 x 100 x 784, B' (dx)": (60, 100, 784, False, True),
}
CASES: dict[str, dict[str, tuple]] = {  # rows m, shared index k, columns n, and whether A and B are stored transposed
    "cpu": {
        "64 x 64 x 64": (64, 64, 64, False, False),
        "256 x 256 x 256": (256, 256, 256, False, False),
        "512 x 512 x 512": (512, 512, 512, False, False),
        PEAK: (),  # right beside what is compared with it
        "1024 x 1024 x 1024": (1024, 1024, 1024, False, False),
        "1024 x 1024 x 1024, A'": (1024, 1024, 1024, True, False),
        "1024 x 1024 x 1024, B'": (1024, 1024, 1024, False, True),
        "2048 x 2048 x 2048": (2048, 2048, 2048, False, False),
        **MLP,
        "60 x 100 x 100 (x W)": (60, 100, 100, False, False),
        "60 x 100 x 10 (x W)": (60, 100, 10, False, False),
    },
    "cuda": {
        "1024 x 1024 x 1024": (1024, 1024, 1024, False, False),
        "4096 x 4096 x 4096": (4096, 4096, 4096, False, False),
        "4096 x 4096 x 4096, A'": (4096, 4096, 4096, True, False),
        "4096 x 4096 x 4096, B'": (4096, 4096, 4096, False, True),
        **MLP,
        "256000 x 256 x 128 (3b, x W)": (256_000, 256, 128, False, False),
        "256 x 256000 x 128, A' (3b, dW)": (256, 256_000, 128, True, False),
        "256000 x 128 x 256, B' (3b, dx)": (256_000, 128, 256, False, True),
        "64000 x 480 x 192 (4a, x W)": (64_000, 480, 192, False, False),
        "480 x 64000 x 192, A' (4a, dW)": (480, 64_000, 192, True, False),
        "16000 x 832 x 384 (5b, x W)": (16_000, 832, 384, False, False),
        "832 x 16000 x 384, A' (5b, dW)": (832, 16_000, 384, True, False),
    },
}
QUICK = {"cpu": (PEAK, LARGE["cpu"], *MLP), "cuda": tuple(CASES["cuda"])}
CONTENDERS = {"cpu": (OURS, "NumPy", "PyTorch"), "cuda": (OURS, "PyTorch")}
WANTED_ON_GPU = {"float32": 0.6, "tf32": 0.5}  # of PyTorch's rate
CHECKED = 64  # rows of a result on a GPU, spread over it
DEPTHS = (64, 128, 192, 256, 384, 512)  # shared indices of the micro-kernel's tests
UNIT = 10**9
PEAK_CALLS = 1000  # micro-kernel calls in one call of such a test


def operations(shape: tuple) -> int:
    """Multiplications and additions of a product; of the micro-kernel, as many as its rate is told of."""
    return 2 * math.prod(shape[:3]) if shape else UNIT


def prepare(spec: dict, framework: Any) -> tuple[dict, Burst]:
    """Products of this contender, checked, and the function that does a burst of one."""
    shapes = {name: CASES[spec["device"]][name] for name in spec["cases"] if name != PEAK}
    cases = [product(name, shape, spec["device"]) for name, shape in shapes.items()]
    if PEAK in spec["cases"] and spec["contender"] == OURS:
        call, count = micro_kernel()
        cases.append(Case(PEAK, UNIT, 0, [], {OURS: lambda framework: Job(call, lambda _: [], count / UNIT)}))
    return checked(spec, framework, cases)


def product(name: str, shape: tuple, device: str) -> Case:
    """C = A B of float32, into a result that is there already; of PyTorch in "bf16" all three in bfloat16."""
    m, k, n, trans_a, trans_b = shape
    rng = np.random.default_rng(0)
    a = rng.standard_normal((k, m) if trans_a else (m, k), np.float32)
    b = rng.standard_normal((n, k) if trans_b else (k, n), np.float32)
    rows = slice(None, None, max(1, m // CHECKED) if device == "cuda" else 1)
    expected = (a.T if trans_a else a)[rows].astype(float) @ (b.T if trans_b else b).astype(float)

    def ours(framework: Any) -> Job:
        gemm = framework.home.kernels.gemm.gemm
        given, found = (
            (framework.put(a), framework.put(b), framework.put(np.empty(0, np.float32))),
            framework.room(m, n),
        )
        return Job(lambda: gemm(*given, found, trans_a, trans_b), lambda _: [framework.get(found)[rows]])

    def theirs(framework: Any) -> Job:
        library = getattr(framework, "torch", np)
        left, right, found = map(framework.factor, (a, b, np.full((m, n), np.nan, np.float32)))
        left, right = left.T if trans_a else left, right.T if trans_b else right
        return Job(lambda: library.matmul(left, right, out=found), lambda _: [framework.get(found)[rows]])

    builders = {OURS: ours, "NumPy": theirs, "PyTorch": theirs}
    return Case(name, operations(shape), a.nbytes + b.nbytes + 4 * m * n, [expected], builders)


def aligned(shape: tuple[int, int]) -> np.ndarray:
    """An array that starts at a cache line, so that no register is loaded from two."""
    memory = np.empty(shape[0] * shape[1] * 4 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + shape[0] * shape[1] * 4].view(np.float32).reshape(shape)


def micro_kernel():
    """(a call that runs minigrad's micro-kernel on one tile again and again, its operations), on one thread.

    Of all tiles and depths whose data fit in the first-level cache, the fastest here: what fused multiply-adds can reach.
    """
    from numba import njit

    from minigrad.kernels.cpu.vector.code import vector_lanes
    from minigrad.kernels.cpu.vector.tiles import HEIGHTS, MAX_VECTORS, tile_rows

    @njit(error_model="numpy")
    def run(a, b, c, vectors, calls):
        rows, depth = a.shape
        a_rows, c_rows, tap_list = np.empty(rows, np.int64), np.empty(rows, np.int64), np.zeros(3, np.int64)
        tap_list[2] = depth
        for i in range(rows):
            a_rows[i] = a.ctypes.data + i * a.strides[0]
            c_rows[i] = c.ctypes.data + i * c.strides[0]
        for _ in range(calls):
            tile_rows(
                c.dtype, vectors, rows, a_rows.ctypes.data, c_rows.ctypes.data, 0, 0, tap_list.ctypes.data, 1,
                b.ctypes.data, b.strides[0], vector_lanes(c.dtype), None,
            )  # fmt: skip

    @njit
    def lanes_of(x):
        return vector_lanes(x.dtype)

    lanes = lanes_of(np.empty(0, np.float32))
    rng = np.random.default_rng(0)
    found = []
    for vectors in range(1, MAX_VECTORS + 1):
        for depth in DEPTHS:
            rows, columns = HEIGHTS[vectors], vectors * lanes
            a, b, c = aligned((rows, depth)), aligned((depth, columns)), aligned((rows, columns))
            if a.nbytes + b.nbytes + c.nbytes > first_level_cache():
                continue
            rng.standard_normal(out=a, dtype=np.float32)
            rng.standard_normal(out=b, dtype=np.float32)
            arguments = (a, b, c, vectors, PEAK_CALLS)
            run(*arguments)
            if not np.allclose(c, a.astype(float) @ b, rtol=1e-4, atol=1e-4):
                raise RuntimeError(f"the micro-kernel of {rows} rows by {vectors} registers computes something wrong")
            seconds = []
            for _ in range(5):
                start = time.perf_counter()
                run(*arguments)
                seconds.append(time.perf_counter() - start)
            operations = 2 * rows * depth * columns * PEAK_CALLS
            found.append((operations / min(seconds), operations, arguments))
    _, operations, arguments = max(found, key=lambda entry: entry[0])
    return lambda: run(*arguments), operations


def plan(run: Campaign) -> Iterator[tuple[str, Callable[[], dict]]]:
    """All products with every number of threads, or in every precision, in one run."""
    device = run.sides[0].device
    length = {"rounds": 3, "seconds": 0.01} if run.quick else {"rounds": 25, "seconds": 0.05}
    cases = list(QUICK[device] if run.quick else CASES[device])
    yield "matrix products", lambda: compare(run.sides, cases, **length)


def compare(sides: list[Side], cases: list[str], *, rounds: int, seconds: float) -> dict:
    """Rates of all contenders on all sides, taken in turn."""
    device, (setting,) = sides[0].device, sides[0].setting
    values = [side.setting[setting] for side in sides]
    rows = {
        f"{c}, {v}": (side, {"contender": c}) for c in CONTENDERS[device] for side, v in zip(sides, values, strict=True)
    }
    found = measured("gemm", rows, cases, rounds=rounds, seconds=seconds)
    counts = {name: operations(CASES[device][name]) for name in cases}
    rates = {
        name: {label: [s and counts[name] / s for s in samples] for label, samples in taken.items()}
        for name, taken in found.pop("seconds").items()
    }
    return {setting: values, "device": device, **found, "operations": counts, "rates": rates}


def seconds_of(result: dict, value: Any) -> dict[str, dict[str, list]]:
    """By case and contender, of one number of threads or one precision."""
    return {
        name: {
            label.rpartition(", ")[0]: [r and result["operations"][name] / r for r in rates]
            for label, rates in of_case.items()
            if label.endswith(f", {value}")
        }
        for name, of_case in result["rates"].items()
    }


def settings_of(result: dict) -> list[dict]:
    """Of the sides that it was measured on."""
    return [{name: value} for name in ("threads", "precision") for value in result.get(name, ())]


def report(result: dict) -> str:
    """A table for each number of threads or precision."""
    lines = []
    for setting in settings_of(result):
        (value,) = setting.values()
        errors = {
            name: {label.rpartition(", ")[0]: e for label, e in of_case.items() if label.endswith(f", {value}")}
            for name, of_case in result["errors"].items()
        }
        title = f"Matrix products, {in_words(setting)}: GFLOP/s (A', B': stored transposed)"
        lines.append(rate_table(title, "m x k x n", OURS, seconds_of(result, value), result["operations"], errors))
    return "\n".join([*lines, *left_out(result), ""])


def targets(result: dict) -> list[dict]:
    """What is to be reached, as far as it was measured."""
    large, rates = LARGE[result["device"]], result["rates"]
    of_large, of_peak = rates.get(large, {}), rates.get(PEAK, {})
    one, two = f"{OURS}, 1", f"{OURS}, 2"
    found = []
    if one in of_large and one in of_peak:
        what = f"gemm {large}, share of the micro-kernel's rate in L1, 1 thread"
        found.append(target(what, 100 * ratio(of_large[one], of_peak[one]), 85, at_least=True, unit="%"))
    if {one, two} <= of_large.keys():
        speed = ratio(of_large[two], of_large[one])
        found.append(target(f"gemm {large}, 2 threads against 1", speed, 1.8, at_least=True, unit="x"))
    for precision, wanted in WANTED_ON_GPU.items():
        ours, theirs = f"{OURS}, {precision}", f"PyTorch, {precision}"
        if {ours, theirs} <= of_large.keys():
            what = f"gemm {large} in {precision}, rate against PyTorch"
            found.append(target(what, ratio(of_large[ours], of_large[theirs]), wanted, at_least=True, unit="x"))
    return found
