"""How many threads the parallel kernels use, and what keeps them safe between Python threads and after fork."""

import contextlib
import ctypes
import os
import sys
import threading
from pathlib import Path

import numba
from numba.core import config

from minigrad.kernels.cpu.tools.contention import Contention, can_tell


class _Local(threading.local):
    count = None  # the number of threads that Numba was told last
    most = None  # the most that kernels launched from this Python thread may use; None: no limit of its own


_local = _Local()
_one_loop = threading.Lock()  # held while a layer that serves one loop at a time is busy
_count = None
_layer_started = False
_concurrent = False  # the layer has started, and several Python threads may use it at once
_forked = False

# What tells OpenMP how its threads wait, in our words and in the user's: GCC's libgomp reads the first two, LLVM's libomp
# the last two. GOMP_SPINCOUNT is in turns of a loop, 29 ns each on Zen 3: 0.3 ms where contention is noticed, else 9 us.
USERS_WORDS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
_users_choice = any(name in os.environ for name in USERS_WORDS)
_contention = None if _users_choice or not can_tell() else Contention()
WAITING = {"GOMP_SPINCOUNT": "10000" if _contention else "300", "OMP_WAIT_POLICY": "passive"}

UNREADABLE = OSError, ValueError, ZeroDivisionError  # a limit's file is missing, or holds something else than a limit


def cgroup_limit(root="/sys/fs/cgroup", membership="/proc/self/cgroup"):
    """CPUs this process may use by its cgroup and those above it (v2 and v1), rounded up; None without a limit."""
    paths = {"": "/", "cpu": "/"}  # of this process, by controller; "" is version 2
    with contextlib.suppress(OSError):
        for line in Path(membership).read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths |= dict.fromkeys(controllers.split(","), path)
    limits = []
    for folder in folders_up(Path(root), paths[""]):
        with contextlib.suppress(*UNREADABLE):
            quota, period = (folder / "cpu.max").read_text().split()
            limits.append(cpus(quota, period))
    for folder in folders_up(Path(root) / "cpu", paths["cpu"]):
        with contextlib.suppress(*UNREADABLE):
            limits.append(cpus(*[(folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]))
    return min(filter(None, limits), default=None)


def folders_up(top, path):
    """The folder at `path` below `top` and those above it, up to `top`; a container may see only `top`."""
    parts = path.strip("/").split("/")
    return [top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def cpus(quota, period):
    """A quota of time in a period as a number of CPUs; None for "max" or -1, no limit."""
    return None if quota.strip() in ("max", "-1") else max(1, -(-int(quota) // int(period)))


def available_threads():
    """The most threads a kernel may use: CPU affinity, the cgroup's limit and NUMBA_NUM_THREADS, whichever is least."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cores = os.cpu_count() or 1
    return max(1, min(cores, cgroup_limit() or cores, config.NUMBA_NUM_THREADS))


def get_num_threads():
    """Threads that parallel kernels use."""
    return available_threads() if _count is None else _count


def set_num_threads(n):
    """Use `n` threads in parallel kernels, 1 up to the cores this process may use; results do not depend on it.

    Raises TypeError if `n` is no integer and ValueError if it is out of range.
    """
    global _count
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"the number of threads must be an integer, not {n!r}")
    limit = available_threads()
    if not 1 <= n <= limit:
        raise ValueError(
            f"the number of threads must be 1 to {limit} (CPU affinity, cgroup limit and NUMBA_NUM_THREADS), not {n}"
        )
    _count = int(n)


@contextlib.contextmanager
def limited(n):
    """Inside, kernels launched from this Python thread use at most `n` threads; with one, they run serially."""
    before, _local.most = _local.most, n
    try:
        yield
    finally:
        _local.most = before


def start_layer():
    """Have Numba load its threading layer, with threads that wait for a fraction of a millisecond and then sleep.

    OpenMP's threads wait for the next loop by asking again and again, libgomp's for milliseconds and libomp's for 200. On a
    machine with other work that takes the core from whom they wait for. A third of a millisecond covers the way from one
    loop to the next, and where others want the cores there are fewer threads (contention.py); where that can't be noticed,
    the wait is a few microseconds, which is graceful too but slower alone. The count is read once, from the environment, when
    the library is loaded, so it is there just then: child processes and libraries loaded later do not see it. Who says how
    to wait is obeyed, and has all threads at all times; a layer that runs already stays as it is. docs/cpu-kernels.md has
    the numbers.
    """
    with waiting_briefly(), own_openmp():
        numba.get_num_threads()


@contextlib.contextmanager
def waiting_briefly():
    """Inside, the environment tells OpenMP to wait briefly, unless the user says how to wait."""
    ours = {} if any(name in os.environ for name in USERS_WORDS) else WAITING
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextlib.contextmanager
def own_openmp():
    """Inside, a library that is loaded finds its own libgomp first, where another is open to all, as PyTorch's is.

    Numba's layer would otherwise run on PyTorch's, if that was imported first, which has read its environment already.
    """
    if not hasattr(os, "RTLD_DEEPBIND") or not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        yield
        return
    before = sys.getdlopenflags()
    sys.setdlopenflags(before | os.RTLD_DEEPBIND)
    try:
        yield
    finally:
        sys.setdlopenflags(before)


def may_run_parallel():
    """Whether this Python thread may run kernels in parallel.

    Not where there is but one thread to use, nor in a child that was forked after the parent had started its thread pool:
    the pool did not survive.
    """
    return not _forked and _local.most != 1 and _count != 1


def usable_threads():
    """Threads for a loop now: fewer than there are while other processes want the cores."""
    return _count if _contention is None or _count == 1 else _contention.threads(_count)


def use(n):
    """Tell Numba how many threads loops launched from this Python thread use."""
    if _local.count != n:
        numba.set_num_threads(n)
        _local.count = n


def get_ready():
    """Whether this Python thread may launch at once, with nothing to set up and no turns to take: before every launch."""
    if not _concurrent or _count is None or _local.most is not None:
        return False
    use(usable_threads())
    return True


@contextlib.contextmanager
def parallel_region():
    """Enter before a parallel kernel, and run it on one thread if this gives False; sets this Python thread's count.

    A layer that serves one loop at a time, as each does until its first has run, is not waited for: its loop may be a
    user's own kernel that calls Python, which launches again or waits for a thread that does. One thread gives the same bits.
    """
    global _layer_started, _concurrent, _count
    if _count is None:  # found out once: reading the limits takes longer than a small kernel
        _count = available_threads()
    if _concurrent:
        use_some()
        yield True
        return
    loop = _one_loop  # a fork inside the loop makes another
    if not loop.acquire(blocking=False):
        yield False
        return
    try:
        if not _layer_started:
            start_layer()
        use_some()
        yield True
        if not _layer_started:
            _layer_started = True
            _concurrent = numba.threading_layer() != "workqueue"  # not safe for concurrent use; OpenMP and TBB are
    finally:
        loop.release()


def use_some():
    """Tell Numba how many threads to use now."""
    n = usable_threads()
    use(n if _local.most is None else min(n, _local.most))


def _after_fork():
    global _forked, _one_loop
    _one_loop = threading.Lock()  # the thread that held the parent's may not be here
    with contextlib.suppress(ValueError):  # raised if Numba has started no threads, for us or for anyone
        _forked = bool(numba.threading_layer())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
