"""A recorded step: what it launches, what must hold for it, and what it leaves behind."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad.capture.launches import Launch
from minigrad.capture.recorder import ANY, Gradient, Leaf
from minigrad.capture.results import movable, returned, same_place
from minigrad.capture.watch import Conditions, Place, told
from minigrad.devices import Call, Device, is_array
from minigrad.notebook import table
from minigrad.tensor import LentGradient, Tensor

TIMED_REPLAYS = 5  # the first replays measure every launch, for printing the plan


@dataclass
class Difference:
    """Why a recording does not hold any more; `for_good` if memory was replaced that hardly comes back."""

    text: str
    for_good: bool


@dataclass(eq=False, repr=False)
class Plan:
    """A recorded step: its launches in order, and what must hold for it. Printing it lists the launches."""

    launches: list[Launch]
    checks: list[Call]
    inputs: list[np.ndarray]
    outputs: Any
    leaves: list[tuple[Tensor, Leaf]]
    changed: list[list[int]]
    conditions: Conditions
    gradients: list[tuple[Tensor, Gradient, Tensor | None]]  # (leaf, what was found, its gradient after)
    places: list[tuple[Place, Tensor]]  # outside tensors, where the step leaves a tensor
    mirrors: list[Any]
    device: Device
    pool: Any
    replays: int = 0
    used: int = 0  # when this was taken up last, counted by its captured step

    def __post_init__(self) -> None:
        self.moving = self.movable() if self.device.moves_results else {}
        calls = [(launch.function, launch.arguments) for launch in self.launches]
        self.program = self.device.program(calls, list(self.moving.values()))
        self.found = [(tensor, leaf.array, leaf.requires_grad, leaf.hooks) for tensor, leaf in self.leaves]
        self.awaited = [(leaf, g.before) for leaf, g, _ in self.gradients if g.before is not ANY]
        self.read = [(leaf, before) for leaf, before in self.awaited if before is not None]
        self.added_to = [(leaf, g.before) for leaf, g, after in self.gradients if after is g.before and g.is_added_to()]
        self.left = [(leaf, after) for leaf, g, after in self.gradients if after is not g.before]
        self.finish()

    def holds(self) -> bool:
        """Whether everything the step found while recording is still so. Short, since it runs before every replay."""
        for tensor, array, requires_grad, hooks in self.found:
            if tensor._data is not array or tensor.requires_grad is not requires_grad:
                return False
            if (tensor._hooks or None) != hooks:
                return False
        for leaf, before in self.awaited:
            if leaf._grad is not before and not replaceable(before, leaf._grad):
                return False
        return self.conditions.hold()

    def difference(self) -> Difference:
        """What does not hold, in words."""
        for tensor, array, requires_grad, hooks in self.found:
            name = self.name_of(tensor)
            if tensor._data is not array:
                return Difference(f"the array of {name}", True)
            if tensor.requires_grad is not requires_grad:
                return Difference(f"requires_grad of {name}", False)
            if (tensor._hooks or None) != hooks:
                return Difference(f"the hooks of {name}", False)
        for leaf, before in self.awaited:
            if leaf._grad is not before and not replaceable(before, leaf._grad):
                came = "is there, and was not" if before is None else "is not there, and was"
                if before is not None and leaf._grad is not None:
                    came = "is in the memory of another recording"
                return Difference(f"the gradient of {self.name_of(leaf)}, which {came}", True)
        place = self.conditions.difference()
        if place is None:
            return Difference("nothing that is known", False)
        found, now = place.found, place.now()
        if type(found) is tuple or type(now) is tuple:
            return Difference(place.label, True)
        is_memory = isinstance(found, Tensor) or is_array(found)
        return Difference(f"{place.label}, which was {told(found)} and is {told(now)}", is_memory)

    def name_of(self, tensor: Tensor) -> str:
        """What to call a tensor from outside."""
        for attributes in self.conditions.attributes.values():
            for name, value in attributes.names.items():
                if value is tensor:
                    return f"{attributes.label}.{name}"
        return f"a tensor of shape {tensor.shape}"

    def replay(self, arrays: list[np.ndarray]) -> Any:
        """Run it on new inputs."""
        device = self.device
        for target, array in zip(self.inputs, arrays, strict=True):
            device.write(target, array)
        for leaf, grad in self.read:
            if leaf._grad is not grad:
                device.write(grad._data, leaf._grad._data)  # type: ignore[union-attr]  # it holds, so there is one
        for mirror in self.mirrors:
            mirror.refresh()
        for check, arguments in self.checks:
            device.check(check, *arguments)
        written = {}
        if self.replays < TIMED_REPLAYS:
            self.timed()
        else:
            for (tensor, block), memory in zip(self.moving.items(), self.program(), strict=True):
                if memory is not block:
                    written[tensor] = same_place(tensor._data, block, memory)
        for leaf, added in self.added_to:
            self.give_back(leaf, added)
        for version in self.changed:
            version[0] += 1
        self.finish()
        return returned(self.outputs, written)

    def movable(self) -> dict[Tensor, Any]:
        """The outputs that replays may write into other memory, and their blocks of memory."""
        outlasting = [*self.inputs, *[tensor._data for _, tensor in self.places]]
        for _, gradient, after in self.gradients:
            outlasting += [g._data for g in (gradient.before, after) if isinstance(g, Tensor)]
        return movable(self.outputs, outlasting, self.launches, self.pool)

    def finish(self) -> None:
        """Leave gradients, and tensors in attributes, as the step does."""
        for leaf, after in self.left:
            leaf._grad = after
            leaf._grad_is_ours = type(after) is LentGradient
        for place, tensor in self.places:
            place.put(returned(tensor))

    def give_back(self, leaf: Tensor, place: Any) -> None:
        """A gradient that was added to in memory of the recording goes to where it came from."""
        grad: Any = leaf._grad
        if grad is place:
            place._version[0] += 1
        elif leaf._grad_is_ours:
            self.device.write(grad._data, place._data)
            grad._version[0] += 1
        else:
            leaf._grad = Tensor._wrap(self.device.copy(place._data), self.device)
            leaf._grad_is_ours = True

    def timed(self) -> None:
        """Run all launches, measuring each."""
        self.replays += 1
        for launch in self.launches:
            launch.times.append(self.program.timed(launch.function, launch.arguments))

    @property
    def nbytes(self) -> int:
        """Bytes of memory the recording works in, besides parameters and state."""
        return self.pool.allocated

    def __repr__(self) -> str:
        return f"<plan of {len(self.launches)} launches, {self.nbytes:,} bytes of memory; print() lists them>"

    def _cells(self) -> tuple[list[tuple[str, ...]], str]:
        """The header and the rows, and what stands below."""
        rows: list[tuple[str, ...]] = [("op", "kernel", "shapes", "bytes", "us")]
        total = 0.0
        for launch in self.launches:
            total += launch.seconds or 0
            micros = "-" if launch.seconds is None else f"{launch.seconds * 1e6:.1f}"
            rows.append((launch.op, launch.kernel, launch.shapes, f"{launch.nbytes:,}", micros))
        measured = f", {total * 1e6:.0f} us" if total else " (times come with the first replays)"
        return rows, f"{len(self.launches)} launches{measured}; {self.nbytes:,} bytes of planned memory"

    def _repr_html_(self) -> str:
        """For notebooks."""
        (header, *rows), total = self._cells()
        return table(total, header, rows, right=(3, 4))

    def __str__(self) -> str:
        rows, total = self._cells()
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = []
        for row in rows:
            cells = zip(row, widths, strict=True)
            lines.append("  ".join(c.rjust(w) if i > 2 else c.ljust(w) for i, (c, w) in enumerate(cells)).rstrip())
        return "\n".join([*lines, total])


def replaceable(before: Tensor | None, now: Tensor | None) -> bool:
    """Whether a replay can work on this gradient instead, by copying it to where the recorded one was.

    Of two recordings' own gradients the other one is no substitute: another recording of this step works on it in place.
    """
    if before is None or now is None:
        return False
    return type(now) is not LentGradient or type(before) is not LentGradient
