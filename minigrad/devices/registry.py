"""Devices by name, each made when it is first asked for."""

import copyreg
from typing import Any

import numpy as np

from minigrad.devices.base import Device

DEVICES = {name: Device(name) for name in ("cpu", "reference")}  # and "cuda", once it was asked for
NAMES = ("cpu", "reference", "cuda", "auto")


def get_device(name: "str | Device | None") -> Device:
    """The device called `name`; None is the CPU, "auto" the GPU if this machine has one that works, else the CPU.

    Raises ValueError for a name that is none, and RuntimeError, with what mends it, for "cuda" where it does not work.
    """
    if isinstance(name, Device):
        return name
    if name is None:
        return DEVICES["cpu"]
    if isinstance(name, str) and name in DEVICES:
        return DEVICES[name]
    if name in ("cuda", "cuda:0"):
        try:
            from minigrad.devices.cuda import CudaDevice
        except ImportError as error:
            raise RuntimeError(f'device="cuda": {error}; or use device="cpu"') from error
        copyreg.pickle(CudaDevice, by_name)
        return DEVICES.get("cuda") or DEVICES.setdefault("cuda", CudaDevice())
    if name == "auto":
        try:
            return get_device("cuda")
        except RuntimeError:
            return DEVICES["cpu"]
    if isinstance(name, str) and name.startswith("cuda:"):
        raise RuntimeError(
            f'minigrad works on one GPU, device="cuda", not {name!r}; CUDA_VISIBLE_DEVICES={name[5:]} makes that the one'
        )
    raise ValueError(f"unknown device {name!r}; there are {', '.join(map(repr, NAMES))}")


def by_name(device: Device) -> tuple[Any, tuple[str]]:
    """For pickle and deepcopy: a device is found again, never copied."""
    return get_device, (device.name,)


copyreg.pickle(Device, by_name)


def address(array: Any) -> int:
    """Where an array's memory begins."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.pointer


def arrays_among(arguments: tuple[Any, ...]) -> list[Any]:
    """All arrays among a kernel's arguments, in order, also those in lists."""
    return [a for given in arguments for a in (given if isinstance(given, list) else [given]) if is_array(a)]


def is_array(value: Any) -> bool:
    """Whether it is an array of one of the devices."""
    return isinstance(value, np.ndarray) or (
        DEVICES.get("cuda") is not None and type(value) is DEVICES["cuda"].array_type
    )
