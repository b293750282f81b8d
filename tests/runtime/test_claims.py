"""A claim on a file: one process makes it, whatever is killed, forked or missing, and the others wait."""

import errno
import os
import subprocess
import sys
import time

import pytest

from minigrad.kernels.build.cache import kept_or_made
from minigrad.kernels.build.files import Claim

HOLD = """
import sys
from pathlib import Path
from minigrad.kernels.build.files import Claim
claim = Claim(Path(sys.argv[1]))
assert claim.take()
print("taken", flush=True)
sys.stdin.read()
"""
FORK = """
import os, sys
from pathlib import Path
from minigrad.kernels.build.files import Claim
claim = Claim(Path(sys.argv[1]))
assert claim.take()
if os.fork() == 0:
    claim.release()
    print(os.getpid(), flush=True)
sys.stdin.read()
"""
locks_of_unix = pytest.mark.skipif(os.name == "nt", reason="takes the place of a function of Unix")


@pytest.fixture
def holder(tmp_path):
    """Another process that has a claim on the file "made"."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "made")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"taken\n"
    yield process
    process.kill()
    process.communicate()


def test_a_claim_is_one_processs_and_ends_with_its_release(tmp_path):
    claim, other = Claim(tmp_path / "made"), Claim(tmp_path / "made")
    assert claim.take()
    assert not other.take()
    claim.release()
    assert list(tmp_path.iterdir()) == []  # nothing is left beside the file
    assert other.take()
    claim.release()  # which is over: not the other's
    assert not Claim(tmp_path / "made").take()
    other.release()


def test_another_process_is_waited_for_until_it_is_killed(tmp_path, holder):
    claim = Claim(tmp_path / "made")
    assert not claim.take()
    began = time.monotonic()
    assert not claim.take(0.2)
    assert time.monotonic() - began >= 0.2
    assert not claim.lock.is_locked
    holder.kill()
    assert claim.take(60)
    assert claim.lock.is_locked
    claim.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_neither_releases_nor_keeps_its_parents_claim(tmp_path):
    path = tmp_path / "made"
    with subprocess.Popen(
        [sys.executable, "-c", FORK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        child = int(parent.stdout.readline())
        claim = Claim(path)
        assert not claim.take()
        parent.kill()
        assert claim.take(60)
        assert claim.lock.is_locked
        os.kill(child, 0)  # it is alive, or this is an error
        claim.release()


@pytest.mark.skipif(os.name == "nt", reason="takes the place of a function of Unix")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_each_makes_the_file_and_nothing_stays(tmp_path, monkeypatch, number):
    def no_locks(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_locks)
    claims = [Claim(tmp_path / "made") for _ in range(2)]
    assert [claim.take(60) for claim in claims] == [True, True]
    for claim in claims:
        claim.release()


def test_what_is_not_kept_is_made_while_others_wait(tmp_path):
    path = tmp_path / "made"

    def make():
        assert not Claim(path).take()
        return "made"

    assert kept_or_made(path, lambda: None, make) == "made"
    assert kept_or_made(path, lambda: "kept", None) == "kept"
    assert kept_or_made(None, None, lambda: "made") == "made"  # nothing can be kept
    assert list(tmp_path.iterdir()) == []


def test_what_another_has_made_between_the_look_and_the_claim_is_taken(tmp_path):
    looks = iter([None, "kept"])
    assert kept_or_made(tmp_path / "made", lambda: next(looks), None) == "kept"


def test_a_failure_to_make_something_leaves_the_claim_to_others(tmp_path):
    def fail():
        raise ValueError("no compiler")

    with pytest.raises(ValueError, match="no compiler"):
        kept_or_made(tmp_path / "made", lambda: None, fail)
    assert Claim(tmp_path / "made").take()
