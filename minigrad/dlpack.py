"""from_dlpack: arrays of other libraries as tensors, without a copy where their layout allows.

The protocol is DLPack's, by way of the Python array API: an array has `__dlpack__` and `__dlpack_device__`.
"""

from typing import Any

from minigrad.arrays import check_dtype
from minigrad.devices import Device, get_device
from minigrad.devices.dlpack import CUDA, HOST
from minigrad.modes import refuse
from minigrad.tensor import Tensor


def from_dlpack(x: Any, /, *, device: str | Device | None = None, copy: bool | None = None) -> Tensor:
    """A tensor on the memory of an array of another library: of NumPy, PyTorch, JAX, CuPy, of any that speaks DLPack.

    What either side writes, the other sees, and the memory lives as long as either uses it. The tape does not notice what
    others write: a saved value that changes before `backward` makes the gradient wrong. An array that is read-only, or does
    not say (DLPack before 1.0), becomes a tensor that cannot be changed in place.

    Args:
        x: an array on the host or an NVIDIA GPU; it must not need a gradient in its own library.
        device: "cpu", "reference", "cuda" or "auto"; None is where the array is. Another one is a copy.
        copy: None copies where that is needed: for memory that is not C-contiguous or not aligned, or on another device. True
            copies always; False never, and raises BufferError where it would be needed.

    Raises:
        TypeError: x does not speak DLPack, or is of a dtype that tensors do not have, as bfloat16, float16 and complex.
        BufferError: the array is on a device that minigrad has not, or its library refuses.
    """
    refuse("from_dlpack inside a captured step would share the memory of today in all replays; share it outside")
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise TypeError(
            f"from_dlpack takes an array with __dlpack__, not a {type(x).__name__}; mg.tensor(x) copies others"
        )
    kind, number = x.__dlpack_device__()
    if kind != CUDA and kind not in HOST:
        raise BufferError(
            f"the array is on a device of type {int(kind)}; minigrad shares memory of the host and of CUDA"
        )
    home = get_device("cuda" if kind == CUDA else "cpu")
    there = home if device is None else get_device(device)
    moves = there.array_type is not home.array_type
    if moves and copy is False:
        raise BufferError(f"the array is on {home.name!r}; on {there.name!r} it is a copy, which copy=False forbids")
    if isinstance(x, Tensor) and x._device is there and not x.requires_grad and not copy:
        return x.detach()  # which also knows how often it was changed
    array = home.borrow(x, int(number), copy)
    check_dtype(array.dtype)
    if moves:
        array = there.from_host(home.to_host(array))
    elif copy:
        array = there.copy(array)
    return Tensor._wrap(array, there)
