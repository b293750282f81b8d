"""NVIDIA's driver as the rest sees it: memory, copies, streams, events, launches and graphs of them.

`Driver` is the real one, on one GPU. `SimulatedDriver`, in simulated_driver.py, has the same methods and runs kernels in
Python on the memory of the host, so that everything above it can be tried, tested and studied without a GPU. Pointers are
ints in both, streams, events and graphs whatever the driver makes of them. Every error of the driver is a RuntimeError that
names the call.
"""

import ctypes
import struct
import sys
import threading

from minigrad.kernels.build.settings import install
from minigrad.kernels.cuda.tools.launch import OLDEST, ArgumentLayout, cached_ptx


class OutOfMemory(RuntimeError):
    """The GPU has no memory left for an allocation."""


class Driver:
    """The GPU `number` of this machine. Raises RuntimeError where there is none, saying what to do about it."""

    is_simulated = False

    def __init__(self, number=0):
        self.api = load_api()
        self.lock = threading.Lock()
        self.of_thread = threading.local()
        self.context = None
        self.is_lost = False  # after an error that no later call of this process recovers from
        self.call("cuInit", 0)
        if not 0 <= number < self.call("cuDeviceGetCount"):
            raise RuntimeError(f"there is no GPU {number} here; `nvidia-smi -L` lists those that the driver sees")
        self.device = self.call("cuDeviceGet", number)
        self.context = self.call("cuDevicePrimaryCtxRetain", self.device)
        attributes = self.api.CUdevice_attribute
        major = self.attribute(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
        minor = self.attribute(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
        self.capability = major, minor
        self.multiprocessors = self.attribute(attributes.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self.shared_memory = self.attribute(attributes.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)
        self.name = self.call("cuDeviceGetName", 128, self.device).decode(errors="replace").rstrip("\0 ")
        self.memory = self.call("cuDeviceTotalMem", self.device)
        if self.capability < OLDEST:
            raise RuntimeError(
                f"the GPU {self.name} has compute capability {major}.{minor}; minigrad's kernels need 8.0 (Ampere) or more. "
                'Use device="cpu"'
            )

    def attribute(self, which):
        """A number that describes the device."""
        return self.call("cuDeviceGetAttribute", which, self.device)

    def call(self, name, *arguments):
        """Call a function of the driver's interface; its result, if it has one. Any thread may, the GPU is made its own."""
        self.enter()
        status, *results = getattr(self.api, name)(*arguments)
        if status != self.api.CUresult.CUDA_SUCCESS:
            raise self.error(name, status)
        return results[0] if len(results) == 1 else tuple(results) or None

    def enter(self):
        """Make the GPU this thread's own."""
        if self.context is not None and not hasattr(self.of_thread, "entered"):
            self.of_thread.entered = True
            self.call("cuCtxSetCurrent", self.context)

    def error(self, name, status):
        """The exception for a call that failed."""
        if status == self.api.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            whose = "the host has no more memory that can be pinned" if "Host" in name else "the GPU is out of memory"
            return OutOfMemory(f"{name}: {whose}")
        self.is_lost = self.is_lost or status.name in LOST
        what = REMEDIES.get(status.name, "")
        return RuntimeError(f"{name} failed: {status.name}{what}")

    def give_back(self, name, what):
        """Call a function that frees something. Once the GPU is lost all is free, and other calls say what has happened.

        At the end of the process the driver frees everything itself, and the binding may be gone already.
        """
        if sys.is_finalizing():
            return
        try:
            self.call(name, what)
        except RuntimeError:
            if not self.is_lost:
                raise

    # Kernels

    def prepare(self, kernel, real):
        """What `launch` takes: the kernel's machine code, loaded, and how its arguments are laid out."""
        ptx, entry = cached_ptx(kernel, real)
        try:
            module = self.call("cuModuleLoadData", ptx.encode() + b"\0")
        except RuntimeError as error:
            raise type(error)(f"{kernel.name} for {real}: {error}") from None
        function = self.call("cuModuleGetFunction", module, entry.encode())
        attribute = self.api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        static = self.call(
            "cuFuncGetAttribute", self.api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function
        )
        limit = self.attribute(self.api.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        self.call("cuFuncSetAttribute", function, attribute, limit - static)
        return LoadedKernel(kernel.name, function, ArgumentLayout(kernel, real))

    def launch(self, kernel, grid, block, shared_bytes, stream, values):
        """Run a prepared kernel."""
        with self.lock:  # the arguments' memory is the kernel's own, and the driver copies it during the call
            kernel.pack(kernel.memory, 0, *values)
            try:
                self.call("cuLaunchKernel", kernel.function, *grid, *block, shared_bytes, stream, kernel.addresses, 0)
            except RuntimeError as error:
                how = f"grid {grid}, block {block}, {shared_bytes} bytes of shared memory"
                raise type(error)(f"{kernel.name} ({how}): {error}") from None

    # Memory

    def allocate(self, nbytes):
        """The address of so many bytes on the GPU; raises OutOfMemory."""
        return int(self.call("cuMemAlloc", nbytes))

    def free(self, pointer):
        """Give allocated memory back."""
        self.give_back("cuMemFree", pointer)

    def free_memory(self):
        """Bytes that nobody has allocated."""
        return self.call("cuMemGetInfo")[0]

    def allocate_pinned(self, nbytes):
        """The address of so many bytes of the host that the GPU can copy by itself."""
        return int(self.call("cuMemHostAlloc", nbytes, 0))

    def free_pinned(self, pointer):
        """Give pinned memory back."""
        self.give_back("cuMemFreeHost", pointer)

    def to_device(self, pointer, host, nbytes, stream):
        """Copy from the host's address `host`; returns at once only if that is pinned."""
        self.call("cuMemcpyHtoDAsync", pointer, host, nbytes, stream)

    def to_host(self, host, pointer, nbytes, stream):
        """Copy to the host's address `host`, which is there after `synchronize`."""
        self.call("cuMemcpyDtoHAsync", host, pointer, nbytes, stream)

    def on_device(self, target, source, nbytes, stream):
        """Copy on the GPU."""
        self.call("cuMemcpyDtoDAsync", target, source, nbytes, stream)

    # Order and time

    def new_stream(self):
        """A queue of work; what two streams do is ordered only by events."""
        return self.call("cuStreamCreate", self.api.CUstream_flags.CU_STREAM_NON_BLOCKING)

    def synchronize(self, stream):
        """Wait until a stream's work is done."""
        self.call("cuStreamSynchronize", stream)

    def new_event(self):
        """A mark in a stream, with the time when it was passed."""
        return self.call("cuEventCreate", self.api.CUevent_flags.CU_EVENT_DEFAULT)

    def free_event(self, event):
        """Give it back."""
        self.give_back("cuEventDestroy", event)

    def record(self, event, stream):
        """Put the mark behind what a stream has to do."""
        self.call("cuEventRecord", event, stream)

    def wait(self, stream, event):
        """Let a stream wait for a mark in another."""
        self.call("cuStreamWaitEvent", stream, event, 0)

    def wait_on_host(self, event):
        """Wait for a mark."""
        self.call("cuEventSynchronize", event)

    def is_past(self, event):
        """Whether a mark was passed, without waiting."""
        self.enter()
        (status,) = self.api.cuEventQuery(event)
        if status not in (self.api.CUresult.CUDA_SUCCESS, self.api.CUresult.CUDA_ERROR_NOT_READY):
            raise self.error("cuEventQuery", status)
        return status == self.api.CUresult.CUDA_SUCCESS

    def elapsed(self, start, end):
        """Seconds between two marks that were passed."""
        return self.call("cuEventElapsedTime", start, end) / 1000

    # Graphs

    def begin_graph(self, stream):
        """What comes on the stream is from now on noted instead of done."""
        mode = self.api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.call("cuStreamBeginCapture", stream, mode)

    def is_noting(self, stream):
        """Whether what comes on the stream is noted for a graph."""
        status = self.call("cuStreamIsCapturing", stream)
        return status != self.api.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE

    def end_graph(self, stream):
        """A graph of what was noted, ready to be launched."""
        graph = self.call("cuStreamEndCapture", stream)
        try:
            return self.call("cuGraphInstantiate", graph, 0)
        finally:
            self.call("cuGraphDestroy", graph)

    def launch_graph(self, graph, stream):
        """Do all that was noted, in one launch."""
        self.call("cuGraphLaunch", graph, stream)

    def free_graph(self, graph):
        """Give it back."""
        self.give_back("cuGraphExecDestroy", graph)


REMEDIES = {
    "CUDA_ERROR_NO_DEVICE": ': the driver sees no GPU; `nvidia-smi` shows what it sees. Without one, use device="cpu"',
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": (
        ': the driver is older than the kernels\' PTX, which is of CUDA 11.1; update the driver, or use device="cpu"'
    ),
    "CUDA_ERROR_INVALID_PTX": ": the driver is too old for these kernels; update it",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": ": the driver's parts are of different versions; restart after its update",
    "CUDA_ERROR_SYSTEM_NOT_READY": (
        ": the GPU's fabric manager does not run; start it: systemctl start nvidia-fabricmanager"
    ),
    "CUDA_ERROR_JIT_COMPILER_NOT_FOUND": (
        ": the driver's compiler is missing (libnvidia-ptxjitcompiler.so.1); install all of the driver, in a container too"
    ),
    "CUDA_ERROR_NOT_INITIALIZED": (
        ": a process that was forked from one that uses the GPU cannot use it; start it by the method 'spawn' of "
        "multiprocessing"
    ),
}
FAULTS = {  # what a kernel did, after which the driver refuses every call
    "CUDA_ERROR_ILLEGAL_ADDRESS": "left its memory",
    "CUDA_ERROR_MISALIGNED_ADDRESS": "used an address that is not aligned",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION": "came to an instruction that the GPU does not know",
    "CUDA_ERROR_LAUNCH_TIMEOUT": "ran for too long",
    "CUDA_ERROR_LAUNCH_FAILED": "failed",
}
REMEDIES |= {
    name: (
        f": a kernel {did}, and the GPU is of no more use to this process. Run the step once with "
        'device="cpu" to see whether its arguments are right, once with CUDA_LAUNCH_BLOCKING=1 in the environment to see '
        "which kernel it is, and report it"
    )
    for name, did in FAULTS.items()
}
LOST = {*FAULTS, "CUDA_ERROR_NOT_INITIALIZED", "CUDA_ERROR_DEINITIALIZED", "CUDA_ERROR_CONTEXT_IS_DESTROYED"}


def load_api():
    """NVIDIA's Python binding of the driver; raises RuntimeError where it or the driver is missing."""
    try:
        from cuda.bindings import driver

        driver.cuDriverGetVersion()
    except ImportError as error:
        raise RuntimeError(f"the Python packages for CUDA are not installed; run: {install('cuda')}") from error
    except Exception as error:  # what it raises for a missing library has changed from version to version
        raise RuntimeError(
            "no NVIDIA driver was found on this machine (libcuda.so.1); install the driver of the GPU and check it with "
            '`nvidia-smi`, or use device="cpu", or device="auto" to take what there is'
        ) from error
    return driver


class LoadedKernel:
    """A kernel's machine code and the memory its arguments are put into for a launch."""

    def __init__(self, name, function, layout):
        self.name, self.function = name, function
        self.memory = ctypes.create_string_buffer(max(1, layout.size))
        start = ctypes.addressof(self.memory)
        self.pointers = (ctypes.c_void_p * max(1, len(layout.offsets)))(*[start + o for o in layout.offsets])
        self.addresses = ctypes.addressof(self.pointers)
        self.pack = struct.Struct(layout.format).pack_into
