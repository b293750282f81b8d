"""The ops of small networks in float32 beside PyTorch's and JAX's, forward and back, and the training steps of the examples.

Each function is written for each framework as its users would, on the same arrays. Steps are those of `examples/`, with the
same weights in PyTorch, whose twins are in tools/twins.py; what must agree are the losses of the first two, on a few rows.
"""

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tools import twins
from benchmarks.tools.passes import forward_of, under_jit, with_gradients
from benchmarks.tools.sides import Burst, Campaign, Side, in_words
from benchmarks.tools.tables import left_out, median, ratios_of, spread, table, target
from benchmarks.tools.timing import Case, Job, measured
from benchmarks.tools.timing import prepare as checked

PASSES = "forward", "forward + backward"
CAPTURED, EAGER, THEIRS = "minigrad captured", "minigrad eager", "PyTorch"
CONTENDERS = (CAPTURED, EAGER, THEIRS, "JAX jit")
TOLERANCE = {"cpu": 1e-3}  # of the largest element, against the root mean square
WANTED = {"element-wise chain": 2.0, "step": 1.5}  # times as fast as PyTorch, by a word of the name
WANTED_ELSE = 1.2


class Function(NamedTuple):
    """One function of arrays: their shapes, and how to get it of a framework's module."""

    shapes: tuple[tuple[int, ...], ...]
    minigrad: Callable[[Any], Callable]
    torch: Callable[[Any], Callable]
    jax: Callable[[Any], Callable]


def layer_norm_of_jax(jax: Any) -> Callable:
    """As a formula, which XLA fuses."""

    def layer_norm(x: Any, gamma: Any, beta: Any) -> Any:
        centered = x - x.mean(-1, keepdims=True)
        return gamma * centered * jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + 1e-5) + beta

    return layer_norm


def attention_of_jax(jax: Any, causal: bool) -> Callable:
    """Its own has heads behind positions."""

    def attention(*qkv: Any) -> Any:
        turned = (x.swapaxes(1, 2) for x in qkv)
        return jax.nn.dot_product_attention(*turned, is_causal=causal).swapaxes(1, 2)

    return attention


def depthwise_of_torch(torch: Any) -> Callable:
    """On `channels_last`."""

    def depthwise(x: Any, w: Any) -> Any:
        images, weights = x.permute(0, 3, 1, 2), w.permute(3, 2, 0, 1)
        return torch.nn.functional.conv2d(images, weights, padding=1, groups=x.shape[3]).permute(0, 2, 3, 1)

    return depthwise


def depthwise_of_jax(jax: Any) -> Callable:
    """A convolution of so many groups as channels."""
    return lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[3]
    )


def chain(lib: Any, sigmoid: Callable) -> Callable:
    """A formula that a user of NumPy writes in one line."""
    return lambda a, b, c: a * lib.tanh(b) + sigmoid(c) * lib.exp(-a * a)


def attention(causal: bool) -> Function:
    """Of a small transformer."""
    return Function(
        ((8, 4, 256, 64),) * 3,
        lambda mg: lambda *qkv: mg.scaled_dot_product_attention(*qkv, is_causal=causal),
        lambda torch: lambda *qkv: torch.nn.functional.scaled_dot_product_attention(*qkv, is_causal=causal),
        lambda jax: attention_of_jax(jax, causal),
    )


FUNCTIONS = {
    "element-wise chain, 4M": Function(
        ((1 << 22,),) * 3,
        lambda mg: mg.elementwise(chain(mg, mg.sigmoid)),
        lambda torch: chain(torch, torch.sigmoid),
        lambda jax: chain(jax.numpy, jax.nn.sigmoid),
    ),
    "layer_norm, 2048 x 512": Function(
        ((2048, 512), (512,), (512,)),
        lambda mg: mg.layer_norm,
        lambda torch: lambda x, gamma, beta: torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta),
        layer_norm_of_jax,
    ),
    "softmax, 2048 x 512": Function(
        ((2048, 512),),
        lambda mg: mg.softmax,
        lambda torch: lambda x: torch.softmax(x, -1),
        lambda jax: jax.nn.softmax,
    ),
    "attention, 8 x 4 x 256 x 64": attention(causal=False),
    "the same, causal": attention(causal=True),
    "depthwise 3 x 3, 16 x 28 x 28 x 128": Function(
        ((16, 28, 28, 128), (3, 3, 1, 128)),
        lambda mg: lambda x, w: mg.conv2d(x, w, padding=1, groups=x.shape[3]),
        depthwise_of_torch,
        depthwise_of_jax,
    ),
}
STEPS = {
    "transformer": "transformer step",
    "lstm": "char-LSTM step",
    "resnet": "ResNet step",
    "autoencoder": "autoencoder step",
}


@functools.lru_cache(maxsize=1)
def arrays(name: str) -> list[np.ndarray]:
    """What goes into a function, and last what its result, of the first one's shape, is weighted by in backward."""
    rng, shapes = np.random.default_rng(0), FUNCTIONS[name].shapes
    return [rng.standard_normal(shape, np.float32) for shape in (*shapes, shapes[0])]


@functools.lru_cache(maxsize=2)
def expected(name: str, backward: bool) -> list[np.ndarray]:
    """The result, and the gradients of all inputs, on minigrad's reference in float64."""
    import minigrad as mg

    *given, dy = (a.astype(float) for a in arrays(name))
    leaves = [mg.tensor(a, device="reference", requires_grad=True) for a in given]
    y = FUNCTIONS[name].minigrad(mg)(*leaves)
    if not backward:
        return [y.numpy()]
    y.backward(dy)
    return [y.numpy(), *(t.grad.numpy() for t in leaves if t.grad is not None)]


