"""What is being compiled, and how a compilation is forbidden."""

import contextlib
import sys
import time

from minigrad.kernels.build.cache import cache_folder


class UnexpectedCompile(RuntimeError):
    """A kernel had to be compiled inside `no_compile()`."""


class CompileProgress:
    """What is being compiled, on stderr: one line that is rewritten on a terminal, a single notice elsewhere."""

    def __init__(self):
        self.forbidden = 0
        self.compiled = []
        self.started = {}
        self.total = 0.0

    def begin(self, name, signature):
        """A compilation starts."""
        if self.forbidden:
            shapes = ", ".join(str(argument) for argument in signature)
            raise UnexpectedCompile(
                f"kernel {name}({shapes}) is not compiled yet, and this is inside no_compile(); "
                "run the same work once before, or `minigrad warmup`"
            )
        if sys.stderr is not None:
            if sys.stderr.isatty():
                line = f"minigrad: compiling {name} ({len(self.compiled)} done, {self.total:.1f} s)"
                print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
            elif not self.compiled and not self.started:
                kept = "kept for next time" if cache_folder("cpu") else "not kept"
                print(f"minigrad: compiling kernels for this machine (once; {kept})", file=sys.stderr, flush=True)
        self.started[name] = time.perf_counter()

    def end(self, name):
        """A compilation is done."""
        seconds = time.perf_counter() - self.started.pop(name, time.perf_counter())
        self.total += seconds
        self.compiled.append((name, seconds))
        if sys.stderr is not None and sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


progress = CompileProgress()


@contextlib.contextmanager
def no_compile():
    """Inside, a kernel that would have to be compiled raises UnexpectedCompile: for benchmarks and tests."""
    progress.forbidden += 1
    try:
        yield
    finally:
        progress.forbidden -= 1
