"""How the blocks of a launch are run: one after another, and in each its threads until they wait, a warp at a time.

This is compiled by Numba. Threads that wait are brought together here: at a barrier all of the block, within a warp those that
the instruction names (warps.py). A block ends when all of its threads have; the launch ends with the last block, or with the
first fault, which is then in the fields of the block.
"""

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from minigrad.kernels.build.cache import HOST, KernelCache
from minigrad.kernels.build.progress import progress
from minigrad.kernels.cpu.tools.launch import inlined
from minigrad.kernels.cpu.tools.pipeline import KernelCompiler
from minigrad.kernels.cuda.host import checks
from minigrad.kernels.cuda.host.layout import (
    APART,
    BLOCK_ALL,
    BLOCK_AND,
    BLOCK_INDEX,
    BLOCK_OR,
    FAULT,
    FAULT_ADDRESS,
    FAULT_OTHER,
    FAULT_THREAD,
    FAULTED,
    GIVEN,
    GRID_SIZE,
    LOG_COUNT,
    LOG_ROOM,
    MISSING,
    NO_TRACE,
    RECEIVED,
    TRACE_COUNT,
    TURN,
    WARP_ALL,
)
from minigrad.kernels.cuda.host.warps import LANES, exchange

GARBAGE = 0xCB  # what every byte of fresh memory holds: huge negative floats and integers


def runner(function):
    """Make a function machine code of one thread, kept on disk; it gives nothing back."""
    dispatcher = numba.njit(pipeline_class=KernelCompiler, nogil=True, error_model="numpy")(function)
    dispatcher._cache = KernelCache(f"host.{function.__name__}", progress.begin, progress.end, HOST)
    return dispatcher


@intrinsic
def call(typing_context, function, block, frame, state):
    """Call a translated kernel at the address `function`, for the thread with a frame."""

    def generate(context, builder, signature, arguments):
        word, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(word, [pointer, pointer, word])
        function, block, frame, state = arguments
        where = builder.inttoptr(function, kind.as_pointer())
        return builder.call(where, [builder.inttoptr(block, pointer), builder.inttoptr(frame, pointer), state])

    return types.int64(types.int64, types.int64, types.int64, types.int64), generate


@inlined
def step(function, block, frames, states, t, watch, trace):
    """Let a thread go on until it ends or waits; whether that went well."""
    frame = frames.ctypes.data + t * frames.strides[0]
    states[t] = call(function, block.ctypes.data, frame, states[t])
    if block[LOG_ROOM]:
        if checks.read_log(block, watch, t):
            return False
        if len(trace) and not keep_log(block, watch.log, trace, t):
            return fault(block, NO_TRACE, t, 0)
        block[LOG_COUNT] = 0
    if states[t] == FAULTED:
        block[FAULT_THREAD] = t
        return False
    return True


@inlined
def keep_log(block, log, trace, t):
    """Put the log of what thread t has just done behind those of others; whether there is room."""
    count, begin = block[LOG_COUNT], block[TRACE_COUNT]
    if begin + count > len(trace):
        block[FAULT_ADDRESS] = begin
        return False
    for i in range(count):
        trace[begin + i, 0], trace[begin + i, 1] = block[TURN], t
        trace[begin + i, 2], trace[begin + i, 3] = log[i, 0], log[i, 1]
    block[TRACE_COUNT] = begin + count
    return True


@inlined
def run_warp(function, block, frames, states, ready, kinds, lanes, first, last, watch, trace):
    """Run a warp until all that live wait for the block; whether that went well."""
    while True:
        for lane in lanes:
            t = first + lane
            if t < last and ready[t]:
                ready[t] = False
                if not step(function, block, frames, states, t, watch, trace):
                    return False
        block[TURN] += 1
        point = 0
        for t in range(first, last):
            if kinds[states[t]] >= WARP_ALL:
                if point and states[t] != point:
                    return fault(block, APART, t, first)
                point = states[t]
        if not point:
            return True
        wrong, t, other = exchange(kinds[point], frames, states, point, first, last)
        if wrong:
            return fault(block, wrong, t, other)
        checks.meet_warp(watch, first // LANES)
        for t in range(first, last):
            ready[t] = states[t] == point


@inlined
def fault(block, kind, thread, other):
    """Note what is wrong, which the caller then knows."""
    block[FAULT], block[FAULT_THREAD], block[FAULT_OTHER] = kind, thread, other
    return False


@inlined
def meet(block, frames, states, ready, kinds):
    """Let all threads of the block go on together; whether they may."""
    point, kind = states[0], kinds[states[0]]
    for t in range(states.size):
        if states[t] != point:
            # the first thread that waits, and one that does so elsewhere or not at all
            return fault(block, APART if states[t] and point else MISSING, 0 if point else t, t if point else 0)
    if kind != BLOCK_ALL:
        count = 0
        for t in range(states.size):
            count += frames[t, GIVEN] & 1
        found = count
        if kind == BLOCK_OR:
            found = int(count > 0)
        elif kind == BLOCK_AND:
            found = int(count == states.size)
        for t in range(states.size):
            frames[t, RECEIVED] = found
    ready[:] = True
    return True


@inlined
def run_block(function, block, frames, states, ready, kinds, warps, lanes, watch, trace):
    """Run a block; whether that went well."""
    states[:] = 0
    ready[:] = True
    while True:
        for warp in warps:
            first = warp * LANES
            last = min(first + LANES, states.size)
            if not run_warp(function, block, frames, states, ready, kinds, lanes, first, last, watch, trace):
                return False
        if not states.any():
            return True
        if not meet(block, frames, states, ready, kinds):
            return False
        checks.meet(watch)


@runner
def run_grid(function, block, frames, states, ready, kinds, warps, lanes, shared, watch, trace, first, last):
    """Run the blocks from number `first` to before `last`; the first begins the launch.

    `kinds` says what is waited for at each point; `warps` and `lanes` are the order in which they run. Where `trace` has room
    the logs of all threads are kept in it.
    """
    if first == 0:
        checks.begin_launch(watch.times)
    across, down = block[GRID_SIZE], block[GRID_SIZE + 1]
    for number in range(first, last):
        block[BLOCK_INDEX], block[BLOCK_INDEX + 1] = number % across, number // across % down
        block[BLOCK_INDEX + 2] = number // (across * down)
        shared[:] = GARBAGE
        if block[LOG_ROOM]:
            checks.begin_block(watch, shared.size)
        if not run_block(function, block, frames, states, ready, kinds, warps, lanes, watch, trace):
            return
