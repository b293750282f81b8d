"""What all optimizers have in common: parameters in groups, hyperparameters, state, and its way to a checkpoint and back.

What may change between steps (the learning rate, momentum, weight decay) lives in the array `hyper`, a row for each group of
parameters, so that a captured step sees a change.
"""

import difflib
from collections.abc import Generator, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from minigrad.arrays import plain
from minigrad.changes import Watched
from minigrad.kernels.contract import Array, Optim
from minigrad.modes import at_work, begin, read, read_grad, refuse, state, takes_part
from minigrad.optim.settings import FLAGS, Params, check_params, checked, groups_of, out_of_range, pair_of
from minigrad.tensor import FLOATS, Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


Arrays = list[Array]
Entry = TypeVar("Entry")

COUNTS = ("counts", "average_counts")  # slots of float64 (1,): how often each parameter was updated
AT_HOST = ("hyper", "groups", "ema")  # of a state: what is never on the device


def hyperparameter(name: str, doc: str) -> property:
    """A hyperparameter of all groups, checked when set; where groups differ in it, it is theirs alone."""

    def get(self: "Optimizer") -> float:
        values = {group[name] for group in self.param_groups}
        if len(values) > 1:
            raise ValueError(f"the groups have different {name}; read optimizer.param_groups[i][{name!r}]")
        return values.pop()

    def set_(self: "Optimizer", value: float) -> None:
        refuse(f"{name} is set inside a captured step, which would happen once only; set it outside")
        get(self)  # which raises where one number for all would undo what tells the groups apart
        for group in self.param_groups:
            group[name] = value

    return property(get, set_, doc=doc)


class ParamGroup(MutableMapping[str, Any]):
    """A group of an optimizer's parameters: `group["params"]`, and its hyperparameters, `group["lr"] = 0.01`."""

    def __init__(self, optimizer: "Optimizer", index: int) -> None:
        self.optimizer, self.index = optimizer, index

    def __getitem__(self, name: str) -> Any:
        optimizer = self.optimizer
        if name == "params":
            return [p for p, group in zip(optimizer.params, optimizer.group_of, strict=True) if group == self.index]
        columns = [optimizer.names.index(column) for column in optimizer.columns_of(name)]
        refuse(
            f"{name} is read inside a captured step, where it would be today's number for ever; "
            "read it outside, or pass it as an argument"
        )
        values = optimizer.hyper[self.index, columns].tolist()
        if name in FLAGS:
            return bool(values[0])
        return values[0] if len(values) == 1 else tuple(values)

    def __setitem__(self, name: str, value: Any) -> None:
        optimizer = self.optimizer
        refuse(f"{name} is set inside a captured step, which would happen once only; set it outside")
        numbers = optimizer.row({**dict(self), name: value})
        optimizer.columns_of(name)  # which knows no "params"
        optimizer.hyper[self.index] = numbers
        optimizer.note_used()

    def __delitem__(self, name: str) -> None:
        raise TypeError("a group keeps all its settings")

    def __iter__(self) -> Iterator[str]:
        return iter(("params", *self.optimizer.known_names()))

    def __len__(self) -> int:
        return 1 + len(self.optimizer.known_names())

    def __repr__(self) -> str:
        count = self.optimizer.group_of.count(self.index)
        shown = [
            f"{name}={value if name in FLAGS or isinstance(value, tuple) else format(value, 'g')}"
            for name, value in self.items()
            if name != "params"
        ]
        return ", ".join([f"{count} parameter" + "s" * (count != 1), *shown])


