"""Recurrent layers in float32 beside PyTorch's and a scan under JAX's jit: a batch through all steps, and back."""

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tools.passes import forward_of, under_jit, with_gradients
from benchmarks.tools.sides import Burst, Campaign, Side, in_words
from benchmarks.tools.tables import left_out, rate_table, ratios_of, target
from benchmarks.tools.timing import Case, Job, measured
from benchmarks.tools.timing import prepare as checked

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
PASSES = {"forward": 1, "forward + backward": 3}  # how many times the operations of forward
CAPTURED, EAGER, THEIRS = "minigrad captured", "minigrad eager", "PyTorch"
CONTENDERS = (CAPTURED, EAGER, THEIRS, "JAX jit")
WANTED = 1.2  # times as fast as PyTorch
TOLERANCE = {"cpu": 1e-4}


class Layer(NamedTuple):
    """One layer: x (batch, steps, inputs) to y (batch, steps, units)."""

    kind: str
    batch: int
    steps: int
    inputs: int
    units: int

    @property
    def name(self) -> str:
        """As it is written in tables."""
        return f"{self.kind}, {self.batch} x {self.steps} x {self.inputs} to {self.units}"

    @property
    def operations(self) -> int:
        """Multiplications and additions of the products of one forward."""
        columns = GATES[self.kind] * self.units
        return 2 * self.batch * self.steps * columns * (self.inputs + self.units)


ALL = tuple(
    Layer(*shape)
    for shape in (
        ("LSTM", 64, 28, 28, 128),
        ("LSTM", 64, 28, 128, 128),
        ("GRU", 64, 28, 28, 128),
        ("GRU", 64, 28, 128, 128),
        ("RNN", 64, 28, 28, 128),
        ("RNN", 64, 28, 128, 128),
    )
)


class Arrays(NamedTuple):
    """What goes in: weights laid out as minigrad has them."""

    x: np.ndarray
    dy: np.ndarray
    w_ih: np.ndarray
    w_hh: np.ndarray
    b_ih: np.ndarray
    b_hh: np.ndarray


@functools.lru_cache(maxsize=1)
def arrays(layer: Layer) -> Arrays:
    """The same for all contenders."""
    rng, columns, limit = np.random.default_rng(0), GATES[layer.kind] * layer.units, layer.units**-0.5
    x, dy = (rng.standard_normal((layer.batch, layer.steps, n), np.float32) for n in (layer.inputs, layer.units))
    shapes = (layer.inputs, columns), (layer.units, columns), (columns,), (columns,)
    return Arrays(x, dy, *(rng.uniform(-limit, limit, s).astype(np.float32) for s in shapes))


@functools.lru_cache(maxsize=2)
def expected(layer: Layer, name: str) -> list[np.ndarray]:
    """y, and the gradients of x, weights and biases, on minigrad's reference in float64."""
    import minigrad as mg

    given = arrays(layer)
    x, *rest = (mg.tensor(a.astype(float), device="reference", requires_grad=True) for a in (given.x, *given[2:]))
    states = [None] * (2 if layer.kind == "LSTM" else 1)
    y = {"RNN": mg.rnn, "LSTM": mg.lstm, "GRU": mg.gru}[layer.kind](x, *states, *rest)[0]
    if name == "forward":
        return [y.numpy()]
    y.backward(given.dy.astype(float))
    return [y.numpy(), *(t.grad.numpy() for t in (x, *rest) if t.grad is not None)]


def pass_of(no_grad: Callable, module: Any, x: Any, dy: Any) -> Callable[[], Any]:
    """A layer's forward off the tape, or, where dy is given, with the gradients of x and of its parameters."""

    def function(x: Any) -> Any:
        return module(x)[0]

    if dy is None:
        return forward_of(no_grad, function, [x])
    return with_gradients(function, [x], dy, list(module.parameters()))


def by_minigrad(framework: Any, layer: Layer, name: str, *, captured: bool) -> Job:
    """`mg.nn`'s layer."""
    mg, given = framework.mg, arrays(layer)
    module = getattr(mg.nn, layer.kind)(layer.inputs, layer.units)
    values = zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), given[2:], strict=True)
    module.load_state_dict(dict(values))
    x, leaves = mg.tensor(given.x, requires_grad=name != "forward"), list(module.parameters())
    call = pass_of(mg.no_grad, module, x, None if name == "forward" else mg.tensor(given.dy))

    def results(y: Any) -> list[np.ndarray]:
        return [y.numpy(), *(t.grad.numpy() for t in (x, *leaves) if t.grad is not None)]

    return Job(mg.capture(call) if captured else call, results)


def by_torch(framework: Any, layer: Layer, name: str) -> Job:
    """`torch.nn`'s layer, batch_first."""
    torch, given = framework.torch, arrays(layer)
    module = getattr(torch.nn, layer.kind)(layer.inputs, layer.units, batch_first=True)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), given[2:], strict=True):
            parameter.copy_(torch.tensor(value.T))
    x, leaves = framework.put(given.x).requires_grad_(name != "forward"), list(module.parameters())
    call = pass_of(torch.no_grad, module, x, None if name == "forward" else framework.put(given.dy))

    def results(y: Any) -> list[np.ndarray]:
        grads = [t.grad for t in (x, *leaves) if t.grad is not None]
        return [framework.get(y), *(framework.get(grad.mT if grad.ndim == 2 else grad) for grad in grads)]

    return Job(call, results)


