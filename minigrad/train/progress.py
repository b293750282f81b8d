"""Progress of a training run: a bar on a terminal and in a notebook, plain lines elsewhere."""

import html
import multiprocessing
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from minigrad.train.history import Row

if TYPE_CHECKING:
    from minigrad.train.run import Run

REDRAW = 0.2  # seconds between two updates of the bar, and between two epochs' lines where nobody asked for each
DELAY = 0.5  # seconds after which a bar appears that nobody asked for


class Bar(Protocol):
    """What shows how far a run has come."""

    def update(self, done: int, about: str, note: str) -> None:
        """So many steps are done."""

    def line(self, text: str) -> None:
        """Write a line that stays."""

    def stop(self) -> None:
        """It is over."""


class Progress:
    """Show loss, accuracy, images per second and time left, and a line for each epoch.

    In a notebook, and on a terminal with `rich` installed, a bar is redrawn several times a second; else a line is written
    every `seconds`. `fit` makes one itself unless told not to: that one leaves out the lines of epochs that end within 0.2 s
    of another, shows the bar after half a second, and where nobody looks (a file, a pipe) writes nothing but a line every
    `seconds`.

    Args:
        file: where to; standard error by default.
        seconds: between two plain lines within an epoch.
    """

    only_looks = True  # it adds nothing to the rows it is given

    def __init__(self, file: TextIO | None = None, seconds: float = 30.0) -> None:
        self.file, self.seconds = file, seconds
        self.asked = True
        self.bar: Bar | None = None
        self.wanted = False  # a bar, which is not there yet
        self.written = False  # a line
        self.due = self.latest = 0.0
        self.text = "", ""  # beside the bar

    def on_start(self, run: "Run") -> None:
        """Choose how to show it."""
        self.stream = self.file or (sys.stdout if in_notebook() else sys.stderr)
        self.seen = in_notebook() if self.file is None else False
        self.seen = (self.seen or self.stream.isatty()) and alone()
        self.wanted, self.written = self.seen, False
        self.began = self.latest = time.monotonic()
        if self.asked and self.wanted:
            self.start_bar(run)
        wait = REDRAW if self.bar else DELAY if self.wanted else self.seconds
        self.due = self.began + wait

    def start_bar(self, run: "Run") -> None:
        """Show a bar from now on, if there is one to be shown."""
        self.wanted, self.text = False, ("", "")
        total, done = run.target - run.start, run.step - run.start
        self.bar = (
            notebook_bar(total, done) if self.file is None and in_notebook() else rich_bar(self.stream, total, done)
        )

    def on_step(self, run: "Run") -> None:
        """Show where it stands, if it is time."""
        now = time.monotonic()
        if now < self.due:
            return
        if self.wanted:
            self.start_bar(run)
        values = f"{numbers(run.means())}  {remaining(run)}"
        if self.bar is not None:
            self.text = f"epoch {run.epoch}", values
            self.bar.update(run.step - run.start, *self.text)
        elif now - self.began >= self.seconds:
            self.line(f"epoch {run.epoch}  step {run.step:,} of {run.target:,}  {values}")
        self.due = now + (REDRAW if self.bar is not None else self.seconds)

    def on_epoch_end(self, run: "Run", row: Row) -> None:
        """A line that stays."""
        if self.asked or self.epoch_is_shown(run):
            values = {k: v for k, v in row.items() if k not in ("epoch", "step", "seconds")}
            self.line(f"epoch {row['epoch']}  step {row['step']:,}  {numbers(values)}  {duration(row['seconds'])}")
            if not self.seen and not self.asked:
                self.due = self.latest + self.seconds
        if self.bar is not None:
            self.bar.update(run.step - run.start, *self.text)

    def epoch_is_shown(self, run: "Run") -> bool:
        """Whether the line of this epoch is written though nobody asked for any."""
        if run.finished and (self.seen or self.written):
            return True
        return time.monotonic() - self.latest >= (REDRAW if self.seen else self.seconds)

    def on_end(self, run: "Run") -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        if run.history.stopped and (self.asked or self.seen or self.written):
            self.line(f"stopped: {run.history.stopped}")

    def line(self, text: str) -> None:
        """Write a line, above the bar if there is one."""
        self.written, self.latest = True, time.monotonic()
        if self.bar is not None:
            self.bar.line(text)
        else:
            print(text.rstrip(), file=self.stream, flush=True)


def unasked() -> Progress:
    """The progress of a run whose caller did not ask for any."""
    progress = Progress()
    progress.asked = False
    return progress


def alone() -> bool:
    """Whether no other thread or process is likely to draw a bar at the same place."""
    return threading.current_thread() is threading.main_thread() and multiprocessing.parent_process() is None


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class RichBar:
    """rich's progress bar on a terminal."""

    def __init__(self, bar: Any, total: int, done: int) -> None:
        self.bar = bar
        bar.start()
        self.task = bar.add_task("", total=total, completed=done, note="")

    def update(self, done: int, about: str, note: str) -> None:
        """So many steps are done."""
        self.bar.update(self.task, completed=done, description=about, note=note)

    def line(self, text: str) -> None:
        """Write a line above the bar."""
        self.bar.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        """The bar stays as it is, and the cursor comes back."""
        self.bar.stop()


def rich_bar(file: TextIO, total: int, done: int) -> RichBar | None:
    """rich's progress bar, or None if rich is not installed or takes the file for no terminal."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Columns
    except ImportError:
        return None
    console = Console(file=file)
    if not console.is_terminal:
        return None
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")
    return RichBar(Columns(*columns, console=console), total, done)


class NotebookBar:
    """A bar of HTML, which IPython lets us replace; the lines follow as text of the cell."""

    def __init__(self, display: Any, total: int, done: int) -> None:
        self.total = total
        self.handle = display(self.drawn(done, ""), raw=True, display_id=True)

    def drawn(self, done: int, text: str) -> dict[str, str]:
        """The bar, for those who show HTML and for those who do not."""
        text = f"{done:,}/{self.total:,}  {text}".rstrip()
        bar = f'<progress value="{done}" max="{self.total}" style="vertical-align: middle"></progress>'
        return {
            "text/html": f'{bar} <code style="white-space: pre-wrap; font-size: 13px">{html.escape(text)}</code>',
            "text/plain": text,
        }

    def update(self, done: int, about: str, note: str) -> None:
        """So many steps are done."""
        self.handle.update(self.drawn(done, f"{about}  {note}"), raw=True)

    def line(self, text: str) -> None:
        """Write a line below the bar."""
        print(text.rstrip(), flush=True)

    def stop(self) -> None:
        """The bar stays as it is."""


def notebook_bar(total: int, done: int) -> NotebookBar:
    """A bar in the output of the cell that runs."""
    from IPython.display import display

    return NotebookBar(display, total, done)


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
