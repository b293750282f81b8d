"""What tells a checkpoint from the objects that it shall be loaded into, found out before any of them is changed."""

import json
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

from minigrad.checkpoint.contents import DTYPES, Json
from minigrad.nn import Module
from minigrad.optim import Optimizer
from minigrad.tensor import Tensor


class Stateful(Protocol):
    """What keeps its state as JSON: a schedule, a loader."""

    def state_dict(self) -> Mapping[str, Json]:
        """Where it stands."""

    def load_state_dict(self, state: Mapping[str, Json], /) -> None:
        """Go on from there; ValueError or TypeError for a state of something else."""


def misfits(
    described: Mapping[str, tuple[str, tuple[int, ...]]], model: Module | None, optimizer: Optimizer | None
) -> list[str]:
    """What tells the tensors of a file from those that the model and the optimizer have."""
    own: dict[str, Tensor | np.ndarray] = {}
    prefixes = ["model.", "optimizer."]  # those that are not asked for are passed over
    if model is not None:
        prefixes.remove("model.")
        own.update({f"model.{name}": t for name, t in model.state_dict().items()})
    if optimizer is not None:
        prefixes.remove("optimizer.")
        own.update({f"optimizer.{name}": array for name, array in optimizer.state_dict().items()})
        described = of_today(described, optimizer)
    newer = [] if optimizer is None else [f"optimizer.{name}" for name in optimizer.newer]
    problems = [f"missing: {name}" for name in own if name not in described and name not in newer]
    problems += [f"unknown: {name}" for name in described if name not in own and not name.startswith(tuple(prefixes))]
    for name in (name for name in own if name in described):
        dtype, shape = described[name]
        want = own[name]
        if shape != want.shape:
            problems.append(f"{name}: shape {shape}, expected {want.shape}")
        if DTYPES.get(dtype, want.dtype) != want.dtype:
            problems.append(f"{name}: dtype {DTYPES[dtype]}, expected {want.dtype}")
    return problems


def of_today(
    described: Mapping[str, tuple[str, tuple[int, ...]]], optimizer: Optimizer
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a file, those of the optimizer by the names that it has for them now."""
    prefix = "optimizer."
    theirs = {name.removeprefix(prefix): what for name, what in described.items() if name.startswith(prefix)}
    others = {name: what for name, what in described.items() if not name.startswith(prefix)}
    return others | {prefix + name: what for name, what in optimizer.of_today(theirs).items()}


def state_misfit(name: str, target: Stateful, state: Json) -> list[str]:
    """Why a state cannot be taken up, if it cannot: it is tried, and all is as before then."""
    before = target.state_dict()
    if isinstance(before, Mapping) and not isinstance(state, dict):
        why = (
            "the checkpoint was saved without one"
            if state is None
            else f"{state!r}, where {sorted(before)} were expected"
        )
        return [f"{name}: {why}"]
    optimizer = getattr(target, "optimizer", None)  # of a schedule, which sets its learning rate
    optimizer = optimizer if isinstance(optimizer, Optimizer) else None
    hyper = None if optimizer is None else optimizer.hyper.copy()
    try:
        target.load_state_dict(state)
    except Exception as error:  # whatever somebody's own class raises
        return [f"{name}: {error}" if isinstance(error, ValueError | TypeError) else f"{name}: {error!r}"]
    finally:
        target.load_state_dict(before)
        if optimizer is not None and hyper is not None:
            np.copyto(optimizer.hyper, hyper)
            optimizer.note_used()
    return []


def differences(saved: Json, now: Json) -> list[str]:
    """What tells two configurations apart, entry by entry."""
    left, right = dict(leaves(saved)), dict(leaves(now))
    absent = "not there"
    return [
        f"{name}: {left.get(name, absent)} in the checkpoint, {right.get(name, absent)} now"
        for name in [*left, *(name for name in right if name not in left)]
        if left.get(name) != right.get(name)
    ]


def leaves(value: Json, name: str = "configuration") -> Iterator[tuple[str, str]]:
    """(dotted name, JSON) of all that is not a dict in nested dicts; lists are taken as one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}")
    else:
        yield name, json.dumps(value)
