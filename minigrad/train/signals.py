"""SIGINT and SIGTERM during training: noted at first, so that the step ends and a checkpoint can be written."""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

WATCHED = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class Signals:
    """Inside a `with` block the first SIGINT or SIGTERM is only noted in `received`; a second one leaves at once.

    Signals that are ignored (as SIGINT is for a background job) stay so, and only Python's main thread can watch any.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
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
            raise leaving(number)
        self.received = signal.Signals(number)


def leaving(number: int) -> BaseException:
    """What ends the program: SystemExit with 128 + number (130 or 143), or KeyboardInterrupt at an interactive prompt."""
    if number == signal.SIGINT and (hasattr(sys, "ps1") or sys.flags.interactive):
        return KeyboardInterrupt()
    return SystemExit(128 + number)
