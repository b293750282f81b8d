"""SIGINT and SIGTERM during training: noted at first, so that the step ends and a checkpoint can be written."""

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Self

from minigrad.nn import Module
from minigrad.train.history import History

WATCHED = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None
END = object()  # after the last batch


class Leave(BaseException):
    """A signal has come, and what is at work can be left; no Exception, which a transform might catch."""


class TrainingInterrupted(BaseException):
    """SIGINT or SIGTERM ended the training.

    It is a KeyboardInterrupt too after SIGINT, and a SystemExit with the code 130 (SIGINT) or 143 (SIGTERM); but at an
    interactive prompt or in a notebook SIGINT makes it no SystemExit. So a program that does not catch it leaves with that
    code.

    `signal` says which, `step` how many steps were done, `history` what was measured until then, `checkpoint` where the
    checkpoint is that was written, if any. `model` is the one given to fit, with the weights after that step; if a second
    signal came, they are as that found them, perhaps in the middle of an update.
    """

    code: str | int | None

    def __init__(
        self,
        number: int,
        step: int = 0,
        history: History | None = None,
        model: Module | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        super().__init__(number, step, history, model, checkpoint)
        self.signal, self.step, self.history = signal.Signals(number), step, history
        self.model, self.checkpoint = model, checkpoint
        self.code = 128 + number

    def __str__(self) -> str:
        kept = "the model keeps its weights, and .history is what was measured"
        if self.checkpoint is not None:
            kept = f"{self.checkpoint} is written, and resume=True goes on from it"
        return f"{self.signal.name} after step {self.step:,}; {kept}"


class InterruptedAtPrompt(TrainingInterrupted, KeyboardInterrupt):
    """By SIGINT, at an interactive prompt or in a notebook, which go on."""


class InterruptedProgram(TrainingInterrupted, KeyboardInterrupt, SystemExit):
    """By SIGINT, in a program that ends with it unless it catches this."""


class TerminatedProgram(TrainingInterrupted, SystemExit):
    """By SIGTERM: a program that goes on after Ctrl-C is still to end now."""


def interruption(number: int) -> type[TrainingInterrupted]:
    """What to raise for a signal."""
    if number != signal.SIGINT:
        return TerminatedProgram
    return InterruptedAtPrompt if hasattr(sys, "ps1") or sys.flags.interactive else InterruptedProgram


class Signals:
    """Inside a `with` block the first SIGINT or SIGTERM is only noted in `received`; a second one leaves at once.

    Signals that are ignored (as SIGINT is for a background job) stay so, and only Python's main thread can watch any.

    Args:
        error: makes what the second signal raises, of the signal's number.
        alone: False in one of several processes, which must go on together until all know of the signal.
    """

    def __init__(self, error: Callable[[int], BaseException], alone: bool = True) -> None:
        self.error, self.alone = error, alone
        self.received: signal.Signals | None = None
        self.waiting = False  # for a batch
        self.before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in WATCHED:
                handler = signal.getsignal(number)
                if handler not in (None, signal.SIG_IGN):  # None: not set by Python, so we could not put it back
                    self.before[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        while self.before:
            signal.signal(*self.before.popitem())

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.received is not None:
            self.restore()
            raise self.error(number)
        self.received = signal.Signals(number)
        if self.waiting and self.alone:
            raise Leave

    @contextmanager
    def watched(self, batches: Iterable[object]) -> Iterator[Iterator[object]]:
        """The batches, until a signal comes: then Leave is raised by the next one, also while that is waited for.

        Who leaves the block because of a signal does not wait for what prepares batches: it may hang.
        """
        source = iter(batches)
        try:
            yield self.until_signal(source)
        except (Leave, KeyboardInterrupt, SystemExit) as error:
            if hasattr(source, "throw"):
                source.throw(error)
            raise
        finally:
            if hasattr(source, "close"):
                source.close()

    def until_signal(self, source: Iterator[object]) -> Iterator[object]:
        """The batches of `watched`."""
        while True:
            self.waiting = True  # from here on the handler raises, so none is missed
            try:
                if self.received is not None and self.alone:
                    raise Leave
                batch = next(source, END)
            finally:
                self.waiting = False
            if batch is END:
                return
            yield batch
