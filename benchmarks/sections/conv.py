"""Convolutions of the small Inception in float32: on the CPU beside oneDNN and XLA, on a GPU beside cuDNN, each pass alone."""

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.tools.frameworks import OURS
from benchmarks.tools.machine import KEEP_MEMORY
from benchmarks.tools.passes import under_jit
from benchmarks.tools.sides import Burst, Campaign, Side, in_words
from benchmarks.tools.tables import left_out, rate_table, ratios_of, target
from benchmarks.tools.timing import TOLERANCE as OF_PRODUCTS
from benchmarks.tools.timing import Case, Job, measured, relative_error
from benchmarks.tools.timing import prepare as checked

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
BATCH_ON_GPU = 250
ALL = {"cpu": SHAPES, "cuda": tuple((BATCH_ON_GPU, *shape[1:]) for shape in SHAPES[:8])}
QUICK = {"cpu": (SHAPES[0], SHAPES[3], SHAPES[5], SHAPES[8]), "cuda": ALL["cuda"][:2]}
PASSES = {  # name: how many times the operations of forward
    "cpu": {"forward": 1, "forward + backward": 3},
    "cuda": {"forward": 1, "backward x": 1, "backward w": 1},
}
THEIRS = "PyTorch channels_last"
CONTENDERS = {"cpu": (OURS, THEIRS, "PyTorch NCHW", "JAX"), "cuda": (OURS, THEIRS)}
CHECKED = 2  # images of y and dx that are compared
CHANNELS = 8  # of y, whose dw is compared on a GPU
TOLERANCE = {**OF_PRODUCTS, "cpu": 1e-4}  # chains of 131,072 products in float32 are among the sums
WANTED = {"cpu": (1.0, 0.85), "float32": (0.6, None), "tf32": (0.5, None)}  # against PyTorch: geometric mean, lowest

Shape = tuple[int, ...]
Results = tuple[np.ndarray, np.ndarray, np.ndarray]  # y, dx, dw


def name_of(shape: Shape) -> str:
    """How a shape is written in tables."""
    n, c, h, k, size = shape
    return f"{n} x {h}x{h}x{c}, {size}x{size} to {k}"


def operations(shape: Shape) -> int:
    """Multiplications and additions of one pass, those with zeros of the padding included, whether anybody does them or not."""
    n, c, h, k, size = shape
    return 2 * n * h * h * c * k * size * size


@functools.lru_cache(maxsize=1)
def arrays(shape: Shape) -> Results:
    """x (n, h, h, c), w (size, size, c, k) and dy (n, h, h, k), the same for all contenders."""
    n, c, h, k, size = shape
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(s, np.float32) for s in ((n, h, h, c), (size, size, c, k), (n, h, h, k)))


def expected_of(
    x: np.ndarray, w: np.ndarray, dy: np.ndarray, images: int = CHECKED, channels: int | None = None
) -> Results:
    """y and dx of the first images, and dw of the first channels of y, by minigrad's reference in float64."""
    from minigrad.kernels.reference import conv
    from minigrad.ops.window import resolve

    window = resolve("conv", x.shape[1:3], w.shape[0], 1, "same")
    y, dx, dw = np.empty(dy[:images].shape), np.empty(x[:images].shape), np.empty(w[..., :channels].shape)
    conv.conv_forward(x[:images], w, np.empty(0), window, y)
    conv.conv_backward_x(dy[:images], w, window, dx)
    conv.conv_backward_w(x, dy[..., :channels], window, dw)
    return y, dx, dw


