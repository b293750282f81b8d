"""What watches a training run: checkpoints, early stop, history files.

A callback is any object with some of the methods `on_start(run)`, `on_step(run)`, `on_log(run, row)` (after a row of
`history.steps`), `on_epoch_end(run, row)` and `on_end(run)` (also after an error), or a plain function, which is called
as `on_epoch_end`. One that must survive a resume has `state_dict()`, made of numbers, strings, lists and dicts, and
`load_state_dict(state)`, called before `on_start`.
"""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minigrad import checkpoint
from minigrad.checkpoint import Json
from minigrad.checks import integer, sign_of
from minigrad.train.history import Row, available, meant

if TYPE_CHECKING:
    from minigrad.train.run import Mark, Run

HOOKS = ("on_start", "on_step", "on_log", "on_epoch_end", "on_end")


class FunctionCallback:
    """A plain function as a callback."""

    def __init__(self, function: Callable[["Run", Row], object]) -> None:
        self.on_epoch_end = function


def checked_callbacks(callbacks: object) -> list[object]:
    """The callbacks (one, several or None), functions made into objects. TypeError for one that would never be called."""
    single = isinstance(callbacks, type | str) or callable(callbacks) or any(hasattr(callbacks, hook) for hook in HOOKS)
    if callbacks is None:
        callbacks = ()
    elif single or not isinstance(callbacks, Iterable):
        callbacks = (callbacks,)
    found = []
    for callback in callbacks:
        if isinstance(callback, type):
            raise TypeError(f"the callback {callback.__name__} is a class; make an instance: {callback.__name__}(...)")
        if not any(hasattr(callback, hook) for hook in HOOKS):
            if not callable(callback):
                raise TypeError(f"the callback {callback!r} has none of the methods {', '.join(HOOKS)}")
            callback = FunctionCallback(callback)
        found.append(callback)
    return found


def checked_monitors(callbacks: list[object], names: list[str]) -> None:
    """Let EarlyStop and Checkpoints watch entries as the rows call them; ValueError if there will be none of that name."""
    known = True
    for callback in callbacks:
        if isinstance(callback, EarlyStop | Checkpoints):
            best = callback.best
            best.monitor = meant(best.monitor, names)
            chosen = isinstance(callback, EarlyStop) or callback.best_is_chosen
            if chosen and known and best.monitor not in names:
                validated = best.monitor.startswith(("validation_", "val_")) and "validation_loss" not in names
                mend = "pass validation=... to fit, or watch another; " if validated else ""
                raise ValueError(
                    f"{type(callback).__name__} watches {best.monitor!r}, which the epochs will not have; {mend}there are "
                    f"{', '.join(names)}"
                )
        elif hasattr(callback, "on_epoch_end") and not getattr(callback, "only_looks", False):
            known = False  # it may put what it measures into the row, for those after it


class Best:
    """The best value so far of one entry of the epochs' rows."""

    def __init__(self, monitor: str, mode: str | None, min_delta: float = 0.0) -> None:
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta
        self.value: float | None = None
        sign_of(monitor, mode)  # which checks the mode

    @property
    def sign(self) -> int:
        """1 if more is better, -1 if less is."""
        return sign_of(self.monitor, self.mode)

    def improved(self, row: Row) -> bool:
        """Whether a row is better than all before by more than `min_delta`; it is the best then."""
        if self.monitor not in row:
            raise ValueError(f"the epochs have no entry {self.monitor!r} to be watched; {available([row])}")
        value = row[self.monitor]
        if value is None:
            return False
        better = self.value is None or self.sign * (value - self.value) > self.min_delta
        if math.isnan(value) or not better:
            return False
        self.value = value
        return True


def best_value(state: Mapping[str, Json]) -> float | None:
    """The best value in a callback's state; TypeError for what is none."""
    value = state["best"]
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise TypeError(f"best must be a number or None, not {value!r}")
    return value


