"""Convolutions of the small Inception in float32: forward, and forward with both gradients, beside oneDNN and XLA."""

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.comparison.machine import KEEP_MEMORY
from benchmarks.comparison.processes import Burst, Worker, in_turn, sits_out
from benchmarks.comparison.step import forbid_compiling, threads_in_words
from benchmarks.comparison.tables import median, ratio, spread, table, target

# images, channels, side of the image, output channels, side of the window; stride 1, "same" padding
SHAPES = (
    (50, 96, 32, 128, 3),
    (50, 16, 32, 32, 5),
    (50, 256, 32, 128, 1),
    (50, 480, 16, 96, 1),
    (50, 96, 16, 208, 3),
    (50, 160, 8, 320, 3),
    (50, 832, 8, 256, 1),
    (50, 32, 8, 128, 5),
    (128, 24, 32, 32, 3),
    (128, 64, 32, 16, 1),
)
QUICK = (SHAPES[0], SHAPES[3], SHAPES[5], SHAPES[8])
PASSES = {"forward": 1, "forward + backward": 3}  # name: how many times the operations of forward
OURS, THEIRS = "minigrad", "PyTorch channels_last"
CHECKED = 2  # images of which every pixel is checked
TOLERANCE = (
    1e-4  # of a sum of n products of normal numbers, as a share of sqrt(n): chains of 131,072 in float32 among them
)

Calls = dict[str, Callable[[], object]]  # by name of the pass; each call returns when the work is done
Results = tuple[np.ndarray, np.ndarray, np.ndarray]  # y, dx, dw


def name_of(shape: tuple[int, ...]) -> str:
    """How a shape is written in tables."""
    n, c, h, k, size = shape
    return f"{n} x {h}x{h}x{c}, {size}x{size} to {k}"


def floating_point_operations(shape: tuple[int, ...], passes: str) -> int:
    """Multiplications and additions, those with zeros of the padding included, whether anybody does them or not."""
    n, c, h, k, size = shape
    return PASSES[passes] * 2 * n * h * h * c * k * size * size


def arrays(shape: tuple[int, ...]) -> Results:
    """x (n, h, h, c), w (size, size, c, k) and dy (n, h, h, k), the same for all contenders."""
    n, c, h, k, size = shape
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(s, np.float32) for s in ((n, h, h, c), (size, size, c, k), (n, h, h, k)))


def by_hand(x: np.ndarray, w: np.ndarray, dy: np.ndarray, images: int) -> Results:
    """y and dx of the first images, and dw, in float64: tap by tap."""
    size, h = w.shape[0], x.shape[1]
    pad = size // 2
    x, w, dy = (a.astype(float) for a in (x, w, dy))
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    y, dw = np.zeros(dy[:images].shape), np.empty(w.shape)
    dx = np.zeros(padded[:images].shape)
    for a in range(size):
        for b in range(size):
            seen = padded[:, a : a + h, b : b + h]
            y += seen[:images] @ w[a, b]
            dx[:, a : a + h, b : b + h] += dy[:images] @ w[a, b].T
            dw[a, b] = seen.reshape(-1, x.shape[3]).T @ dy.reshape(-1, w.shape[3])
    return y, dx[:, pad : pad + h, pad : pad + h], dw


