"""How many threads there are: set, limited, and what the machine grants."""

import numba
import numpy as np
import pytest

import minigrad as mg
from minigrad.kernels.cpu.tools import threads

TWO = pytest.mark.skipif(threads.available_threads() < 2, reason="needs two CPUs")


# How many


@pytest.mark.parametrize("n", [1, threads.available_threads(), np.int64(1)])
def test_number_of_threads_may_be_set(set_threads, n):
    set_threads(n)
    assert mg.get_num_threads() == n


@pytest.mark.parametrize("n", [0, -1, threads.available_threads() + 1, 10**9])
def test_number_of_threads_out_of_range(set_threads, n):
    before = mg.get_num_threads()
    with pytest.raises(ValueError, match=rf"must be 1 to {threads.available_threads()} \(CPU affinity.*not {n}"):
        set_threads(n)
    assert mg.get_num_threads() == before


@pytest.mark.parametrize("n", [1.0, "1", None, True, [1]])
def test_number_of_threads_must_be_an_integer(set_threads, n):
    with pytest.raises(TypeError, match="must be an integer"):
        set_threads(n)


def test_kernels_run_with_the_number_set(set_threads, monkeypatch):
    monkeypatch.setattr(threads, "_contention", None)
    seen = []
    original = numba.set_num_threads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba, "set_num_threads", lambda n: seen.append(n) or original(n))
        threads._local.count = None
        for n in (1, threads.available_threads(), threads.available_threads()):
            set_threads(n)
            with threads.parallel_region():
                assert numba.get_num_threads() == n
    assert seen == ([1, threads.available_threads()] if threads.available_threads() > 1 else [1])


def test_limits_are_read_once(set_threads, monkeypatch):
    threads._count = None
    reads = []
    monkeypatch.setattr(threads, "cgroup_limit", lambda: reads.append(1))
    for _ in range(3):
        with threads.parallel_region():
            pass
    assert reads == [1]


@TWO
def test_cpu_affinity_is_honoured(run_script):
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import minigrad as mg
print(mg.get_num_threads())
"""
    assert run_script(code).stdout == "1\n"


@TWO
def test_numbas_limit_is_honoured(run_script):
    code = "import minigrad as mg; print(mg.get_num_threads())"
    assert run_script(code, NUMBA_NUM_THREADS="1").stdout == "1\n"


def test_cgroup_limit_is_honoured(monkeypatch):
    monkeypatch.setattr(threads, "cgroup_limit", lambda: 1)
    assert threads.available_threads() == 1


def tree(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "membership", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "1000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({}, "0::/\n", None),
        ({"cpu.max": "nonsense\n"}, "0::/\n", None),
        ({"cpu.max": "100000 0\n"}, "0::/\n", None),
        ({"a/b/cpu.max": "400000 100000\n"}, "0::/a/b\n", 4),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, "0::/a/b\n", 3),
        ({"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "300000 100000\n"}, "0::/a/b\n", 2),
        ({"cpu.max": "200000 100000\n"}, "0::/seen/from/outside\n", 2),
        ({"b/cpu.max": "100000 100000\n"}, "0::/a\n", None),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "3:cpu,cpuacct:/\n0::/\n", 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "3:cpu:/\n", None),
        (
            {"cpu/x/cpu.cfs_quota_us": "50000\n", "cpu/x/cpu.cfs_period_us": "50000\n"},
            "3:cpuacct,cpu:/x\n2:pids:/y\n",
            1,
        ),
    ],
)
def test_cgroup_limits(tmp_path, files, membership, expected):
    (tmp_path / "self").write_text(membership)
    root = tree(tmp_path / "cgroup", files)
    assert threads.cgroup_limit(root, tmp_path / "self") == expected


def test_cgroup_limit_without_cgroups(tmp_path):
    assert threads.cgroup_limit(tmp_path / "none", tmp_path / "nothing") is None
