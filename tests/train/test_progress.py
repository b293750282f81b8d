import builtins
import io
import itertools
import re
import sys
import threading
from types import SimpleNamespace

import pytest

from minigrad.train import Progress, fit
from minigrad.train.progress import duration, numbers


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A file that rich takes for a terminal."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def run(parts, file, **options):
    p = parts()
    fit(p.model, p.optimizer, p.loader, epochs=2, validation=p.validation, callbacks=[Progress(file, **options)])


def test_plain_line_for_each_epoch(parts):
    file = io.StringIO()
    run(parts, file)
    first, second = file.getvalue().splitlines()
    pattern = r"epoch 1  step 7  loss \S+  accuracy \S+  validation loss \S+  validation accuracy \S+  lr 0.1  [\d,]+ images/s  0s"
    assert re.fullmatch(pattern, first)
    assert second.startswith("epoch 2  step 14  ")


def test_plain_lines_within_an_epoch_tell_the_time_left(parts):
    file = io.StringIO()
    run(parts, file, seconds=0)
    lines = file.getvalue().splitlines()
    assert len(lines) == 14 + 2
    assert re.fullmatch(r"epoch 1  step 3 of 14  loss \S+  accuracy \S+  [\d,]+ images/s  0s left", lines[2])


def test_bar_on_a_terminal(parts, terminal, monkeypatch):
    monkeypatch.setattr("minigrad.train.progress.REDRAW", 0.0)
    run(parts, terminal)
    shown = terminal.getvalue()
    assert "14/14" in shown
    assert "images/s" in shown
    assert "left" in shown
    assert "epoch 2  step 14  loss" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0  # the cursor is shown again


def test_bar_leaves_the_terminal_right_after_an_error(parts, terminal):
    p = parts()

    def fails(run, row):
        raise KeyError

    with pytest.raises(KeyError):
        fit(p.model, p.optimizer, p.loader, epochs=2, callbacks=[Progress(terminal), fails])
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h") > 0


def test_plain_lines_without_rich(parts, terminal, monkeypatch):
    real = builtins.__import__

    def without_rich(name, *args, **kwargs):
        if name.partition(".")[0] == "rich":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    run(parts, terminal)
    assert len(terminal.getvalue().splitlines()) == 2


def fitted(parts, epochs=3, **options):
    p = parts()
    return fit(p.model, p.optimizer, p.loader, epochs=epochs, **options)


def test_short_run_is_silent_where_nobody_looks(parts, capsys):
    fitted(parts, callbacks=lambda run, row: run.stop("enough") if run.step == 14 else None)
    assert capsys.readouterr() == ("", "")


def test_long_run_writes_a_line_now_and_then_where_nobody_looks(parts, capsys, monkeypatch):
    clock = iter(range(0, 10_000))  # a second for each look
    monkeypatch.setattr("minigrad.train.progress.time.monotonic", lambda: next(clock))
    fitted(parts, epochs=12)
    lines = capsys.readouterr().err.splitlines()
    steps = [int(line.partition("step ")[2].split()[0]) for line in lines]
    assert 3 <= len(lines) <= 6
    assert min(b - a for a, b in itertools.pairwise(steps[:-1])) > 10
    assert lines[-1].startswith("epoch 12  step 84  loss ")


@pytest.fixture
def looked_at(monkeypatch, terminal):
    """Standard error is a terminal."""
    streams = SimpleNamespace(stdout=terminal, stderr=terminal, modules=sys.modules)
    monkeypatch.setattr("minigrad.train.progress.sys", streams)  # pytest sets those of sys itself
    return terminal


def test_short_run_on_a_terminal_shows_its_last_epoch(parts, looked_at, monkeypatch):
    monkeypatch.setattr("minigrad.train.progress.REDRAW", 60.0)
    monkeypatch.setattr("minigrad.train.progress.DELAY", 60.0)
    fitted(parts)
    (line,) = looked_at.getvalue().splitlines()
    assert line.startswith("epoch 3  step 21  loss ")


def test_run_on_a_terminal_shows_a_bar(parts, looked_at, monkeypatch):
    monkeypatch.setattr("minigrad.train.progress.REDRAW", 0.0)
    monkeypatch.setattr("minigrad.train.progress.DELAY", 0.0)
    fitted(parts)
    shown = looked_at.getvalue()
    assert "21/21" in shown
    assert [f"epoch {n}  step {7 * n}  loss" in shown for n in (1, 2, 3)] == [True] * 3


@pytest.mark.parametrize("options", [{"progress": False}, {"callbacks": Progress(io.StringIO())}])
def test_progress_is_not_shown_unasked_or_twice(parts, looked_at, options):
    fitted(parts, **options)
    assert looked_at.getvalue() == ""


def test_no_bar_beside_others(parts, looked_at, monkeypatch):
    monkeypatch.setattr("minigrad.train.progress.DELAY", 0.0)
    thread = threading.Thread(target=fitted, args=(parts,))
    thread.start()
    thread.join(60)
    assert looked_at.getvalue() == ""


class Kernel:
    """What a notebook has in the place of IPython: displays are kept, and what they were replaced by."""

    def __init__(self):
        self.kernel = self
        self.shown = []

    def display(self, data, raw, display_id):
        assert raw
        assert display_id
        self.shown.append(data)
        return self

    def update(self, data, raw):
        assert raw
        self.shown.append(data)


@pytest.fixture
def notebook(monkeypatch):
    kernel = Kernel()
    ipython = SimpleNamespace(get_ipython=lambda: kernel, display=SimpleNamespace(display=kernel.display))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return kernel


@pytest.mark.parametrize("asked", [True, False])
def test_bar_in_a_notebook(parts, notebook, monkeypatch, capsys, asked):
    monkeypatch.setattr("minigrad.train.progress.REDRAW", 0.0)
    monkeypatch.setattr("minigrad.train.progress.DELAY", 0.0)
    fitted(parts, callbacks=Progress() if asked else None)
    last = notebook.shown[-1]
    assert '<progress value="21" max="21"' in last["text/html"]
    assert re.match(r"21/21  epoch 3  loss \S+  accuracy \S+  [\d,]+ images/s  0s left$", last["text/plain"])
    output = capsys.readouterr()
    assert [line.split("  loss")[0] for line in output.out.splitlines()] == [
        f"epoch {n}  step {7 * n}" for n in (1, 2, 3)
    ]
    assert output.err == ""


def test_reason_of_an_early_stop_is_shown(parts):
    p, file = parts(), io.StringIO()
    fit(p.model, p.optimizer, p.loader, epochs=2, callbacks=[Progress(file), lambda run, row: run.stop("enough")])
    assert file.getvalue().splitlines()[-1] == "stopped: enough"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0s"), (59, "59s"), (200, "3m20s"), (7500, "2h05m")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_speed_that_is_not_known_is_not_shown():
    assert numbers({"loss": 0.5, "images_per_second": None}) == "loss 0.5"
