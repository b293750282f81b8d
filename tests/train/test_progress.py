import builtins
import io
import re

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


def test_reason_of_an_early_stop_is_shown(parts):
    p, file = parts(), io.StringIO()
    fit(p.model, p.optimizer, p.loader, epochs=2, callbacks=[Progress(file), lambda run, row: run.stop("enough")])
    assert file.getvalue().splitlines()[-1] == "stopped: enough"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0s"), (59, "59s"), (200, "3m20s"), (7500, "2h05m")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_speed_that_is_not_known_is_not_shown():
    assert numbers({"loss": 0.5, "images_per_second": None}) == "loss 0.5"
