"""What a training run measured."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from minigrad.checks import sign_of
from minigrad.notebook import preformatted, table

Row = dict[str, Any]  # numbers by name, as in `History`; None where one could not be measured, which its reader knows


@dataclass(repr=False)
class History:
    """Rows of measurements: `epochs`, one for each epoch, and `steps`, one every `log_every` steps.

    A row has `epoch` (1 is the first), `step` (steps done by then), `loss` and the metrics (means over the training
    batches of the epoch, or since the last row of steps), `validation_loss` and so on where there was a validation, `lr`,
    `images_per_second` (of training alone; the first step with each shape, which records and perhaps compiles, is left
    out, and None stands where there was no other) and `seconds` (since the run began, the parts of a resumed one added
    up). `stopped` says why the run ended before its time, if it did. Printing it gives the rows as a table.
    """

    epochs: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    stopped: str | None = None

    def check(self) -> None:
        """Raise TypeError unless the rows are dicts, and `stopped` a string or None."""
        for rows in (self.epochs, self.steps):
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise TypeError(f"the rows of a history must be dicts, not {rows!r}")
        if not isinstance(self.stopped, str | None):
            raise TypeError(f"stopped must be a reason or None, not {self.stopped!r}")

    def __repr__(self) -> str:
        rows = self.epochs or self.steps
        last = f"; the last: {described(rows[-1])}" if rows else ""
        stopped = f"; stopped: {self.stopped}" if self.stopped else ""
        return f"<history of {counted(self.epochs, 'epoch')}, {counted(self.steps, 'row')} of steps{last}{stopped}>"

    def __str__(self) -> str:
        parts = [f"{name}\n{as_table(rows)}" for name, rows in (("epochs", self.epochs), ("steps", self.steps)) if rows]
        return "\n\n".join(parts + [f"stopped: {self.stopped}"] * bool(self.stopped)) or repr(self)

    def _repr_html_(self) -> str:
        """For notebooks: the epochs, or the steps where no epoch has ended."""
        rows = self.epochs or self.steps
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[shown(row.get(name)) for name in names] for row in rows]
        title = repr(self).strip("<>")
        return table(title, headed(names), cells, right=range(len(names))) if rows else preformatted(title, "")

    def column(self, name: str, rows: str = "epochs") -> list[Any]:
        """One entry of all rows that have it; `rows` is "epochs" or "steps"."""
        name = meant(name, {key for row in self.rows(rows) for key in row})
        return [row[name] for row in self.rows(rows) if name in row]

    def best(self, monitor: str, rows: str = "epochs", mode: str | None = None) -> Row:
        """The row whose entry `monitor` is best, the first of equals; NaN is never best. ValueError if there is none."""
        monitor = meant(monitor, {key for row in self.rows(rows) for key in row})
        sign = sign_of(monitor, mode)
        found = [row for row in self.rows(rows) if row.get(monitor) is not None and not math.isnan(row[monitor])]
        if not found:
            raise ValueError(f"no row of {rows} has a number for {monitor!r}; {available(self.rows(rows))}")
        return max(found, key=lambda row: sign * row[monitor])

    def rows(self, which: str) -> list[Row]:
        """`epochs` or `steps`."""
        if which not in ("epochs", "steps"):
            raise ValueError(f"rows must be 'epochs' or 'steps', not {which!r}")
        return self.epochs if which == "epochs" else self.steps


def meant(name: str, names: Collection[str]) -> str:
    """The entry of a row that is meant by a name as other libraries have it: "val_loss", "val_acc"."""
    if name not in names:
        long = f"validation_{name.removeprefix('val_')}" if name.startswith("val_") else name
        for guess in (long, long + "uracy" if long.endswith("acc") else long):
            if guess in names:
                return guess
    return name


def counted(rows: list[Row], what: str) -> str:
    """How many there are: "1 epoch"."""
    return f"{len(rows)} {what}" + "s" * (len(rows) != 1)


def shown(value: Any) -> str:
    """A number in a few digits."""
    if value is None or isinstance(value, int | str):
        return "-" if value is None else str(value)
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def described(row: Row) -> str:
    """What a row says of loss and metrics, in one line."""
    about = ("epoch", "step", "lr", "images_per_second", "seconds")
    return ", ".join(f"{name} {shown(value)}" for name, value in row.items() if name not in about)


def as_table(rows: list[Row]) -> str:
    """Rows in columns under the names of their entries."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [headed(names)]
    lines += [[shown(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines)


def headed(names: list[str]) -> list[str]:
    """The heads of the columns."""
    return [name.replace("images_per_second", "images/s") for name in names]


def available(rows: list[Row]) -> str:
    """What the rows have, for an error."""
    return (
        f"there are {', '.join(dict.fromkeys(name for row in rows for name in row))}" if rows else "there are no rows"
    )
