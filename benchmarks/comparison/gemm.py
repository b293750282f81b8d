"""Matrix products in float32, and how much of what the micro-kernel can do in the first-level cache they reach."""

import contextlib
import statistics
import time

import numpy as np

from benchmarks.comparison.machine import first_level_cache
from benchmarks.comparison.processes import Burst, Worker, in_turn
from benchmarks.comparison.step import forbid_compiling
from benchmarks.comparison.tables import ratio, spread, table, target

# name: rows m, shared index k, columns n, and whether A and B are stored transposed
CASES = {
    "64 x 64 x 64": (64, 64, 64, False, False),
    "256 x 256 x 256": (256, 256, 256, False, False),
    "512 x 512 x 512": (512, 512, 512, False, False),
    "1024 x 1024 x 1024": (1024, 1024, 1024, False, False),
    "1024 x 1024 x 1024, A'": (1024, 1024, 1024, True, False),
    "1024 x 1024 x 1024, B'": (1024, 1024, 1024, False, True),
    "2048 x 2048 x 2048": (2048, 2048, 2048, False, False),
    "60 x 784 x 100 (x W)": (60, 784, 100, False, False),
    "784 x 60 x 100, A' (dW)": (784, 60, 100, True, False),
    "60 x 100 x 784, B' (dx)": (60, 100, 784, False, True),
    "60 x 100 x 100 (x W)": (60, 100, 100, False, False),
    "60 x 100 x 10 (x W)": (60, 100, 10, False, False),
}
PEAK = "micro-kernel in L1"
LARGE = "1024 x 1024 x 1024"
QUICK = (LARGE, "60 x 784 x 100 (x W)", "784 x 60 x 100, A' (dW)", "60 x 100 x 784, B' (dx)")
CONTENDERS = ("minigrad", "NumPy", "PyTorch")
DEPTHS = (64, 128, 192, 256, 384, 512)  # shared indices of the micro-kernel's tests
PEAK_CALLS = 1000  # micro-kernel calls in one call of such a test


def floating_point_operations(case: str) -> int:
    """Multiplications and additions of one product."""
    m, k, n = CASES[case][:3]
    return 2 * m * k * n


def prepare(spec: dict) -> tuple[dict, Burst]:
    """In the contender's process: every case computed once and checked, and the function that runs a burst."""
    product = {"minigrad": minigrad_product, "NumPy": numpy_product, "PyTorch": torch_product}[spec["contender"]](
        spec["threads"]
    )
    rng = np.random.default_rng(0)
    calls, operations = {}, {}
    for case in spec["cases"]:
        m, k, n, trans_a, trans_b = CASES[case]
        a = rng.standard_normal((k, m) if trans_a else (m, k), np.float32)
        b = rng.standard_normal((n, k) if trans_b else (k, n), np.float32)
        c = np.empty((m, n), np.float32)
        calls[case] = product(a, b, c, trans_a, trans_b)
        operations[case] = floating_point_operations(case)
        calls[case]()
        expected = (a.T if trans_a else a).astype(float) @ (b.T if trans_b else b).astype(float)
        difference = np.max(np.abs(c - expected)) / np.sqrt(k)
        if not difference <= 1e-5:
            raise RuntimeError(
                f"{spec['contender']}, {case}: relative error {difference:.1e}, at most 1e-5 was expected"
            )
    if spec["contender"] == "minigrad":
        calls[PEAK], operations[PEAK] = micro_kernel()

    def burst(case: str, seconds: float) -> dict:
        """The rate in operations per second, over about that long."""
        call = calls[case]
        with forbid_compiling(spec["contender"]):
            call()
            start = time.perf_counter()
            call()
            repeats = max(1, round(seconds / (time.perf_counter() - start)))
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            return {"rate": repeats * operations[case] / (time.perf_counter() - start)}

    return {"cases": list(calls)}, burst


def minigrad_product(threads: int):
    """The gemm kernel, as layers call it."""
    import minigrad as mg
    from minigrad.kernels.cpu.gemm import gemm

    mg.set_num_threads(threads)
    no_bias = np.empty(0, np.float32)
    return lambda a, b, c, trans_a, trans_b: lambda: gemm(a, b, no_bias, c, trans_a, trans_b)


def numpy_product(threads: int):
    """np.matmul into an array that is there; the environment tells its BLAS the number of threads."""

    def product(a, b, c, trans_a, trans_b):
        a, b = a.T if trans_a else a, b.T if trans_b else b
        return lambda: np.matmul(a, b, out=c)

    return product


def torch_product(threads: int):
    """torch.mm into a tensor that is there."""
    import torch

    torch.set_num_threads(threads)

    def product(a, b, c, trans_a, trans_b):
        a, b, c = torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(c)
        a, b = a.T if trans_a else a, b.T if trans_b else b
        return lambda: torch.mm(a, b, out=c)

    return product


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


def compare(threads: list[int], *, rounds: int, seconds: float, quick: bool) -> dict:
    """Rates of all contenders with each number of threads, taken in turn."""
    cases = list(QUICK if quick else CASES)
    left_out = {}
    with contextlib.ExitStack() as stack:
        workers = {}
        for contender in CONTENDERS:
            for n in threads:
                w = stack.enter_context(Worker("gemm", n, contender=contender, cases=cases))
                if w.missing:
                    left_out[contender] = w.missing
                else:
                    workers[f"{contender}, {n}"] = w
        cases.insert(cases.index(LARGE), PEAK)  # the limit right beside what is compared with it
        rates = {case: {label: [] for label, w in workers.items() if case in w.answer["cases"]} for case in cases}
        labels = list(workers)
        for i in range(rounds):
            for case, samples in rates.items():
                for label in in_turn(labels, i):
                    if label in samples:
                        samples[label].append(workers[label].burst(case=case, seconds=seconds)["rate"])
    return {"threads": threads, "left_out": left_out, "rates": rates}


def report(result: dict) -> str:
    """Rates of all cases and contenders."""
    rates = result["rates"]
    labels = list(rates[LARGE])
    rows = [
        [case, *(f"{statistics.median(samples[label]) / 1e9:.1f}" if label in samples else "" for label in labels)]
        for case, samples in rates.items()
    ]
    widest = max(spread(values) for values in rates[LARGE].values())
    title = "Matrix products in float32, GFLOP/s by contender and threads (A', B': stored transposed)"
    lines = [table(title, ["m x k x n", *labels], rows)]
    lines += [f"Left out: {name} ({why})" for name, why in result["left_out"].items()]
    lines.append(f"Rounds differ by +-{widest:.0%} at most at {LARGE} (half the distance of the quartiles).\n")
    return "\n".join(lines)


def targets(result: dict) -> list[dict]:
    """What is to be reached, as far as these numbers of threads were measured."""
    large, peak = result["rates"][LARGE], result["rates"][PEAK]
    one, two = large.get("minigrad, 1"), large.get("minigrad, 2")
    found = []
    if one:
        share = 100 * ratio(one, peak["minigrad, 1"])
        what = f"gemm {LARGE}, share of the micro-kernel's rate in L1, 1 thread"
        found.append(target(what, share, 85, at_least=True, unit="%"))
    if one and two:
        found.append(target(f"gemm {LARGE}, 2 threads against 1", ratio(two, one), 1.8, at_least=True, unit="x"))
    return found
