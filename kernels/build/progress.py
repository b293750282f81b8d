"""What is being compiled, and how a compilation is forbidden."""

import contextlib
import sys
import time

from minigrad.kernels.build.cache import cache_folder

EVERY = 15  # seconds from one line to the next where the output is a file


class UnexpectedCompile(RuntimeError):
    """A kernel had to be compiled inside `no_compile()`."""


class CompileProgress:
    """What is being compiled, on stderr: one line that is rewritten on a terminal, a line now and then elsewhere."""

    def __init__(self):
        self.forbidden = 0
        self.silent = False
        self.compiled = []
        self.started = {}
        self.total = 0.0
        self.said = None  # when the last line was written where the output is a file
        self.ahead = None  # inside `announced`: (how many were compiled before, how many will be, when that began)

    def begin(self, name, signature):
        """A compilation starts."""
        if self.forbidden:
            shapes = ", ".join(str(argument) for argument in signature)
            raise UnexpectedCompile(
                f"kernel {name}({shapes}) is not compiled yet, and this is inside no_compile(); "
                "run the same work once before, or `minigrad warmup`"
            )
        self.say(f"compiling {name} ({self.how_far()})")
        self.started[name] = time.perf_counter()

    def end(self, name):
        """A compilation is done."""
        self.count(name, time.perf_counter() - self.started.pop(name, time.perf_counter()))
        if self.is_terminal():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def count(self, name, seconds):
        """A kernel is compiled, here or by another process."""
        self.total += seconds
        self.compiled.append((name, seconds))

    @contextlib.contextmanager
    def announced(self, number):
        """Inside, so many kernels are compiled: the lines tell how much is left."""
        self.ahead = len(self.compiled), number, time.perf_counter()
        try:
            yield
        finally:
            self.ahead = None
            if self.is_terminal():
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def how_far(self):
        """How many kernels are done, and how long that took or how long the others will take."""
        if self.ahead is None:
            return f"{len(self.compiled)} done, {self.total:.1f} s"
        before, number, began = self.ahead
        done = len(self.compiled) - before
        left = f", about {(time.perf_counter() - began) / done * (number - done):.0f} s left" if done else ""
        return f"{done} of {number} done{left}"

    def is_terminal(self):
        """Whether a line can be rewritten."""
        return sys.stderr is not None and not self.silent and sys.stderr.isatty()

    def say(self, line):
        """Write a line where it is time for one."""
        if self.is_terminal():
            print(f"\rminigrad: {line}\x1b[K", end="", file=sys.stderr, flush=True)
        elif sys.stderr is not None and not self.silent:
            now = time.perf_counter()
            if self.said is None:
                kept = "kept for next time" if cache_folder("cpu") else "not kept"
                print(f"minigrad: compiling kernels for this machine (once; {kept})", file=sys.stderr, flush=True)
            elif now - self.said >= EVERY:
                print(f"minigrad: {line}", file=sys.stderr, flush=True)
            else:
                return
            self.said = now


progress = CompileProgress()


@contextlib.contextmanager
def no_compile():
    """Inside, a kernel that would have to be compiled raises UnexpectedCompile: for benchmarks and tests."""
    progress.forbidden += 1
    try:
        yield
    finally:
        progress.forbidden -= 1
