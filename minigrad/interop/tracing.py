"""One forward pass in evaluation mode, written down: which op made which array of which arrays.

Arrays are known by their identity, and all of them are kept alive as long as the trace is. What an op is given that no op of
the trace has made, and that is no input, is a constant: parameters, buffers, numbers.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigrad.devices import Device
from minigrad.modes import Switch
from minigrad.nn import BatchNorm, Module
from minigrad.nn.module import modes_kept, modules_at_work
from minigrad.tape import Op, source_of
from minigrad.tensor import FLOATS, Tensor


@dataclass(eq=False)
class TracedOp:
    """One use of an op: the arrays it was given (None for one left out), its parameters, and the arrays it made."""

    op: Op
    inputs: tuple[Any, ...]
    parameters: dict[str, Any]
    results: tuple[Any, ...]
    line: str  # of the user's code
    module: str  # in whose forward, by its dotted name

    @property
    def result(self) -> Any:
        """What it made, the first of several."""
        return self.results[0]

    @property
    def name(self) -> str:
        """The op and the line that called it, for errors."""
        return f"{type(self.op).__name__} (called at {self.line})"


@dataclass(eq=False)
class Trace:
    """The steps of a forward pass, in their order, and what went in and came out."""

    inputs: list[Any] = field(default_factory=list)
    steps: list[TracedOp] = field(default_factory=list)
    outputs: Any = None  # what the model returned
    versions: dict[int, int] = field(default_factory=dict)  # of arrays by id: how often each had been changed in place
    names: dict[int, str] = field(default_factory=dict)  # of modules by id
    looks: list[str] = field(default_factory=list)  # by which call Python has looked at values, which ops do not see

    def observe(self, op: Op, inputs: tuple[Tensor | None, ...], parameters: dict[str, Any]) -> None:
        """Have an op, which is about to run, note its results; ValueError if an input was changed in place."""
        for i, t in enumerate(inputs):
            if t is not None and self.versions.setdefault(id(t._data), t._version[0]) != t._version[0]:
                raise ValueError(
                    f"input {i} of {type(op).__name__}, called at {op.line}, was changed in place inside the model, which "
                    "cannot be followed; compute a new tensor, as `y = y + x` does"
                )
        forward = op.forward
        module = next(
            (name for part in reversed(modules_at_work()) if (name := self.names.get(id(part))) is not None), ""
        )

        def noted(*arrays: Any, **given: Any) -> Any:
            del op.forward
            y = forward(*arrays, **given)
            ys = y if isinstance(y, tuple) else (y,)
            self.steps.append(TracedOp(op, arrays, parameters, ys, op.line, module))
            for array in ys:
                view = 0 if op.is_view else source_of(array, inputs)
                self.versions[id(array)] = 0 if view is None else inputs[view]._version[0]  # type: ignore[union-attr]
            return y

        op.forward = noted  # type: ignore[method-assign]


@contextlib.contextmanager
def evaluation(model: Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards each part of it is as it was."""
    norms = [(module, module.has_statistics) for _, module in model.modules() if isinstance(module, BatchNorm)]
    try:
        with modes_kept(model):
            model.eval()
            yield
    finally:
        for norm, known in norms:
            norm.has_statistics = known


def traced(model: Module, examples: tuple[Any, ...]) -> Trace:
    """The trace of `model(*examples)` in evaluation mode, each layer by its own op; the examples are arrays or tensors.

    They are put on the device of the model's parameters; of a model without, they stay where they are.
    """
    device = device_of(model, examples)
    trace = Trace(names={id(module): name for name, module in reversed(list(model.modules()))})
    tensors = []
    for example in examples:
        leaf = Tensor(example, device=device)
        leaf.requires_grad = leaf.dtype in FLOATS  # so that `x += 1` makes a new tensor, which can be followed
        tensors.append(leaf.reshape(leaf.shape))
    trace.inputs = [t._data for t in tensors]
    with evaluation(model), Switch(trace=True, observe=trace.observe, looks=trace.looks, grad_enabled=True):
        trace.outputs = model(*tensors)
    return trace


def device_of(model: Module, examples: tuple[Any, ...]) -> Device | None:
    """Where the model's parameters are, else the first example that is a tensor; None if nothing says."""
    tensors = [*model.parameters(), *[example for example in examples if isinstance(example, Tensor)]]
    return tensors[0]._device if tensors else None


def as_examples(example: Any) -> tuple[Any, ...]:
    """The inputs that an example stands for: a tuple of them, or one; TypeError for what is neither array nor tensor."""
    examples = example if isinstance(example, tuple) else (example,)
    for part in examples:
        if not isinstance(part, Tensor | np.ndarray):
            raise TypeError(f"example must be an input of the model, an array or a tensor, not {type(part).__name__}")
    return examples