def largest_error(found: Results, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> float:
    """The largest error of an element of y, dx and dw, relative to all of them."""
    y, dx, dw = found
    return relative_error([y[:CHECKED], dx[:CHECKED], dw], list(expected_of(x, w, dy)), each=True)


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
    kept = [t._grad for t in (image, weight)]  # where the launches write them; `grad` would be a copy
    dx, dw = (None if grad is None else image._device.to_host(grad._data) for grad in kept)
    return forward, backward, (y.numpy(), dx, dw)


def launcher(calls: list[tuple]) -> Callable[[], None]:
    """A function that makes these launches."""

    def launch():
        for function, arguments in calls:
            function(*arguments)

    return launch


def by_minigrad(framework: Any, name: str, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> tuple[Callable, Callable]:
    """A pass as the op launches its kernels, and what gives (y, dx, dw) of what that returned."""
    forward, backward, found = recorded(x, w, dy, (name != "backward w", name != "backward x"), framework.home)
    calls = {"forward": forward, "forward + backward": forward + backward}.get(name, backward)
    return launcher(calls), lambda _: found


def by_torch(
    framework: Any, name: str, x: np.ndarray, w: np.ndarray, dy: np.ndarray, *, channels_last: bool
) -> tuple[Callable, Callable]:
    """A pass by PyTorch's functions, without its tape, and what gives (y, dx, dw) of what that returned."""
    torch = framework.torch
    layout = torch.channels_last if channels_last else torch.contiguous_format
    image, gradient = (
        framework.factor(array).permute(0, 3, 1, 2).contiguous(memory_format=layout) for array in (x, dy)
    )
    weight = framework.factor(w).permute(3, 2, 0, 1).contiguous(memory_format=layout)
    pad = w.shape[0] // 2
    wanted = [name != "backward w", name != "backward x", False]

    def forward():
        with torch.no_grad():
            return torch.nn.functional.conv2d(image, weight, padding=pad)

    def backward():
        return torch.ops.aten.convolution_backward(
            gradient, image, weight, None, [1, 1], [pad, pad], [1, 1], False, [0, 0], 1, wanted
        )

    calls = {
        "forward": lambda: (forward(), None, None),
        "forward + backward": lambda: (forward(), *backward()[:2]),
    }

    def results(found: tuple) -> Results:
        y, dx, dw = found
        images = [None if a is None else framework.get_images(a) for a in (y, dx)]
        return *images, None if dw is None else framework.get(dw.permute(2, 3, 1, 0))

    return calls.get(name, lambda: (None, *backward()[:2])), results


def by_jax(framework: Any, name: str, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> tuple[Callable, Callable]:
    """A pass compiled by XLA for the shape, and what gives (y, dx, dw) of what that returned."""
    jax = framework.jax

    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x, w, dy = map(framework.put, (x, w, dy))
    call = under_jit(jax, convolve, (x, w), None if name == "forward" else dy)
    return call, lambda found: tuple(np.asarray(a) for a in found)


BUILDERS: dict[str, Callable[..., tuple[Callable, Callable]]] = {
    OURS: by_minigrad,
    THEIRS: functools.partial(by_torch, channels_last=True),
    "PyTorch NCHW": functools.partial(by_torch, channels_last=False),
    "JAX": by_jax,
}
COMPUTED = {"forward": (0,), "forward + backward": (0, 1, 2), "backward x": (1,), "backward w": (2,)}  # of (y, dx, dw)


@functools.lru_cache(maxsize=2 * len(SHAPES))
def expected_parts(shape: Shape, channels: int | None) -> Results:
    """The parts of the results of a shape that are compared: computed once for all contenders, passes and precisions."""
    return expected_of(*arrays(shape), channels=channels)


def convolution(shape: Shape, name: str, device: str) -> Case:
    """One pass of a shape."""
    x, w, dy = arrays(shape)
    channels = CHANNELS if device == "cuda" else None
    parts = slice(CHECKED), slice(CHECKED), (..., slice(channels))

    def builder(build: Callable[..., tuple[Callable, Callable]], framework: Any) -> Job:
        call, results = build(framework, name, x, w, dy)
        return Job(call, lambda returned: [results(returned)[i][parts[i]] for i in COMPUTED[name]])

    builders = {contender: functools.partial(builder, build) for contender, build in BUILDERS.items()}
    expected = [expected_parts(shape, channels)[i] for i in COMPUTED[name]]
    count = PASSES[device][name] * operations(shape)
    return Case(case_name(shape, name), count, x.nbytes + w.nbytes + dy.nbytes, expected, builders)


def case_name(shape: Shape, name: str) -> str:
    """Of a pass of a shape."""
    return f"{name_of(shape)}, {name}"


def prepare(spec: dict, framework: Any) -> tuple[dict, Burst]:
    """Convolutions of this contender, checked, and the function that does a burst of one."""
    device = spec["device"]
    wanted = [(tuple(shape), name) for shape in spec["shapes"] for name in PASSES[device]]
    cases = (convolution(shape, name, device) for shape, name in wanted if case_name(shape, name) in spec["cases"])
    return checked(spec, framework, cases, TOLERANCE)


def plan(run: Campaign) -> Iterator[tuple[str, Callable[[], dict]]]:
    """With each number of threads, or in each precision."""
    device = run.sides[0].device
    shapes = QUICK[device] if run.quick else ALL[device]
    length = {"rounds": 3, "seconds": 0.01} if run.quick else {"rounds": 11, "seconds": 0.05}
    for side in run.sides:
        yield f"convolutions, {in_words(side.setting)}", lambda side=side: compare(side, shapes, **length)


def compare(side: Side, shapes: tuple[Shape, ...], *, rounds: int, seconds: float) -> dict:
    """Times of all contenders for all passes of every shape, taken in turn; slow contenders only in some rounds."""
    device = side.device
    side = side.keeping_memory()
    rows = {name: (side, {"contender": name, "shapes": shapes}) for name in CONTENDERS[device]}
    cases = [case_name(shape, name) for shape in shapes for name in PASSES[device]]
    found = measured("conv", rows, cases, rounds=rounds, seconds=seconds)

    def by_pass(of_case: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {name_of(s): {p: of_case[case_name(s, p)] for p in PASSES[device]} for s in shapes}

    taken = by_pass(found["seconds"])
    return {
        **side.setting,
        "device": device,
        "environment": KEEP_MEMORY if device == "cpu" else {},
        "left_out": found["left_out"],
        "failed": found["failed"],
        "operations": {name_of(s): {p: times * operations(s) for p, times in PASSES[device].items()} for s in shapes},
        "seconds": taken,
        "errors": by_pass(found["errors"]),
        "ratios": {p: ratios({case: of_case[p] for case, of_case in taken.items()}) for p in PASSES[device]},
    }


def ratios(seconds: dict[str, dict[str, list]]) -> dict[str, dict]:
    """How many times faster minigrad is than each other contender: for every shape, in the geometric mean, and at least."""
    return {
        name: {
            "shapes": by_shape,
            "geometric_mean": statistics.geometric_mean(by_shape.values()),
            "lowest": min(by_shape.values()),
        }
        for name, by_shape in ratios_of(OURS, seconds).items()
        if by_shape
    }


def report(result: dict) -> str:
    """For each pass: rates, and how many times faster minigrad is."""
    lines = []
    for name in PASSES[result["device"]]:
        seconds, counts, errors = (
            {case: of_case[name] for case, of_case in result[what].items()}
            for what in ("seconds", "operations", "errors")
        )
        title = f"Convolution, {name}, {in_words(result)}: GFLOP/s, and how many times faster minigrad"
        lines.append(rate_table(title, "images, window to channels", OURS, seconds, counts, errors))
    return "\n".join([*lines, *left_out(result), ""])


def targets(result: dict) -> list[dict]:
    """What is to be reached against PyTorch, if it took part; on a GPU over all passes together."""
    found: list[dict] = []
    wanted = WANTED.get(result["precision"] if result["device"] == "cuda" else "cpu")
    if wanted is None:
        return found
    mean, lowest = wanted
    against = {p: of_pass[THEIRS] for p, of_pass in result["ratios"].items() if THEIRS in of_pass}
    if result["device"] == "cuda":
        every = [r for of_pass in against.values() for r in of_pass["shapes"].values()]
        against = {"all passes": {"geometric_mean": statistics.geometric_mean(every)}} if every else {}
    for name, of_pass in against.items():
        what = f"convolution, {name}, against {THEIRS}, {in_words(result)}"
        found.append(target(f"{what}: geometric mean", of_pass["geometric_mean"], mean, at_least=True, unit="x"))
        if lowest:
            found.append(target(f"{what}: lowest", of_pass["lowest"], lowest, at_least=True, unit="x"))
    return found
