"""Files put in another's place where somebody reads the old one, as Windows has it: an injected PermissionError."""

import errno
import os
from types import SimpleNamespace

import pytest

import minigrad as mg
from minigrad import checkpoint
from minigrad.kernels.build import cache, files


class Reader:
    """Has a file open for a while, counted in seconds of a clock that only sleeping moves on."""

    def __init__(self, seconds, monkeypatch):
        self.seconds, self.now, self.refused = seconds, 0.0, 0
        self.really_replace = os.replace
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        monkeypatch.setattr(files, "time", clock)
        monkeypatch.setattr(os, "replace", self.replace)

    def sleep(self, seconds):
        self.now += seconds

    def replace(self, part, path):
        if self.now < self.seconds:
            self.refused += 1
            raise PermissionError(errno.EACCES, "Access is denied", str(part))
        self.really_replace(part, path)


@pytest.fixture
def reader(monkeypatch):
    monkeypatch.setattr(files, "WINDOWS", True)
    return lambda seconds: Reader(seconds, monkeypatch)


@pytest.fixture
def paths(tmp_path):
    part, path = tmp_path / "part", tmp_path / "path"
    part.write_text("new")
    path.write_text("old")
    return part, path


@pytest.mark.parametrize("seconds", [0.0, 0.002, 3.0, 9.8])
def test_a_reader_is_waited_for(reader, paths, seconds):
    waits = reader(seconds)
    files.replace(*paths)
    assert paths[1].read_text() == "new"
    assert not paths[0].exists()
    assert waits.now <= seconds + 0.1
    assert waits.refused < 120  # a look now and then, not all the time


def test_a_reader_that_stays_is_an_error(reader, paths):
    waits = reader(60.0)
    with pytest.raises(PermissionError, match="Access is denied"):
        files.replace(*paths)
    assert files.PATIENCE <= waits.now < files.PATIENCE + 0.2
    assert [path.read_text() for path in paths] == ["new", "old"]


def test_elsewhere_a_missing_right_is_an_error_at_once(monkeypatch, paths):
    waits = Reader(60.0, monkeypatch)
    monkeypatch.setattr(files, "WINDOWS", False)
    with pytest.raises(PermissionError):
        files.replace(*paths)
    assert (waits.refused, waits.now) == (1, 0.0)


def test_checkpoints_wait_for_their_readers(reader, tmp_path):
    path = tmp_path / "a.safetensors"
    model = mg.nn.Linear(2, 2)
    checkpoint.save(path, model=model, extra=1)
    waits = reader(2.0)
    checkpoint.save(path, model=model, extra=2)
    assert checkpoint.load(path).extra == 2
    assert waits.refused

    waits.seconds = 100.0
    before = path.read_bytes()
    with pytest.raises(PermissionError, match="Access is denied; the file before is untouched") as error:
        checkpoint.save(path, model=model, extra=3)
    assert error.value.filename == str(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_kernels_wait_for_their_readers(reader, tmp_path, monkeypatch):
    path = tmp_path / "a.kernel"
    reader(2.0)
    cache.keep(path, b"code")
    assert path.read_bytes() == b"code"

    monkeypatch.setattr(cache, "_warned", set())
    reader(100.0)
    with pytest.warns(RuntimeWarning, match="compiled kernels are not kept: .*Access is denied"):
        cache.keep(path, b"other code")
    assert path.read_bytes() == b"code"
    assert list(tmp_path.iterdir()) == [path]
