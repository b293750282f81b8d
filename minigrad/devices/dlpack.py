"""DLPack's capsules for arrays of a GPU: made, and taken apart. NumPy does the same for arrays of the host.

A capsule holds a C struct that says where an array is, its shape, strides and dtype, and what to call when the memory is no
longer needed (https://dmlc.github.io/dlpack/latest/c_api.html). That of before DLPack 1.0 cannot say that an array is
read-only. The strides are in elements.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

CPU, CUDA = 1, 2  # kDLCPU and kDLCUDA
HOST = (CPU, 3, 11, 13)  # and pinned or managed by CUDA or ROCm, which the host reads too
READ_ONLY, IS_COPIED = 1, 2  # flags
KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLDataTypeCode, by the kind of NumPy's dtype
NAMES = {4: "bfloat16", 5: "complex"}  # of those that NumPy, or minigrad, has not


class DLTensor(ctypes.Structure):
    """Where an array is and how it is laid out."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    """DLManagedTensor, of before DLPack 1.0."""

    _fields_ = (("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class ManagedVersioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


Struct = Managed | ManagedVersioned
# Capsules keep the pointer to their name, so the names live as long as the module.
FRESH: dict[type[Struct], bytes] = {Managed: b"dltensor", ManagedVersioned: b"dltensor_versioned"}
USED: dict[type[Struct], bytes] = {Managed: b"used_dltensor", ManagedVersioned: b"used_dltensor_versioned"}

DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # of a capsule that is going: no reference may be taken to it
api = ctypes.pythonapi
api.PyCapsule_New.restype = ctypes.py_object
api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, DESTRUCTOR)
api.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)
for name in ("PyCapsule_IsValid", "PyCapsule_GetPointer"):
    getattr(api, name).argtypes = (ctypes.c_void_p, ctypes.c_char_p)
api.PyCapsule_GetPointer.restype = ctypes.c_void_p

lent: dict[int, tuple[object, ...]] = {}  # what has to live while others hold it, by the address of its struct


@DELETER
def forget(address: int) -> None:
    """Called by who was lent the memory, once it is no longer needed."""
    lent.pop(address, None)


@DESTRUCTOR
def destroyed(capsule: int) -> None:
    """Called when a capsule goes: if nobody has taken what is in it, nobody will give it back."""
    for name in FRESH.values():
        if api.PyCapsule_IsValid(capsule, name):
            lent.pop(api.PyCapsule_GetPointer(capsule, name), None)


def capsule_of(
    pointer: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    owner: object,
    *,
    device: tuple[int, int],
    flags: int = 0,
    max_version: tuple[int, int] | None = None,
) -> Any:
    """A capsule for a C-contiguous array at an address, which keeps `owner` alive until its taker gives it back.

    Raises BufferError where the taker only knows capsules that cannot say that the array is read-only.
    """
    kind: type[Struct] = Managed if max_version is None or max_version[0] < 1 else ManagedVersioned
    struct = kind()
    if isinstance(struct, ManagedVersioned):
        struct.major, struct.minor, struct.flags = 1, 0, flags
    elif flags & READ_ONLY:
        raise BufferError("the array is read-only, which DLPack can say from version 1.0 on; pass a copy()")
    lengths = (ctypes.c_int64 * max(1, len(shape)))(*shape)
    strides = (ctypes.c_int64 * max(1, len(shape)))()
    step = 1
    for axis in reversed(range(len(shape))):
        strides[axis], step = step, step * shape[axis]
    tensor = struct.tensor
    tensor.data, (tensor.device_type, tensor.device_id), tensor.ndim = pointer, device, len(shape)
    tensor.code, tensor.bits, tensor.lanes = KINDS[dtype.kind], 8 * dtype.itemsize, 1
    tensor.shape, tensor.strides = lengths, strides
    struct.deleter = ctypes.cast(forget, ctypes.c_void_p)
    address = ctypes.addressof(struct)
    lent[address] = struct, lengths, strides, owner
    return api.PyCapsule_New(address, FRESH[kind], destroyed)


class Borrowed:
    """What owns memory that was taken out of a capsule: when the last array on it is gone, it is given back.

    It stands for a block of the GPU's memory that is lent for ever: nothing is known of it, since others write there too.
    """

    pointer = None
    known = None
    lent = True

    def __init__(self, struct: Struct, read_only: bool) -> None:
        self.struct = struct
        self.read_only = read_only
        self.wait: Callable[[], None] | None = None  # until nobody here uses it any more

    @property
    def block(self) -> "Borrowed":
        """As a lease has one."""
        return self

    def forget(self) -> None:
        """Nothing is known of it."""

    def __del__(self) -> None:
        try:
            if self.wait is not None:
                self.wait()
        finally:
            if self.struct.deleter:
                DELETER(self.struct.deleter)(ctypes.addressof(self.struct))


class Described(NamedTuple):
    """An array in a capsule; strides are in elements, and None for one that is contiguous."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: np.dtype
    owner: Borrowed


def taken(capsule: Any) -> Described:
    """What is in a capsule, which is used up by it. TypeError for a dtype that NumPy has not, BufferError for a new version."""
    kind: type[Struct] = ManagedVersioned if api.PyCapsule_IsValid(id(capsule), FRESH[ManagedVersioned]) else Managed
    if not api.PyCapsule_IsValid(id(capsule), FRESH[kind]):
        raise BufferError(f"__dlpack__ must return a fresh capsule of DLPack, not {capsule!r}")
    struct = kind.from_address(api.PyCapsule_GetPointer(id(capsule), FRESH[kind]))
    api.PyCapsule_SetName(capsule, USED[kind])
    owner = Borrowed(struct, not isinstance(struct, ManagedVersioned) or bool(struct.flags & READ_ONLY))
    if isinstance(struct, ManagedVersioned) and struct.major > 1:
        raise BufferError(f"the array comes by DLPack {struct.major}.{struct.minor}, of which 1 is known here")
    tensor = struct.tensor
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    return Described((tensor.data or 0) + tensor.byte_offset, shape, strides, dtype_of(tensor), owner)


def dtype_of(tensor: DLTensor) -> np.dtype:
    """NumPy's dtype; TypeError where it has none."""
    kind = next((kind for kind, code in KINDS.items() if code == tensor.code), None)
    if kind is None or tensor.lanes != 1 or tensor.bits % 8:
        lanes = f" in vectors of {tensor.lanes}" if tensor.lanes != 1 else ""
        name = NAMES.get(tensor.code, f"type {tensor.code} of DLPack")
        raise TypeError(f"{name}, {tensor.bits} bits{lanes}, is not supported; convert to float32 or float64 first")
    return np.dtype(f"{kind}{tensor.bits // 8}")
