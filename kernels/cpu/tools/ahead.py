"""Compiling ahead, by as many processes as there are cores: Numba compiles one function at a time in a process.

with noted() as wanted:     what is launched inside is not run, only noted: results hold whatever their memory holds
    step(images, labels)
compile_all(wanted)         what is not yet on disk is compiled, and kept there

All variants of a kernel are compiled by the same process, which compiles the functions that they call once; and the longest
first, so that no process is left with a long one at the end. This process compiles like the others
(minigrad.kernels.cpu.tools.workers), which take a while to start.
"""

import contextlib
import functools
import time
from collections import defaultdict, deque

from numba.core.dispatcher import Dispatcher

from minigrad.kernels.build.cache import cache_folder
from minigrad.kernels.build.progress import progress
from minigrad.kernels.cpu.tools.launch import CpuKernel
from minigrad.kernels.cpu.tools.threads import get_num_threads
from minigrad.kernels.cpu.tools.workers import executable, helped, taken

WORTHWHILE = 3000  # bytes of Python's code that take about twice as long to compile as a process takes to start


@contextlib.contextmanager
def noted():
    """Inside, launches of CPU kernels from any thread are noted: what of them has to be compiled, in the order of first use."""
    wanted, launch = {}, CpuKernel.__call__

    def note(kernel, *arguments):
        wanted[kernel.choose(*arguments).entry()] = True

    CpuKernel.__call__ = note
    try:
        yield wanted
    finally:
        CpuKernel.__call__ = launch


def compile_all(wanted, processes=None):
    """Compile what of these entries is not on disk, by up to so many processes with this one; else by as many as threads."""
    missing = [entry for entry in wanted if not CpuKernel.is_kept(*entry)]
    tasks = longest_first(missing)
    count = min(processes or get_num_threads(), worthwhile(tasks))
    tasks = deque(tasks)
    with progress.announced(len(missing)):
        with helped(count - 1, tasks) as failed:
            for task in taken(tasks):
                compile_some(task)
        compile_some(failed)


def worthwhile(tasks):
    """How many processes are of use for these tasks, the longest first."""
    if len(tasks) <= 1 or cache_folder("cpu") is None or executable() is None:
        return 1
    amounts = [amount(task) for task in tasks]
    longest, total = amounts[0], sum(amounts)
    return min(len(tasks), -(-total // longest), 1 + (total - longest) // WORTHWHILE)


def longest_first(entries):
    """The entries in lists, one for each kernel; first those that will take longest, by what there is to compile."""
    tasks = defaultdict(list)
    for entry in entries:
        tasks[entry[0]].append(entry)
    return sorted(tasks.values(), key=amount, reverse=True)


def amount(task):
    """Of variants of one kernel: about how long it takes to compile them, in bytes of Python's code."""
    return len(task) * amount_of_code(task[0][0].function)


@functools.cache
def amount_of_code(function):
    """Bytes of Python's code of a function and of those of ours that it calls, each counted once."""
    found, left = set(), [function]
    while left:
        function = left.pop()
        if function not in found:
            found.add(function)
            called = (function.__globals__.get(name) for name in function.__code__.co_names)
            left += [other.py_func for other in called if isinstance(other, Dispatcher)]
    return sum(len(function.__code__.co_code) for function in found)


def compile_some(entries):
    """Compile variants of kernels for arguments of given types; (name, seconds) of each."""
    done = []
    for kernel, parallel, kinds in entries:
        start = time.perf_counter()
        dispatcher = kernel.dispatcher_of(parallel)
        dispatcher.compile(kinds)
        done.append((dispatcher._cache.name, time.perf_counter() - start))
    return done
