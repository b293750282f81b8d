"""Matrix products on the GPU in float32 and TF32, beside PyTorch's (cuBLAS)."""

import numpy as np

from benchmarks.comparison.gpu_sides import OURS, PRECISIONS, THEIRS, Case, Ours, Theirs, Work
from benchmarks.comparison.gpu_timing import measured, rates
from benchmarks.comparison.tables import ratio, table, target

# m, k, n, and whether A and B are stored transposed
CASES = {
    "1024 x 1024 x 1024": (1024, 1024, 1024, False, False),
    "4096 x 4096 x 4096": (4096, 4096, 4096, False, False),
    "4096 x 4096 x 4096, A'": (4096, 4096, 4096, True, False),
    "4096 x 4096 x 4096, B'": (4096, 4096, 4096, False, True),
    "60 x 784 x 100 (MLP, x W)": (60, 784, 100, False, False),
    "784 x 60 x 100, A' (MLP, dW)": (784, 60, 100, True, False),
    "60 x 100 x 784, B' (MLP, dx)": (60, 100, 784, False, True),
    "256000 x 256 x 128 (3b, x W)": (256_000, 256, 128, False, False),
    "256 x 256000 x 128, A' (3b, dW)": (256, 256_000, 128, True, False),
    "256000 x 128 x 256, B' (3b, dx)": (256_000, 128, 256, False, True),
    "64000 x 480 x 192 (4a, x W)": (64_000, 480, 192, False, False),
    "480 x 64000 x 192, A' (4a, dW)": (480, 64_000, 192, True, False),
    "16000 x 832 x 384 (5b, x W)": (16_000, 832, 384, False, False),
    "832 x 16000 x 384, A' (5b, dW)": (832, 16_000, 384, True, False),
}
LARGE = "4096 x 4096 x 4096"
PRECISE = {"float32": 1e-4, "tf32": 3e-3}  # relative error that may be
WANTED = {"float32": 0.6, "tf32": 0.5}  # of PyTorch's rate
CHECKED = 64  # rows of the result, spread over it


def product(shape: tuple) -> Case:
    """C = A B, in float32 on both sides."""
    m, k, n, trans_a, trans_b = shape
    rng = np.random.default_rng(0)
    a = rng.standard_normal((k, m) if trans_a else (m, k), np.float32)
    b = rng.standard_normal((n, k) if trans_b else (k, n), np.float32)
    rows = slice(None, None, max(1, m // CHECKED))
    expected = (a.T if trans_a else a)[rows].astype(float) @ (b.T if trans_b else b).astype(float)

    def ours(side: Ours) -> Work:
        gemm = side.device.kernels.gemm.gemm
        given, found = (side.put(a), side.put(b), side.put(np.empty(0, np.float32))), side.room(m, n)
        return Work(lambda: gemm(*given, found, trans_a, trans_b), lambda _: [side.get(found)[rows]])

    def theirs(side: Theirs) -> Work:
        left, right, found = side.put(a), side.put(b), side.room(m, n)
        left, right = left.T if trans_a else left, right.T if trans_b else right
        return Work(lambda: side.torch.mm(left, right, out=found), lambda _: [side.get(found)[rows]])

    nbytes = a.nbytes + b.nbytes + 4 * m * n
    return Case(" x ".join(map(str, shape[:3])), nbytes, 2 * m * k * n, [expected], {OURS: ours, THEIRS: theirs})


def compare(sides: list, cache: int, *, rounds: int, seconds: float, shapes: dict[str, tuple] | None = None) -> dict:
    """Samples of all cases in both precisions."""
    found: dict[str, dict] = {precision: {} for precision in PRECISIONS}
    for name, shape in (shapes or CASES).items():
        case = product(shape)
        for precision in PRECISIONS:
            how = {"tolerance": PRECISE[precision], "cache": cache, "rounds": rounds, "seconds": seconds}
            of_case = measured(case, sides, precision, **how)
            found[precision][name] = {"operations": case.operations, "bytes": case.nbytes, **of_case}
    return {"precisions": found}


def report(result: dict) -> str:
    """TFLOP/s, ratios and errors of each precision."""
    lines = []
    for precision, cases in result["precisions"].items():
        rows = [[name, *rates(case, case["operations"] / 1e12), *errors(case)] for name, case in cases.items()]
        header = ["m x k x n", "us", "+-", OURS, THEIRS, f"x {THEIRS}", "error", f"{THEIRS}'s error"]
        title = f"Matrix products in {precision}, TFLOP/s (A', B': stored transposed)"
        lines.append(table(title, header, rows))
    return "\n".join(lines)


def errors(case: dict) -> list[str]:
    """Cells: minigrad's relative error and PyTorch's."""
    return [f"{case['errors'][name]:.0e}" if name in case["errors"] else "" for name in (OURS, THEIRS)]


def targets(result: dict) -> list[dict]:
    """Against PyTorch, if it took part."""
    found = []
    for precision, cases in result["precisions"].items():
        seconds = cases.get(LARGE, {}).get("seconds", {})
        if OURS in seconds and THEIRS in seconds:
            what = f"gemm {LARGE} in {precision}, rate against {THEIRS}"
            speed = ratio(seconds[THEIRS], seconds[OURS])
            found.append(target(what, speed, WANTED[precision], at_least=True, unit="x"))
    return found
