"""What processes have beside the model that must be alike in all of them: compared once, before they train together."""

import zlib
from collections.abc import Mapping

import numpy as np

from minigrad.exchange import Session
from minigrad.nn import Module
from minigrad.optim import Optimizer
from minigrad.optim.optimizer import COUNTS

COMPARED = 1 << 18  # bytes of an array of data, about, of which rows are compared
LEAST = 8  # rows at least, however long they are
NEAR = 1e-3  # how far rows are from others by norms, relatively, if machines have only rounded them in other ways


def agree_on_optimizer(session: Session, optimizer: Optimizer, model: Module) -> None:
    """RanksDiffer, in every process, unless all have an optimizer of the same parameters, groups, settings and state."""
    session.agree(
        "the optimizer's state",
        state_of(optimizer, model),
        "rank 0 gives all its model only: load the same checkpoint in all processes, or make the optimizer anew in all",
    )


def state_of(optimizer: Optimizer, model: Module) -> dict[str, object]:
    """An optimizer in words and checksums, by the names that its parameters have in the model."""
    known = {id(p): name for name, p in model.named_parameters()}
    names = [known.get(id(p), f"parameter {i}") for i, p in enumerate(optimizer.params)]
    rows = enumerate(optimizer.hyper.tolist())
    found: dict[str, object] = {
        "type": type(optimizer).__name__,
        "ema": optimizer.ema,
        **{f"group {i}": dict(zip(optimizer.names, row, strict=True)) for i, row in rows},
        **{name: f"parameter {i}, in group {optimizer.group_of[i]}" for i, name in enumerate(names)},
    }
    for slot, arrays in optimizer.state.items():
        for name, array in zip(names, arrays, strict=True):
            values = optimizer.device.to_host(array)
            found[f"{slot} of {name}"] = updates(values[0]) if slot in COUNTS else described(values)
    return found


def updates(count: float) -> str:
    """A count of updates of a parameter."""
    return "1 update" if count == 1 else f"{count:.0f} updates"


def described(values: np.ndarray) -> str:
    """Dtype, shape and a checksum of an array."""
    kind = f"{values.dtype}{list(values.shape)}"
    return f"{kind} of checksum {checksum(values)}" if np.any(values) else f"{kind} of zeros"


def checksum(values: np.ndarray) -> str:
    """Eight digits that follow from the bytes."""
    return f"{zlib.crc32(np.ascontiguousarray(values).tobytes()):08x}"


def agree_on_rows(session: Session, arrays: Mapping[str, np.ndarray]) -> None:
    """RanksDiffer, in every process, where arrays of data, by name, have other rows than those of rank 0.

    Rank 0 sends some rows of each, spread over the array, of about 256 kB: all of them, if there are no more. An array that was
    shuffled, or cut out of the data, in another way is told, one that differs in a few rows perhaps not. Numbers count as
    the same if they differ by a thousandth of their norm at most, so nothing is said of machines that compute them with
    other roundings. Labels that are integers must be the same.
    """
    session.agree("the data", {name: f"{array.dtype}{list(array.shape)}" for name, array in arrays.items()})
    own = {name: some_rows(array) for name, array in arrays.items()}
    first = {name: rows.copy() for name, rows in own.items()}
    session.send([rows.reshape(-1).view(np.uint8) for rows in first.values()], "rows of the data of rank 0")
    found = {
        name: f"{len(rows):,} rows of checksum {checksum(first[name] if alike(rows, first[name]) else rows)}"
        for name, rows in own.items()
    }
    session.agree(
        "the data",
        found,
        "each process takes its part of the same batches: load, shuffle and split the arrays by the same seed, and so "
        "make them alike in all processes. A Loader that is given rank=... and world=... is not compared",
    )


def some_rows(array: np.ndarray) -> np.ndarray:
    """Copies of rows from the first to the last, as many as are compared."""
    each = max(1, array.nbytes // len(array))
    count = min(len(array), max(LEAST, COMPARED // each))
    return np.asarray(array[np.linspace(0, len(array) - 1, count).astype(np.int64)])


def alike(rows: np.ndarray, others: np.ndarray) -> bool:
    """Whether rows are the same but for rounding: numbers by their norm, labels and all else by their bytes."""
    if rows.tobytes() == others.tobytes():
        return True
    kind = rows.dtype.kind
    if not (kind in "fc" or (kind in "iu" and rows.ndim > 1)):
        return False
    wide = np.complex128 if kind == "c" else np.float64
    a, b = rows.astype(wide), others.astype(wide)
    finite = np.isfinite(b)
    if (np.isfinite(a) != finite).any():
        return False
    return bool(np.linalg.norm((a - b)[finite]) <= NEAR * np.linalg.norm(b[finite]))
