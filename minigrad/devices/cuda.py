"""The device "cuda": one NVIDIA GPU.

Everything runs on one stream, in the order in which Python asked for it, and Python goes on at once; reading a value
(`.item()`, `.numpy()`) waits for it. So memory that an array has left may be used again at once, by what comes later on
the stream. `Stager` brings batches to the GPU on a second stream while the step before is at work. The graph of a captured step
has two branches (`cuda_branches`).

    MINIGRAD_CUDA=host          runs the kernels' PTX on this machine, without a GPU; host,checked looks for races too,
                                host,counted counts what a GPU would be asked for
    MINIGRAD_CUDA=simulator     runs all of it in Python, without a GPU: for tests and for study, on very small arrays
"""

import contextlib
import functools
import gc
import math
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

from minigrad.devices import dlpack
from minigrad.devices.base import Call, Device, Program
from minigrad.devices.cuda_branches import Place, kernel_uses, places
from minigrad.devices.cuda_memory import BlockOwner, CudaPool, block_of, host_copy, is_ours, known, remembered
from minigrad.devices.cuda_staging import Reading, Stager
from minigrad.devices.memory import Lease
from minigrad.kernels import cuda as kernels
from minigrad.kernels.axes import contiguous_strides, merge
from minigrad.kernels.cuda.tools.array import CudaArray
from minigrad.kernels.cuda.tools.driver import Driver
from minigrad.kernels.cuda.tools.launch import context
from minigrad.kernels.cuda.tools.simulated_driver import SimulatedDriver


def open_driver() -> Any:
    """The GPU, or what MINIGRAD_CUDA asks for instead."""
    chosen = os.environ.get("MINIGRAD_CUDA", "")
    if chosen in ("host", "host,checked", "host,counted"):
        from minigrad.kernels.cuda.host.driver import HostDriver  # imported here, since few need it

        return HostDriver(checks=chosen == "host,checked", counts=chosen == "host,counted")
    if chosen not in ("", "simulator"):
        raise RuntimeError(
            f"MINIGRAD_CUDA is {chosen!r}; it may be 'host', 'host,checked', 'host,counted' or 'simulator', or not be set"
        )
    return SimulatedDriver() if chosen else Driver()


class Mirror:
    """A copy on the GPU of a small NumPy array that Python goes on to write."""

    def __init__(self, device: "CudaDevice", host: np.ndarray) -> None:
        self.host = weakref.ref(host)
        self.sent = b""
        self.array = device.pool.empty(host.shape, host.dtype)
        self.device = device

    def refresh(self) -> None:
        """Send it if it has changed."""
        host = self.host()
        if host is not None and (now := host.tobytes()) != self.sent:
            self.device.send(self.array, host)
            self.sent = now


