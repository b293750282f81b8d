"""Optimizers, which update all parameters in one kernel launch, and learning-rate schedules.

What may change between steps (the learning rate, momentum, weight decay) lives in the array `hyper`, so that a captured
step sees a change.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from minigrad.changes import Watched
from minigrad.checks import integer, number
from minigrad.kernels.contract import Array, Optim
from minigrad.modes import at_work, begin, refuse, state, takes_part
from minigrad.tensor import FLOATS, Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


Arrays = list[Array]


def hyperparameter(index: int, name: str, doc: str) -> property:
    """A number kept in `hyper[index]`, checked when set."""

    def get(self: "Optimizer") -> float:
        refuse(
            f"{name} is read inside a captured step, where it would be today's number for ever; "
            "read it outside, or pass it as an argument"
        )
        return float(self.hyper[index])

    def set_(self: "Optimizer", value: float) -> None:
        refuse(f"{name} is set inside a captured step, which would happen once only; set it outside")
        self.hyper[index] = checked(name, value)
        self.note_used()

    return property(get, set_, doc=doc)


def checked(name: str, value: float) -> float:
    """A hyperparameter as a float in its range."""
    name = {"beta1": "betas[0]", "beta2": "betas[1]"}.get(name, name)  # as users know them
    below_one = name in ("momentum", "betas[0]", "betas[1]")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, not {value!r}") from None
    if not 0 <= number < (1 if below_one else math.inf):
        raise ValueError(f"{name} must be at least 0 and {'below 1' if below_one else 'finite'}, not {value!r}")
    return number


def out_of_range(name: str, value: float) -> str:
    """Why a number is no such hyperparameter; empty if it is one."""
    try:
        checked(name, value)
    except ValueError as error:
        return str(error)
    return ""


class Optimizer(Watched):
    """Parameters, their state and the hyperparameters; subclasses say how `step` updates."""

    names: ClassVar[tuple[str, ...]]  # of the entries of `hyper`
    slots: ClassVar[tuple[str, ...]]  # state arrays kept for each parameter
    lr = hyperparameter(0, "lr", "Learning rate.")

    def __init__(self, params: Iterable[Tensor], **hyper: float) -> None:
        self.params = list(params)
        if not self.params:
            raise ValueError("the optimizer got no parameters")
        for i, p in enumerate(self.params):
            if not isinstance(p, Tensor) or p.dtype not in FLOATS:
                what = p.dtype if isinstance(p, Tensor) else type(p).__name__
                raise TypeError(f"parameter {i} must be a float32 or float64 Tensor, not {what}")
            if p._op is not None:
                raise ValueError(
                    f"parameter {i} (shape {p.shape}) is the result of an op, not a leaf; it cannot be trained"
                )
        if len({id(p) for p in self.params}) != len(self.params):
            raise ValueError("a parameter is given twice")
        if len({p.device for p in self.params}) > 1:
            raise ValueError("the parameters are on different devices; use one optimizer for each device")
        self.hyper = np.array([checked(name, hyper[name]) for name in self.names], np.float64)
        self.used: tuple[bool, ...] = ()
        self.note_used()
        self.device = self.params[0]._device
        self.state: dict[str, list[Array]] = {
            s: [self.device.zeros(p.shape, p.dtype) for p in self.params] for s in self.slots
        }

    def note_used(self) -> None:
        """Note which hyperparameters are not 0: as an attribute, since a step may decide by it (momentum without a state)."""
        used = tuple((self.hyper != 0).tolist())
        if used != self.used:
            self.used = used

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """Update, in place, every parameter that has a gradient. Raises RuntimeError if none has."""
        takes_part(self)
        if state.recording is not None:
            for p in self.params:
                state.recording.reads_grad(p)
                state.recording.saw_leaf(p)
        device = at_work(self.device)
        if self.params[0]._device is not self.device:
            raise RuntimeError(
                f"the parameters are on {self.params[0].device!r}, the state of this {type(self).__name__} on "
                f"{self.device.name!r}; move the model first, and make the optimizer after"
            )
        begin(type(self).__name__)
        found = False
        for dtype in FLOATS:  # one launch for all parameters of a dtype
            chosen = [i for i, p in enumerate(self.params) if p._grad is not None and p._data.dtype == dtype]
            if not chosen:
                continue
            found = True
            self.check_state(chosen, dtype)
            params = [self.params[i]._data for i in chosen]
            grads = [self.params[i]._grad._data for i in chosen]  # type: ignore[union-attr]
            self.update(
                device.kernels.optim,
                params,
                grads,
                {s: [self.state[s][i] for i in chosen] for s in self.slots},
                device.mirror(self.hyper),
            )
            for i in chosen:
                self.params[i]._version[0] += 1
        if not found:
            raise RuntimeError("no parameter has a gradient; call loss.backward() before step()")

    def check_state(self, chosen: list[int], dtype: np.dtype) -> None:
        """Raise TypeError unless the state of these parameters still has their dtype: kernels trust that it does."""
        for slot in self.slots:
            arrays = self.state[slot]
            for i in chosen:
                if arrays[i].dtype != dtype:
                    raise TypeError(
                        f"parameter {i} is {dtype} now, its {slot} in this {type(self).__name__} {arrays[i].dtype}; "
                        "convert the model first, and make the optimizer after"
                    )

    def update(self, kernels: Optim, params: Arrays, grads: Arrays, state: dict[str, Arrays], hyper: Array) -> None:
        """Launch the kernel on parameters of one dtype."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the hyperparameters and state arrays, by name."""
        arrays = {"hyper": self.hyper.copy()}
        for name, values in self.state.items():
            arrays.update({f"{name}.{i}": np.array(self.device.to_host(a)) for i, a in enumerate(values)})
        return arrays

    def __getstate__(self) -> dict[str, object]:
        """For copy.deepcopy and pickle: state arrays come from where they are to the host, as copies."""
        on_host = {name: [np.array(self.device.to_host(a)) for a in arrays] for name, arrays in self.state.items()}
        return {**vars(self), "state": on_host}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self.state = {name: [self.device.from_host(a) for a in arrays] for name, arrays in self.state.items()}

    def load_state_dict(self, state_dict: "Mapping[str, ArrayLike]") -> None:
        """Copy hyperparameters and state back, in place; ValueError listing what does not fit, changing nothing."""
        problems = self.misfits(state_dict)
        if problems:
            raise ValueError(
                f"state does not fit {type(self).__name__}; nothing was loaded:\n  " + "\n  ".join(problems)
            )
        np.copyto(self.hyper, np.asarray(state_dict["hyper"]))
        self.note_used()
        for k, array in self.arrays().items():
            if k != "hyper":
                self.device.write(array, np.asarray(state_dict[k]))

    def arrays(self) -> dict[str, Array]:
        """The hyperparameters and state arrays themselves, by name."""
        named = {"hyper": self.hyper}
        for name, values in self.state.items():
            named.update({f"{name}.{i}": array for i, array in enumerate(values)})
        return named

    def misfits(self, state_dict: "Mapping[str, ArrayLike]") -> list[str]:
        """Why `load_state_dict` would refuse this, or nothing."""
        own = self.arrays()
        problems = [f"missing: {k}" for k in own if k not in state_dict]
        problems += [f"unknown: {k}" for k in state_dict if k not in own]
        for k in (k for k in own if k in state_dict):
            have = np.asarray(state_dict[k])
            if have.shape != own[k].shape or have.dtype != own[k].dtype:
                problems.append(f"{k}: {have.dtype}{list(have.shape)}, expected {own[k].dtype}{list(own[k].shape)}")
            elif k == "hyper":
                problems += [f"hyper: {why}" for why in map(out_of_range, self.names, have.tolist()) if why]
        return problems

    def settings(self) -> dict[str, str]:
        """The hyperparameters as they are passed and shown."""
        return {name: f"{value:g}" for name, value in zip(self.names, self.hyper, strict=True)}

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings().items())
        return f"{type(self).__name__}({len(self.params)} parameters, {settings})"


