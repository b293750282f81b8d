"""Memory in units of 1 to 16 bytes, whatever they stand for: how kernels that only move data load and store them.

A kernel that calls LOAD and STORE has a variant for each size, `kernel.variant(**UNITS[size])`.
"""

from minigrad.kernels.cuda.tools.language import Choice, cast, device_function, load4, store4, uint16, uint32, uint64

LOAD, STORE = Choice("LOAD"), Choice("STORE")  # a unit


@device_function
def load1(x, i):
    return x[i]


@device_function
def load2(x, i):
    return cast(x, uint16)[i]


@device_function
def load4_bytes(x, i):
    return cast(x, uint32)[i]


@device_function
def load8(x, i):
    return cast(x, uint64)[i]


@device_function
def load16(x, i):
    return load4(cast(x, uint32), uint64(i) * uint64(4))


@device_function
def store1(y, i, u):
    y[i] = u


@device_function
def store2(y, i, u):
    cast(y, uint16)[i] = u


@device_function
def store4_bytes(y, i, u):
    cast(y, uint32)[i] = u


@device_function
def store8(y, i, u):
    cast(y, uint64)[i] = u


@device_function
def store16(y, i, u):
    store4(cast(y, uint32), uint64(i) * uint64(4), u[0], u[1], u[2], u[3])


UNITS = {  # bytes: how a unit of so many is loaded and stored
    16: {"LOAD": load16, "STORE": store16},
    8: {"LOAD": load8, "STORE": store8},
    4: {"LOAD": load4_bytes, "STORE": store4_bytes},
    2: {"LOAD": load2, "STORE": store2},
    1: {"LOAD": load1, "STORE": store1},
}


@device_function
def below(i, n, otherwise):
    """i if it is below n: past the end a thread does again what it has done."""
    return i if i < n else otherwise


def alignment(*arrays):
    """The most bytes, up to 16, of which all addresses are a multiple."""
    address = 16
    for array in arrays:
        address |= array.pointer
    return address & -address
