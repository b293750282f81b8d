"""nccl4py's names as far as minigrad uses them, between GPUs that are made of the host (MINIGRAD_CUDA=host or simulator).

What is asked for comes in its place on the stream, or in the graph that is being made of it, and MPI carries it. What NCCL
would refuse is refused here, and so is memory that no GPU has.
"""

import collections
import sys

import numpy as np
from mpi4py import MPI

from minigrad.kernels.cuda.tools.context import context

ID_BYTES = 128
calls = collections.Counter()  # what was asked for, and what was done, since a graph does it again
faults = []  # numbers of errors that get_async_error is to give


class NcclInvalid(Exception):
    pass


class UniqueId:
    def __init__(self, _internal=None):
        self._internal = _internal or bytes(ID_BYTES)

    def __bytes__(self):
        return self._internal

    @staticmethod
    def from_bytes(b):
        if len(b) != ID_BYTES:
            raise ValueError(f"an id has {ID_BYTES} bytes, not {len(b)}")
        return UniqueId(bytes(b))


def get_unique_id(empty=False):
    return UniqueId(bytes(ID_BYTES) if empty else np.random.default_rng().bytes(ID_BYTES))


class Buffer:
    """(address, elements, dtype) of what has __cuda_array_interface__."""

    def __init__(self, given):
        found = given.__cuda_array_interface__
        if found["strides"] is not None:
            raise NcclInvalid("a buffer must be contiguous")
        self.pointer, self.dtype = found["data"][0], np.dtype(found["typestr"])
        self.count = int(np.prod(found["shape"], dtype=np.int64))
        if self.dtype.name not in ("float32", "float64"):
            raise NcclInvalid(f"{self.dtype} is not what minigrad exchanges")

    def values(self, count):
        return context.driver.memory_at(self.pointer, self.dtype)[:count]

    def put(self, values):
        context.driver.move(self.pointer, values.ctypes.data, values.nbytes)


class Communicator:
    def __init__(self, ptr=None):
        self.mpi = None

    @classmethod
    def init(cls, nranks, rank, unique_id, config=None):
        made = cls()
        made.mpi = MPI.COMM_WORLD.Dup()
        if (nranks, rank) != (made.mpi.Get_size(), made.mpi.Get_rank()):
            raise NcclInvalid(f"rank {rank} of {nranks} is not what MPI says")
        if len(set(made.mpi.allgather(bytes(unique_id)))) != 1 or not any(bytes(unique_id)):
            raise NcclInvalid("all need the id that one has made")
        return made

    def alltoall(self, sendbuf, recvbuf, *, stream=None, config=None):
        sent, received = self.two(sendbuf, recvbuf, stream)
        world = self.mpi.Get_size()
        if sent.count % world or received.count < sent.count:
            raise NcclInvalid(f"{sent.count} elements cannot be shared out to {world} that take {received.count}")
        self.launch("alltoall", self.mpi.Alltoall, sent, received, sent.count)

    def allgather(self, sendbuf, recvbuf, *, stream=None, config=None):
        sent, received = self.two(sendbuf, recvbuf, stream)
        if received.count < sent.count * self.mpi.Get_size():
            raise NcclInvalid(f"{received.count} elements are too few for {sent.count} of each")
        self.launch("allgather", self.mpi.Allgather, sent, received, sent.count * self.mpi.Get_size())

    def two(self, sendbuf, recvbuf, stream):
        if stream != int(context.stream):
            raise NcclInvalid(f"stream {stream} is not the one that minigrad works on, {context.stream}")
        sent, received = Buffer(sendbuf), Buffer(recvbuf)
        if sent.dtype != received.dtype:
            raise NcclInvalid(f"{sent.dtype} is sent and {received.dtype} received")
        return sent, received

    def launch(self, name, exchange, sent, received, count):
        calls[name, "asked"] += 1

        def work():
            calls[name, "done"] += 1
            values = np.empty(count, received.dtype)
            exchange(sent.values(sent.count).copy(), values)
            received.put(values)

        context.driver.do(work)

    def abort(self):
        sys.stderr.write("the stand-in's communicator was aborted\n")

    def get_async_error(self):
        return faults[0] if faults else 0

    def get_last_error(self):
        return "a fault of the stand-in\n" if faults else ""
