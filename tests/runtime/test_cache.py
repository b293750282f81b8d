"""Compiled kernels on disk: kept, found again, and never the reason of an error."""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import minigrad
import minigrad.kernels
from minigrad.kernels.build import cache, files
from minigrad.kernels.build.progress import progress
from minigrad.kernels.cpu.tools.launch import kernel, kind_of

# Runs small kernels, checks their results, and tells the number of compilations and the warnings.
SCRIPT = """
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("error")
    import numpy as np
    from minigrad.kernels.cpu import dropout, movement
    from minigrad.kernels.build.progress import progress

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    state, key = np.array([3, 4], np.uint64), np.empty(2, np.uint64)
    dropout.advance(state, key)
    assert list(key) == [3, 4] and list(state) == [3, 5]
    y = np.empty(5)
    movement.copy(np.arange(5.0), y)
    assert list(y) == [0, 1, 2, 3, 4]

print(len(progress.compiled), *[f"{w.category.__name__}: {w.message}" for w in caught], sep="\\n")
"""
KERNELS = 2


@pytest.fixture
def use(run_script, tmp_path):
    """Runs the script with a cache folder; returns (compilations, warnings)."""

    def run(folder=tmp_path / "cache", script=SCRIPT, **environment):
        lines = run_script(script, MINIGRAD_CACHE=str(folder), **environment).stdout.splitlines()
        return int(lines[0]), lines[1:]

    return run


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """(its cache folder, the process) of a first run of the script, which found nothing there."""
    folder = tmp_path_factory.mktemp("first") / "cache"
    command, environment = [sys.executable, "-W", "error", "-c", SCRIPT], {**os.environ, "MINIGRAD_CACHE": str(folder)}
    return folder, subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)


@pytest.fixture
def filled(first_run, tmp_path):
    """The cache folder that `use` has unless told otherwise, filled by the first run."""
    return shutil.copytree(first_run[0], tmp_path / "cache")