def by_jax(framework: Any, layer: Layer, name: str) -> Job:
    """The products of all inputs at once, then `lax.scan` over the steps, all under jit."""
    jax, given = framework.jax, arrays(layer)
    numpy, units = jax.numpy, layer.units

    def cell(w_hh: Any, b_hh: Any, state: Any, a: Any) -> Any:
        h, c = state
        products = h @ w_hh + b_hh
        if layer.kind == "RNN":
            h = numpy.tanh(a + products)
        elif layer.kind == "LSTM":
            i, f, g, o = numpy.split(a + products, 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * numpy.tanh(g)
            h = jax.nn.sigmoid(o) * numpy.tanh(c)
        else:
            r, z = numpy.split(jax.nn.sigmoid(a[:, : 2 * units] + products[:, : 2 * units]), 2, axis=1)
            n = numpy.tanh(a[:, 2 * units :] + r * products[:, 2 * units :])
            h = (1 - z) * n + z * h
        return (h, c), h

    def run(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
        start = (numpy.zeros((layer.batch, units), numpy.float32),) * 2
        a = numpy.swapaxes(x @ w_ih + b_ih, 0, 1)
        return numpy.swapaxes(jax.lax.scan(functools.partial(cell, w_hh, b_hh), start, a)[1], 0, 1)

    x, dy, *rest = map(framework.put, given)
    call = under_jit(jax, run, (x, *rest), None if name == "forward" else dy)
    return Job(call, lambda found: [np.asarray(a) for a in found])


BUILDERS: dict[str, Callable[..., Job]] = {
    CAPTURED: functools.partial(by_minigrad, captured=True),
    EAGER: functools.partial(by_minigrad, captured=False),
    THEIRS: by_torch,
    "JAX jit": by_jax,
}


def case_of(layer: Layer, name: str) -> Case:
    """One pass of a layer."""
    given = arrays(layer)
    builders = {contender: functools.partial(build, layer=layer, name=name) for contender, build in BUILDERS.items()}
    nbytes = sum(a.nbytes for a in given)
    return Case(case_name(layer, name), PASSES[name] * layer.operations, nbytes, expected(layer, name), builders)


def case_name(layer: Layer, name: str) -> str:
    """Of a pass of a layer."""
    return f"{layer.name}, {name}"


def prepare(spec: dict, framework: Any) -> tuple[dict, Burst]:
    """The layers of this contender, checked, and the function that does a burst of one."""
    wanted = [(Layer(*layer), name) for layer in spec["layers"] for name in PASSES]
    return checked(spec, framework, (case_of(*case) for case in wanted if case_name(*case) in spec["cases"]), TOLERANCE)


def plan(run: Campaign) -> Iterator[tuple[str, Callable[[], dict]]]:
    """With each number of threads."""
    length = {"rounds": 3, "seconds": 0.01} if run.quick else {"rounds": 7, "seconds": 0.05}
    for side in run.sides:
        yield f"recurrent layers, {in_words(side.setting)}", lambda side=side: compare(side, ALL, **length)


def compare(side: Side, layers: tuple[Layer, ...], *, rounds: int, seconds: float) -> dict:
    """Times of all contenders for both passes of every layer, taken in turn."""
    side = side.keeping_memory()
    rows = {name: (side, {"contender": name, "layers": layers}) for name in CONTENDERS}
    cases = [case_name(layer, name) for layer in layers for name in PASSES]
    found = measured("recurrent", rows, cases, rounds=rounds, seconds=seconds)

    def by_pass(of_case: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {name: {layer.name: of_case[case_name(layer, name)] for layer in layers} for name in PASSES}

    return {
        **side.setting,
        "device": side.device,
        "left_out": found["left_out"],
        "failed": found["failed"],
        "operations": {
            name: {layer.name: times * layer.operations for layer in layers} for name, times in PASSES.items()
        },
        "seconds": by_pass(found["seconds"]),
        "errors": by_pass(found["errors"]),
    }


def report(result: dict) -> str:
    """For each pass: rates, and how many times as fast minigrad is."""
    lines = []
    for name, seconds in result["seconds"].items():
        title = f"Recurrent layers, {name}, {in_words(result)}: GFLOP/s, and how many times as fast minigrad"
        header = "batch x steps x inputs to units"
        lines.append(rate_table(title, header, CAPTURED, seconds, result["operations"][name], result["errors"][name]))
    return "\n".join([*lines, *left_out(result), ""])


def targets(result: dict) -> list[dict]:
    """What is to be reached against PyTorch: the LSTM, captured and eager."""
    found = []
    for ours in (CAPTURED, EAGER):
        for name, seconds in result["seconds"].items():
            against = ratios_of(ours, {case: s for case, s in seconds.items() if case.startswith("LSTM")}).get(THEIRS)
            if against:
                what = f"LSTM, {name}, {ours} against {THEIRS}, {in_words(result)}"
                mean = statistics.geometric_mean(against.values())
                found.append(target(what, mean, WANTED, at_least=True, unit="x"))
    return found
