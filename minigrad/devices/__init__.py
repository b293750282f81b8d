"""Where arrays live: devices, their memory, and how one is found by its name."""

from minigrad.devices.base import Call, Device
from minigrad.devices.memory import Lease, Pool
from minigrad.devices.registry import NAMES, address, arrays_among, get_device, is_array

__all__ = ["NAMES", "Call", "Device", "Lease", "Pool", "address", "arrays_among", "get_device", "is_array"]
