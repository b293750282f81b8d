"""Convolutions of the Inception at Kiefer's batch size on the GPU, each pass alone, beside PyTorch's (cuDNN, channels_last)."""

import statistics

import numpy as np

from benchmarks.comparison import conv
from benchmarks.comparison.gpu_gemm import PRECISE, WANTED, errors
from benchmarks.comparison.gpu_sides import OURS, PRECISIONS, THEIRS, Case, Ours, Theirs, Work
from benchmarks.comparison.gpu_timing import measured, rates
from benchmarks.comparison.tables import ratio, table, target

BATCH = 250
SHAPES = tuple((BATCH, *shape[1:]) for shape in conv.SHAPES[:8])
PASSES = ("forward", "backward x", "backward w")
CHECKED = 2  # images of y and dx that are compared
CHANNELS = 8  # of y, whose dw is compared


def expected_of(x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> dict[str, list[np.ndarray]]:
    """By pass: what is compared, in float64."""
    y, dx, _ = conv.by_hand(x[:CHECKED], w, dy[:CHECKED], CHECKED)
    dw = conv.by_hand(x, w[..., :CHANNELS], dy[..., :CHANNELS], 0)[2]
    return dict(zip(PASSES, ([y], [dx], [dw]), strict=True))


def of_pass(shape: tuple, name: str, arrays: conv.Results, expected: list[np.ndarray]) -> Case:
    """One pass of a convolution: `mg.conv2d`'s launches, as a captured step makes them, and PyTorch's functions."""
    x, w, dy = arrays
    pad = w.shape[0] // 2

    def ours(side: Ours) -> Work:
        needs = name != "backward w", name == "backward w"
        forward, backward, results = conv.recorded(x, w, dy, needs, side.device)
        call = conv.launcher(forward if name == "forward" else backward)
        found = results[PASSES.index(name)]
        return Work(call, lambda _: [found[..., :CHANNELS] if name == "backward w" else found[:CHECKED]])

    def theirs(side: Theirs) -> Work:
        torch = side.torch
        image, gradient = side.images(x), side.images(dy)
        weight = side.put(w).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        wanted = [name == "backward x", name == "backward w", False]

        def forward():
            with torch.no_grad():
                return torch.nn.functional.conv2d(image, weight, padding=pad)

        def backward():
            return torch.ops.aten.convolution_backward(
                gradient, image, weight, None, [1, 1], [pad, pad], [1, 1], False, [0, 0], 1, wanted
            )

        if name == "forward":
            return Work(forward, lambda y: [side.get_images(y[:CHECKED])])
        if name == "backward x":
            return Work(backward, lambda found: [side.get_images(found[0][:CHECKED])])
        return Work(backward, lambda found: [side.get(found[1].permute(2, 3, 1, 0))[..., :CHANNELS]])

    nbytes = x.nbytes + w.nbytes + dy.nbytes
    operations = conv.floating_point_operations(shape, "forward")
    return Case(f"{conv.name_of(shape)}, {name}", nbytes, operations, expected, {OURS: ours, THEIRS: theirs})


def compare(sides: list, cache: int, *, rounds: int, seconds: float, shapes: tuple = SHAPES) -> dict:
    """Samples of all passes of all shapes in both precisions."""
    found: dict[str, dict] = {precision: {} for precision in PRECISIONS}
    for shape in shapes:
        arrays = conv.arrays(shape)
        expected = expected_of(*arrays)
        for precision in PRECISIONS:
            how = {"tolerance": PRECISE[precision], "cache": cache, "rounds": rounds, "seconds": seconds}
            found[precision][conv.name_of(shape)] = {
                "operations": conv.floating_point_operations(shape, "forward"),
                "passes": {
                    name: measured(of_pass(shape, name, arrays, expected[name]), sides, precision, **how)
                    for name in PASSES
                },
            }
    return {"precisions": found}


def ratios(cases: dict) -> list[float]:
    """minigrad's rate against PyTorch's in all passes of all shapes."""
    all_seconds = [of_pass["seconds"] for case in cases.values() for of_pass in case["passes"].values()]
    return [ratio(s[THEIRS], s[OURS]) for s in all_seconds if OURS in s and THEIRS in s]


def report(result: dict) -> str:
    """TFLOP/s, ratios and errors of each precision."""
    lines = []
    for precision, cases in result["precisions"].items():
        rows = [
            [f"{name}, {of_pass}", *rates(values, case["operations"] / 1e12), *errors(values)]
            for name, case in cases.items()
            for of_pass, values in case["passes"].items()
        ]
        if found := ratios(cases):
            rows.append(["geometric mean", "", "", "", "", f"{statistics.geometric_mean(found):.2f}", "", ""])
            rows.append(["lowest", "", "", "", "", f"{min(found):.2f}", "", ""])
        header = [
            "images, window to channels, pass",
            "us",
            "+-",
            OURS,
            THEIRS,
            f"x {THEIRS}",
            "error",
            f"{THEIRS}'s error",
        ]
        lines.append(table(f"Convolutions in {precision}, TFLOP/s", header, rows))
    return "\n".join(lines)


def targets(result: dict) -> list[dict]:
    """Against PyTorch, if it took part."""
    found = []
    for precision, cases in result["precisions"].items():
        if against := ratios(cases):
            what = f"convolutions at batch {BATCH} in {precision}, rate against {THEIRS}: geometric mean"
            mean = statistics.geometric_mean(against)
            found.append(target(what, mean, WANTED[precision], at_least=True, unit="x"))
    return found
