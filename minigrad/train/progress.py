"""Progress of a training run: a bar where there is a terminal, plain lines elsewhere."""

import sys
import time
from typing import TYPE_CHECKING, TextIO

from minigrad.train.history import Row

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from minigrad.train.run import Run

REDRAW = 0.2  # seconds between two updates of the bar


class Progress:
    """Show loss, accuracy, images per second and time left, and a line for each epoch.

    On a terminal, with `rich` installed, a bar is redrawn several times a second; else a line is written every `seconds`.

    Args:
        file: where to; standard error by default.
        seconds: between two plain lines within an epoch.
    """

    def __init__(self, file: TextIO | None = None, seconds: float = 30.0) -> None:
        self.file, self.seconds = file, seconds
        self.bar: Bar | None = None
        self.due = 0.0

    def on_start(self, run: "Run") -> None:
        """Choose how to show it."""
        file = self.file or sys.stderr
        self.bar = rich_bar(file) if file.isatty() else None
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("", total=run.target - run.start, completed=run.step - run.start, note="")
        self.interval = REDRAW if self.bar is not None else self.seconds
        self.due = time.monotonic() + self.interval

    def on_step(self, run: "Run") -> None:
        """Show where it stands, if it is time."""
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + self.interval
        if self.bar is not None:
            note = f"{numbers(run.means())}  {remaining(run)}"
            self.bar.update(self.task, completed=run.step - run.start, description=f"epoch {run.epoch}", note=note)
        else:
            self.line(
                f"epoch {run.epoch}  step {run.step:,} of {run.target:,}  {numbers(run.means())}  {remaining(run)}"
            )

    def on_epoch_end(self, run: "Run", row: Row) -> None:
        """A line that stays."""
        values = {k: v for k, v in row.items() if k not in ("epoch", "step", "seconds")}
        self.line(f"epoch {row['epoch']}  step {row['step']:,}  {numbers(values)}  {duration(row['seconds'])}")
        if self.bar is not None:
            self.bar.update(self.task, completed=run.step - run.start)

    def on_end(self, run: "Run") -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        if run.history.stopped:
            self.line(f"stopped: {run.history.stopped}")

    def line(self, text: str) -> None:
        """Write a line, above the bar if there is one."""
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print(text.rstrip(), file=self.file or sys.stderr, flush=True)


def rich_bar(file: TextIO) -> "Bar | None":
    """rich's progress bar, or None if rich is not installed or takes the file for no terminal."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar
    except ImportError:
        return None
    console = Console(file=file)
    if not console.is_terminal:
        return None
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")
    return Bar(*columns, console=console)


def numbers(values: Row) -> str:
    """Measurements in a line: "loss 0.1234  accuracy 0.967  lr 0.1  12,345 images/s"."""
    words = []
    for name, value in values.items():
        if name == "images_per_second":
            if value is None:
                continue
            words.append(f"{value:,.0f} images/s" if value >= 100 else f"{value:.1f} images/s")
        elif isinstance(value, float):
            words.append(f"{name.replace('_', ' ')} {value:.4g}")
        else:
            words.append(f"{name.replace('_', ' ')} {value}")
    return "  ".join(words)


def remaining(run: "Run") -> str:
    """How long it will take from here, if that can be said."""
    return "" if run.seconds_left is None else f"{duration(run.seconds_left)} left"


def duration(seconds: float) -> str:
    """Seconds as 8s, 3m20s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
