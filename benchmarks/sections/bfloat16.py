"""Products and convolutions with factors in bfloat16: `mg.matmul_precision("bf16")` beside PyTorch's autocast and float32.

PyTorch under autocast gets activations and their gradients in bfloat16, as the layers before and after leave them, and
weights in float32, which each call rounds, as a training step does once. minigrad gets all in float32, and rounds all.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.sections import conv
from benchmarks.tools.frameworks import OURS, framework_of
from benchmarks.tools.sides import Burst, Campaign, Side, in_words
from benchmarks.tools.tables import left_out, rate_table
from benchmarks.tools.timing import Case, Job, measured
from benchmarks.tools.timing import prepare as checked

BFLOAT16 = "bf16"
ROUNDED, AUTOCAST = f"{OURS} {BFLOAT16}", f"PyTorch {BFLOAT16}"
CONTENDERS = (ROUNDED, OURS, AUTOCAST, "PyTorch")
PASSES = {"forward": 1, "forward + backward": 3}  # how many times the operations of forward
LAYERS = (  # rows, inputs, outputs of x W
    (256, 256, 256),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (4096, 4096, 4096),
    (60, 784, 100),
)
SHAPES = tuple(conv.SHAPES[i] for i in (0, 1, 2, 5, 8))
QUICK = LAYERS[:1], SHAPES[-1:]
TOLERANCE = {"float32": 1e-4, BFLOAT16: 5e-2}  # of an element, against the root of the mean square of all
SLOW = 2048  # rows from which products are timed forward only


def cases_of(layers: tuple, shapes: tuple) -> dict[str, tuple]:
    """By name: the layer's or the convolution's shape, and the pass."""
    names = {layer: f"{' x '.join(map(str, layer))}" for layer in layers} | {s: conv.name_of(s) for s in shapes}
    return {f"{names[s]}, {p}": (s, p) for s in names for p in PASSES if s[0] < SLOW or p == "forward"}


def operations(shape: tuple, name: str) -> int:
    """Multiplications and additions of a pass."""
    return PASSES[name] * (2 * shape[0] * shape[1] * shape[2] if len(shape) == 3 else conv.operations(shape))


@functools.lru_cache(maxsize=1)
def arrays(shape: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and dy."""
    if len(shape) == 5:
        return conv.arrays(shape)
    rows, inputs, outputs = shape
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(s, np.float32) for s in ((rows, inputs), (inputs, outputs), (rows, outputs)))


@functools.lru_cache(maxsize=1)
def expected(shape: tuple) -> list[np.ndarray]:
    """y, dx and dw in float64; of convolutions the parts that are compared."""
    x, w, dy = arrays(shape)
    if len(shape) == 5:
        return list(conv.expected_of(x, w, dy))
    rows = slice(conv.CHECKED)
    return [x[rows].astype(float) @ w, dy[rows].astype(float) @ w.T, x[:, rows].T.astype(float) @ dy]


def compared(shape: tuple, found: tuple) -> list[np.ndarray]:
    """The same parts of what a contender computed, as far as it did."""
    y, dx, dw = found
    parts = [y[: conv.CHECKED], None if dx is None else dx[: conv.CHECKED]]
    parts.append(dw if dw is None or len(shape) == 5 else dw[: conv.CHECKED])
    return [part for part in parts if part is not None]


def by_minigrad(framework: Any, shape: tuple, name: str, precision: str) -> Job:
    """The launches of a layer as a captured step makes them."""
    mg = framework.mg
    x, w, dy = arrays(shape)
    leaves = [mg.tensor(a, requires_grad=name != "forward") for a in (x, w)]

    def layer() -> Any:
        return mg.linear(*leaves) if len(shape) == 3 else mg.conv2d(*leaves, padding="same")

    @mg.capture
    def step(dy: Any) -> Any:
        for leaf in leaves:
            leaf.grad = None
        y = layer()
        if name != "forward":
            y.backward(dy)
        return y

    with mg.matmul_precision(precision):
        y = step(dy)
    calls = [(launch.function, launch.arguments) for launch in step.plan.launches]
    found = [y.numpy(), *[None if leaf._grad is None else leaf._grad.numpy() for leaf in leaves]]

    def call() -> None:
        for function, arguments in calls:
            function(*arguments)

    return Job(call, lambda _: compared(shape, tuple(found)))


