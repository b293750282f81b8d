"""Where things are: addresses of rows and pixels, and many arrays as one argument of a compiled kernel.

Numba takes a fixed number of arrays, and handing each over costs time. A list of arrays is therefore passed as one
array of the addresses of the Python objects, which `array_at` follows to their data inside the kernel:

    arrays = pack(list of n arrays)              in `prepare`; a few hundred nanoseconds
    a = array_at(arrays, i, start, size, like)   in the kernel: elements start to start + size of array i

An ndarray object begins with the header of every Python object, followed by the pointer to its data (NumPy's
PyArrayObject_fields, the layout all extension modules are compiled against).
"""

import numpy as np
from llvmlite import ir
from numba import carray
from numba.core import types
from numba.extending import intrinsic

from minigrad.kernels.cpu.tools.launch import inlined

DATA_OFFSET = object.__basicsize__
NDARRAY = {np.ndarray}


def pack(arrays):
    """A list of arrays as an int64 array of their objects' addresses, which keeps them alive."""
    if not NDARRAY.issuperset(map(type, arrays)):
        found = ", ".join(sorted({type(item).__name__ for item in arrays}))
        raise TypeError(f"expected a list of NumPy arrays, got a list of {found}; np.asarray makes arrays of them")
    owners = np.fromiter(arrays, object, len(arrays))
    return np.frombuffer(owners, np.int64) if arrays else np.empty(0, np.int64)


@intrinsic
def data_pointer(typingctx, address, start, like):
    """Pointer to element `start` of the ndarray object at `address`, of the dtype of `like`."""
    pointer = types.CPointer(like.dtype)

    def codegen(context, builder, signature, arguments):
        kind = context.get_value_type(pointer)
        field = builder.add(arguments[0], ir.Constant(ir.IntType(64), DATA_OFFSET))
        return builder.gep(builder.load(builder.inttoptr(field, kind.as_pointer())), [arguments[1]])

    return pointer(types.int64, types.int64, like), codegen


@inlined
def array_at(arrays, i, start, size, like):
    """Elements `start` to `start + size` of the packed array `i`, flat, of the dtype of `like`."""
    return carray(data_pointer(arrays[i], start, like), (size,))


@intrinsic
def keep(typingctx, array):
    """Nothing, in a kernel that has made an array and goes on with its address: here, at last, the array may be freed.

    Numba frees an array after the last statement that names it. tests/kernels/test_lifetimes.py finds those that are missing.
    """
    return types.void(array), lambda context, builder, signature, arguments: context.get_dummy_value()


@inlined
def element_at(matrix, i, j):
    """Address of an element of a matrix, whose rows may lie apart."""
    return matrix.ctypes.data + i * matrix.strides[0] + j * np.intp(matrix.itemsize)


@inlined
def row_at(array, i):
    """Address of row i of a contiguous array: of what lies along its last axis, counted through all others."""
    return array.ctypes.data + i * array.shape[-1] * np.intp(array.itemsize)


@inlined
def pixel_at(images, image, row, column):
    """Address of a pixel of images (n, h, w, c), or of where it would be, outside."""
    _, h, w, _ = images.shape
    return row_at(images, (image * h + row) * w + column)