def entries(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_first_process_says_once_that_it_compiles(first_run):
    _, process = first_run
    assert process.stdout == f"{KERNELS}\n"
    assert process.stderr == "minigrad: compiling kernels for this machine (once; kept for next time)\n"


def test_second_process_compiles_nothing_and_says_nothing(filled, run_script):
    kept = entries(filled)
    assert [path.suffix for path in kept] == [".kernel"] * KERNELS
    assert {path.parent.name for path in kept} == {cache.sources_hash("cpu")}
    guarded = SCRIPT.replace(
        "    dropout.advance", "    import minigrad; minigrad.no_compile().__enter__()\n    dropout.advance"
    )
    assert guarded != SCRIPT
    process = run_script(guarded, MINIGRAD_CACHE=str(filled))
    assert (process.stdout, process.stderr) == ("0\n", "")
    assert entries(filled) == kept


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """This process's cache folder, empty and for this test only."""
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr(cache, "_warned", set())
    cache.cache_folder.cache_clear()
    yield cache.cache_folder("cpu")
    cache.cache_folder.cache_clear()


def double(x, y):
    for i in range(x.size):
        y[i] = 2 * x[i]


def compilations():
    """Runs a new kernel on two signatures; returns how many of them were compiled."""
    fresh, before = kernel(double), len(progress.compiled)
    for dtype in (np.float64, np.int32):
        y = np.empty(3, dtype)
        fresh(np.arange(3).astype(dtype), y)
        assert list(y) == [0, 2, 4]
    return len(progress.compiled) - before


class Harmful:
    """Ends the process when it is unpickled."""

    def __reduce__(self):
        return os._exit, (3,)


OTHER = pickle.dumps(Harmful())
DAMAGE = {
    "emptied": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "with a byte more": lambda content: content + b"\0",
    "flipped in the checksum": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "flipped in the middle": lambda content: content[:5000] + bytes([content[5000] ^ 16]) + content[5001:],
    "of another program": lambda content: hashlib.sha256(b"text").digest() + b"text",
    "a pickle": lambda content: hashlib.sha256(OTHER).digest() + OTHER,
    "of another version": lambda content: hashlib.sha256(content[32:40] + b"{}").digest() + content[32:40] + b"{}",
    "without description": lambda content: hashlib.sha256(b"").digest(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_entries_cost_one_warning_and_a_compilation(folder, damage):
    assert (compilations(), compilations()) == (2, 0)
    for path in entries(folder):
        path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(RuntimeWarning, match="minigrad: the compiled kernel .* is damaged") as caught:
        assert compilations() == 2
    assert len(caught) == 1
    assert compilations() == 0  # they were written anew


@pytest.mark.slow
@pytest.mark.slow
def test_damaged_entries_of_a_whole_process_cost_one_warning(filled, use):
    for path in entries(filled):
        path.write_bytes(path.read_bytes()[:-1])
    compiled, warnings = use()
    assert (compiled, len(warnings)) == (KERNELS, 1)
    assert "RuntimeWarning: minigrad: the compiled kernel" in warnings[0]
    assert use() == (0, [])


def test_entries_that_cannot_be_read_cost_a_warning_and_a_compilation(folder):
    compilations()
    for path in entries(folder):
        path.unlink()
        path.mkdir()
    with pytest.warns(RuntimeWarning) as caught:
        assert compilations() == 2
    assert ["cannot be read" in str(caught[0].message), "are not kept" in str(caught[1].message)] == [True, True]
    assert len(caught) == 2


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owners here")
def test_entries_that_others_may_write_cost_one_warning_and_a_compilation(folder):
    compilations()
    for path in entries(folder):
        path.chmod(0o666)
    with pytest.warns(RuntimeWarning, match="cannot be read .*others may write") as caught:
        assert compilations() == 2
    assert len(caught) == 1
    assert compilations() == 0  # they were written anew
    assert {path.stat().st_mode & 0o777 for path in entries(folder)} == {0o600}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owners here")
def test_folder_that_others_may_write_is_refused(use, tmp_path):
    use()
    (kept,) = (tmp_path / "cache" / "kernels").iterdir()
    kept.chmod(0o777)
    before = {path: path.stat().st_mtime_ns for path in entries(kept)}
    compiled, warnings = use()
    assert (compiled, len(warnings)) == (KERNELS, 1)
    assert f"others may write to {kept} (mode drwxrwxrwx): chmod go-w {kept}" in warnings[0]
    assert {path: path.stat().st_mtime_ns for path in entries(kept)} == before
    kept.chmod(0o700)
    assert use() == (0, [])


@pytest.mark.slow
@pytest.mark.slow
def test_folder_below_one_for_all_is_used(use, tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    assert use(tmp_path / "tmp" / "cache") == (KERNELS, [])
    assert use(tmp_path / "tmp" / "cache") == (0, [])


@pytest.mark.slow
@pytest.mark.slow
def test_what_killed_processes_left_is_removed_an_hour_later(use, tmp_path):
    use()
    (kept,) = (tmp_path / "cache" / "kernels").iterdir()
    for name, age in (("old.part", 4000), ("new.part", 1000)):
        (kept / name).write_bytes(b"half")
        os.utime(kept / name, (time.time() - age,) * 2)
    assert use() == (0, [])
    assert [path.name for path in entries(kept) if path.suffix == ".part"] == ["new.part"]


@pytest.mark.parametrize("home", ["missing", pytest.param("a file", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_warning_never_becomes_the_failure_of_a_kernel(run_script, tmp_path, home):
    (tmp_path / "a file").write_text("")
    place = tmp_path / home / "user"  # below what is missing it could be made, were it not for the file
    script = (
        SCRIPT.partition("with warnings.catch_warnings(record=True)")[0]
        + """
y = np.empty(5)
movement.copy(np.arange(5.0), y)
assert list(y) == [0, 1, 2, 3, 4]
"""
    )
    if home == "missing":
        place = "/proc/none/user" if sys.platform.startswith("linux") else tmp_path / "a file" / "none"
    result = run_script(script, MINIGRAD_CACHE="", XDG_CACHE_HOME="", HOME=str(place))
    assert result.stderr.count("minigrad: compiled kernels are not kept") == 1
    assert "set MINIGRAD_CACHE to a folder you can write" in result.stderr


def test_entry_is_described_in_plain_words(folder):
    compilations()
    for path in entries(folder):
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[32:40])
        description = json.loads(content[40 : 40 + length])
        assert description["function"]["qualname"] == "double"
        assert content[40 + length + description["code"] :].startswith(b"BC")  # LLVM's bitcode


def dtype_as_constant(x, y):
    y[0] = np.zeros(2, np.float32).size + x[0]


def with_result(x, y):
    y[0] = 2 + x[0]
    return y[0]


@pytest.mark.parametrize(("function", "is_kept"), [(dtype_as_constant, True), (with_result, False)])
def test_kernels_that_plain_words_cannot_describe_are_compiled_anew(folder, function, is_kept):
    for again in (False, True):
        fresh, before = kernel(function), len(progress.compiled)
        y = np.zeros(1)
        with contextlib.nullcontext() if is_kept or again else pytest.warns(RuntimeWarning, match="process anew"):
            fresh(np.ones(1), y)
        assert list(y) == [3]
        assert len(progress.compiled) - before == (not (is_kept and again))
    assert len(entries(folder)) == is_kept


@pytest.mark.slow
def test_folder_that_cannot_be_made_costs_one_warning(run_script, tmp_path):
    (tmp_path / "file").write_text("")
    process = run_script(SCRIPT, MINIGRAD_CACHE=str(tmp_path / "file" / "cache"))
    compiled, *warnings = process.stdout.splitlines()
    assert int(compiled) == KERNELS
    assert len(warnings) == 1
    assert "compiled kernels are not kept" in warnings[0]
    assert "set MINIGRAD_CACHE to a folder you can write" in warnings[0]
    assert "(once; not kept)" in process.stderr


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write everywhere")
def test_read_only_folder_costs_one_warning(use, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o500)
    compiled, warnings = use()
    assert (compiled, len(warnings)) == (KERNELS, 1)


WITHOUT_LOCKS = """
import errno, fcntl
def flock(file, operation):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = flock
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="takes the place of a function of Unix")
def test_folder_without_locks_is_filled_all_the_same(use):
    assert use(script=WITHOUT_LOCKS + SCRIPT) == (KERNELS, [])
    assert use() == (0, [])


def test_full_disk_costs_one_warning_and_leaves_nothing(folder, monkeypatch):
    def full(*paths):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning, match="compiled kernels are not kept: .*No space left") as caught:
        assert compilations() == 2
    assert len(caught) == 1
    assert entries(folder) == []


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owners here")
@pytest.mark.slow
def test_folder_of_another_user_is_refused(filled, use):
    kept = {path: path.read_bytes() for path in entries(filled)}
    compiled, warnings = use(script="import os\nos.getuid = lambda: 12345\n" + SCRIPT)
    assert compiled == KERNELS
    assert len(warnings) == 1
    assert "belongs to another user" in warnings[0]
    assert {path: path.read_bytes() for path in entries(filled)} == kept


@pytest.mark.slow
def test_bounds_checking_and_another_target_have_entries_of_their_own(filled, use):
    assert use(NUMBA_BOUNDSCHECK="1") == (KERNELS, [])
    assert use(NUMBA_CPU_NAME="generic") == (KERNELS, [])
    assert use(NUMBA_BOUNDSCHECK="1") == (0, [])
    assert use() == (0, [])


@pytest.mark.slow
def test_processes_that_fill_the_cache_at_once_compile_each_kernel_once(tmp_path, use):
    environment = {**os.environ, "MINIGRAD_CACHE": str(tmp_path / "cache")}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]
    compiled = 0
    for process in started:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        (number,) = output.splitlines()  # and no warnings
        compiled += int(number)
    assert compiled == KERNELS
    assert [path.suffix for path in entries(tmp_path / "cache")] == [".kernel"] * KERNELS
    assert use() == (0, [])


# The folder


@pytest.mark.parametrize("ends", [True, False], ids=["which fails", "which hangs"])
def test_a_kernel_that_another_process_compiles_is_waited_for(folder, monkeypatch, ends):
    monkeypatch.setattr(cache, "PATIENCE", 300 if ends else 0.3)
    fresh, arguments = kernel(double), (np.arange(3.0), np.empty(3))
    dispatcher = fresh.dispatcher_of(False)
    path = dispatcher._cache.path(tuple(map(kind_of, arguments)), dispatcher.targetctx.codegen())
    other = files.Claim(path)
    assert other.take()
    assert not files.Claim(path).take()
    before, began = len(progress.compiled), time.monotonic()
    if ends:
        threading.Timer(0.3, other.release).start()
    fresh(*arguments)
    assert list(arguments[1]) == [0, 2, 4]
    assert 0.3 <= time.monotonic() - began < 250
    assert len(progress.compiled) - before == 1
    other.release()
    assert [entry.suffix for entry in entries(folder)] == [".kernel"]


def test_a_kernel_that_is_made_between_the_look_and_the_claim_is_not_compiled_again(folder, monkeypatch):
    take, others = files.Claim.take, [kernel(double)]

    def late(claim, patience=0):
        if others:
            others.pop()(np.arange(3.0), np.empty(3))
        return take(claim, patience)

    monkeypatch.setattr(files.Claim, "take", late)
    y, before = np.empty(3), len(progress.compiled)
    kernel(double)(np.arange(3.0), y)
    assert list(y) == [0, 2, 4]
    assert len(progress.compiled) - before == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MINIGRAD_CACHE": "/somewhere"}, "/somewhere"),
        ({"MINIGRAD_CACHE": "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/minigrad"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/minigrad"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/minigrad"),
        ({"HOME": "/home/me"}, "/home/me/.cache/minigrad"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="folders of Unix")
def test_where_kernels_are_kept(monkeypatch, environment, expected):
    for name in ("MINIGRAD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache.cache_root() == Path(expected)


def test_relative_folder_stays_where_it_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIGRAD_CACHE", "here")
    assert cache.cache_root() == tmp_path / "here"


@pytest.fixture
def package(tmp_path):
    """A copy of the package, to be edited; returns its folder of kernels."""
    copy = tmp_path / "site" / "minigrad"
    ignore = shutil.ignore_patterns("__pycache__", "*.npz", "kernels")
    shutil.copytree(Path(minigrad.__file__).parent, copy, ignore=ignore)
    shutil.copytree(
        Path(minigrad.kernels.__file__).parent, copy / "kernels", ignore=shutil.ignore_patterns("__pycache__")
    )
    return copy / "kernels"


def hash_of(package, target="cpu"):
    """The name of a target's cache folder by a copy of the package."""
    spec = importlib.util.spec_from_file_location("copy_of_cache", package / "build" / "cache.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.sources_hash(target)


EDITS = {
    "kernel": lambda kernels: append(kernels / "cpu" / "movement.py"),
    "formula": lambda kernels: append(kernels / "formulas.py"),
    "vector code": lambda kernels: append(kernels / "cpu" / "vector" / "tiles.py"),
    "new file": lambda kernels: (kernels / "cpu" / "new.py").write_text(""),
    "file gone": lambda kernels: (kernels / "cpu" / "norm.py").unlink(),
}


def append(path):
    path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_edited_sources_have_another_folder(package, edit):
    assert hash_of(package) == cache.sources_hash("cpu")
    edit(package)
    assert hash_of(package) != cache.sources_hash("cpu")


def test_a_target_knows_only_what_it_is_compiled_from(package):
    append(package / "cuda" / "movement.py")
    append(package / "reference" / "movement.py")
    append(package / "contract.py")
    assert hash_of(package) == cache.sources_hash("cpu")
    assert hash_of(package, "cuda") != cache.sources_hash("cuda")


@pytest.mark.parametrize(
    "where",
    ["numba.__version__", "llvmlite.__version__", "numpy.__version__", "sys.implementation.cache_tag"],
)
def test_other_versions_have_another_folder(package, monkeypatch, where):
    monkeypatch.setattr(where, "another")
    assert hash_of(package) != cache.sources_hash("cpu")


def test_edited_kernel_is_compiled_anew(use, package):
    path = str(package.parent.parent)
    assert use(PYTHONPATH=path) == (KERNELS, [])
    append(package / "cpu" / "dropout.py")
    assert use(PYTHONPATH=path) == (KERNELS, [])


# What is said


@pytest.mark.slow
def test_progress_on_a_terminal_is_one_line_that_goes_away(tmp_path):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "MINIGRAD_CACHE": str(tmp_path / "cache")}
    try:
        subprocess.run(
            [sys.executable, "-c", SCRIPT], stdout=subprocess.DEVNULL, stderr=theirs, env=environment, check=True
        )
        text = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\n" not in text
    assert text.startswith("\rminigrad: compiling dropout.advance (0 done, 0.0 s)\x1b[K\r\x1b[K")
    assert f"({KERNELS - 1} done, " in text
    assert text.endswith("\r\x1b[K")
