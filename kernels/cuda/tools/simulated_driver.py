"""A GPU in Python, by the names of the driver (kernels/cuda/tools/driver.py)."""

import collections
import ctypes
import struct
import threading
import time

import numpy as np

from minigrad.kernels.cuda.tools.driver import OutOfMemory
from minigrad.kernels.cuda.tools.launch import ArgumentLayout

MOST_BLOCKS = 2**31 - 1, 65535, 65535  # of a grid, along its axes
MOST_THREADS = 1024, 1024, 64  # of a block, along its axes
MOST_SHARED = 227 * 1024  # bytes of a block, of compute capability 9.0


def checked_launch(kernel, grid, block, shared_bytes):
    """Raise for sizes of a launch that no GPU takes."""
    threads = block[0] * block[1] * block[2]
    if not 0 < threads <= kernel.threads:
        raise RuntimeError(f"{kernel.name} is compiled for blocks of at most {kernel.threads} threads, not {threads}")
    for what, size, most in [("grid", grid, MOST_BLOCKS), ("block", block, MOST_THREADS)]:
        if any(not 0 < n <= limit for n, limit in zip(size, most, strict=True)):
            raise RuntimeError(f"{kernel.name}: a {what} is at least 1 and at most {most}, not {size}")
    if shared_bytes > MOST_SHARED:
        raise RuntimeError(
            f"{kernel.name}: a block has at most {MOST_SHARED} bytes of shared memory, not {shared_bytes}"
        )


class SimulatedDriver:
    """A GPU in Python: kernels run thread by thread, in an order that `order` (a NumPy Generator) shuffles.

    What comes on its first stream is done at once, copies on the others when the first, or the host, waits for them.
    """

    is_simulated = True
    name = "simulator"
    capability = 9, 0
    multiprocessors = 2
    shared_memory = 228 * 1024  # bytes of a multiprocessor

    def __init__(self, memory=1 << 30, order=None):
        self.memory = memory
        self.order = order
        self.blocks = {}  # address: (the bytes, the array they lie in)
        self.pinned = {}
        self.launches = collections.Counter()  # of each kernel
        self.noting = None  # a list, while a graph is made
        self.late = []  # what streams but the first have to do: lists of (function, arguments)
        self.lock = threading.RLock()  # since the loader's thread waits for copies, too

    def prepare(self, kernel, real):
        return kernel, real

    def launch(self, handle, grid, block, shared_bytes, stream, values):
        from minigrad.kernels.cuda.tools import simulator

        kernel, real = handle
        self.launches[kernel.name] += 1
        struct.pack(ArgumentLayout(kernel, real).format, *values)  # raises for what a GPU would not be given either
        checked_launch(kernel, grid, block, shared_bytes)
        given = iter(values)
        arguments = [parameter.taken(given, real, self.memory_at) for parameter in kernel.parameters]
        self.do(simulator.simulate, kernel, real, grid, block, arguments, shared_bytes, self.order)

    def memory_at(self, pointer, dtype):
        """The rest of the block that an address lies in, as a flat array; nothing for the null pointer."""
        if not pointer:
            return np.empty(0, dtype)
        for start, block in self.blocks.items():
            if start <= pointer < start + block.size:
                rest = block[pointer - start :]
                return rest[: rest.size // dtype.itemsize * dtype.itemsize].view(dtype)
        raise RuntimeError(f"{pointer:#x} is no address in memory that was allocated")

    def do(self, function, *arguments):
        """Do something now, or note it for a graph."""
        if self.noting is None:
            function(*arguments)
        else:
            self.noting.append((function, arguments))

    def allocate(self, nbytes):
        if self.noting is not None:
            raise RuntimeError("memory cannot be allocated while a graph is made")
        if nbytes > self.free_memory():
            raise OutOfMemory("the simulated GPU is out of memory")
        memory = np.full(nbytes + 256, 0xCB, np.uint8)
        block = memory[-memory.ctypes.data % 256 :][:nbytes]
        self.blocks[block.ctypes.data] = block
        return block.ctypes.data

    def free(self, pointer):
        self.finish_all()
        del self.blocks[pointer]

    def free_memory(self):
        return self.memory - sum(block.size for block in self.blocks.values())

    def allocate_pinned(self, nbytes):
        block = np.full(nbytes, 0xCB, np.uint8)
        self.pinned[block.ctypes.data] = block
        return block.ctypes.data

    def free_pinned(self, pointer):
        self.finish_all()
        del self.pinned[pointer]

    def to_device(self, pointer, host, nbytes, stream):
        self.within(pointer, nbytes)
        if stream:
            self.late[stream].append((self.move, (pointer, host, nbytes)))
        else:
            self.do(self.move, pointer, host, nbytes)

    def to_host(self, host, pointer, nbytes, stream):
        self.within(pointer, nbytes)
        self.do(self.move, host, pointer, nbytes)

    def on_device(self, target, source, nbytes, stream):
        self.within(target, nbytes)
        self.within(source, nbytes)
        self.do(self.move, target, source, nbytes)

    def move(self, target, source, nbytes):
        """Copy bytes now."""
        ctypes.memmove(target, source, nbytes)

    def within(self, pointer, nbytes):
        """Raise unless the bytes lie in one block."""
        if nbytes and self.memory_at(pointer, np.dtype(np.uint8)).size < nbytes:
            raise RuntimeError(f"a copy of {nbytes} bytes at {pointer:#x} leaves the memory that was allocated")

    def new_stream(self):
        self.late.append([])
        return len(self.late) - 1

    def synchronize(self, stream):
        if self.noting is not None:
            raise RuntimeError("a stream cannot be waited for while a graph is made")
        self.finish(stream)

    def finish(self, stream):
        """Do what a stream has to do."""
        late = self.late[stream] if stream else []
        with self.lock:
            while late:
                function, arguments = late.pop(0)
                function(*arguments)

    def finish_all(self):
        """Do what all streams have to do, as a GPU does before it frees memory."""
        for stream in range(len(self.late)):
            self.finish(stream)

    def new_event(self):
        return [None, None]  # the time, and the stream

    def free_event(self, event):
        pass

    def record(self, event, stream):
        event[:] = time.perf_counter(), stream

    def wait(self, stream, event):
        self.finish(event[1])

    def wait_on_host(self, event):
        self.finish(event[1])

    def is_past(self, event):
        return not (event[1] and self.late[event[1]])  # what comes on the first stream is done at once

    def elapsed(self, start, end):
        return end[0] - start[0]

    def begin_graph(self, stream):
        if stream is None:
            raise RuntimeError(
                "cuStreamBeginCapture failed: the legacy stream, None, cannot be made a graph of; make one"
            )
        self.noting = []

    def is_noting(self, stream):
        return self.noting is not None

    def end_graph(self, stream):
        graph, self.noting = self.noting, None
        return graph

    def launch_graph(self, graph, stream):
        for function, arguments in graph:
            function(*arguments)

    def free_graph(self, graph):
        graph.clear()
