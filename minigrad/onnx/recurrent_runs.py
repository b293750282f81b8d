"""Recurrent layers of ONNX here, where a layer in both directions is two."""

from collections.abc import Callable
from typing import Any

from minigrad import ops
from minigrad.onnx.held import Held
from minigrad.onnx.layout import GATES, inverse
from minigrad.onnx.source import Reader, Run, Source
from minigrad.tensor import Tensor

PLACES = {kind: inverse(gates) for kind, gates in GATES.items()}  # at which of ONNX's places each of our gates is
USUAL = {"RNN": ["Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}  # whether the last step is first
Layer = Callable[..., tuple[Tensor, ...]]  # all steps, last h, and last c of an LSTM


def recurrent(kind: str) -> Reader:
    """Sequences (steps, N, in) to (steps, directions, N, hidden) and last states (directions, N, hidden)."""

    def reader(node: Source) -> Run:
        reverses = DIRECTIONS[node.must("direction", *DIRECTIONS)]
        layers = layers_of(kind, node, len(reverses))
        units = node.attribute("hidden_size")
        node.must("layout", 0)
        if node.has(4):
            raise node.error(f"sequence_lens, input 4, {node.inputs[4]!r}, is not supported: all sequences are whole")
        if node.has(7):
            raise node.error(f"P, input 7, {node.inputs[7]!r}, is not supported: minigrad has no peepholes")
        node.given(None, (0, 2, 1), (0, 2, 1))

        def run(xs: list[Any], training: bool) -> list[Held | None]:
            x, w, r, b, _, *states = [*xs, *[None] * (7 - len(xs))][:7]
            states = states if kind == "LSTM" else states[:1]
            check(node, kind, len(reverses), units, x, w, r, b, states)
            results = []
            for i, (layer, reverse) in enumerate(zip(layers, reverses, strict=True)):
                weights = [gates_of(kind, of_direction(v.laid((0, 2, 1)), i)) for v in (w, r)]
                biases = [] if b is None else biases_of(kind, of_direction(b.plain, i))
                starts = [None if s is None else of_direction(s.plain, i) for s in states]
                results.append(layer(x.plain, *starts, *weights, *biases, reverse=reverse, batch_first=False))
            steps, *last = zip(*results, strict=True)
            made = [Held(ops.stack(steps, axis=1)), *[Held(ops.stack(parts)) for parts in last]]
            return [y if name else None for y, name in zip(made, node.outputs, strict=False)]

        return run

    return reader


def layers_of(kind: str, node: Source, directions: int) -> list[Layer]:
    """Our op for each direction; ValueError for activations and formulas that it has not."""
    usual = USUAL[kind]
    functions = node.attribute("activations", usual * directions)
    parts = [functions[i : i + len(usual)] for i in range(0, len(functions), len(usual))]
    allowed = (usual, ["Relu"]) if kind == "RNN" else (usual,)
    if len(parts) != directions or any(part not in allowed for part in parts):
        choice = " or ".join(map(str, allowed))
        raise node.error(f"activations={functions} is not supported, only {choice} for each direction")
    if kind == "GRU":
        if node.attribute("linear_before_reset", 0) != 1:
            raise node.error(
                "linear_before_reset=0, where r comes before the product of h, is not supported, only 1, as in PyTorch"
            )
        return [ops.gru] * directions
    if kind == "LSTM":
        node.must("input_forget", 0)
        return [ops.lstm] * directions
    return [plain_layer(part[0].lower()) for part in parts]


def plain_layer(nonlinearity: str) -> Layer:
    """A plain recurrent layer with this activation."""
    return lambda *arrays, **how: ops.rnn(*arrays, nonlinearity=nonlinearity, **how)


def check(
    node: Source,
    kind: str,
    directions: int,
    units: int | None,
    x: Held,
    w: Held,
    r: Held,
    b: Held | None,
    states: list[Held | None],
) -> None:
    """ValueError for arrays whose shapes do not belong together."""
    units, features, n = units or r.shape[-1], x.shape[-1], x.shape[1] if x.ndim == 3 else 0
    columns = len(PLACES[kind]) * units
    wanted: list[tuple[str, Held, tuple[int, ...]]]
    wanted = [("W", w, (directions, columns, features)), ("R", r, (directions, columns, units))]
    wanted += [("B", b, (directions, 2 * columns))] if b is not None else []
    named = zip(("initial_h", "initial_c"), states, strict=False)
    wanted += [(name, s, (directions, n, units)) for name, s in named if s is not None]
    if x.ndim != 3:
        raise node.error(f"X must be (steps, N, features), not of shape {x.shape}")
    for name, value, shape in wanted:
        if value.shape != shape:
            raise node.error(f"{name} must have shape {shape}, not {value.shape}")


def of_direction(x: Tensor, i: int) -> Tensor:
    """What an array has for one direction, the first axis."""
    return x.reshape(x.shape[1:]) if x.shape[0] == 1 else x[i]


def gates_of(kind: str, x: Tensor) -> Tensor:
    """Gates on the last axis in our order."""
    order = PLACES[kind]
    units = x.shape[-1] // len(order)
    return ops.concat([x[..., i * units : (i + 1) * units] for i in order], axis=-1) if len(order) > 1 else x


def biases_of(kind: str, x: Tensor) -> list[Tensor]:
    """The biases of x and of h, which lie one after the other."""
    half = x.shape[0] // 2
    return [gates_of(kind, x[:half]), gates_of(kind, x[half:])]
