"""Learning-rate schedules: the rate by the number of steps done, or by a metric that improves no longer.

Each sets the learning rates of an optimizer's groups, every group by the same rule from its own beginning.
"""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

from minigrad.checks import integer, number, sign_of
from minigrad.optim.optimizer import Optimizer
from minigrad.optim.settings import checked

LEAST_CHANGE = 1e-8  # of a learning rate that PlateauSchedule lowers


class Schedule:
    """Sets the learning rate by the number of `step()` calls so far; `value(n)` is a pure function of n and `initial`."""

    def __init__(self, optimizer: Optimizer, initials: list[float] | None = None) -> None:
        self.optimizer = optimizer
        self.initials = optimizer.rates if initials is None else initials
        self.initial = self.initials[0]
        self.count = 0
        optimizer.rates = self.rates(0)

    def value(self, n: int) -> float:
        """The learning rate after n steps of the schedule, of a group that began with `initial`."""
        raise NotImplementedError

    def rates(self, n: int) -> list[float]:
        """The learning rate of each group after n steps of the schedule."""
        return [self.begun_at([initial]).value(n) for initial in self.initials]

    def begun_at(self, initials: list[float]) -> Self:
        """The same schedule for other initial learning rates."""
        twin = copy.copy(self)
        twin.initials, twin.initial = initials, initials[0]
        return twin

    def step(self) -> None:
        """Go on by one (an epoch, or a training step: as often as you call it)."""
        self.count += 1
        self.optimizer.rates = self.rates(self.count)

    def state_dict(self) -> dict[str, float | list[float]]:
        """Where it stands."""
        return {"initial": self.initial if len(self.initials) == 1 else list(self.initials), "count": self.count}

    def load_state_dict(self, state_dict: Mapping[str, float | list[float]]) -> None:
        """Go back to where it stood, and set the learning rate; TypeError or ValueError for no such state, changing nothing."""
        initials = initials_of(state_dict["initial"], len(self.initials))
        count = integer("count", state_dict["count"], 0, (1 << 63) - 1)
        twin = self.begun_at(initials)
        try:
            rates = [checked("lr", rate) for rate in twin.rates(count)]
        except OverflowError:
            raise ValueError(f"after {count} steps from {initials[0]} the learning rate is no float") from None
        vars(self).update(vars(twin))
        self.count = count
        self.optimizer.rates = rates


def initials_of(value: float | list[float], count: int) -> list[float]:
    """The initial learning rates in a state, one for each group."""
    given = value if isinstance(value, list) else [value]
    if len(given) != count:
        raise ValueError(f"initial has {len(given)} learning rates, and the optimizer {count} groups of parameters")
    return [number("initial", initial, math.inf) for initial in given]


class FunctionSchedule(Schedule):
    """`function(n)`, the learning rate itself after n steps of the schedule; a pure function, for the sake of resuming.

    It is that of the first group of parameters; the others keep their proportion to it.
    """

    def __init__(self, optimizer: Optimizer, function: Callable[[int], float]) -> None:
        self.function, self.name = function, getattr(function, "__qualname__", type(function).__name__)
        super().__init__(optimizer)

    def value(self, n: int) -> float:
        """The learning rate after n steps."""
        return self.function(n)

    def rates(self, n: int) -> list[float]:
        """The function's, and in proportion."""
        first, *others = self.initials
        if any(initial != first for initial in others) and not first:
            raise ValueError("the first group's learning rate is 0, so the others have no proportion to it")
        rate = self.value(n)
        return [rate if initial == first else rate * (initial / first) for initial in self.initials]


