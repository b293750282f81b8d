"""Batches brought to the GPU ahead of the steps that use them, and results brought back while later steps are at work."""

import ctypes
import threading
from typing import TYPE_CHECKING

import numpy as np

from minigrad.devices.cuda_memory import MemoryBlock, remembered
from minigrad.devices.memory import Lease
from minigrad.kernels.cuda.tools.array import CudaArray

if TYPE_CHECKING:
    from minigrad.devices.cuda import CudaDevice


class Stager:
    """Brings batches to the GPU while it works on earlier ones: pinned memory, and a stream of its own.

    `stage` may be called in another thread than the steps, which call `arrived` before they use the batch. Its arrays are
    lent: when the last of a batch's is gone, the batch's memory is used again, once the GPU is done with it.
    """

    def __init__(self, device: "CudaDevice") -> None:
        self.device, self.driver = device, device.driver
        self.stream = device.copy_stream
        self.places: list[StagingBuffer] = []
        self.lock = threading.Lock()

    def stage(self, batch: tuple[np.ndarray, ...]) -> tuple[CudaArray, ...]:
        """Begin to copy a batch; only what comes on the device's stream after `arrived` finds it there."""
        return tuple([self.place(np.ascontiguousarray(array)).send(array) for array in batch])

    def arrived(self, batch: tuple[CudaArray, ...]) -> tuple[CudaArray, ...]:
        """The same batch, once the device's stream was told to wait for its copies; Python does not wait."""
        for array in batch:
            self.driver.wait(self.device.stream, array.base.place.sent)
        return batch

    def place(self, array: np.ndarray) -> "StagingBuffer":
        """A free place for such an array."""
        with self.lock:
            for place in self.places:
                if place.free and place.nbytes == array.nbytes:
                    place.free = False
                    return place
            place = StagingBuffer(self, array.nbytes)
            self.places.append(place)
            return place


class StagingBuffer:
    """Memory for one array of a batch, pinned on the host and on the GPU."""

    def __init__(self, stager: Stager, nbytes: int) -> None:
        driver = stager.driver
        self.stager, self.nbytes = stager, nbytes
        self.host = driver.allocate_pinned(max(1, nbytes))
        self.block = MemoryBlock(driver, max(1, nbytes))
        self.sent, self.used = driver.new_event(), driver.new_event()
        self.was_used = False
        self.free = False
        self.is_gone = False

    def send(self, array: np.ndarray) -> CudaArray:
        """Copy an array to pinned memory, and begin to copy it on."""
        stager, driver = self.stager, self.stager.driver
        if self.was_used:
            driver.wait_on_host(self.sent)  # the host's memory has been read
            driver.wait(stager.stream, self.used)  # the GPU's memory is no longer needed
        np.copyto(host_array(self.host, array), array)
        if array.nbytes:
            driver.to_device(self.block.pointer, self.host, array.nbytes, stager.stream)
        driver.record(self.sent, stager.stream)
        self.was_used = True
        self.block.known, self.block.lent = remembered(array), False
        return CudaArray(self.block.pointer, array.shape, array.dtype, Loan(self))

    def __del__(self) -> None:
        self.is_gone = True  # for a loan that the garbage collector finds together with this and takes later
        driver = self.stager.driver
        if hasattr(self, "block"):
            driver.free(self.block.pointer)
        if hasattr(self, "host"):
            driver.free_pinned(self.host)
        if hasattr(self, "used"):
            driver.free_event(self.sent)
            driver.free_event(self.used)


class Loan(Lease):
    """What owns a staged array: when it is gone, the place is free for another, after what the stream has to do now."""

    __slots__ = ("place",)

    def __init__(self, place: StagingBuffer) -> None:
        self.place = place
        self.block = place.block

    def __del__(self) -> None:
        place = self.place
        if not place.is_gone:
            place.stager.driver.record(place.used, place.stager.device.stream)
            place.free = True


class Reading:
    """An array on its way to the host, by way of pinned memory that is used again; called, it waits for that, and gives it.

    What comes on the device's stream after it may write to the array.
    """

    def __init__(self, device: "CudaDevice", array: CudaArray) -> None:
        self.device, self.shape, self.dtype = device, array.shape, array.dtype
        self.nbytes = max(1, array.nbytes)
        free = device.pinned.setdefault(self.nbytes, [])
        self.host = free.pop() if free else device.driver.allocate_pinned(self.nbytes)
        if array.size:
            device.driver.to_host(self.host, array.pointer, array.nbytes, device.stream)
        self.sent = device.driver.new_event()
        device.driver.record(self.sent, device.stream)
        self.is_there = False

    def __call__(self) -> np.ndarray:
        """The values."""
        self.device.driver.wait_on_host(self.sent)
        self.is_there = True
        values = np.empty(self.shape, self.dtype)
        np.copyto(values, host_array(self.host, values))
        return values

    def __del__(self) -> None:
        if not hasattr(self, "sent"):
            return
        self.device.driver.free_event(self.sent)
        if self.is_there:
            self.device.pinned[self.nbytes].append(self.host)
        else:  # the GPU may not have written it yet
            self.device.driver.free_pinned(self.host)


def host_array(address: int, like: np.ndarray) -> np.ndarray:
    """The host's memory at an address as an array like another."""
    memory = (ctypes.c_uint8 * max(1, like.nbytes)).from_address(address)
    return np.ctypeslib.as_array(memory)[: like.nbytes].view(like.dtype).reshape(like.shape)
