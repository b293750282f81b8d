"""Elements of any type, which a number tells a kernel: one kernel for all dtypes, where a thread has time to ask."""

import numpy as np

from minigrad.kernels.cuda.tools.language import (
    cast,
    device_function,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)

BOOL, INT8, UINT8, INT16, UINT16, INT32, UINT32, INT64, UINT64, FLOAT32, FLOAT64 = range(11)
KINDS = {
    np.dtype(name): kind
    for kind, name in enumerate(
        ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
    )
}


@device_function
def integer_at(x, i, kind):
    """Element i, of an integer type, as int64; of uint64 the same bits."""
    if kind <= uint32(UINT8):
        return int64(cast(x, int8)[i]) if kind == uint32(INT8) else int64(x[i])
    if kind == uint32(INT16):
        return int64(cast(x, int16)[i])
    if kind == uint32(UINT16):
        return int64(cast(x, uint16)[i])
    if kind == uint32(INT32):
        return int64(cast(x, int32)[i])
    if kind == uint32(UINT32):
        return int64(cast(x, uint32)[i])
    return cast(x, int64)[i]


@device_function
def put_integer(y, i, kind, value):
    """Element i = value, of which an integer type keeps the lowest bits."""
    if kind == uint32(BOOL):
        y[i] = uint8(1) if value != int64(0) else uint8(0)
    elif kind <= uint32(UINT8):
        y[i] = uint8(value & int64(0xFF))
    elif kind <= uint32(UINT16):
        cast(y, uint16)[i] = uint16(value & int64(0xFFFF))
    elif kind <= uint32(UINT32):
        cast(y, uint32)[i] = uint32(value & int64(0xFFFFFFFF))
    else:
        cast(y, int64)[i] = value


@device_function
def put_real(y, i, kind, value):
    """Element i = value, a float64, towards zero where it becomes an integer."""
    if kind == uint32(FLOAT32):
        cast(y, float32)[i] = float32(value)
    elif kind == uint32(FLOAT64):
        cast(y, float64)[i] = value
    elif kind == uint32(BOOL):
        y[i] = uint8(0) if value == float64(0) else uint8(1)
    elif kind == uint32(UINT64):
        cast(y, uint64)[i] = uint64(value)
    else:
        put_integer(y, i, kind, int64(value))
