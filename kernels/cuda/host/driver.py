"""A GPU made of this machine: memory, streams, graphs and launches, with the kernels' own PTX translated for the processor.

It has the methods of the real driver. Every access of a kernel is held to what was allocated, to the byte, and with `checks`
looked at for races, reads of what nobody wrote, and copies that were not waited for. What a kernel does wrong is a RuntimeError
that names it, the thread, the address and the instruction. With `counts` it is counted, too, what each kernel asks of a GPU.
"""

import bisect
import math
import struct
import sys

import numpy as np

from minigrad.kernels.cuda.host import checks, faults, layout
from minigrad.kernels.cuda.host.compiled import HostKernel
from minigrad.kernels.cuda.host.counts import Counter
from minigrad.kernels.cuda.host.machine import GARBAGE, LANES, run_grid
from minigrad.kernels.cuda.tools.driver import OutOfMemory
from minigrad.kernels.cuda.tools.launch import ArgumentLayout, cached_ptx
from minigrad.kernels.cuda.tools.simulated_driver import SimulatedDriver, checked_launch

PAGE = 1 << layout.PAGE_BITS
GAP = PAGE  # between two allocations: there an access is found that goes too far
LOG_ROOM = 1 << 22  # accesses of one thread until it waits
TRACE_ROOM = 1 << 24  # of all threads of a block