def by_torch(framework: Any, shape: tuple, name: str, precision: str) -> Job:
    """The same by PyTorch's functions; convolutions in channels_last."""
    torch = framework.torch
    x, w, dy = arrays(shape)
    is_conv = len(shape) == 5

    def put(array: np.ndarray) -> Any:
        if not is_conv:
            return framework.put(array)
        return framework.images(array).contiguous(memory_format=torch.channels_last)

    activations = torch.bfloat16 if precision == BFLOAT16 else torch.float32
    image, gradient = (put(array).to(activations) for array in (x, dy))
    weight = framework.put(w)
    if is_conv:
        weight = weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    leaves = [leaf.requires_grad_(name != "forward") for leaf in (image, weight)]

    def call() -> tuple:
        mode = torch.autocast("cpu", torch.bfloat16) if precision == BFLOAT16 else contextlib.nullcontext()
        with mode, torch.set_grad_enabled(name != "forward"):
            y = torch.nn.functional.conv2d(*leaves, padding=w.shape[0] // 2) if is_conv else torch.matmul(*leaves)
        return (y, *(torch.autograd.grad(y, leaves, gradient) if name != "forward" else (None, None)))

    def results(found: tuple) -> list[np.ndarray]:
        y, dx, dw = [None if t is None else t.detach().float() for t in found]
        if is_conv:
            y, dx = [None if t is None else framework.get_images(t) for t in (y, dx)]
            dw = None if dw is None else framework.get(dw.permute(2, 3, 1, 0))
        else:
            y, dx, dw = [None if t is None else framework.get(t) for t in (y, dx, dw)]
        return compared(shape, (y, dx, dw))

    return Job(call, results)


BUILDERS: dict[str, Callable[..., Job]] = {OURS: by_minigrad, "PyTorch": by_torch}


def case(name: str, shape: tuple, which: str) -> Case:
    """One pass of a layer or a convolution."""
    builders = {
        contender: functools.partial(
            lambda build, precision, framework: build(framework, shape, which, precision),
            BUILDERS[framework_of(contender)],
            BFLOAT16 if contender.endswith(BFLOAT16) else "float32",
        )
        for contender in CONTENDERS
    }
    wanted = expected(shape)[: 1 if which == "forward" else 3]
    return Case(name, operations(shape, which), sum(a.nbytes for a in arrays(shape)), wanted, builders)


def prepare(spec: dict, framework: Any) -> tuple[dict, Burst]:
    """The cases of this contender, checked, and the function that does a burst of one."""
    limit = TOLERANCE[BFLOAT16 if spec["contender"].endswith(BFLOAT16) else "float32"]
    chosen = {name: given for name, given in cases_of(LAYERS, SHAPES).items() if name in spec["cases"]}
    return checked(spec, framework, (case(name, *given) for name, given in chosen.items()), {"cpu": limit})


def plan(run: Campaign) -> Iterator[tuple[str, Callable[[], dict]]]:
    """With each number of threads."""
    length = {"rounds": 3, "seconds": 0.01} if run.quick else {"rounds": 3, "seconds": 0.02}
    for side in run.sides:
        cases = cases_of(*(QUICK if run.quick else (LAYERS, SHAPES)))
        yield f"bfloat16, {in_words(side.setting)}", lambda side=side, cases=cases: compare(side, cases, **length)


def compare(side: Side, cases: dict[str, tuple], *, rounds: int, seconds: float) -> dict:
    """Times of all contenders for all cases, taken in turn."""
    side = side.keeping_memory()
    rows = {contender: (side, {"contender": contender}) for contender in CONTENDERS}
    found = measured("bfloat16", rows, list(cases), rounds=rounds, seconds=seconds)
    counts = {name: operations(*given) for name, given in cases.items()}
    return {**side.setting, "device": side.device, **found, "operations": counts}


def report(result: dict) -> str:
    """Rates, and how many times as fast as the others minigrad is in bfloat16."""
    title = f"Factors in bfloat16, {in_words(result)}: GFLOP/s, and how many times faster minigrad in bfloat16"
    rates = rate_table(
        title, "layer or convolution", ROUNDED, result["seconds"], result["operations"], result["errors"]
    )
    return "\n".join([rates, *left_out(result), ""])


def targets(result: dict) -> list[dict]:
    """None: nothing was promised."""
    return []
