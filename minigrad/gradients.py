"""Gradients on their way backwards: added up at ops, given to leaves, shown to hooks.

With every gradient travels a flag, whether it is ours: an array that an op has just made, which nobody else refers to.
Only such an array is written into, or kept. What an op may have passed on (`Op.passes_on`), what a hook has seen and what a
caller gave is copied where it has to stay.
"""

import heapq
from typing import TYPE_CHECKING, Any

import numpy as np

import minigrad.tensor as tensors
from minigrad.devices import Device
from minigrad.kernels.axes import flat_layout
from minigrad.modes import at_work, read_grad
from minigrad.results import Hook, Result, no_gradient

if TYPE_CHECKING:
    from minigrad.tape import Op


class Gradients:
    """What has arrived so far at the ops that are to be visited, and at leaves whose hooks wait for the whole of it."""

    def __init__(self, home: Device) -> None:
        self.home, self.device = home, at_work(home)
        self.arrived: dict[
            Op | Result | tensors.Tensor, tuple[np.ndarray, bool]
        ] = {}  # the sum, and whether it is ours
        self.waiting: list[tuple[int, Op]] = []  # a heap: the op made last comes first
        self.queued: set[Op | Result] = set()
        self.leaves: list[tensors.Tensor] = []  # with hooks

    def add(self, source: "Op | Result | tensors.Tensor", dx: np.ndarray, ours: bool) -> None:
        """A gradient arrives at the op an input came from, or at a leaf."""
        if isinstance(source, tensors.Tensor):
            if not source._hooks:
                give_to_leaf(source, dx, self.device, ours)
                return
            if source not in self.arrived:
                self.leaves.append(source)
        elif source not in self.queued:
            self.queued.add(source)
            if isinstance(source, Result):
                self.queue(source.op)
            else:
                heapq.heappush(self.waiting, (-source.order, source))
        if source in self.arrived:
            dx, ours = added(*self.arrived[source], dx, self.device), True
        self.arrived[source] = dx, ours

    def queue(self, op: "Op") -> None:
        """An op is to be visited, once, of which a result has got a gradient."""
        if op not in self.queued:
            self.queued.add(op)
            heapq.heappush(self.waiting, (-op.order, op))

    def next_op(self) -> "Op | None":
        """The op to visit now: all that its result was used for has been visited."""
        return heapq.heappop(self.waiting)[1] if self.waiting else None

    def take(self, op: "Op") -> tuple[Any, ...]:
        """The gradient of each result of an op: of one that nothing has used zeros, or None (see Op)."""
        if not op._several:
            return (self.whole(op, op),)
        return tuple(
            [self.whole(op, r) if r in self.arrived else no_gradient(op, r, self.device) for r in op._results()]
        )

    def whole(self, op: "Op", result: "Op | Result") -> np.ndarray:
        """What has arrived at a result in all, as its hooks leave it; a tensor that retains its gradient gets a copy."""
        dy, ours = self.arrived.pop(result)
        if result.hooks:
            dy = run_hooks(result.hooks, dy, self.home)
        elif not ours and not type(op).__module__.startswith("minigrad.ops."):  # which may write into it all the same
            dy = self.device.copy(dy)
        if result.retained is not None and (tensor := result.retained()) is not None:
            give_to_leaf(tensor, dy, self.device, False)
        return dy

    def offer_total(self, op: "Op", source: "Op | Result | tensors.Tensor | None") -> None:
        """Let an op add its gradient to what has arrived at one of its sources, if that is ours."""
        op.total = None  # a backward that an error ended may have left one
        if source in self.queued and self.arrived.get(source, (None, False))[1]:
            op.total, _ = self.arrived.pop(source)

    def take_back_total(self, op: "Op", source: "Op | Result | tensors.Tensor | None") -> None:
        """Keep the total of an op that did not take it."""
        if source is not None and op.total is not None:
            self.arrived[source] = op.total, True
            op.total = None

    def finish(self) -> None:
        """Run the hooks of leaves, each on the sum over all uses of its leaf."""
        for leaf in self.leaves:
            dy = run_hooks(leaf._hooks or {}, self.arrived.pop(leaf)[0], self.home)
            give_to_leaf(leaf, dy, self.device, False)


def added(total: np.ndarray, ours: bool, dx: np.ndarray, device: Device) -> np.ndarray:
    """total + dx, written into `total` if it is ours."""
    y = total if ours else device.empty(total.shape, total.dtype)
    add_arrays(device, total, dx, y)
    return y


def add_arrays(device: Device, a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    """y = a + b, all of one shape."""
    shape, strides = flat_layout(y.size)
    device.kernels.elementwise.add_forward(a.reshape(-1), b.reshape(-1), y.reshape(-1), shape, strides, strides)


def give_to_leaf(leaf: "tensors.Tensor", dx: np.ndarray, device: Device, ours: bool) -> None:
    """leaf.grad += dx."""
    read_grad(leaf)
    if leaf._grad is None:
        if not ours:
            kept = device.empty(dx.shape, dx.dtype)
            device.kernels.movement.copy(dx.reshape(-1), kept.reshape(-1))
            dx = kept
    else:
        dx = added(leaf._grad._data, leaf._grad_is_ours, dx, device)
        if leaf._grad_is_ours:
            leaf._grad._version[0] += 1
            return
    leaf._grad = tensors.Tensor._wrap(dx, leaf._device)
    leaf._grad_is_ours = True


def run_hooks(hooks: dict[int, Hook], dy: np.ndarray, device: Device) -> np.ndarray:
    """Pass a copy of a gradient through the hooks of its tensor, in the order of their making.

    What a hook writes into the copy counts, and so does another gradient that it returns.
    """
    if hooks:
        dy = at_work(device).copy(dy)
    for hook in list(hooks.values()):
        dy = left_by(hook, tensors.Tensor._wrap(dy, device))._data
    return dy


def left_by(hook: Hook, dy: "tensors.Tensor") -> "tensors.Tensor":
    """A gradient after a hook of its tensor: what it returned, if anything."""
    replaced: Any = hook(dy)
    if replaced is None:
        return dy
    if not isinstance(replaced, tensors.Tensor):
        raise TypeError(f"a hook returned a {type(replaced).__name__}; it must return a Tensor or None")
    if replaced.shape != dy.shape or replaced.dtype != dy.dtype:
        raise ValueError(
            f"a hook returned a gradient {replaced.dtype}{list(replaced.shape)}, expected {dy.dtype}{list(dy.shape)}"
        )
    return replaced
