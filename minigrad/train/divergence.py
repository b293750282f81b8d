"""A loss that is NaN or infinite: which op first produced it.

When the bad loss is seen, the update it led to has spoiled every parameter, and often it was the step before whose
backward went wrong. So copies of the model and the optimizer are kept from a little earlier, taken so seldom that they
cost no more than a hundredth of the time, and the few steps since are repeated under `mg.detect_anomaly()`. Steps are
repeatable: batches are counter-based, dropout's counters are among the copies, and the bits are the same every time.
"""

import math
import time
from collections.abc import Callable

import numpy as np

from minigrad.anomaly import AnomalyError
from minigrad.modes import Switch
from minigrad.nn import Module
from minigrad.optim import Optimizer, clip_grad_norm
from minigrad.results import op_of
from minigrad.tape import Op
from minigrad.tensor import Tensor
from minigrad.train.evaluation import Loss, pair, share_of
from minigrad.train.history import History

COST = 0.01  # at most this share of the time goes to copies
SHORTEST = 0.1  # seconds between two copies


class DivergedError(RuntimeError):
    """Training stopped because the loss was NaN or infinite.

    `step` counts from 1, as in the history; `loss` is what it was; `cause` says what produced it first; `history` is that
    of the run so far. Unless fit was told not to diagnose, the model is left as it was when that step began to go wrong.
    """

    def __init__(self, step: int, loss: float, cause: str, history: History | None = None) -> None:
        super().__init__(step, loss, cause, history)
        self.step, self.loss, self.cause, self.history = step, loss, cause, history

    def __str__(self) -> str:
        return (
            f"the loss became {self.loss} in step {self.step}: {self.cause}. "
            "If the batch is sound, a lower learning rate often helps"
        )


class Rewind:
    """Goes back a few steps to find which op first made a number that is not finite."""

    def __init__(self, model: Module, optimizer: Optimizer, loss: Loss, clip_norm: float | None = None) -> None:
        self.model, self.optimizer, self.loss, self.clip_norm = model, optimizer, loss, clip_norm
        self.step = 0  # steps done when the copies were taken
        self.hypers: list[np.ndarray] = []  # the optimizer's hyperparameters in each step since
        self.positions: list[int] = []  # of the loader before each
        self.due = 0.0  # when to take the next copies

    def note(self, step: int, position: int) -> None:
        """Call before each step with the number of those done, and of the first batch of it."""
        start = time.perf_counter()
        if self.is_due():
            self.step = step
            self.hypers.clear()
            self.positions.clear()
            self.state = self.model.state_dict(), self.optimizer.state_dict()
            end = time.perf_counter()
            self.due = end + max(SHORTEST, (end - start) / COST)
        self.hypers.append(self.optimizer.hyper.copy())
        self.positions.append(position)

    def is_due(self) -> bool:
        """Whether the next `note` takes copies."""
        return time.perf_counter() >= self.due

    def cause(self, batch: Callable[[int], object], last: int, end: int) -> str:
        """Repeat the steps since the copies were taken, up to the step `last`, until one goes wrong, and say how.

        Their batches are `batch(i)` up to the batch `end`. Steps that were noted after `last` are left out.

        Model and optimizer are left as they were before the update of that step.
        """
        model, optimizer = self.state
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        count = last - self.step
        ends = [*self.positions[1:count], end]
        noted = zip(self.hypers[:count], self.positions[:count], ends, strict=True)
        for step, (hyper, first, stop) in enumerate(noted, self.step):
            np.copyto(self.optimizer.hyper, hyper)
            found = self.repeat([pair(batch(i)) for i in range(first, stop)])
            if found:
                return found if step == last - 1 else f"it began in step {step + 1}, where {found}"
        return (
            f"steps {self.step + 1} to {last}, repeated op by op, did not show it again; "
            "do the batches or the model depend on anything but the step?"
        )

    def repeat(self, batches: list[tuple[np.ndarray, np.ndarray]]) -> str | None:
        """One step, watched; what went wrong in it, or None if it was done and all is finite."""
        self.optimizer.zero_grad()
        rows = sum(len(inputs) for inputs, _ in batches)
        for inputs, targets in batches:
            found = self.repeat_batch(inputs, targets, share_of(inputs, rows))
            if found:
                return found
        names = {id(p): name for name, p in self.model.named_parameters()}
        names = {id(p): names.get(id(p), f"parameter {i}") for i, p in enumerate(self.optimizer.params)}
        gradients = [names[id(p)] for p in self.optimizer.params if p.grad is not None and not_finite(p.grad._data)]
        if gradients:
            return f"the loss was finite, but not the gradient of {', '.join(gradients)}"
        before = self.model.state_dict(), self.optimizer.state_dict()
        if self.clip_norm is not None:
            clip_grad_norm(self.optimizer.params, self.clip_norm)
        self.optimizer.step()
        parameters = [names[id(p)] for p in self.optimizer.params if not_finite(p._data)]
        if parameters:
            self.model.load_state_dict(before[0])
            self.optimizer.load_state_dict(before[1])
            return f"loss and gradients were finite, but the update made {', '.join(parameters)} overflow"
        return None

    def repeat_batch(self, inputs: np.ndarray, targets: np.ndarray, share: float) -> str | None:
        """Forward and backward of one batch, watched; what went wrong, or None."""
        device = self.optimizer.params[0]._device
        x, y = Tensor(inputs, device=device), Tensor(targets, device=device)
        watch = FiniteWatch(self.model, x)
        try:
            with Switch(anomaly=True, trace=True, observe=watch):
                loss = self.loss(self.model(x), y)
                if not math.isfinite(loss.item()):
                    return watch.first or f"{made_by(loss)} made it"
                watch.backward = True
                (loss if share == 1 else loss * share).backward()
        except AnomalyError as error:
            return watch.explain(str(error))
        return None


class FiniteWatch:
    """Called with each op before it runs: notes the first input that is not finite, and what was used last."""

    def __init__(self, model: Module, batch: Tensor) -> None:
        tensors = [*model.named_parameters(), *model.named_buffers()]
        self.names = {id(t): name for name, t in tensors} | {id(batch): "the batch's inputs"}
        self.first: str | None = None
        self.latest: list[str] = []
        self.backward = False

    def __call__(self, op: Op, inputs: tuple[Tensor | None, ...], parameters: dict[str, object]) -> None:
        """Look at the inputs."""
        given = [t for t in inputs if t is not None]
        self.latest = [self.names[id(t)] for t in given if id(t) in self.names] or self.latest
        for t in given:
            if self.first is None and t.dtype.kind == "f" and not_finite(t._data):
                kind = "a NaN" if np.isnan(t._data).any() else "an infinity"
                name = self.names.get(id(t))
                self.first = f"{name} held {kind}" if name else f"{made_by(t)} made {kind}"

    def explain(self, anomaly: str) -> str:
        """What detect_anomaly found, with what it cannot know."""
        used = f" (parameters used last: {', '.join(self.latest)})" if self.latest and not self.backward else ""
        return f"{self.first}, then {anomaly}{used}" if self.first else anomaly + used


def made_by(t: Tensor) -> str:
    """The op a tensor came from, and where it was called."""
    op = op_of(t._op)
    if op is None:
        return "something off the tape"
    return type(op).__name__ + (f", called at {op.line}," if op.line else "")


def not_finite(array: np.ndarray) -> bool:
    """Whether it holds a NaN or an infinity."""
    return not np.isfinite(array).all()
