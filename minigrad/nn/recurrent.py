"""Recurrent layers: parameters; the math is in minigrad.ops.recurrent."""

import math
import warnings
from typing import ClassVar

from minigrad import ops
from minigrad.checks import integer, number
from minigrad.nn import init
from minigrad.nn.layers import Dropout
from minigrad.nn.module import Module, Parameter, Value
from minigrad.ops.recurrent import turned
from minigrad.tensor import Tensor

Start = tuple[Tensor | None, ...]  # h, or h and c, before the first step
Weights = tuple[Tensor, Tensor]  # of x and of h
Biases = tuple[Tensor | None, Tensor | None]


class Recurrent(Module):
    """What the three kinds have in common: layers one above the other, in one direction or both; see LSTM."""

    gates: ClassVar[int]
    states: ClassVar[tuple[str, ...]] = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        self.input_size, self.hidden_size = integer("input_size", input_size), integer("hidden_size", hidden_size)
        self.num_layers, self.bias, self.batch_first = integer("num_layers", num_layers), bool(bias), bool(batch_first)
        self.bidirectional = bool(bidirectional)
        if number("dropout", dropout, math.nextafter(1, 2)) and self.num_layers == 1:
            warnings.warn(
                f"{type(self).__name__}: dropout={dropout} acts between layers, and there is one", stacklevel=2
            )
        self.dropout = Dropout(dropout) if dropout and self.num_layers > 1 else None
        limit, columns = 1 / math.sqrt(self.hidden_size), self.gates * self.hidden_size
        for layer in range(self.num_layers):
            rows = self.input_size if layer == 0 else self.hidden_size * len(self.directions())
            for ending in self.directions():
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (rows, columns),
                    "weight_hh": (self.hidden_size, columns),
                }
                shapes |= {"bias_ih": (columns,), "bias_hh": (columns,)} if self.bias else {}
                for name, shape in shapes.items():
                    setattr(self, f"{name}_l{layer}{ending}", Parameter(init.uniform(shape, limit)))

    def directions(self) -> tuple[str, ...]:
        """What the names of the parameters of each direction end in."""
        return ("", "_reverse") if self.bidirectional else ("",)

    def forward(self, x: Tensor, state: Value = None) -> Value:
        """(the last layer's h of all steps, the last state of each layer and direction); zeros for a state of None.

        A state is (layers * directions, N, hidden_size): a tensor, of an LSTM a pair of them, h and c.
        """
        before = self.given(state)
        if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[2] != self.input_size:
            layout = "N, steps" if self.batch_first else "steps, N"
            came = f"shape {x.shape}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{type(self).__name__} needs x ({layout}, {self.input_size}), not {came}")
        if self.batch_first:
            x = turned(x)
        after: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            if layer and self.dropout is not None:
                x = self.dropout(x)
            results = []
            for ending in self.directions():
                start = tuple([None if s is None else self.part(s, len(after)) for s in before])
                y, *last = self.run(x, start, *self.parameters_of(f"_l{layer}{ending}"), reverse=bool(ending))
                results.append(y)
                after.append(tuple(last))
            x = results[0] if len(results) == 1 else ops.concat(results, axis=-1)
        states = [
            ops.stack(parts) if len(parts) > 1 else parts[0].reshape(1, *parts[0].shape)
            for parts in zip(*after, strict=True)
        ]
        return turned(x) if self.batch_first else x, states[0] if len(states) == 1 else tuple(states)

    def parameters_of(self, ending: str) -> tuple[Weights, Biases]:
        """Weights and biases of a layer in one direction."""
        weights, biases = (
            tuple([getattr(self, f"{kind}_{of}{ending}", None) for of in ("ih", "hh")]) for kind in ("weight", "bias")
        )
        return weights, biases  # type: ignore[return-value]  # two of each

    def run(self, x: Tensor, start: Start, weights: Weights, biases: Biases, reverse: bool) -> tuple[Tensor, ...]:
        """One layer in one direction: the h of all steps and the last state."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it computes")

    def given(self, state: Value) -> Start:
        """A state as a tuple; ValueError or TypeError for what is none."""
        names, name = self.states, type(self).__name__
        if state is None:
            return (None,) * len(names)
        parts = (state,) if len(names) == 1 else state
        if (
            not isinstance(parts, tuple | list)
            or len(parts) != len(names)
            or not all(isinstance(s, Tensor) for s in parts)
        ):
            expected = "a Tensor" if len(names) == 1 else f"a pair of Tensors ({', '.join(names)})"
            raise TypeError(f"{name}: a state is {expected} or None, not {type(state).__name__}")
        layers = self.num_layers * len(self.directions())
        for which, s in zip(names, parts, strict=True):
            if s.ndim != 3 or (s.shape[0], s.shape[2]) != (layers, self.hidden_size):
                raise ValueError(f"{name}: the state {which} must be ({layers}, N, {self.hidden_size}), not {s.shape}")
        return tuple(parts)

    def part(self, state: Tensor, i: int) -> Tensor:
        """What a state has for the i-th layer and direction."""
        return state.reshape(*state.shape[1:]) if state.shape[0] == 1 else state[i]

    def settings(self) -> str:
        """Sizes and what differs from the defaults."""
        parts = [str(self.input_size), str(self.hidden_size)]
        parts += [f"num_layers={self.num_layers}"] if self.num_layers > 1 else []
        parts += ["bias=False"] if not self.bias else []
        parts += ["batch_first=False"] if not self.batch_first else []
        parts += [f"dropout={self.dropout.p}"] if self.dropout is not None else []
        return ", ".join(parts + (["bidirectional=True"] if self.bidirectional else []))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings()})"


class RNN(Recurrent):
    """Plain recurrent layers (Elman 1990): h = f(x W_ih + b_ih + h W_hh + b_hh) at each step, f "tanh" or "relu".

    Called with x, and with the first h unless that is zero; gives (y, h). Sizes, layouts, options and parameters are those
    of `LSTM`, with one part in a weight where that has four.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f'nonlinearity must be "tanh" or "relu", not {nonlinearity!r}')
        self.nonlinearity = nonlinearity
        super().__init__(
            input_size, hidden_size, num_layers,
            bias=bias, batch_first=batch_first, dropout=dropout, bidirectional=bidirectional,
        )  # fmt: skip

    def run(self, x: Tensor, start: Start, weights: Weights, biases: Biases, reverse: bool) -> tuple[Tensor, ...]:
        """One layer in one direction: (y, h)."""
        (h,), how = start, self.nonlinearity
        return ops.rnn(x, h, *weights, *biases, nonlinearity=how, reverse=reverse, batch_first=False)

    def settings(self) -> str:
        """Sizes and what differs from the defaults."""
        return super().settings() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gates by Gers et al. 2000), one or several layers.

    Called with x, and with the first state (h, c) unless that is zero; gives (y, (h, c)): the last layer's h of all steps,
    laid out as x, and the last state of every layer and direction, (layers * directions, N, hidden_size).

    x is (N, steps, input_size): the batch is the first axis of everything here. PyTorch's default, (steps, N, input_size), is
    batch_first=False. The parameters are PyTorch's, transposed: of the first layer `weight_ih_l0` (input_size, 4 hidden_size)
    and `weight_hh_l0` (hidden_size, 4 hidden_size), the gates i, f, g, o side by side, and unless bias=False `bias_ih_l0` and
    `bias_hh_l0`, all uniform in +-1 / sqrt(hidden_size). The next layer's end in l1, and with bidirectional=True those of a
    second set in _reverse: they go from the last step to the first, and their y stands behind the other. `dropout` is the
    probability that an element between two layers is dropped in training.
    """

    gates = 4
    states = ("h", "c")

    def run(self, x: Tensor, start: Start, weights: Weights, biases: Biases, reverse: bool) -> tuple[Tensor, ...]:
        """One layer in one direction: (y, h, c)."""
        h, c = start
        return ops.lstm(x, h, c, *weights, *biases, reverse=reverse, batch_first=False)


class GRU(Recurrent):
    """Gated recurrent units (Cho et al. 2014), with r behind the product of h as in PyTorch and cuDNN.

    Called with x, and with the first h unless that is zero; gives (y, h). Sizes, layouts, options and parameters are those
    of `LSTM`, with three parts in a weight, r, z and n, where that has four.
    """

    gates = 3

    def run(self, x: Tensor, start: Start, weights: Weights, biases: Biases, reverse: bool) -> tuple[Tensor, ...]:
        """One layer in one direction: (y, h)."""
        (h,) = start
        return ops.gru(x, h, *weights, *biases, reverse=reverse, batch_first=False)
