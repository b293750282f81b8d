"""Compiling ahead, by as many processes as there are cores: Numba compiles one function at a time in a process.

with noted() as wanted:     what is launched inside is not run, only noted: results hold whatever their memory holds
    step(images, labels)
compile_all(wanted)         what is not yet on disk is compiled, and kept there

All variants of a kernel are compiled by the same process, which compiles the functions that they call once; and the longest
first, so that no process is left with a long one at the end.
"""

import contextlib
import multiprocessing
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed

from numba.core.dispatcher import Dispatcher

from minigrad.kernels.build.progress import progress
from minigrad.kernels.cpu.tools.launch import CpuKernel, kind_of
from minigrad.kernels.cpu.tools.threads import available_threads


@contextlib.contextmanager
def noted():
    """Inside, launches of CPU kernels from any thread are noted: what of them has to be compiled, in the order of first use."""
    wanted, launch = {}, CpuKernel.__call__

    def note(kernel, *arguments):
        chosen, arguments = kernel.chosen(*arguments)
        compiled = chosen.shares or chosen
        wanted[compiled, chosen.runs_parallel(arguments), tuple(map(kind_of, arguments))] = True

    CpuKernel.__call__ = note
    try:
        yield wanted
    finally:
        CpuKernel.__call__ = launch


def compile_all(wanted, processes=None):
    """Compile what was noted and is not on disk; where there is work for one process only, in this one."""
    missing = [entry for entry in wanted if not is_kept(*entry)]
    tasks = longest_first(missing)
    processes = min(len(tasks), processes or available_threads())
    with progress.announced(len(missing)):
        if processes <= 1:
            compile_some(missing)
            return
        # Fresh processes: a fork would not have the threads that this one may have started.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, initializer=be_silent) as pool:
            progress.say(f"compiling ({progress.how_far()})")
            for done in as_completed([pool.submit(compile_some, task) for task in tasks]):
                for name, seconds in done.result():
                    progress.count(name, seconds)
                progress.say(f"compiling ({progress.how_far()})")


def is_kept(kernel, parallel, kinds):
    """Whether this variant is on disk, for arguments of these types."""
    dispatcher = kernel.dispatcher_of(parallel)
    path = dispatcher._cache.path(kinds, dispatcher.targetctx.codegen())
    return path is not None and path.exists()


def longest_first(entries):
    """The entries in lists, one for each kernel; first those that will take longest, by what there is to compile."""
    tasks = defaultdict(list)
    for entry in entries:
        tasks[entry[0]].append(entry)
    return sorted(tasks.values(), key=lambda task: len(task) * amount_of_code(task[0][0].function), reverse=True)


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


def be_silent():
    """The process that waits for this one tells how far it is."""
    progress.silent = True
