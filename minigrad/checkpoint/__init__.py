"""Checkpoints: the whole state of a training run in one safetensors file, written atomically. Needs `safetensors`.

The tensors are `model.<name>` (parameters and buffers) and `optimizer.<name>` (hyperparameters and state arrays). The
header's metadata are strings of JSON: versions, configuration, random (seed and streams of `mg.manual_seed`), schedule,
loader (its position) and extra (what the caller added). `sha256` is a checksum over all tensors and metadata.
"""

import json
import os
import platform
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np

import minigrad.random as random_state
from minigrad.checkpoint.contents import FORMAT, HEADER_LIMIT, JSON_ENTRIES, Json, checksum, read_front, read_tensors
from minigrad.checkpoint.files import remove_leftovers, write_atomically
from minigrad.checkpoint.misfits import Stateful, differences, misfits, state_misfit
from minigrad.kernels.build.settings import install
from minigrad.nn import Module
from minigrad.optim import Optimizer
from minigrad.version import __version__

__all__ = ["Checkpoint", "CheckpointError", "Json", "Stateful", "load", "remove_leftovers", "save", "write_atomically"]

LONGEST_ENTRY = 100  # characters that a printed checkpoint shows of each


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded: `path`, and `problems`, all that is wrong with it."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        super().__init__(path, problems)
        self.path, self.problems = path, problems

    def __str__(self) -> str:
        return f"{self.path} cannot be loaded; nothing was changed:\n  " + "\n  ".join(self.problems)


@dataclass(repr=False)
class Checkpoint:
    """What a file holds: the tensors by name (NumPy arrays), and the rest as it was given to `save`. Printing lists them."""

    path: Path
    tensors: dict[str, np.ndarray]
    versions: dict[str, str]
    configuration: Json
    random: dict[str, int]
    schedule: dict[str, Json] | None
    loader: dict[str, Json] | None
    extra: Json

    def __repr__(self) -> str:
        nbytes = sum(array.nbytes for array in self.tensors.values())
        count = f"{len(self.tensors)} tensors of {nbytes:,} bytes"
        return (
            f"<checkpoint {str(self.path)!r}: {count}, by minigrad {self.versions.get('minigrad')}; print() lists them>"
        )

    def __str__(self) -> str:
        width = max(map(len, self.tensors), default=0)
        lines = [repr(self).removeprefix("<").removesuffix("; print() lists them>")]
        lines += [
            f"  {name:{width}}  {a.dtype}{list(a.shape)}" for name, a in sorted(self.tensors.items(), key=in_order)
        ]
        for name in JSON_ENTRIES:
            text = json.dumps(getattr(self, name))
            lines.append(f"  {name}: {text if len(text) <= LONGEST_ENTRY else text[: LONGEST_ENTRY - 4] + ' ...'}")
        return "\n".join(lines)