class SGD(Optimizer):
    """Stochastic gradient descent: v = momentum v + g, p -= lr v, with g + weight_decay p for g.

    nesterov=True steps by g + momentum v instead of v (Sutskever et al. 2013, as in PyTorch).
    """

    names = ("lr", "momentum", "nesterov", "weight_decay")
    momentum = hyperparameter(1, "momentum", "Kept share of the velocity.")
    weight_decay = hyperparameter(3, "weight_decay", "L2 penalty: this times the parameter is added to its gradient.")

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        if nesterov and not momentum:
            raise ValueError("nesterov needs a momentum above 0")
        self.slots = ("velocity",) if momentum else ()  # type: ignore[misc]
        super().__init__(params, lr=lr, momentum=momentum, nesterov=bool(nesterov), weight_decay=weight_decay)

    def settings(self) -> dict[str, str]:
        """The hyperparameters as they are passed and shown."""
        return {**super().settings(), "nesterov": str(bool(self.hyper[2]))}

    def update(self, kernels: Optim, params: Arrays, grads: Arrays, state: dict[str, Arrays], hyper: Array) -> None:
        """One launch of the sgd kernel."""
        if not self.slots and self.hyper[1]:
            raise ValueError("momentum was set on an SGD made without; make it with the momentum it shall have")
        kernels.sgd(params, grads, state.get("velocity", []), hyper)


