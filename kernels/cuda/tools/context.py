"""Where launches go: the driver at work, for all of kernels/cuda."""

import contextlib
import typing

import numpy as np

MOST_TABLES = 1024


class Context:
    """Where launches go: a driver, a stream of its, and `empty(shape, dtype)`, which gives kernels scratch memory."""

    driver: typing.Any = None
    stream: typing.Any = None
    empty: typing.Any = None
    matmul_precision = (
        "float32"  # or "bf16_3x", "tf32", "bf16": what matrix products and convolutions of float32 multiply in
    )

    def __init__(self):
        self.tables = {}
        self.kept = None  # while a graph is made: a dict of the tables that it reads, which must outlive it

    @contextlib.contextmanager
    def inside(self, empty, kept):
        """Inside, scratch memory is made by `empty`, and the tables that are used are noted in the dict `kept`."""
        before = self.empty, self.kept
        self.empty, self.kept = empty, kept
        try:
            yield
        finally:
            self.empty, self.kept = before

    def table(self, *values):
        """A uint64 array of these numbers on the GPU, for kernels over many arrays; kept, so that it is sent only once."""
        key = self.driver, values
        # while a graph is made none can be sent, and `tables` may have lost one that an earlier run had sent
        if self.kept is not None and key in self.kept:
            return self.kept[key][0]
        if key not in self.tables:
            if len(self.tables) >= MOST_TABLES:
                self.driver.synchronize(self.stream)  # launches to come may still read them
                self.tables.clear()
            host = np.array(values, np.uint64)
            array = self.empty(host.shape, host.dtype)
            self.driver.to_device(array.pointer, host.ctypes.data, host.nbytes, self.stream)
            self.tables[key] = array, host
        if self.kept is not None:
            self.kept[key] = self.tables[key]
        return self.tables[key][0]


context = Context()
