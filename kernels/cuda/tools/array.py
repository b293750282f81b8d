"""CudaArray: a C-contiguous array in a GPU's memory, which kernels take and the engine passes around like NumPy's."""

import math

import numpy as np

from minigrad.kernels.cuda.tools.context import context


class Flags:
    """What code that serves NumPy's arrays too may ask for."""

    c_contiguous = True

    def __init__(self, writeable):
        self.writeable = writeable


WRITEABLE, READ_ONLY = Flags(True), Flags(False)


class CudaArray:
    """A shape and a dtype at an address; `base` is what owns the memory, or the array this one is a view of."""

    __slots__ = ("base", "dtype", "pointer", "shape", "size")

    def __init__(self, pointer, shape, dtype, base):
        self.pointer = pointer
        self.shape = shape
        self.dtype = dtype
        self.size = math.prod(shape)
        self.base = base

    @property
    def flags(self):
        """Whether it may be written, which another library that lent the memory may have forbidden."""
        base = self.base
        while type(base) is CudaArray:
            base = base.base
        return READ_ONLY if getattr(base, "read_only", False) else WRITEABLE

    @property
    def ndim(self):
        """Number of axes."""
        return len(self.shape)

    @property
    def itemsize(self):
        """Bytes of an element."""
        return self.dtype.itemsize

    @property
    def nbytes(self):
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self):
        """How other libraries (CuPy, Numba, JAX) take the array without a copy; they wait for the stream that is named.

        PyTorch takes it too, but does not wait: synchronize the device first.
        """
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "version": 3,
            "strides": None,
            "stream": int(context.stream or 0) or None,  # the simulator's is 0, which would be a default stream
        }

    def __array__(self, dtype=None, copy=None):
        """A copy on the host, for NumPy's functions."""
        array = np.empty(self.shape, self.dtype)
        if self.size:
            context.driver.to_host(array.ctypes.data, self.pointer, self.nbytes, context.stream)
            context.driver.synchronize(context.stream)
        return array if dtype is None else array.astype(dtype)

    def __len__(self):
        if not self.shape:
            raise TypeError("an array without axes has no length")
        return self.shape[0]

    def reshape(self, *shape):
        """The same memory in another shape; one length may be -1."""
        lengths = list(shape[0] if len(shape) == 1 and not isinstance(shape[0], int | np.integer) else shape)
        if -1 in lengths:
            known = -math.prod(lengths)
            lengths[lengths.index(-1)] = self.size // known if known else 0
        if math.prod(lengths) != self.size:
            raise ValueError(f"cannot reshape {self.shape} ({self.size} elements) to {shape}")
        return CudaArray(self.pointer, tuple([int(n) for n in lengths]), self.dtype, self)

    def part(self, start, stop):
        """Elements start to stop of a flat array, without a copy."""
        return CudaArray(self.pointer + start * self.dtype.itemsize, (stop - start,), self.dtype, self)

    def __repr__(self):
        return f"CudaArray({self.dtype}{list(self.shape)} at {self.pointer:#x})"
