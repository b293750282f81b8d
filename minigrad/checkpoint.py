"""Checkpoints: the whole state of a training run in one safetensors file, written atomically. Needs `safetensors`.

The tensors are `model.<name>` (parameters and buffers) and `optimizer.<name>` (hyperparameters and state arrays). The
header's metadata are strings of JSON: versions, configuration, random (seed and streams of `mg.manual_seed`), schedule,
loader (its position) and extra (what the caller added). `sha256` is a checksum over all tensors and metadata.
"""

import contextlib
import hashlib
import json
import os
import platform
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numba
import numpy as np

import minigrad.random as random_state
from minigrad.nn import Module
from minigrad.optim import Optimizer
from minigrad.tensor import Tensor
from minigrad.version import __version__

FORMAT = "minigrad checkpoint 1"
HEADER_LIMIT = 100_000_000  # bytes, by the format's definition; a tensor takes about a hundred
DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
        "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?",
    }.items()
}  # fmt: skip
LONGEST_ENTRY = 100  # characters that a printed checkpoint shows of each
JSON_ENTRIES = ("versions", "configuration", "random", "schedule", "loader", "extra")


Json = Any
"""Numbers, strings, None, and lists and dicts of them, as JSON has it: what comes back from a file is known to its reader."""


class Stateful(Protocol):
    """What keeps its state as JSON: a schedule, a loader."""

    def state_dict(self) -> Mapping[str, Json]:
        """Where it stands."""

    def load_state_dict(self, state: Mapping[str, Json], /) -> None:
        """Go on from there; ValueError or TypeError for a state of something else, and nothing is changed then."""


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
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in item[0].split(".")]


@dataclass
class Contents:
    """What could be read of a file, and what is wrong with it."""

    path: Path
    problems: list[str] = field(default_factory=list)
    described: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)  # tensors: dtype's name, shape
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Json] = field(default_factory=dict)  # JSON_ENTRIES, parsed


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

    The data is written to `<path>.part`, flushed to the disk, and renamed. A kill at any moment leaves the old file or
    the new one, and perhaps a `.part` that the next save overwrites and `remove_leftovers` removes.

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
) -> Checkpoint:
    """Put the state of a checkpoint into the given objects, in place, and return what the file holds.

    Everything is checked before anything is changed. What is not given is left out: `load(path, model=model)` takes the
    weights alone. `random=True` also sets the state of `mg.manual_seed`. NaN in a tensor gives a warning.

    Raises:
        CheckpointError: the file is damaged, lacks or has tensors that the model or optimizer has not or lacks, shapes or
            dtypes differ, the loader is another one, or `configuration`, if given, is not that of the checkpoint. All
            problems are listed and nothing is changed.
        FileNotFoundError: there is no such file.
        ImportError: safetensors is not installed.
    """
    contents = examine(Path(path))
    problems = contents.problems
    if contents.described:
        problems += misfits(contents.described, model, optimizer)
    if contents.entries:
        if configuration is not None:
            problems += differences(contents.entries["configuration"], plain("configuration", configuration))
        problems += state_misfits(contents.entries, schedule, loader)
        if random and not is_random_state(contents.entries["random"]):
            problems.append(f"random: {contents.entries['random']!r}, where seed and streams were expected")
    if problems:
        raise CheckpointError(contents.path, problems)
    found = Checkpoint(contents.path, contents.arrays, **contents.entries)
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


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the `*.safetensors.part` files that killed saves have left in a folder; return their paths."""
    leftovers = sorted(path for path in Path(folder).glob("*.safetensors.part") if path.is_file())
    for path in leftovers:
        path.unlink(missing_ok=True)
    return leftovers


def library() -> ModuleType:
    """The package safetensors, or an error that says how to get it."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install 'minigrad[checkpoint]'") from error
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


def checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256, in hexadecimal, over names, dtypes, shapes and bytes of the tensors, and all metadata but the checksum."""
    digest = hashlib.sha256()
    digest.update(json.dumps({k: v for k, v in metadata.items() if k != "sha256"}, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, on the disk, or leave it as it is."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, f"{error.strerror}; the file before is untouched", str(path)) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if os.name != "nt":  # the rename itself lasts when the folder is on the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # not every network file system can
                os.fsync(folder)
        finally:
            os.close(folder)


def examine(path: Path) -> Contents:
    """Read a file without trusting it: what it claims is checked against its size before anything is allocated."""
    safetensors = library()
    contents = Contents(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if len(start) < 8:
            contents.problems.append(f"truncated: {size} bytes, where a checkpoint has at least 8")
        elif length > HEADER_LIMIT:
            contents.problems.append(f"the header claims {length:,} bytes, where at most {HEADER_LIMIT:,} are taken")
        elif length > size - 8:
            contents.problems.append(f"truncated: the header claims {length:,} bytes, and {size - 8:,} follow")
        if contents.problems:
            return contents
        header = file.read(length)
        read_header(contents, header, size - 8 - length)
        if contents.problems:
            return contents
        body = file.read(size - 8 - length)
    try:
        contents.arrays = safetensors.numpy.load(start + header + body)
    except (safetensors.SafetensorError, ValueError) as error:
        contents.problems.append(f"the tensors' places in the file are wrong: {error}")
        return contents
    if checksum(contents.arrays, contents.metadata) != contents.metadata["sha256"]:
        contents.problems.append("the checksum does not fit the contents: the file is damaged")
    return contents


def read_header(contents: Contents, header: bytes, body: int) -> None:
    """Fill in what the header says, and note what is wrong with it; `body` bytes follow it."""
    try:
        described = json.loads(header, object_pairs_hook=without_duplicates)
        metadata = described.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata must be strings")
        end = 0
        for name, entry in described.items():
            dtype, shape, (_, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if not isinstance(dtype, str) or not all(type(n) is int and n >= 0 for n in [*shape, stop]):
                raise ValueError(f"{name} has dtype {dtype!r}, shape {shape!r} and ends at {stop!r}")
            contents.described[name] = dtype, tuple(shape)
            end = max(end, stop)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        contents.described.clear()
        contents.problems.append(f"the header is damaged: {type(error).__name__}: {error}")
        return
    if end != body:
        what = "truncated" if end > body else "something was appended"
        contents.problems.append(f"{what}: the tensors take {end:,} bytes, and {body:,} are there")
    for name, (dtype, _) in contents.described.items():
        if dtype not in DTYPES:
            contents.problems.append(f"{name}: unknown dtype {dtype}, where one of {', '.join(DTYPES)} was expected")
    read_metadata(contents, metadata)


def read_metadata(contents: Contents, metadata: dict[str, str]) -> None:
    """Take the header's strings apart."""
    if metadata.get("format") != FORMAT:
        came = repr(metadata["format"]) if "format" in metadata else "none"
        contents.problems.append(f"the metadata's format is {came}, where {FORMAT!r} was expected")
        return
    missing = [name for name in (*JSON_ENTRIES, "sha256") if name not in metadata]
    if missing:
        contents.problems.append(f"the metadata lacks {', '.join(missing)}")
        return
    contents.metadata = metadata
    try:
        contents.entries = {name: json.loads(metadata[name]) for name in JSON_ENTRIES}
    except (ValueError, RecursionError) as error:
        contents.problems.append(f"the metadata is damaged: {error}")


def without_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """A JSON object in which each name comes once."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name comes twice")
    return result


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
    problems = [f"missing: {name}" for name in own if name not in described]
    problems += [f"unknown: {name}" for name in described if name not in own and not name.startswith(tuple(prefixes))]
    for name in (name for name in own if name in described):
        dtype, shape = described[name]
        want = own[name]
        if shape != want.shape:
            problems.append(f"{name}: shape {shape}, expected {want.shape}")
        if DTYPES.get(dtype, want.dtype) != want.dtype:
            problems.append(f"{name}: dtype {DTYPES[dtype]}, expected {want.dtype}")
    return problems


def state_misfits(entries: Mapping[str, Json], schedule: Stateful | None, loader: Stateful | None) -> list[str]:
    """Why the states of schedule and loader cannot be taken up, if they cannot; both are as before."""
    problems = []
    if schedule is not None:
        expected, came = sorted(schedule.state_dict()), entries["schedule"]
        if came is None or sorted(came) != expected:
            has = "none" if came is None else sorted(came)
            problems.append(f"schedule: the state has {has}, where {expected} was expected")
    if loader is not None and entries["loader"] is None:
        problems.append("loader: the checkpoint was saved without one")
    elif loader is not None:
        before = loader.state_dict()
        try:
            loader.load_state_dict(entries["loader"])
        except (ValueError, TypeError) as error:
            problems.append(f"loader: {error}")
        finally:
            loader.load_state_dict(before)
    return problems


def is_random_state(value: Json) -> bool:
    """Whether `mg.manual_seed`'s state can be set to it."""
    return isinstance(value, dict) and all(type(value.get(name)) is int for name in random_state.state_dict())


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


def under(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors whose names begin so, named without it."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def warn_of_nan(checkpoint: Checkpoint) -> None:
    """One warning that names the tensors that hold NaN."""
    names = [name for name, a in checkpoint.tensors.items() if a.dtype.kind == "f" and np.isnan(a).any()]
    if names:
        warnings.warn(f"{checkpoint.path} holds NaN in {', '.join(names)}", stacklevel=3)