class AdaGrad(Optimizer):
    """AdaGrad: s += g², p -= lr g / (√s + eps), with g + weight_decay p for g (Duchi, Hazan & Singer 2011)."""

    names = ("lr", "eps", "weight_decay")
    slots = ("sums",)
    weight_decay = hyperparameter(2, "weight_decay", "L2 penalty: this times the parameter is added to its gradient.")

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.01, eps: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay)

    def update(self, kernels: Optim, params: Arrays, grads: Arrays, state: dict[str, Arrays], hyper: Array) -> None:
        """One launch of the adagrad kernel."""
        kernels.adagrad(params, grads, state["sums"], hyper)


class Adam(Optimizer):
    """Adam with bias correction (Kingma & Ba 2015), with g + weight_decay p for g."""

    names = ("lr", "beta1", "beta2", "eps", "weight_decay")
    slots = ("means", "squares")
    _beta1 = hyperparameter(1, "betas[0]", "Kept share of the mean of gradients.")
    _beta2 = hyperparameter(2, "betas[1]", "Kept share of the mean of their squares.")
    weight_decay = hyperparameter(4, "weight_decay", "L2 penalty: this times the parameter is added to its gradient.")

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        beta1, beta2 = pair_of_betas(betas)
        super().__init__(params, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
        # how many steps were done, in an array, so that replays count on; one for each dtype, hence for each launch
        self.state["steps"] = [self.device.zeros((1,), np.dtype(np.float64)) for _ in FLOATS]

    @property
    def betas(self) -> tuple[float, float]:
        """Kept shares of the running means of gradients and of their squares."""
        return self._beta1, self._beta2

    @betas.setter
    def betas(self, betas: tuple[float, float]) -> None:
        beta1, beta2 = pair_of_betas(betas)
        checked("beta2", beta2)  # before the first is set
        self._beta1, self._beta2 = beta1, beta2

    def settings(self) -> dict[str, str]:
        """The hyperparameters as they are passed and shown."""
        given = super().settings()
        lr, beta1, beta2 = (given.pop(name) for name in ("lr", "beta1", "beta2"))
        return {"lr": lr, "betas": f"({beta1}, {beta2})", **given}

    def update(self, kernels: Optim, params: Arrays, grads: Arrays, state: dict[str, Arrays], hyper: Array) -> None:
        """One launch of the adam kernel."""
        steps = self.state["steps"][FLOATS.index(params[0].dtype)]
        kernels.adam(params, grads, state["means"], state["squares"], steps, hyper)


def pair_of_betas(betas: object) -> tuple[float, float]:
    """The two, unless something else came."""
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise TypeError(f"betas must be two numbers, such as (0.9, 0.999), not {betas!r}")
    return betas[0], betas[1]


class Schedule:
    """Sets an optimizer's learning rate by the number of `step()` calls so far; `value(n)` is a pure function."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.initial = optimizer.lr
        self.count = 0
        optimizer.lr = self.value(0)

    def value(self, n: int) -> float:
        """The learning rate after n steps of the schedule."""
        raise NotImplementedError

    def step(self) -> None:
        """Go on by one (an epoch, or a training step: as often as you call it)."""
        self.count += 1
        self.optimizer.lr = self.value(self.count)

    def state_dict(self) -> dict[str, float]:
        """Where it stands."""
        return {"initial": self.initial, "count": self.count}

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """Go back to where it stood, and set the learning rate; TypeError or ValueError for no such state, changing nothing."""
        initial, count = state_dict["initial"], integer("count", state_dict["count"], 0, (1 << 63) - 1)
        twin = copy.copy(self)
        twin.initial, twin.count = number("initial", initial, math.inf), count
        try:
            lr = checked("lr", twin.value(count))
        except OverflowError:
            raise ValueError(f"after {count} steps from {initial} the learning rate is no float") from None
        self.initial, self.count = twin.initial, twin.count
        self.optimizer.lr = lr


class FunctionSchedule(Schedule):
    """`function(n)`, the learning rate itself after n steps of the schedule; a pure function, for the sake of resuming."""

    def __init__(self, optimizer: Optimizer, function: Callable[[int], float]) -> None:
        self.function, self.name = function, getattr(function, "__qualname__", type(function).__name__)
        super().__init__(optimizer)

    def value(self, n: int) -> float:
        """The learning rate after n steps."""
        return self.function(n)


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
