"""What a recording launches, and deferred launches: kernels that are missing are compiled at its end, by all cores at once.

Nothing looks at values while a step is recorded. So from the first launch on whose kernel would have to be compiled, launches
are put off, and made in their order when the recording ends: as a replay makes them, on the same memory, to the same bits. By
then it is known which kernels are missing. What does need values has the launches before it made first: a check of labels that
the step computes, an op of the user's own, a search for NaN, a gradient from outside that is copied. So has an error, which
leaves what an eager step would leave; after Ctrl-C they are not made, and gradients are put back. With everything on disk,
nothing is put off.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigrad.devices import Device


@dataclass(eq=False)
class Launch:
    """One kernel launch of a plan."""

    op: str
    kernel: str
    given: tuple[object, ...]  # what the op called the kernel with: the arguments of kernels/reference
    function: Callable[..., None]
    arguments: tuple[object, ...]  # what the function takes
    shapes: str
    nbytes: int
    times: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """The median of its times; None before the first replay."""
        return float(np.median(self.times)) if self.times else None


class DeferredLaunches:
    """The launches of a recording that were put off, in their order, each with what was chosen to be run for it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.waiting: list[tuple[Launch, Any]] = []
        self.lost = False  # whether launches were put off and not made

    def launch(self, launch: Launch, kernel: Any, at_once: bool) -> None:
        """Make a launch of a kernel, or put it off: one that is not compiled, and any after such a one."""
        choice = self.device.choose(kernel, launch.given)
        if not at_once and (self.waiting or choice.has_to_wait()):
            self.waiting.append((launch, choice))
            self.lost = True
        else:
            make(launch, choice)

    def make(self) -> None:
        """Make the launches that were put off, once what is missing for them is compiled."""
        if self.waiting:
            waiting, self.waiting = self.waiting, []
            self.device.compile([choice for _, choice in waiting])
            for launch, choice in waiting:
                make(launch, choice)
            self.lost = False


def make(launch: Launch, choice: Any) -> None:
    """Make a launch of what was chosen."""
    launch.function, launch.arguments = choice.call()
    launch.function(*launch.arguments)