class CudaDevice(Device):
    """One GPU; its arrays are CudaArrays."""

    array_type = CudaArray
    dlpack_device = dlpack.CUDA, 0
    replays_python = False
    moves_results = False
    works_on = True

    def __init__(self, driver: Any = None) -> None:
        self.driver = driver or open_driver()
        self.stream = self.driver.new_stream()
        self.mirrors: dict[int, Mirror] = {}
        self.launched: Callable[[], None] | None = None  # called when a graph was launched
        self.pinned: dict[int, list[int]] = {}
        super().__init__("cuda")
        context.driver, context.stream, context.empty = self.driver, self.stream, self.empty
        self.use_precision(Device.precision)

    @property
    def kernels(self) -> Any:
        """The kernel families of this device."""
        return kernels

    def new_pool(self) -> CudaPool:
        """Memory of this device."""
        return CudaPool(self.driver, getattr(self, "pool", None))

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> CudaArray:
        """A C-contiguous array with whatever its memory holds."""
        return self.pool.empty(tuple(shape), dtype)

    def send(self, target: CudaArray, values: np.ndarray) -> None:
        """Copy from the host, in the order of the stream; `values` may be written again after."""
        values = np.ascontiguousarray(values)
        self.driver.to_device(target.pointer, values.ctypes.data, values.nbytes, self.stream)

    def from_host(self, array: np.ndarray) -> CudaArray:
        """A copy on the GPU."""
        copy = self.empty(array.shape, array.dtype)
        self.write(copy, array)
        return copy

    def to_host(self, array: CudaArray) -> np.ndarray:
        """A copy in the host's memory, once all that was launched before is done."""
        return np.asarray(array)

    def read_later(self, array: CudaArray) -> Reading:
        """To be called for what an array holds by what was launched before; what comes after is not waited for."""
        return Reading(self, array)

    def copy(self, array: CudaArray) -> CudaArray:
        """A copy on the GPU."""
        copy = self.empty(array.shape, array.dtype)
        self.write(copy, array)
        return copy

    def write(self, target: CudaArray, values: Any) -> None:
        """Put the values of a NumPy array, or of an array on the GPU, into an array on the GPU."""
        if target.shape != values.shape or target.dtype != values.dtype:
            raise ValueError(f"cannot put {values.dtype}{list(values.shape)} into {target}")
        if not target.flags.writeable:
            raise ValueError(f"{target} is read-only: it was lent so by another library")
        block = block_of(target)
        if isinstance(values, CudaArray):
            block.known = host_copy(values) if is_ours(target, block) else None
            if target.size:
                self.driver.on_device(target.pointer, values.pointer, values.nbytes, self.stream)
            return
        block.known = remembered(values) if is_ours(target, block) else None
        if target.size:
            self.send(target, values)

    def lend(
        self,
        array: CudaArray,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule of DLPack, after all that was launched is done, so that any stream may use it; not with stream=-1."""
        where = self.dlpack_device if dl_device is None else (int(dl_device[0]), int(dl_device[1]))
        if where == Device.dlpack_device:
            if copy is False:
                raise BufferError("the array is on the GPU; on the host it is a copy, which copy=False forbids")
            return super().lend(self.to_host(array), max_version=max_version)
        if where != self.dlpack_device:
            raise BufferError(f"minigrad lends arrays of the GPU to {self.dlpack_device} and (1, 0), not to {where}")
        if stream == 0:
            raise BufferError(
                "stream=0 may mean two streams of CUDA's; pass 1 for the default stream, 2 for the thread's"
            )
        if copy:
            array = self.copy(array)
        if stream != -1:
            self.synchronize()
        block_of(array).forget()
        flags = (0 if array.flags.writeable else dlpack.READ_ONLY) | (dlpack.IS_COPIED if copy else 0)
        return dlpack.capsule_of(
            array.pointer, array.shape, array.dtype, array, device=where, flags=flags, max_version=max_version
        )

    def borrow(self, x: Any, number: int, copy: bool | None) -> CudaArray:
        """An array here on the memory of one that speaks DLPack; a copy where it is not C-contiguous."""
        if number != self.dlpack_device[1]:
            raise BufferError(f"the array is on GPU {number}; minigrad works on one, number {self.dlpack_device[1]}")
        stream = int(self.stream) or None  # the simulator's first is 0
        try:
            capsule = x.__dlpack__(stream=stream, max_version=(1, 0))
        except TypeError:  # of before DLPack 1.0
            capsule = x.__dlpack__(stream=stream)
        found = dlpack.taken(capsule)
        found.owner.wait = self.synchronize
        if found.pointer % found.dtype.itemsize:
            raise BufferError(
                f"the array begins at {found.pointer:#x}, which is not aligned for {found.dtype}; pass a copy"
            )
        strides = contiguous_strides(found.shape) if found.strides is None else found.strides
        steps = zip(found.shape, strides, contiguous_strides(found.shape), strict=True)
        if math.prod(found.shape) == 0 or all(s == ours for n, s, ours in steps if n > 1):
            return CudaArray(found.pointer, found.shape, found.dtype, found.owner)
        if copy is False:
            raise BufferError(
                f"the array {list(found.shape)} has strides {strides}, in elements; as a tensor, which is C-contiguous, it is "
                "a copy, which copy=False forbids"
            )
        reach = [(n - 1) * s for n, s in zip(found.shape, strides, strict=True)]
        first, last = sum(min(0, r) for r in reach), sum(max(0, r) for r in reach)
        start = found.pointer + first * found.dtype.itemsize
        whole = CudaArray(start, (last - first + 1,), found.dtype, found.owner)
        y = self.empty(found.shape, found.dtype)
        self.kernels.movement.strided_read(whole, *merge(found.shape, strides), -first, y.reshape(-1))
        return y

    def mirror(self, array: np.ndarray) -> CudaArray:
        """A copy that is brought up to date here, and by a recording before each replay."""
        return self.mirror_of(array).array

    def mirror_of(self, array: np.ndarray) -> Mirror:
        """The mirror itself, up to date."""
        mirror = self.mirrors.get(id(array))
        if mirror is None:
            mirror = self.mirrors[id(array)] = Mirror(self, array)
            weakref.finalize(array, self.mirrors.pop, id(array))
        mirror.refresh()
        return mirror

    def mirror_for(self, recorder: Any, array: np.ndarray) -> CudaArray:
        """The same for a recording, which notes what its replays have to bring up to date."""
        mirror = self.mirror_of(array)
        if not any(mirror is noted for noted in recorder.mirrors):
            recorder.mirrors.append(mirror)
        return mirror.array

    def resolve(self, kernel: Any, arguments: tuple[Any, ...]) -> Call:
        """The launch, in the precision that is set now."""
        return functools.partial(launch_in, Device.precision, kernel), arguments

    def own_kernel(self, kernel: Any) -> Any:
        """What runs a kernel of the user's own, which is one for the GPU."""
        if isinstance(kernel, Dispatcher):
            raise TypeError(
                f"{kernel.py_func.__name__} is compiled by numba.njit, for the CPU; on {self.name!r} launch a kernel of the "
                "GPU, kernel[grid, block]"
            )
        return kernel

    def program(self, calls: list[Call], blocks: Sequence[Any] = ()) -> "CudaGraph":
        """A CUDA graph of recorded launches."""
        return CudaGraph(self, calls)

    def alias(self, array: CudaArray, lease: Lease) -> CudaArray:
        """The same memory without the lease it is on; it stays alive all the same, but may be used again."""
        return CudaArray(array.pointer, array.shape, array.dtype, BlockOwner(lease.pool, lease.block))

    @functools.cached_property
    def copy_stream(self) -> Any:
        """The stream on which batches come."""
        return self.driver.new_stream()

    @functools.cached_property
    def second_stream(self) -> Any:
        """The stream on which graphs note their second branch; outside of graphs nothing runs on it."""
        return self.driver.new_stream()

    def stager(self) -> Stager:
        """What brings batches here on a stream of its own."""
        return Stager(self)

    def share_memory(self, a: CudaArray, b: CudaArray) -> bool:
        """Whether two arrays overlap."""
        return a.pointer < b.pointer + b.nbytes and b.pointer < a.pointer + a.nbytes

    def as_result(self, op: str, y: Any) -> CudaArray:
        """What an op's forward returned."""
        if type(y) is CudaArray:
            return y
        raise TypeError(
            f"{op}.forward must return an array of the GPU, not {type(y).__name__}; "
            'compute it by self.kernels, or use device="cpu"'
        )

    def use_precision(self, precision: str) -> None:
        """Set how float32 products are computed from now on; see mg.matmul_precision."""
        context.matmul_precision = precision

    def synchronize(self) -> None:
        """Wait until all that was launched is done."""
        self.driver.synchronize(self.stream)

    def check(self, function: Any, *arguments: Any) -> None:
        """Run a check of values on the host; what was sent from there is known there, anything else is waited for."""
        function(*[known(a) if isinstance(a, CudaArray) else a for a in arguments])

    def __repr__(self) -> str:
        return f"Device('cuda'): {self.driver.name}, {self.driver.memory:,} bytes"


class CudaGraph(Program):
    """Recorded launches as one CUDA graph, made when it is first run; keeps the scratch memory that kernels ask for.

    Gradients of weights are a branch of their own, as `cuda_branches` finds what may run side by side. The launches are
    noted on two streams, which wait for each other by events; each has scratch memory of its own.
    """

    def __init__(self, device: CudaDevice, calls: list[Call]) -> None:
        super().__init__(device, calls)
        self.home, self.driver, self.stream = device, device.driver, device.stream
        self.scratch = {False: device.new_pool(), True: device.new_pool()}  # by whether it is for the second branch
        self.kept: dict[Any, Any] = {}
        self.graph: Any = None

    def timed(self, function: Any, arguments: tuple[Any, ...]) -> float:
        """Seconds that one launch takes on the GPU. This is also what fills the scratch memory's pools."""
        beside = kernel_uses([(function, arguments)])[0].of_weights
        with context.inside(self.scratch[beside].empty, self.kept):
            start, end = self.driver.new_event(), self.driver.new_event()
            self.driver.record(start, self.stream)
            function(*arguments)
            self.driver.record(end, self.stream)
            self.driver.wait_on_host(end)
            seconds = self.driver.elapsed(start, end)
            self.driver.free_event(start)
            self.driver.free_event(end)
        return seconds

    def __call__(self) -> list[Any]:
        """Launch the graph."""
        if self.graph is None:
            self.graph = self.make()
        self.driver.launch_graph(self.graph, self.stream)
        if self.home.launched is not None:
            self.home.launched()
        return []

    def make(self) -> Any:
        """The graph; while it is made nothing runs, and nothing may be allocated, or freed by the garbage collector."""
        collects = gc.isenabled()
        gc.disable()
        try:
            return self.noted()
        finally:
            if collects:
                gc.enable()

    def noted(self) -> Any:
        """The graph of the launches, noted one by one."""
        branches = Branches(self, places(kernel_uses(self.calls)))
        try:
            try:
                self.driver.begin_graph(self.stream)
                branches.run()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # that a call has failed spoils the graph, and is told anyway
                    self.driver.free_graph(self.driver.end_graph(self.stream))
                raise
            return self.driver.end_graph(self.stream)
        finally:
            branches.free()

    def __del__(self) -> None:
        if self.graph is not None:
            self.driver.free_graph(self.graph)


class Branches:
    """The two streams on which the launches of a graph are noted, and the events by which one waits for the other."""

    def __init__(self, graph: CudaGraph, found: list[Place]) -> None:
        self.graph, self.driver, self.places = graph, graph.driver, found
        both = any(place.beside for place in found)
        self.streams = {False: graph.stream, True: graph.home.second_stream if both else None}
        self.awaited = {place.after for place in found}
        self.events: dict[int, Any] = {}

    def mark(self, launch: int, stream: Any) -> None:
        """Make an event of what the stream has to do until then, by the launch's number."""
        event = self.events[launch] = self.driver.new_event()
        self.driver.record(event, stream)

    def run(self) -> None:
        """Note all launches; the second stream begins where the first does, and the first waits for its end."""
        first, second = self.streams[False], self.streams[True]
        if second is not None:
            self.mark(-1, first)
            self.driver.wait(second, self.events[-1])
        for i, ((function, arguments), place) in enumerate(zip(self.graph.calls, self.places, strict=True)):
            stream = self.streams[place.beside]
            if place.after is not None:
                self.driver.wait(stream, self.events[place.after])
            context.stream = stream
            with context.inside(self.graph.scratch[place.beside].empty, self.graph.kept):
                function(*arguments)
            if i in self.awaited:
                self.mark(i, stream)
        if second is not None:
            self.mark(len(self.places), second)
            self.driver.wait(first, self.events[len(self.places)])

    def free(self) -> None:
        """Give the events back; launches go to the first stream again."""
        context.stream = self.streams[False]
        for event in self.events.values():
            self.driver.free_event(event)


def launch_in(precision: str, kernel: Any, *arguments: Any) -> None:
    """Launch a kernel in a precision of matrix products."""
    before, context.matmul_precision = context.matmul_precision, precision
    try:
        kernel(*arguments)
    finally:
        context.matmul_precision = before