class StepSchedule(Schedule):
    """lr * factor^floor((n + offset) / every): Kiefer's schedule is every=10, offset=1, factor=0.1, n in epochs."""

    def __init__(self, optimizer: Optimizer, every: int, factor: float = 0.1, offset: int = 0) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        self.every, self.factor, self.offset = every, checked("factor", factor), offset
        super().__init__(optimizer)

    def value(self, n: int) -> float:
        """The learning rate after n steps."""
        return self.initial * self.factor ** ((n + self.offset) // self.every)


class ExponentialSchedule(Schedule):
    """lr * factor^n."""

    def __init__(self, optimizer: Optimizer, factor: float) -> None:
        self.factor = checked("factor", factor)
        super().__init__(optimizer)

    def value(self, n: int) -> float:
        """The learning rate after n steps."""
        return self.initial * self.factor**n


class CosineSchedule(Schedule):
    """From lr down to `final` over `steps` along half a cosine, then `final` (Loshchilov & Hutter 2017, no restarts)."""

    def __init__(self, optimizer: Optimizer, steps: int, final: float = 0.0) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        self.steps, self.final = steps, checked("final", final)
        super().__init__(optimizer)

    def value(self, n: int) -> float:
        """The learning rate after n steps."""
        share = min(n, self.steps) / self.steps
        return self.final + (self.initial - self.final) * (1 + math.cos(math.pi * share)) / 2


class WarmupSchedule(Schedule):
    """From `start` times the learning rate up to all of it in equal steps, and then another schedule, if one is given.

    `after` is made for the same optimizer, and counts from the end of the warmup: WarmupSchedule(o, 5, CosineSchedule(o, 95)).
    """

    def __init__(self, optimizer: Optimizer, steps: int, after: Schedule | None = None, *, start: float = 0.0) -> None:
        self.steps, self.start, self.after = integer("steps", steps), number("start", start, math.inf), after
        if after is not None and (not isinstance(after, Schedule) or after.optimizer is not optimizer):
            raise ValueError(f"after must be a schedule of mg.optim for the same optimizer, not {after!r}")
        super().__init__(optimizer, None if after is None else after.initials)

    def rates(self, n: int) -> list[float]:
        """The learning rate of each group after n steps."""
        later = max(0, n - self.steps)
        rates = self.initials if self.after is None else self.after.rates(later)
        share = self.start + (1 - self.start) * n / self.steps if n < self.steps else 1.0
        return [share * rate for rate in rates]

    def value(self, n: int) -> float:
        """The learning rate after n steps, of the first group."""
        return self.rates(n)[0]

    def begun_at(self, initials: list[float]) -> Self:
        """The same for other initial learning rates."""
        twin = super().begun_at(initials)
        twin.after = None if self.after is None else self.after.begun_at(initials)
        return twin


class OneCycleSchedule(Schedule):
    """One cycle of so many steps up to the optimizer's learning rate and down to nearly nothing (Smith & Topin 2019).

    As in PyTorch it begins at lr / div_factor, is at lr after the share `pct_start` of the steps, and ends at the beginning's
    rate / final_div_factor, where it stays; by half a cosine each way, or in straight lines by anneal_strategy="linear".
    Momentum is left alone (cycle_momentum=False in PyTorch).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        *,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        self.steps, self.pct_start = integer("steps", steps), checked("pct_start", pct_start)
        if self.pct_start > 1:
            raise ValueError(f"pct_start, the share of the steps that go up, must be from 0 to 1, not {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be 'cos' or 'linear', not {anneal_strategy!r}")
        if not (div_factor > 0 and final_div_factor > 0):
            raise ValueError(
                f"div_factor and final_div_factor must be above 0, not {div_factor} and {final_div_factor}"
            )
        self.anneal_strategy = anneal_strategy
        self.div_factor, self.final_div_factor = float(div_factor), float(final_div_factor)
        super().__init__(optimizer)

    def value(self, n: int) -> float:
        """The learning rate after n steps."""
        begin = self.initial / self.div_factor
        top, last = self.pct_start * self.steps - 1, self.steps - 1
        n = min(n, last)
        if n <= top:
            return self.between(begin, self.initial, n / top if top else 1.0)
        return self.between(
            self.initial, begin / self.final_div_factor, (n - top) / (last - top) if last > top else 1.0
        )

    def between(self, a: float, b: float, share: float) -> float:
        """From a to b."""
        if self.anneal_strategy == "linear":
            return a + (b - a) * share
        return b + (a - b) / 2 * (1 + math.cos(math.pi * share))


class PlateauSchedule:
    """Multiplies the learning rate by `factor` when a metric has not improved for more than `patience` epochs.

    In `fit` it looks at `monitor`, an entry of the epochs' rows; elsewhere it is told: `schedule.step(value)`. The numbers are
    those of PyTorch's ReduceLROnPlateau. A NaN is no improvement.

    Args:
        monitor: the entry of the rows.
        mode: "min" or "max"; by default accuracies shall be large and all else small.
        factor, patience: what it is multiplied by, and after how many epochs that are no better.
        threshold: less of an improvement is none: a share of the best value, or with threshold_mode="abs" a difference.
        cooldown: so many epochs after each change are not counted.
        min_lr: the least learning rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        monitor: str = "validation_loss",
        *,
        mode: str | None = None,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        sign_of(monitor, mode)  # which checks the mode
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode must be 'rel' or 'abs', not {threshold_mode!r}")
        self.optimizer, self.monitor, self.mode = optimizer, monitor, mode
        self.factor = number("factor", factor, 1.0)
        self.patience, self.cooldown = integer("patience", patience, 0), integer("cooldown", cooldown, 0)
        self.threshold, self.threshold_mode = number("threshold", threshold, math.inf), threshold_mode
        self.min_lr = checked("min_lr", min_lr)
        self.best: float | None = None
        self.waited = self.resting = 0

    def step(self, value: float) -> None:
        """Note the metric's value, and lower the learning rate if it is time."""
        value = float(value)
        if self.improved(value):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.resting:
            self.resting, self.waited = self.resting - 1, 0
        if self.waited > self.patience:
            self.optimizer.rates = [self.lowered(rate) for rate in self.optimizer.rates]
            self.resting, self.waited = self.cooldown, 0

    def improved(self, value: float) -> bool:
        """Whether the value is better than the best so far by more than the threshold."""
        if self.best is None:
            return not math.isnan(value)
        sign = sign_of(self.monitor, self.mode)
        least = self.threshold * (self.best if self.threshold_mode == "rel" else 1.0)
        return sign * value > sign * (self.best + sign * least)

    def lowered(self, rate: float) -> float:
        """The next learning rate, or the same where it would be lowered by no more than 1e-8, as in PyTorch."""
        new = max(rate * self.factor, self.min_lr)
        return new if rate - new > LEAST_CHANGE else rate

    def state_dict(self) -> dict[str, float | list[float] | None]:
        """Where it stands."""
        return {"best": self.best, "waited": self.waited, "resting": self.resting, "rates": self.optimizer.rates}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go back to where it stood, and set the learning rate; TypeError or ValueError for no such state, changing nothing."""
        best, rates = state_dict["best"], initials_of(state_dict["rates"], len(self.optimizer.rates))
        if isinstance(best, bool) or not isinstance(best, int | float | None):
            raise TypeError(f"best must be a number or None, not {best!r}")
        waited, resting = (integer(name, state_dict[name], 0) for name in ("waited", "resting"))
        self.best, self.waited, self.resting, self.optimizer.rates = best, waited, resting, rates