class EarlyStop:
    """Stop when `monitor` has not become better by more than `min_delta` for `patience` epochs in a row.

    `mode` is "max" or "min"; by default accuracies shall be large and all else small.
    """

    def __init__(
        self, patience: int, monitor: str = "validation_loss", min_delta: float = 0.0, mode: str | None = None
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1 epoch, not {patience}")
        if not min_delta >= 0:
            raise ValueError(f"min_delta must be at least 0, not {min_delta}")
        self.patience = patience
        self.best = Best(monitor, mode, min_delta)
        self.waited = 0

    def on_epoch_end(self, run: "Run", row: Row) -> None:
        """Count."""
        self.waited = 0 if self.best.improved(row) else self.waited + 1
        if self.waited >= self.patience:
            run.stop(f"{self.best.monitor} has not improved on {self.best.value} for {self.waited} epochs")

    def state_dict(self) -> dict[str, Json]:
        """The best value and how long it has lasted."""
        return {"best": self.best.value, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Go on from there."""
        self.best.value, self.waited = best_value(state), integer("waited", state["waited"], 0)


class Checkpoints:
    """Write `last.safetensors`, and `best.safetensors` after the best epoch, to a folder.

    Args:
        folder: made if need be. Files in it that end in `.part`, which a killed run has left, are removed first.
        every_epochs: how often `last` is written; it is always written at the end, and when a signal ends the run.
        every_steps: also write it every so many steps.
        best: the entry of the epochs' rows that decides, by default "validation_loss" where there is a validation.
        mode: "max" or "min"; by default accuracies shall be large and all else small.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every_epochs: int = 1,
        every_steps: int | None = None,
        best: str | None = None,
        mode: str | None = None,
    ) -> None:
        if every_epochs < 1 or (every_steps is not None and every_steps < 1):
            raise ValueError(f"every_epochs and every_steps must be at least 1, not {every_epochs} and {every_steps}")
        self.folder = Path(folder)
        self.every_epochs, self.every_steps = every_epochs, every_steps
        self.best = Best(best or "validation_loss", mode)
        self.best_is_chosen = best is not None
        self.saved: Mark | None = None  # the mark of the run's state that `last` holds

    @property
    def last_path(self) -> Path:
        """The latest checkpoint."""
        return self.folder / "last.safetensors"

    @property
    def best_path(self) -> Path:
        """The checkpoint after the best epoch."""
        return self.folder / "best.safetensors"

    def on_start(self, run: "Run") -> None:
        """Find out now, not after the first epoch, whether checkpoints can be written."""
        checkpoint.library()
        run.ranks.first(self.prepare, "preparing", str(self.folder))

    def prepare(self) -> None:
        """Make the folder, and remove from it what a killed run has left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.remove_leftovers(self.folder)

    def on_step(self, run: "Run") -> None:
        """Save every so many steps."""
        if self.every_steps and run.step % self.every_steps == 0:
            self.save_last(run)

    def on_epoch_end(self, run: "Run", row: Row) -> None:
        """Save the best, and every so many epochs the last."""
        if (self.best_is_chosen or self.best.monitor in row) and self.best.improved(row):
            run.save(self.best_path)
        if row["epoch"] % self.every_epochs == 0 or run.finished:
            self.save_last(run)

    def save_last(self, run: "Run") -> None:
        """Save now."""
        run.save(self.last_path)
        self.saved = run.mark

    def state_dict(self) -> dict[str, Json]:
        """The best value so far."""
        return {"best": self.best.value}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Go on from there."""
        self.best.value = best_value(state)


class HistoryFile:
    """Write the history to a file while it grows: `.csv` or `.jsonl`, by the name's ending.

    A run that starts begins the file anew with the rows it was resumed with, if any, so that none is lost or comes twice.
    In JSONL, which has no NaN and no infinity, such numbers are null.

    Args:
        path: its folder is made if need be.
        rows: "epochs", or "steps" for the rows of every `log_every` steps.
    """

    only_looks = True  # it adds nothing to the rows it is given

    def __init__(self, path: str | os.PathLike[str], rows: str = "epochs") -> None:
        self.path = Path(path)
        if self.path.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"a history file must end in .csv or .jsonl, not {self.path.name!r}")
        if rows not in ("epochs", "steps"):
            raise ValueError(f"rows must be 'epochs' or 'steps', not {rows!r}")
        self.which = rows
        self.columns: list[str] = []

    def on_start(self, run: "Run") -> None:
        """Write the rows there are."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.remove_leftovers(self.path.parent, self.path.name)
        self.write_all(run.history.rows(self.which))

    def on_log(self, run: "Run", row: Row) -> None:
        """Append a row of steps."""
        if self.which == "steps":
            self.append(run, row)

    def on_epoch_end(self, run: "Run", row: Row) -> None:
        """Append a row of epochs."""
        if self.which == "epochs":
            self.append(run, row)

    def append(self, run: "Run", row: Row) -> None:
        """Append a row; a column that is new to a CSV file changes its head, and so all of it is written anew."""
        if self.path.suffix == ".csv" and not set(row) <= set(self.columns):
            self.write_all(run.history.rows(self.which))
            return
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(self.text([row]))

    def write_all(self, rows: list[Row]) -> None:
        """Replace the file, in one go."""
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        head = ",".join(self.columns) + "\n" if self.path.suffix == ".csv" and rows else ""
        checkpoint.write_atomically(self.path, (head + self.text(rows)).encode())

    def text(self, rows: list[Row]) -> str:
        """The rows as lines."""
        if self.path.suffix == ".jsonl":
            return "".join(json.dumps({k: json_value(v) for k, v in row.items()}) + "\n" for row in rows)
        lines = io.StringIO()
        writer = csv.DictWriter(lines, self.columns, lineterminator="\n")
        writer.writerows(rows)
        return lines.getvalue()


def json_value(value: object) -> Json:
    """The value as strict JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