def largest_error(found: Results, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> float:
    """The largest error of y, dx and dw, each against the root of the number of products in a sum of its."""
    expected = by_hand(x, w, dy, CHECKED)
    taps, c, k = w.shape[0] * w.shape[1], x.shape[3], dy.shape[3]
    products = taps * c, taps * k, dy[..., 0].size
    worst = 0.0
    for got, right, n in zip(found, expected, products, strict=True):
        error = np.max(np.abs(got[: len(right)] - right)) / np.sqrt(n)
        worst = max(worst, float(error) if np.isfinite(error) else np.inf)
    return worst


def recorded(
    x: np.ndarray, w: np.ndarray, dy: np.ndarray, needs: tuple[bool, bool] = (True, True), device: Any = "cpu"
):
    """(kernel launches of forward, those of backward, (y, dx, dw)); `needs` tells which of dx and dw are wanted.

    They are what `mg.conv2d` launches in a captured step, on arrays that are there already: a product for a 1x1 window.
    """
    import minigrad as mg

    image = mg.tensor(x, device=device, requires_grad=needs[0])
    weight = mg.tensor(w, device=device, requires_grad=needs[1])

    @mg.capture(device=device)
    def step(dy):
        image.grad = weight.grad = None
        y = mg.conv2d(image, weight, padding="same")
        y.backward(dy)
        return y

    y = step(dy)
    calls = [[], []]
    for launch in step.plan.launches:
        calls[launch.op.endswith("backward")].append((launch.function, launch.arguments))
    forward, backward = calls
    dx, dw = (None if t.grad is None else t.grad.numpy() for t in (image, weight))
    return forward, backward, (y.numpy(), dx, dw)


def launcher(calls: list[tuple]) -> Callable[[], None]:
    """A function that makes these launches."""

    def launch():
        for function, arguments in calls:
            function(*arguments)

    return launch


def minigrad_passes(x: np.ndarray, w: np.ndarray, dy: np.ndarray, threads: int) -> tuple[Calls, Results]:
    """The kernels as the op launches them."""
    import minigrad as mg

    mg.set_num_threads(threads)
    forward, backward, results = recorded(x, w, dy)
    calls = {"forward": launcher(forward), "forward + backward": launcher(forward + backward)}
    return calls, results


def torch_passes(
    x: np.ndarray, w: np.ndarray, dy: np.ndarray, threads: int, channels_last: bool
) -> tuple[Calls, Results]:
    """oneDNN by PyTorch, without its tape."""
    import torch

    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def tensor(array, *axes):
        return torch.from_numpy(array).permute(*axes).contiguous(memory_format=layout)

    x, w, dy = tensor(x, 0, 3, 1, 2), tensor(w, 3, 2, 0, 1), tensor(dy, 0, 3, 1, 2)
    pad = w.shape[2] // 2

    def forward():
        with torch.no_grad():
            return torch.nn.functional.conv2d(x, w, padding=pad)

    def both():
        y = forward()
        dx, dw, _ = torch.ops.aten.convolution_backward(
            dy, x, w, None, [1, 1], [pad, pad], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        return y, dx, dw

    y, dx, dw = both()
    found = y.permute(0, 2, 3, 1).numpy(), dx.permute(0, 2, 3, 1).numpy(), dw.permute(2, 3, 1, 0).numpy()
    return {"forward": forward, "forward + backward": both}, found


def jax_passes(x: np.ndarray, w: np.ndarray, dy: np.ndarray, threads: int) -> tuple[Calls, Results]:
    """XLA by JAX, compiled for the shape."""
    import jax

    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def with_gradients(x, w, dy):
        y, pull_back = jax.vjp(convolve, x, w)
        return y, *pull_back(dy)

    forward, both = jax.jit(convolve), jax.jit(with_gradients)
    x, w, dy = jax.numpy.asarray(x), jax.numpy.asarray(w), jax.numpy.asarray(dy)
    calls = {
        "forward": lambda: jax.block_until_ready(forward(x, w)),
        "forward + backward": lambda: jax.block_until_ready(both(x, w, dy)),
    }
    return calls, tuple(np.asarray(a) for a in both(x, w, dy))


CONTENDERS: dict[str, Callable[..., tuple[Calls, Results]]] = {
    OURS: minigrad_passes,
    THEIRS: lambda *given: torch_passes(*given, channels_last=True),
    "PyTorch NCHW": lambda *given: torch_passes(*given, channels_last=False),
    "JAX": jax_passes,
}


def prepare(spec: dict) -> tuple[dict, Burst]:
    """In the contender's process: every shape computed once and checked, and the function that runs a burst."""
    contender = spec["contender"]
    calls, once = {}, 0.0
    for shape in spec["shapes"]:
        x, w, dy = arrays(shape)
        calls[name_of(shape)], found = CONTENDERS[contender](x, w, dy, spec["threads"])
        if (error := largest_error(found, x, w, dy)) > TOLERANCE:
            raise RuntimeError(
                f"{contender}, {name_of(shape)}: relative error {error:.1e}, at most {TOLERANCE:g} was expected"
            )
        for call in calls[name_of(shape)].values():
            call()
            start = time.perf_counter()
            call()
            once += time.perf_counter() - start

    def burst(case: str, passes: str, seconds: float) -> dict:
        """The seconds of one call, from as many as take about that long."""
        call = calls[case][passes]
        with forbid_compiling(contender):
            start = time.perf_counter()
            call()
            repeats = max(1, round(seconds / (time.perf_counter() - start)))
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            return {"seconds": (time.perf_counter() - start) / repeats}

    return {"once": once}, burst


def compare(threads: int, *, rounds: int, seconds: float, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> dict:
    """Times of all contenders for both passes of every shape, taken in turn; slow contenders only in some rounds."""
    with contextlib.ExitStack() as stack:
        workers, left_out, once = {}, {}, {}
        for name in CONTENDERS:
            w = stack.enter_context(Worker("conv", threads, KEEP_MEMORY, contender=name, shapes=shapes))
            if w.missing:
                left_out[name] = w.missing
            else:
                workers[name], once[name] = w, w.answer["once"]
        samples = {name_of(s): {p: {name: [] for name in workers} for p in PASSES} for s in shapes}
        for i in range(rounds):
            for case, of_case in samples.items():
                for passes, of_pass in of_case.items():
                    for name in in_turn(list(workers), i):
                        taken = None
                        if not sits_out(once, name, i):
                            taken = workers[name].burst(case=case, passes=passes, seconds=seconds)["seconds"]
                        of_pass[name].append(taken)
    return {
        "threads": threads,
        "environment": KEEP_MEMORY,
        "left_out": left_out,
        "operations": {name_of(s): {p: floating_point_operations(s, p) for p in PASSES} for s in shapes},
        "seconds": samples,
        "ratios": {p: {name: ratios(samples, p, name) for name in workers if name != OURS} for p in PASSES},
    }


def ratios(samples: dict, passes: str, other: str) -> dict:
    """How many times faster minigrad is than another contender: for every shape, in the geometric mean, and at least."""
    by_shape = {case: ratio(of_case[passes][other], of_case[passes][OURS]) for case, of_case in samples.items()}
    return {
        "shapes": by_shape,
        "geometric_mean": statistics.geometric_mean(by_shape.values()),
        "lowest": min(by_shape.values()),
    }


def report(result: dict) -> str:
    """For each pass: rates, and how many times faster minigrad is."""
    lines = []
    for passes, against in result["ratios"].items():
        names = [OURS, *against]
        rows = []
        for case, of_case in result["seconds"].items():
            rates = [result["operations"][case][passes] / median(of_case[passes][name]) / 1e9 for name in names]
            times = [values["shapes"][case] for values in against.values()]
            rows.append([case, *(f"{rate:.0f}" for rate in rates), *(f"{t:.2f}" for t in times)])
        for label, key in (("geometric mean", "geometric_mean"), ("lowest", "lowest")):
            rows.append([label, *[""] * len(names), *(f"{values[key]:.2f}" for values in against.values())])
        title = (
            f"Convolution, {passes}, {threads_in_words(result['threads'])}: GFLOP/s, and how many times faster minigrad"
        )
        lines.append(table(title, ["images, window to channels", *names, *(f"x {name}" for name in against)], rows))
    widest = max(spread(of_case[p][name]) for of_case in result["seconds"].values() for p in PASSES for name in names)
    lines += [f"Left out: {name} ({why})" for name, why in result["left_out"].items()]
    lines.append(f"Rounds differ by +-{widest:.0%} at most (half the distance of the quartiles).\n")
    return "\n".join(lines)


def targets(result: dict) -> list[dict]:
    """What is to be reached against oneDNN, if it took part."""
    found = []
    for passes, against in result["ratios"].items():
        if THEIRS in against:
            what = f"convolution, {passes}, against {THEIRS}, {threads_in_words(result['threads'])}"
            mean, lowest = against[THEIRS]["geometric_mean"], against[THEIRS]["lowest"]
            found.append(target(f"{what}: geometric mean", mean, 1.0, at_least=True, unit="x"))
            found.append(target(f"{what}: lowest", lowest, 0.85, at_least=True, unit="x"))
    return found