class Optimizer(Watched):
    """Parameters, their state and the hyperparameters; subclasses say how `step` updates.

    `params` are Tensors or, as in PyTorch, dicts: {"params": tensors, "lr": 0.01} is a group with a learning rate of its own,
    and for the rest with what the optimizer is given. `ema` is the kept share of running averages of the parameters, None for
    none; see `averaged`.
    """

    names: ClassVar[tuple[str, ...]]  # of the columns of `hyper`
    pairs: ClassVar[dict[str, tuple[str, ...]]] = {}  # names of several columns, as users know them
    newer = ("ema",)  # of a state: what earlier versions did not write
    lr = hyperparameter("lr", "Learning rate.")

    def __init__(self, params: Params, *, ema: float | None = None, **settings: object) -> None:
        groups = groups_of(params)
        self.params = [p for own, _ in groups for p in own]
        self.group_of = tuple([i for i, (own, _) in enumerate(groups) for _ in own])
        check_params(self.params)
        self.hyper = np.array([self.row({**settings, **own}) for _, own in groups], np.float64)
        self.ema = None if ema is None else checked("ema", ema)
        self.used: tuple[bool, ...] = ()
        self.note_used()
        self.device = self.params[0]._device
        self.slots = self.kept()  # state arrays for each parameter, by the names of what they are
        if self.ema is not None:
            self.slots = (*self.slots, "averages", "average_counts")
        self.state: dict[str, list[Array]] = {s: [self.new_state(s, p) for p in self.params] for s in self.slots}

    def kept(self) -> tuple[str, ...]:
        """Which state arrays the update needs; `hyper` is known by then."""
        return ()

    def new_state(self, slot: str, p: Tensor) -> Array:
        """Zeros like the parameter, or a count."""
        return self.device.zeros((1,), FLOATS[1]) if slot in COUNTS else self.device.zeros(p.shape, p.dtype)

    def row(self, settings: Mapping[str, Any]) -> list[float]:
        """A group's hyperparameters, by the names users know; raises for what is not known, or out of its range."""
        numbers: dict[str, float] = {}
        for name, value in settings.items():
            if name == "params":
                continue
            columns = self.columns_of(name)
            if len(columns) == 1:
                numbers[name] = checked(name, value)
            else:
                numbers.update({c: checked(c, v) for c, v in zip(columns, pair_of(name, value), strict=True)})
        self.check_group(numbers)
        return [numbers[name] for name in self.names]

    def check_group(self, numbers: Mapping[str, float]) -> None:
        """Raise ValueError for hyperparameters of a group that do not go together."""

    def columns_of(self, name: str) -> tuple[str, ...]:
        """The columns of `hyper` that a name stands for; TypeError for one that is not known."""
        known = self.known_names()
        if name not in known:
            meant = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {meant[0]!r}?" if meant else f"there are {', '.join(known)}"
            raise TypeError(f"{type(self).__name__} has no setting {name!r} for a group of parameters; {hint}")
        return self.pairs.get(name, (name,))

    def known_names(self) -> tuple[str, ...]:
        """The hyperparameters' names as users know them."""
        of = {column: name for name, columns in self.pairs.items() for column in columns}
        return tuple(dict.fromkeys([of.get(name, name) for name in self.names]))

    @property
    def param_groups(self) -> list[ParamGroup]:
        """The groups, to read and set their hyperparameters: `optimizer.param_groups[1]["lr"] = 0.01`."""
        return [ParamGroup(self, i) for i in range(len(self.hyper))]

    @property
    def rates(self) -> list[float]:
        """The learning rate of each group."""
        return [group["lr"] for group in self.param_groups]

    @rates.setter
    def rates(self, rates: Sequence[float]) -> None:
        numbers = [checked("lr", rate) for rate in rates]  # all before the first is set
        for group, rate in zip(self.param_groups, numbers, strict=True):
            group["lr"] = rate

    def note_used(self) -> None:
        """Note which hyperparameters are not 0: as an attribute, since a step may decide by it (momentum without a state)."""
        used = tuple((self.hyper != 0).ravel().tolist())
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
                read_grad(p)
                read(p)
        device = at_work(self.device)
        self.check_device()
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
            own = {s: [self.state[s][i] for i in chosen] for s in self.slots}
            groups = [self.group_of[i] for i in chosen]
            self.update(device.kernels.optim, params, grads, own, groups, device.mirror(self.hyper))
            if self.ema is not None:
                if "averages" not in self.slots:
                    raise ValueError(f"ema was set on {type(self).__name__} made without; make it with ema={self.ema}")
                device.kernels.optim.average(params, own["averages"], own["average_counts"], self.ema)
            for i in chosen:
                self.params[i]._version[0] += 1
        if not found:
            raise RuntimeError("no parameter has a gradient; call loss.backward() before step()")

    def check_device(self) -> None:
        """Raise RuntimeError unless parameters and state are in one place."""
        if self.params[0]._device is not self.device:
            raise RuntimeError(
                f"the parameters are on {self.params[0].device!r}, the state of this {type(self).__name__} on "
                f"{self.device.name!r}; move the model first, and make the optimizer after"
            )

    def check_state(self, chosen: list[int], dtype: np.dtype) -> None:
        """Raise TypeError unless the state of these parameters still has their dtype: kernels trust that it does."""
        for slot in [slot for slot in self.slots if slot not in COUNTS]:
            arrays = self.state[slot]
            for i in chosen:
                if arrays[i].dtype != dtype:
                    raise TypeError(
                        f"parameter {i} is {dtype} now, its {slot} in this {type(self).__name__} {arrays[i].dtype}; "
                        "convert the model first, and make the optimizer after"
                    )

    def update(
        self, kernels: Optim, params: Arrays, grads: Arrays, state: dict[str, Arrays], groups: list[int], hyper: Array
    ) -> None:
        """Launch the kernel on parameters of one dtype."""
        raise NotImplementedError

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Inside, the parameters are their running averages, for evaluation, prediction and saving; after it as before.

        The average is the parameter itself after its first update, and from then on ema average + (1 - ema) parameter after
        each. Raises ValueError where the optimizer was made without `ema`.
        """
        refuse("averaged() inside a captured step, whose replays would not exchange the parameters; use it outside")
        if self.ema is None:
            raise ValueError(
                f"this {type(self).__name__} keeps no averages of its parameters; make it with ema=0.999, or another share"
            )
        self.check_device()
        device = self.device
        kept = [device.copy(p._data) for p in self.params]
        try:
            for p, average, count in zip(
                self.params, self.state["averages"], self.state["average_counts"], strict=True
            ):
                if device.to_host(count)[0]:  # a parameter that was never updated has no average
                    write(p, average)
            yield
        finally:
            for p, array in zip(self.params, kept, strict=True):
                write(p, array)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the hyperparameters and state arrays, by name."""
        return {name: np.array(self.on_host(name, array)) for name, array in self.arrays().items()}

    def on_host(self, name: str, array: Array) -> np.ndarray:
        """A named array's values."""
        return array if name in AT_HOST else self.device.to_host(array)

    def __getstate__(self) -> dict[str, object]:
        """For copy.deepcopy and pickle: state arrays come from where they are to the host, as copies."""
        on_host = {name: [np.array(self.device.to_host(a)) for a in arrays] for name, arrays in self.state.items()}
        return {**vars(self), "state": on_host}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self.hyper = plain(self.hyper)
        self.state = {name: [self.device.from_host(plain(a)) for a in arrays] for name, arrays in self.state.items()}

    def load_state_dict(self, state_dict: "Mapping[str, ArrayLike]") -> None:
        """Copy hyperparameters and state back, in place; ValueError listing what does not fit, changing nothing."""
        problems = self.misfits(state_dict)
        if problems:
            raise ValueError(
                f"state does not fit {type(self).__name__}; nothing was loaded:\n  " + "\n  ".join(problems)
            )
        found = self.of_today(state_dict)
        np.copyto(self.hyper, np.asarray(found["hyper"]))
        self.note_used()
        if "ema" in found:
            self.ema = np.asarray(found["ema"]).item()
        for k, array in self.arrays().items():
            if k not in AT_HOST:
                self.device.write(array, np.asarray(found[k]))

    def arrays(self) -> dict[str, Array]:
        """The hyperparameters and state arrays themselves, by name; with several groups, `hyper` has a row for each."""
        named = {"hyper": self.hyper[0]}
        if len(self.hyper) > 1:
            named = {"hyper": self.hyper, "groups": np.array(self.group_of, np.int64)}
        if self.ema is not None:
            named["ema"] = np.array([self.ema], np.float64)
        for name, values in self.state.items():
            named.update({f"{name}.{i}": array for i, array in enumerate(values)})
        return named

    def of_today(self, saved: Mapping[str, Entry]) -> dict[str, Entry]:
        """What was saved, or a description of it, by today's names, where an earlier minigrad had others."""
        return dict(saved)

    def misfits(self, state_dict: "Mapping[str, ArrayLike]") -> list[str]:
        """Why `load_state_dict` would refuse this, or nothing."""
        own, found = self.arrays(), self.of_today(state_dict)
        problems = [f"missing: {k}" for k in own if k not in found and k not in self.newer]
        problems += [f"unknown: {k}" for k in found if k not in own]
        for k in (k for k in own if k in found):
            have = np.asarray(found[k])
            if have.shape != own[k].shape or have.dtype != own[k].dtype:
                problems.append(f"{k}: {have.dtype}{list(have.shape)}, expected {own[k].dtype}{list(own[k].shape)}")
            elif k == "hyper":
                problems += [f"hyper: {why}" for row in np.atleast_2d(have).tolist() for why in self.out_of_range(row)]
            elif k == "ema":
                problems += [why for why in [out_of_range("ema", have.item())] if why]
            elif k == "groups" and (have != own[k]).any():
                problems.append("groups: the parameters are in other groups")
        return problems

    def out_of_range(self, row: Sequence[float]) -> list[str]:
        """Why numbers are no hyperparameters of a group, in the order of `names`, or nothing."""
        problems = [why for why in map(out_of_range, self.names, row) if why]
        try:
            self.check_group(dict(zip(self.names, row, strict=True)))
        except ValueError as error:
            problems.append(str(error))
        return problems

    def __repr__(self) -> str:
        ema = "" if self.ema is None else f", ema={self.ema:g}"
        return f"{type(self).__name__}({'; '.join(map(repr, self.param_groups))}{ema})"


def write(p: Tensor, values: Array) -> None:
    """Put values into a parameter, in place."""
    p._device.write(p._data, values)
    p._version[0] += 1
