"""What is said while kernels are compiled."""

import io
import sys

import pytest

from minigrad.kernels.build import progress as module
from minigrad.kernels.build.progress import EVERY, CompileProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """The time of day, which a test may change."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def said(monkeypatch, output):
    """Have lines written to `output`; a function that takes them out."""
    monkeypatch.setattr(sys, "stderr", output)

    def taken():
        text = output.getvalue()
        output.seek(0)
        output.truncate()
        return text

    return taken


def compile_one(progress, clock, name, seconds):
    progress.begin(name, ())
    clock[0] += seconds
    progress.end(name)


def test_a_file_gets_a_line_now_and_then(monkeypatch, clock):
    progress, taken = CompileProgress(), said(monkeypatch, io.StringIO())
    compile_one(progress, clock, "one", 2)
    assert taken().startswith("minigrad: compiling kernels for this machine (once; ")
    compile_one(progress, clock, "two", EVERY)
    assert taken() == ""
    compile_one(progress, clock, "three", 1)
    assert taken() == f"minigrad: compiling three (2 done, {EVERY + 2:.1f} s)\n"
    compile_one(progress, clock, "four", 1)
    assert taken() == ""


def test_a_terminal_is_told_how_much_is_left(monkeypatch, clock):
    progress, taken = CompileProgress(), said(monkeypatch, Terminal())
    compile_one(progress, clock, "before", 100)
    taken()
    with progress.announced(3):
        compile_one(progress, clock, "one", 4)
        assert "compiling one (0 of 3 done)" in taken()
        compile_one(progress, clock, "two", 6)
        assert "compiling two (1 of 3 done, about 8 s left)" in taken()
        compile_one(progress, clock, "three", 2)
        assert "compiling three (2 of 3 done, about 5 s left)" in taken()
    assert taken() == "\r\x1b[K"


def test_a_silent_process_says_nothing(monkeypatch, clock):
    for output in (io.StringIO(), Terminal()):
        progress, taken = CompileProgress(), said(monkeypatch, output)
        progress.silent = True
        compile_one(progress, clock, "one", 1)
        assert taken() == ""
        assert progress.compiled == [("one", 1)]
