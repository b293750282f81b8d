"""A captured step that runs as it stands where an op of the user's own cannot be recorded."""

import warnings
from collections.abc import Callable
from typing import Any

import minigrad.random
from minigrad.capture import Captured
from minigrad.devices import Device
from minigrad.modes import UncapturedOp, user_line
from minigrad.nn import Module


class CapturedOrEager(Captured):
    """A step of a model, captured until an op turns out that computes in NumPy, and eager from then on: the same bits.

    `eager` runs the step as it stands on the same arguments. `told` has the names of the ops of which a warning was given;
    the steps of one run share it.
    """

    def __init__(
        self, step: Callable[..., Any], eager: Callable[..., Any], device: Device, model: Module, told: set[str]
    ) -> None:
        super().__init__(step, device)
        self.eager, self.model, self.told = eager, model, told
        self.is_eager = False

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replay, record, or run."""
        return self.eager(*args) if self.is_eager else super().run(args, kwargs)

    def record(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call; if it cannot be, put back what the attempt has changed, tell, and run it."""
        streams = minigrad.random.state_dict()
        buffers = [(t, t.copy()) for _, t in self.model.named_buffers()]
        try:
            return super().record(key, args, kwargs)
        except UncapturedOp as error:
            minigrad.random.load_state_dict(streams)
            for buffer, before in buffers:
                buffer._device.write(buffer._data, before._data)
            self.plans.clear()
            self.plan = None
            self.is_eager = True
            self.tell(error)
        return self.eager(*args)

    def tell(self, error: UncapturedOp) -> None:
        """Warn, once for each op, at the line of the user's code."""
        if error.op in self.told:
            return
        self.told.add(error.op)
        file, _, line = user_line().rpartition(":")
        warnings.warn_explicit(
            f"{error.op} computes by NumPy, so this runs without capture: the same numbers, in more time. To have it "
            f"captured, let {error.op} compute by self.launch(kernel, ...); to have no warning, pass capture=False",
            RuntimeWarning,
            file,
            int(line),
        )