class Arena:
    """All memory that can be allocated: one stretch of the host's, which the system provides as it is used."""

    def __init__(self, size):
        self.room = np.empty(2 * size + (1 << 20), np.uint8)  # more than may be allocated, for the gaps
        self.start = -(-self.room.ctypes.data // PAGE) * PAGE
        self.size = (self.room.ctypes.data + self.room.size - self.start) // PAGE * PAGE
        self.ends = np.zeros(self.size // PAGE + 1, np.uint64)
        self.allocations = {}  # {address: bytes}
        self.free_parts = [(self.start, self.size)]  # (address, bytes), in order
        self.highest = 0  # bytes from the start that were ever used

    def allocate(self, size):
        """The address of so many bytes, filled with garbage; None if there is no such part left."""
        whole = -(-size // PAGE) * PAGE + GAP
        for i, (start, room) in enumerate(self.free_parts):
            if room >= whole:
                self.free_parts[i : i + 1] = [(start + whole, room - whole)] if room > whole else []
                self.allocations[start] = size
                self.pages(start, size)[:] = start + size
                self.bytes(start, size)[:] = GARBAGE
                self.highest = max(self.highest, start + size - self.start)
                return start
        return None

    def free(self, address):
        """Take an allocation back."""
        size = self.allocations.pop(address)
        self.pages(address, size)[:] = 0
        whole = -(-size // PAGE) * PAGE + GAP
        i = bisect.bisect(self.free_parts, (address, whole))
        start, end = address, address + whole
        if i < len(self.free_parts) and self.free_parts[i][0] == end:
            end += self.free_parts.pop(i)[1]
        if i > 0 and sum(self.free_parts[i - 1]) == start:
            i -= 1
            start = self.free_parts.pop(i)[0]
        self.free_parts.insert(i, (start, end - start))

    def pages(self, address, size):
        """What is noted of the pages of an allocation: where it ends."""
        first = (address - self.start) >> layout.PAGE_BITS
        return self.ends[first : first + -(-size // PAGE)]

    def bytes(self, address, size):
        """Memory as bytes."""
        first = address - self.room.ctypes.data
        return self.room[first : first + size]

    def rest(self, address):
        """The bytes from an address to the end of its allocation; None if it lies in none."""
        page = (address - self.start) >> layout.PAGE_BITS
        if not 0 <= page < self.ends.size or self.ends[page] <= address:
            return None
        return self.bytes(address, int(self.ends[page]) - address)


class HostDriver(SimulatedDriver):
    """The GPU; `order` (a NumPy Generator) shuffles warps and threads, `checks` looks at what each thread accesses.

    `counts` does that too, and counts it.
    """

    name = "host"

    def __init__(self, memory=1 << 30, order=None, checks=False, counts=False):
        super().__init__(memory, order)
        self.arena = Arena(memory)
        self.blocks = self.arena.allocations
        self.checks, self.is_counting = checks or counts, counts
        self.counters = {}  # {kernel and type: Counter}
        self.trace = np.zeros((TRACE_ROOM if counts else 0, layout.TRACE), np.int64)
        self.block = np.zeros(layout.FIELDS, np.int64)
        self.shared = np.zeros(0, np.uint8)
        self.set_up()

    def set_up(self):
        """What stays the same for all launches."""
        arena, block = self.arena, self.block
        self.watch = checks.new_watch(LOG_ROOM if self.checks else 0)
        block[[layout.MEMORY, layout.MEMORY_BYTES, layout.ENDS]] = arena.start, arena.size, arena.ends.ctypes.data
        block[[layout.LOG, layout.LOG_ROOM]] = self.watch.log.ctypes.data, len(self.watch.log)

    # Kernels

    def prepare(self, kernel, real):
        """The kernel as machine code of this processor."""
        text, _ = cached_ptx(kernel, real)
        return LoadedKernel(kernel, real, HostKernel(text, kernel.name, self.checks, self.is_counting))

    def launch(self, handle, grid, block, shared_bytes, stream, values):
        """Run a prepared kernel."""
        self.launches[handle.kernel.name] += 1
        arguments = np.frombuffer(struct.pack(handle.layout.format, *values) + bytes(8), np.uint8)
        checked_launch(handle.kernel, grid, block, shared_bytes)
        self.do(self.run, handle, grid, block, shared_bytes, arguments)

    def run(self, handle, grid, size, shared_bytes, arguments):
        """Run all blocks."""
        kernel, block = handle.code.translation, self.block
        frames, states, ready = handle.frames_of(size)
        whole = kernel.dynamic_offset + shared_bytes if shared_bytes else kernel.shared_bytes
        with self.lock:
            if whole > self.shared.size:
                self.shared = np.zeros(whole, np.uint8)
            block[layout.BLOCK_SIZE : layout.BLOCK_SIZE + 3] = size
            block[layout.GRID_SIZE : layout.GRID_SIZE + 3] = grid
            block[[layout.SHARED, layout.SHARED_BYTES]] = self.shared.ctypes.data, whole
            block[[layout.DYNAMIC_BYTES, layout.PARAMETERS]] = shared_bytes, arguments.ctypes.data
            block[layout.FAULT : layout.FAULT_OTHER + 1] = 0
            block[layout.LOG_COUNT] = 0
            if self.checks:
                self.watch = checks.reaching(self.watch, self.arena.highest)
            warps, lanes = self.orders(len(states))
            watched = frames, states, ready, handle.kinds, warps, lanes, self.shared[:whole], self.watch, self.trace
            blocks = math.prod(grid)
            counter = self.counter_of(handle, blocks, len(states)) if self.is_counting else None
            each = 1 if self.is_counting else blocks
            for first in range(0, blocks, each):
                block[layout.TRACE_COUNT] = 0
                run_grid(handle.code.address, block, *watched, first, first + each)
                if block[layout.FAULT]:
                    raise RuntimeError(self.fault(handle, states))
                if counter:
                    counter.add(self.trace[: block[layout.TRACE_COUNT]])
            if counter:
                counter.end()

    def counter_of(self, handle, blocks, threads):
        """The Counter of a kernel, of which a launch begins."""
        name = f"{handle.kernel.name}:{handle.real.name}"
        if name not in self.counters:
            self.counters[name] = Counter(handle.code.ptx)
        self.counters[name].begin(blocks, threads)
        return self.counters[name]

    @property
    def counts(self):
        """{kernel and type: Counts} of all launches."""
        return {name: counter.total for name, counter in self.counters.items()}

    def fault(self, handle, states):
        """What was wrong, in words."""
        block = self.block
        state = states[block[layout.FAULT_THREAD]]
        if block[layout.FAULT] in faults.TOGETHER and state > 0:
            block[layout.FAULT_LINE] = handle.code.translation.points[state - 1].line
        return faults.message(handle.code, block, self.arena.allocations)

    def orders(self, threads):
        """(warps, lanes) in the order in which they run."""
        warps, lanes = np.arange(-(-threads // LANES)), np.arange(LANES)
        if self.order is None:
            return warps, lanes
        return self.order.permutation(warps), self.order.permutation(lanes)

    # Memory

    def memory_at(self, pointer, dtype):
        """The rest of the allocation that an address lies in, as a flat array; nothing for the null pointer."""
        if not pointer:
            return np.empty(0, dtype)
        rest = self.arena.rest(pointer)
        if rest is None:
            raise RuntimeError(f"{pointer:#x} is no address in memory that was allocated")
        return rest[: rest.size // dtype.itemsize * dtype.itemsize].view(dtype)

    def allocate(self, nbytes):
        """The address of so many bytes."""
        if self.noting is not None:
            raise RuntimeError("memory cannot be allocated while a graph is made")
        with self.lock:
            address = self.arena.allocate(nbytes) if nbytes <= self.free_memory() else None
            if address is None:
                raise OutOfMemory("the GPU that the host stands for is out of memory")
            self.define(address, nbytes, False)
        return address

    def free(self, pointer):
        """Give them back, unless Python ends: then the modules that this needs may be gone."""
        if sys is None or sys.is_finalizing():
            return
        self.finish_all()
        with self.lock:
            self.arena.free(pointer)

    def free_memory(self):
        """Bytes that nobody has allocated."""
        return self.memory - sum(self.blocks.values())

    def define(self, address, size, defined=True):
        """Note for the checks that memory was written, byte by byte or all of it, or is as new."""
        if self.checks:
            self.watch = checks.reaching(self.watch, self.arena.highest)
            first = address - self.arena.start
            self.watch.defined[first : first + size] = defined

    def move(self, target, source, nbytes):
        """Copy bytes now."""
        with self.lock:
            super().move(target, source, nbytes)
            if self.checks and self.arena.rest(target) is not None:
                known, first = self.watch.defined, source - self.arena.start
                from_here = self.arena.rest(source) is not None
                self.define(target, nbytes, known[first : first + nbytes].copy() if from_here else True)


class LoadedKernel:
    """A kernel ready to be launched, and the frames of its threads."""

    def __init__(self, kernel, real, code):
        self.kernel, self.real, self.code = kernel, real, code
        self.layout = ArgumentLayout(kernel, real)
        self.kinds = np.array([0, *(point.kind for point in code.translation.points)])
        self.frames = {}

    def frames_of(self, size):
        """(frames, states, whether each may run) for blocks of a size."""
        if size not in self.frames:
            x, y, z = size
            number = np.arange(x * y * z)
            frames = np.zeros((number.size, self.code.translation.frame_bytes // 8), np.int64)
            frames[:, layout.THREAD_INDEX : layout.THREAD_NUMBER + 1] = np.stack(
                [number % x, number // x % y, number // (x * y), number], axis=1
            )
            self.frames[size] = frames, np.zeros(number.size, np.int64), np.zeros(number.size, np.bool_)
        return self.frames[size]