def by_minigrad(framework: Any, name: str, backward: bool, *, captured: bool) -> Job:
    """The function on tensors."""
    mg = framework.mg
    *given, dy = arrays(name)
    function, weight = FUNCTIONS[name].minigrad(mg), mg.tensor(dy)
    leaves = [mg.tensor(a, requires_grad=backward) for a in given]
    call = with_gradients(function, leaves, weight) if backward else forward_of(mg.no_grad, function, leaves)
    results = lambda y: [y.numpy(), *(t.grad.numpy() for t in leaves if t.grad is not None)]  # noqa: E731 - of both ways
    return Job(mg.capture(call) if captured else call, results)


def by_torch(framework: Any, name: str, backward: bool) -> Job:
    """The function on tensors of PyTorch's."""
    torch = framework.torch
    *given, dy = arrays(name)
    function, weight = FUNCTIONS[name].torch(torch), framework.put(dy)
    leaves = [framework.put(a).requires_grad_(backward) for a in given]
    call = with_gradients(function, leaves, weight) if backward else forward_of(torch.no_grad, function, leaves)
    return Job(call, lambda y: [framework.get(y), *(framework.get(t.grad) for t in leaves if t.grad is not None)])


def by_jax(framework: Any, name: str, backward: bool) -> Job:
    """The function, or it and its gradients, under jit."""
    *given, dy = map(framework.put, arrays(name))
    function = FUNCTIONS[name].jax(framework.jax)
    call = under_jit(framework.jax, function, given, dy if backward else None)
    return Job(call, lambda found: [np.asarray(a) for a in found])


BUILDERS: dict[str, Callable[..., Job]] = {
    CAPTURED: functools.partial(by_minigrad, captured=True),
    EAGER: functools.partial(by_minigrad, captured=False),
    THEIRS: by_torch,
    "JAX jit": by_jax,
}
BY_STEP: dict[str, Callable[..., Callable]] = {
    CAPTURED: functools.partial(twins.ours, captured=True),
    EAGER: functools.partial(twins.ours, captured=False),
    THEIRS: twins.theirs,
}


def by_step(framework: Any, step: Callable[..., Callable], name: str) -> Job:
    """A step; what is compared are the losses of the first ones on few rows of the batch."""

    def results(_: Any) -> list[np.ndarray]:
        small = step(name, twins.ROWS)
        return [np.array([small().item() for _ in range(twins.STEPS)])]

    return Job(step(name), results)


def cases(names: list[str]) -> Iterator[Case]:
    """Those that are called so."""
    for name in FUNCTIONS:
        for backward, way in enumerate(PASSES):
            if f"{name}, {way}" in names:
                builders = {c: functools.partial(b, name=name, backward=bool(backward)) for c, b in BUILDERS.items()}
                yield Case(f"{name}, {way}", 0, 0, expected(name, bool(backward)), builders)
    for key, name in STEPS.items():
        if name in names:
            builders = {c: functools.partial(by_step, step=step, name=key) for c, step in BY_STEP.items()}
            yield Case(name, 0, 0, [twins.losses(key)], builders)


def prepare(spec: dict, framework: Any) -> tuple[dict, Burst]:
    """The cases of this contender, checked, and the function that does a burst of one."""
    taking_part = (case for case in cases(spec["cases"]) if spec["contender"] in case.builders)
    return checked(spec, framework, taking_part, TOLERANCE)


def plan(run: Campaign) -> Iterator[tuple[str, Callable[[], dict]]]:
    """With each number of threads."""
    length = {"rounds": 3, "seconds": 0.01} if run.quick else {"rounds": 5, "seconds": 0.05}
    names = [*(f"{name}, {way}" for name in FUNCTIONS for way in PASSES), *STEPS.values()]
    for side in run.sides:
        yield f"vocabulary, {in_words(side.setting)}", lambda side=side: compare(side, names, **length)


def compare(side: Side, names: list[str], *, rounds: int, seconds: float) -> dict:
    """Times of all contenders, taken in turn."""
    side = side.keeping_memory()
    rows = {contender: (side, {"contender": contender}) for contender in CONTENDERS}
    found = measured("vocabulary", rows, names, rounds=rounds, seconds=seconds)
    return {**side.setting, "device": side.device, **found}


def report(result: dict) -> str:
    """Milliseconds, and how many times as fast the captured call is."""
    against = ratios_of(CAPTURED, result["seconds"])
    rows = []
    for case, taken in result["seconds"].items():
        if CAPTURED in taken:
            times = [f"{ratios[case]:.2f}" if case in ratios else "" for ratios in against.values()]
            rows.append([case, f"{1e3 * median(taken[CAPTURED]):.2f}", f"{spread(taken[CAPTURED]):.0%}", *times])
    title = f"The vocabulary, {in_words(result)}: captured, and how many times as fast as others"
    return "\n".join([table(title, ["", "ms", "+-", *(f"x {name}" for name in against)], rows), *left_out(result), ""])


def targets(result: dict) -> list[dict]:
    """What is to be reached against PyTorch: the geometric mean of both passes, and each step."""
    against = ratios_of(CAPTURED, result["seconds"]).get(THEIRS, {})
    groups: dict[str, list[float]] = {}
    for case, times in against.items():
        name = next((case.removesuffix(f", {way}") for way in PASSES[::-1] if case.endswith(f", {way}")), case)
        groups.setdefault(name, []).append(times)
    found = []
    for name, times in groups.items():
        wanted = next((limit for word, limit in WANTED.items() if word in name), WANTED_ELSE)
        what = f"{name}, {CAPTURED} against {THEIRS}, {in_words(result)}"
        found.append(target(what, statistics.geometric_mean(times), wanted, at_least=True, unit="x"))
    return found
