"""Files are replaced in one go, whatever is full, killed, or written at the same time."""

import errno
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from minigrad import checkpoint
from minigrad.checkpoint import files


class FullDisk:
    """Stands in for a file: takes some bytes, and then the disk is full."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.file.write(data[: self.room])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


@pytest.mark.parametrize("room", [0, 1, 500])
def test_full_disk_leaves_the_last_good_file(trained, saved, monkeypatch, room):
    before = saved.read_bytes()
    trained["loader"].seek(8)
    opened_beside = files.opened_beside

    def opened_on_full_disk(path):
        part, file = opened_beside(path)
        return part, FullDisk(file, room)

    monkeypatch.setattr(files, "opened_beside", opened_on_full_disk)
    with pytest.raises(OSError, match="No space left on device; the file before is untouched") as error:
        checkpoint.save(saved, **trained)
    assert error.value.filename == str(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["last.safetensors"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a small file system of Linux")
def test_disk_that_is_really_full_leaves_the_last_good_file(tmp_path):
    script = f"""
import numpy as np, minigrad as mg
from minigrad import checkpoint
model = mg.nn.Linear(100, 100).to('reference')
path = {str(tmp_path / "small" / "a.safetensors")!r}
checkpoint.save(path, model=model)
before = open(path, "rb").read()
open({str(tmp_path / "small" / "filler")!r}, "wb").write(bytes(20_000))
try:
    checkpoint.save(path, model=model)
except OSError as error:
    assert error.errno == 28, error
else:
    raise SystemExit("the disk was not full")
assert open(path, "rb").read() == before
checkpoint.load(path, model=model)
import os
assert sorted(os.listdir({str(tmp_path / "small")!r})) == ["a.safetensors", "filler"]
print("kept")
"""
    (tmp_path / "small").mkdir()
    mount = f'mount -t tmpfs -o size=64k tmpfs {tmp_path / "small"} && exec {sys.executable} -c "$SCRIPT"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    try:
        result = subprocess.run(command, env={**os.environ, "SCRIPT": script}, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip(f"no file system can be mounted here: {result.stderr.strip()}")
    assert (result.stdout, result.stderr) == ("kept\n", "")


def test_kill_in_the_middle_of_writing_leaves_the_last_good_file(saved):
    before = saved.read_bytes()
    script = f"""
import os, signal
from pathlib import Path
from minigrad.checkpoint import files
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(Path({str(saved)!r}), b"half")
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert saved.read_bytes() == before
    (left,) = checkpoint.remove_leftovers(saved.parent)
    assert left.name.startswith("last.safetensors.")
    assert left.suffix == ".part"
    assert [path.name for path in saved.parent.iterdir()] == ["last.safetensors"]


def test_leftovers_disturb_no_save_and_are_removed(trained, saved, tmp_path):
    names = ["last.safetensors.part", "last.safetensors.1-0a.part", "best.safetensors.77-ffffffff.part"]
    others = ["h.csv.1-0a.part", "last.safetensors.old.part", "x.part", "last.safetensors.1-0a.part.txt"]
    for name in (*names, *others):
        (saved.parent / name).write_bytes(b"x" * 1000)
    checkpoint.save(saved, **trained)
    checkpoint.load(saved, **trained)
    assert sorted(path.name for path in checkpoint.remove_leftovers(saved.parent)) == sorted(names)
    assert checkpoint.remove_leftovers(saved.parent) == []
    assert [path.name for path in checkpoint.remove_leftovers(saved.parent, "h.csv")] == ["h.csv.1-0a.part"]
    assert sorted(path.name for path in saved.parent.iterdir()) == sorted([saved.name, *others[1:]])


@pytest.mark.skipif(os.name == "nt", reason="there an open file cannot be removed anyway")
def test_file_that_is_being_written_is_no_leftover(tmp_path):
    part, file = files.opened_beside(tmp_path / "a.safetensors")
    with file:
        assert checkpoint.remove_leftovers(tmp_path) == []
        assert part.exists()
    assert checkpoint.remove_leftovers(tmp_path) == [part]


@pytest.mark.skipif(os.name == "nt", reason="there an open file cannot be removed anyway")
def test_file_that_was_taken_for_a_leftover_is_made_anew(tmp_path, monkeypatch):
    lock, removed = files.lock, []

    def removed_before_it_is_locked(file):
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        return lock(file)

    monkeypatch.setattr(files, "lock", removed_before_it_is_locked)
    files.write_atomically(tmp_path / "a.safetensors", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == b"whole"
    assert len(removed) == 1


@pytest.mark.skipif(os.name == "nt", reason="there an open file cannot be removed anyway")
def test_file_that_another_has_locked_to_remove_it_is_made_anew(tmp_path, monkeypatch):
    lock, replace, taken = files.lock, files.replace, []

    def locked_by_another_first(file):
        if not taken:
            (part,) = tmp_path.iterdir()
            taken.append((part, open(part, "r+b")))  # noqa: SIM115 - closed by the other
            assert lock(taken[0][1])
        return lock(file)

    def removed_by_the_other_before(part, path):
        other, file = taken[0]
        with file:
            other.unlink()
        replace(part, path)

    monkeypatch.setattr(files, "lock", locked_by_another_first)
    monkeypatch.setattr(files, "replace", removed_by_the_other_before)
    files.write_atomically(tmp_path / "a.safetensors", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


WRITER = """
import sys
from pathlib import Path
sys.path[:] = {path}
from minigrad.checkpoint import files
path, letter, count = Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
print("ready", flush=True)
for _ in range(count):
    files.write_atomically(path, letter * 100_000)
    files.remove_leftovers(path.parent)
"""


@pytest.mark.parametrize("count", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_writers_at_once_never_leave_half_a_file(tmp_path, count):
    path = tmp_path / "a.safetensors"
    script = WRITER.format(path=sys.path)
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(path), letter, str(count)], stdout=subprocess.PIPE)
        for letter in "ab"
    ]
    for writer in writers:
        assert writer.stdout.readline() == b"ready\n"
    threads = [threading.Thread(target=files.write_atomically, args=(path, c * 100_000)) for c in (b"c", b"d")]
    for thread in threads:
        thread.start()
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            data = path.read_bytes()
            assert data == data[:1] * 100_000
            seen.add(data[:1])
    for thread in threads:
        thread.join()
    assert [writer.communicate()[1] or writer.returncode for writer in writers] == [0, 0]
    assert seen & {b"a", b"b"}  # which of the two is seen depends on whose turn it is
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_header_that_could_not_be_read_back_is_not_written(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "HEADER_LIMIT", 10_000)
    with pytest.raises(ValueError, match="header of 2[0-9],[0-9]{3} bytes, where 10,000 are the most"):
        checkpoint.save(tmp_path / "a.safetensors", **trained, extra="x" * 20_000)
    assert list(tmp_path.iterdir()) == []


def test_data_is_on_the_disk_before_the_file_gets_its_name(trained, tmp_path, monkeypatch):
    calls = []
    real = SimpleNamespace(fsync=os.fsync, replace=os.replace)
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), real.fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), real.replace(*paths)))
    checkpoint.save(tmp_path / "a.safetensors", **trained)
    assert calls == (["fsync", "replace"] if os.name == "nt" else ["fsync", "replace", "fsync"])
