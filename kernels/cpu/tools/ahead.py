"""Compiling ahead, by as many processes as there are cores: Numba compiles one function at a time in a process.

with noted() as wanted:     what is launched inside is not run, only noted: results hold whatever their memory holds
    step(images, labels)
compile_all(wanted)         what is not yet on disk is compiled, and kept there
"""

import contextlib
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from minigrad.kernels.build.progress import progress
from minigrad.kernels.cpu.tools.launch import CpuKernel, kind_of
from minigrad.kernels.cpu.tools.threads import available_threads


@contextlib.contextmanager
def noted():
    """Inside, launches of CPU kernels from any thread are noted: what of them has to be compiled, in the order of first use."""
    wanted, launch = {}, CpuKernel.__call__

    def note(kernel, *arguments):
        chosen, arguments = kernel.chosen(*arguments)
        wanted[chosen, chosen.runs_parallel(arguments), tuple(map(kind_of, arguments))] = True

    CpuKernel.__call__ = note
    try:
        yield wanted
    finally:
        CpuKernel.__call__ = launch


def compile_all(wanted, processes=None):
    """Compile what was noted and is not on disk; where there is work for one process only, in this one."""
    missing = [entry for entry in wanted if not is_kept(*entry)]
    processes = min(len(missing), processes or available_threads())
    with progress.announced(len(missing)):
        if processes <= 1:
            for entry in missing:
                compile_one(*entry)
            return
        # Fresh processes: a fork would not have the threads that this one may have started.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, initializer=be_silent) as pool:
            progress.say(f"compiling ({progress.how_far()})")
            for done in as_completed([pool.submit(compile_one, *entry) for entry in missing]):
                progress.count(*done.result())
                progress.say(f"compiling ({progress.how_far()})")


def is_kept(kernel, parallel, kinds):
    """Whether this variant is on disk, for arguments of these types."""
    dispatcher = kernel.dispatcher_of(parallel)
    path = dispatcher._cache.path(kinds, dispatcher.targetctx.codegen())
    return path is not None and path.exists()


def compile_one(kernel, parallel, kinds):
    """Compile a variant of a kernel for arguments of these types; (name, seconds)."""
    start = time.perf_counter()
    dispatcher = kernel.dispatcher_of(parallel)
    dispatcher.compile(kinds)
    return dispatcher._cache.name, time.perf_counter() - start


def be_silent():
    """The process that waits for this one tells how far it is."""
    progress.silent = True