def in_order(item: tuple[str, Any]) -> list[tuple[bool, int, str]]:
    """For sorting names: numbers in them by their value, layer 2 before layer 10."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in item[0].split(".")]


def save(
    path: str | os.PathLike[str],
    *,
    model: Module,
    optimizer: Optimizer | None = None,
    schedule: Stateful | None = None,
    loader: Stateful | None = None,
    configuration: Json = None,
    extra: Json = None,
) -> Path:
    """Write the state of a training run to `path`, which is replaced in one go or, if anything fails, not at all.

    The data is written to a `.part` beside it, flushed to the disk, and renamed. A kill at any moment leaves the old file or
    the new one, and perhaps a `.part` that `remove_leftovers` removes. Of several who save to one path the last wins.

    Args:
        path: by custom ending in .safetensors; its folder is made if need be.
        model: parameters and buffers (running statistics, dropout counters) are saved.
        optimizer: its hyperparameters and state.
        schedule, loader: what their `state_dict()` gives, as JSON.
        configuration: numbers, strings, lists and dicts that say which run this is; `load` compares them.
        extra: whatever else shall come back, of the same kinds.

    Raises:
        ImportError: safetensors is not installed.
        TypeError: configuration or extra is not made of numbers, strings, lists and dicts.
        ValueError: they take more than 100 MB.
        OSError: the disk is full, or the folder cannot be written; the file is as before.
    """
    safetensors = library()
    path = Path(path)
    tensors = {f"model.{name}": t.numpy() for name, t in model.state_dict().items()}
    if optimizer is not None:
        tensors.update({f"optimizer.{name}": array for name, array in optimizer.state_dict().items()})
    parts = {
        "versions": versions(),
        "configuration": configuration,
        "random": random_state.state_dict(),
        "schedule": None if schedule is None else schedule.state_dict(),
        "loader": None if loader is None else loader.state_dict(),
        "extra": extra,
    }
    metadata = {"format": FORMAT, **{name: as_json(name, value) for name, value in parts.items()}}
    metadata["sha256"] = checksum(tensors, metadata)
    data = safetensors.numpy.save(tensors, metadata)
    (length,) = struct.unpack("<Q", data[:8])
    if length > HEADER_LIMIT:
        raise ValueError(
            f"extra and configuration make a header of {length:,} bytes, where {HEADER_LIMIT:,} are the most"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    return path


def load(
    path: str | os.PathLike[str],
    *,
    model: Module | None = None,
    optimizer: Optimizer | None = None,
    schedule: Stateful | None = None,
    loader: Stateful | None = None,
    configuration: Json = None,
    random: bool = False,
    check_extra: Callable[[Json], list[str]] | None = None,
) -> Checkpoint:
    """Put the state of a checkpoint into the given objects, in place, and return what the file holds.

    Everything is checked before anything is changed, and sizes before anything is read. What is not given is left out:
    `load(path, model=model)` takes the weights alone. `random=True` also sets the state of `mg.manual_seed`. NaN in a tensor
    gives a warning. `check_extra` says what is wrong with the entry `extra`, whose form its writer knows.

    Raises:
        CheckpointError: the file is damaged, lacks or has tensors that the model or optimizer has not or lacks, shapes or
            dtypes differ, a state is none that schedule or loader can have, the loader is another one, or `configuration`,
            if given, is not that of the checkpoint. All problems are listed and nothing is changed.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    with open(path, "rb") as file:
        contents = read_front(file, path)
        problems = contents.problems
        if contents.described:
            problems += misfits(contents.described, model, optimizer)
        if contents.entries:
            try:
                if configuration is not None:
                    problems += differences(contents.entries["configuration"], plain("configuration", configuration))
                problems += state_misfits(contents.entries, schedule, loader, random)
                if check_extra is not None:
                    problems += check_extra(contents.entries["extra"])
            except RecursionError:
                problems.append("the metadata is nested too deeply")
        if not problems:
            read_tensors(contents, file)
    if not problems and optimizer is not None:
        problems += [f"optimizer.{why}" for why in optimizer.misfits(under("optimizer.", contents.arrays))]
    if problems:
        raise CheckpointError(path, problems)
    found = Checkpoint(path, contents.arrays, **contents.entries)
    warn_of_nan(found)
    if model is not None:
        model.load_state_dict(under("model.", found.tensors))
    if optimizer is not None:
        optimizer.load_state_dict(under("optimizer.", found.tensors))
    if schedule is not None and found.schedule is not None:
        schedule.load_state_dict(found.schedule)
    if loader is not None and found.loader is not None:
        loader.load_state_dict(found.loader)
    if random:
        random_state.load_state_dict(found.random)
    return found


def state_misfits(
    entries: Mapping[str, Json], schedule: Stateful | None, loader: Stateful | None, random: bool
) -> list[str]:
    """Why the states of schedule, loader and random numbers cannot be taken up, if they cannot; all are as before."""
    problems = []
    if schedule is not None:
        expected, came = sorted(schedule.state_dict()), entries["schedule"]
        if isinstance(came, dict) and sorted(came) != expected:
            problems.append(f"schedule: the state has {sorted(came)}, where {expected} was expected")
        else:
            problems += state_misfit("schedule", schedule, came)
    if loader is not None:
        problems += state_misfit("loader", loader, entries["loader"])
    if random:
        problems += state_misfit("random", random_state, entries["random"])
    return problems


def library() -> ModuleType:
    """The package safetensors, or an error that says how to get it."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(f"checkpoints need safetensors: {install('checkpoint')}") from error
    return safetensors


def versions() -> dict[str, str]:
    """What the file was written by."""
    return {
        "minigrad": __version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "python": platform.python_version(),
    }


def as_json(name: str, value: Json) -> str:
    """The value as JSON; TypeError if it is not made of numbers, strings, lists and dicts."""
    try:
        return json.dumps(value, default=as_plain)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be made of numbers, strings, lists and dicts: {error}") from error


def as_plain(value: object) -> Json:
    """What JSON takes for a NumPy number or a path."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}")


def plain(name: str, value: Json) -> Json:
    """The value as it would come back from a file."""
    return json.loads(as_json(name, value))


def under(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors whose names begin so, named without it."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def warn_of_nan(checkpoint: Checkpoint) -> None:
    """One warning that names the tensors that hold NaN."""
    names = [name for name, a in checkpoint.tensors.items() if a.dtype.kind == "f" and np.isnan(a).any()]
    if names:
        warnings.warn(f"{checkpoint.path} holds NaN in {', '.join(names)}", stacklevel=3)
