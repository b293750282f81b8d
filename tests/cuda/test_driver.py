"""The calls of the real driver, on an imitation of its bindings; and its errors."""

import ctypes
import sys
import threading
import types
from typing import NamedTuple

import pytest

from minigrad.kernels.cuda.tools import driver, launch
from minigrad.kernels.cuda.tools.driver import Driver, OutOfMemory
from minigrad.kernels.cuda.tools.launch import FLOAT32, CudaKernel, Double, Floats, Int, UInt


class Constant(NamedTuple):
    name: str


class Constants:
    """An enumeration of the binding's, which has every name that is asked for."""

    def __init__(self, start):
        self.start = start

    def __getattr__(self, name):
        assert name.startswith(self.start)
        return Constant(name)


class Api:
    """Stands for cuda.bindings.driver: notes every call, and gives what the test wants it to."""

    CUresult = Constants("CUDA_")
    CUdevice_attribute = Constants("CU_DEVICE_ATTRIBUTE_")
    CUfunction_attribute = Constants("CU_FUNC_ATTRIBUTE_")
    CUstream_flags = Constants("CU_STREAM_")
    CUevent_flags = Constants("CU_EVENT_")
    CUstreamCaptureMode = Constants("CU_STREAM_CAPTURE_MODE_")
    CUstreamCaptureStatus = Constants("CU_STREAM_CAPTURE_STATUS_")

    def __init__(self):
        self.calls = []
        self.failing = {}  # name of a function: the status it gives
        self.results = {
            "cuDeviceGetCount": [2],
            "cuDeviceGet": ["device 1"],
            "cuDevicePrimaryCtxRetain": ["context"],
            "cuDeviceGetName": [b"Some GPU\0\0\0"],
            "cuDeviceTotalMem": [1 << 35],
        }
        self.attributes = {
            "COMPUTE_CAPABILITY_MAJOR": 9,
            "COMPUTE_CAPABILITY_MINOR": 0,
            "MULTIPROCESSOR_COUNT": 132,
            "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR": 233472,
            "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 232448,
        }

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append((name, *arguments))
            if name in self.failing:
                return (Constant(self.failing[name]),)
            results = self.results.get(name, [])
            if name == "cuDeviceGetAttribute":
                results = [self.attributes[arguments[0].name.removeprefix("CU_DEVICE_ATTRIBUTE_")]]
            return Constant("CUDA_SUCCESS"), *results

        return call


@pytest.fixture
def api(monkeypatch):
    api = Api()
    monkeypatch.setattr(driver, "load_api", lambda: api)
    return api


@pytest.fixture
def gpu(api):
    """The second of two GPUs, all calls until here forgotten."""
    gpu = Driver(1)
    api.calls.clear()
    return gpu


def small_kernel(function):
    """A kernel that no table lists."""
    return CudaKernel(function, 32, 1, {})


@small_kernel
def added(x: Floats, by: Int, y: Floats):
    y[0] = x[0] + by


@small_kernel
def mixed(count: UInt, x: Floats, factor: Double):
    x[0] = count * factor


# The real driver's calls


def test_driver_takes_the_gpu_with_that_number(api):
    gpu = Driver(1)
    assert api.calls[0] == ("cuInit", 0)
    assert ("cuDeviceGet", 1) in api.calls
    assert ("cuDevicePrimaryCtxRetain", "device 1") in api.calls
    assert ("cuCtxSetCurrent", "context") in api.calls
    assert (gpu.name, gpu.capability, gpu.multiprocessors, gpu.memory) == ("Some GPU", (9, 0), 132, 1 << 35)
    assert gpu.shared_memory == 228 * 1024


def test_gpu_is_made_current_in_each_thread_that_uses_it(api, gpu):
    def use():
        gpu.free(1)
        gpu.free(2)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert api.calls == [("cuCtxSetCurrent", "context"), ("cuMemFree", 1), ("cuMemFree", 2)]


@pytest.mark.parametrize("number", [2, -1])
def test_gpu_that_is_not_there(api, number):
    with pytest.raises(RuntimeError, match=f"no GPU {number} here; `nvidia-smi -L`"):
        Driver(number)


def test_gpu_that_is_too_old(api):
    api.attributes.update(COMPUTE_CAPABILITY_MAJOR=7, COMPUTE_CAPABILITY_MINOR=5)
    with pytest.raises(RuntimeError, match=r'Some GPU has compute capability 7.5; .* need 8.0 .*device="cpu"'):
        Driver()


@pytest.mark.parametrize(
    ("method", "arguments", "results", "value", "call"),
    [
        ("allocate", (100,), [4096], 4096, ("cuMemAlloc", 100)),
        ("free", (4096,), [], None, ("cuMemFree", 4096)),
        ("free_memory", (), [5, 10], 5, ("cuMemGetInfo",)),
        ("allocate_pinned", (100,), [4096], 4096, ("cuMemHostAlloc", 100, 0)),
        ("free_pinned", (4096,), [], None, ("cuMemFreeHost", 4096)),
        ("to_device", (1, 2, 3, "s"), [], None, ("cuMemcpyHtoDAsync", 1, 2, 3, "s")),
        ("to_host", (1, 2, 3, "s"), [], None, ("cuMemcpyDtoHAsync", 1, 2, 3, "s")),
        ("on_device", (1, 2, 3, "s"), [], None, ("cuMemcpyDtoDAsync", 1, 2, 3, "s")),
        ("new_stream", (), ["s"], "s", ("cuStreamCreate", Constant("CU_STREAM_NON_BLOCKING"))),
        ("synchronize", ("s",), [], None, ("cuStreamSynchronize", "s")),
        ("new_event", (), ["e"], "e", ("cuEventCreate", Constant("CU_EVENT_DEFAULT"))),
        ("free_event", ("e",), [], None, ("cuEventDestroy", "e")),
        ("record", ("e", "s"), [], None, ("cuEventRecord", "e", "s")),
        ("wait", ("s", "e"), [], None, ("cuStreamWaitEvent", "s", "e", 0)),
        ("wait_on_host", ("e",), [], None, ("cuEventSynchronize", "e")),
        ("elapsed", ("e", "f"), [1500.0], 1.5, ("cuEventElapsedTime", "e", "f")),
        (
            "begin_graph", ("s",), [], None,
            ("cuStreamBeginCapture", "s", Constant("CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")),
        ),
        ("launch_graph", ("g", "s"), [], None, ("cuGraphLaunch", "g", "s")),
        ("free_graph", ("g",), [], None, ("cuGraphExecDestroy", "g")),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) > 3 else "",
)  # fmt: skip
def test_method_calls_the_driver(api, gpu, method, arguments, results, value, call):
    api.results[call[0]] = results
    assert getattr(gpu, method)(*arguments) == value
    assert api.calls == [call]


@pytest.mark.parametrize(("status", "past"), [("CUDA_SUCCESS", True), ("CUDA_ERROR_NOT_READY", False)])
def test_a_mark_is_asked_for_without_waiting(api, gpu, status, past):
    api.failing["cuEventQuery"] = status
    assert gpu.is_past("e") is past
    assert api.calls == [("cuEventQuery", "e")]


def test_a_mark_that_will_not_be_passed_is_an_error(api, gpu):
    api.failing["cuEventQuery"] = "CUDA_ERROR_ILLEGAL_ADDRESS"
    with pytest.raises(RuntimeError, match="cuEventQuery failed: CUDA_ERROR_ILLEGAL_ADDRESS"):
        gpu.is_past("e")


@pytest.mark.parametrize("status", ["NONE", "ACTIVE"])
def test_a_stream_says_whether_a_graph_is_made_of_it(api, gpu, status):
    api.results["cuStreamIsCapturing"] = [Constant(f"CU_STREAM_CAPTURE_STATUS_{status}")]
    assert gpu.is_noting("s") is (status == "ACTIVE")
    assert api.calls == [("cuStreamIsCapturing", "s")]


def test_graph_is_made_ready_and_its_description_given_back(api, gpu):
    api.results.update(cuStreamEndCapture=["graph"], cuGraphInstantiate=["ready"])
    assert gpu.end_graph("s") == "ready"
    assert api.calls == [("cuStreamEndCapture", "s"), ("cuGraphInstantiate", "graph", 0), ("cuGraphDestroy", "graph")]


def test_graph_that_cannot_be_made_ready_is_given_back(api, gpu):
    api.results["cuStreamEndCapture"] = ["graph"]
    api.failing["cuGraphInstantiate"] = "CUDA_ERROR_OUT_OF_MEMORY"
    with pytest.raises(OutOfMemory):
        gpu.end_graph("s")
    assert api.calls[-1] == ("cuGraphDestroy", "graph")


@pytest.fixture
def prepared(api, gpu, monkeypatch):
    """A kernel as the driver has loaded it."""
    monkeypatch.setattr(driver, "cached_ptx", lambda kernel, real: ("// PTX", "entry"))
    api.results.update(cuModuleLoadData=["module"], cuModuleGetFunction=["function"], cuFuncGetAttribute=[48])
    return gpu.prepare(mixed, FLOAT32)


def test_kernel_is_loaded_with_all_shared_memory_there_is(api, prepared):
    assert ("cuModuleLoadData", b"// PTX\0") in api.calls
    assert ("cuModuleGetFunction", "module", b"entry") in api.calls
    most = Constant("CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES")
    assert api.calls[-1] == ("cuFuncSetAttribute", "function", most, 232448 - 48)


def test_kernel_is_launched_with_the_addresses_of_its_arguments(api, gpu, prepared):
    gpu.launch(prepared, (2, 3, 4), (32, 1, 1), 64, "s", [7, 0x7F0000001000, 2.5])
    name, function, *sizes, stream, addresses, extra = api.calls[-1]
    assert (name, function, sizes, stream, extra) == ("cuLaunchKernel", "function", [2, 3, 4, 32, 1, 1, 64], "s", 0)
    places = (ctypes.c_void_p * 3).from_address(addresses)
    assert ctypes.c_uint32.from_address(places[0]).value == 7
    assert ctypes.c_uint64.from_address(places[1]).value == 0x7F0000001000
    assert ctypes.c_double.from_address(places[2]).value == 2.5


def test_launches_go_to_the_driver_of_the_context(api, gpu, prepared, monkeypatch):
    monkeypatch.setattr(launch.context, "driver", gpu)
    monkeypatch.setattr(launch.context, "stream", "s")
    kernel = small_kernel(added.function)
    x = types.SimpleNamespace(pointer=4096, size=1)
    kernel[5, 32, 128](x, -1, x)
    kernel[5, 32, 128](x, -1, x)
    assert [call[0] for call in api.calls].count("cuLaunchKernel") == 2
    assert [call[0] for call in api.calls].count("cuModuleLoadData") == 2  # of the fixture's kernel, and once of this
    assert api.calls[-1][1:10] == ("function", 5, 1, 1, 32, 1, 1, 128, "s")


def test_failing_launch_names_the_kernel(api, gpu, prepared):
    api.failing["cuLaunchKernel"] = "CUDA_ERROR_INVALID_VALUE"
    what = (
        r"test_driver.mixed \(grid \(2, 1, 1\), block \(32, 1, 1\), 64 bytes of shared memory\): cuLaunchKernel failed"
    )
    with pytest.raises(RuntimeError, match=what):
        gpu.launch(prepared, (2, 1, 1), (32, 1, 1), 64, "s", [7, 0x7F0000001000, 2.5])


def test_kernel_that_cannot_be_loaded_is_named(api, gpu, monkeypatch):
    monkeypatch.setattr(driver, "cached_ptx", lambda kernel, real: ("// PTX", "entry"))
    api.failing["cuModuleLoadData"] = "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
    with pytest.raises(RuntimeError, match="test_driver.mixed for float32: cuModuleLoadData failed.*update the driver"):
        gpu.prepare(mixed, FLOAT32)


# Errors


def test_out_of_memory_is_an_error_of_its_own(api, gpu):
    api.failing["cuMemAlloc"] = "CUDA_ERROR_OUT_OF_MEMORY"
    with pytest.raises(OutOfMemory, match="cuMemAlloc: the GPU is out of memory"):
        gpu.allocate(1)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        ("CUDA_ERROR_NO_DEVICE", 'device="cpu"'),
        ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", 'is of CUDA 11.1; update the driver, or use device="cpu"'),
        ("CUDA_ERROR_INVALID_PTX", "update it"),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart"),
        ("CUDA_ERROR_ILLEGAL_ADDRESS", "a kernel left its memory.*CUDA_LAUNCH_BLOCKING=1"),
        ("CUDA_ERROR_LAUNCH_FAILED", "a kernel failed.*report it"),
        ("CUDA_ERROR_NOT_INITIALIZED", "forked.*'spawn'"),
        ("CUDA_ERROR_SYSTEM_NOT_READY", "nvidia-fabricmanager"),
        ("CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "libnvidia-ptxjitcompiler"),
        ("CUDA_ERROR_UNKNOWN", "$"),
    ],
)
def test_errors_name_the_call_and_what_to_do(api, gpu, status, remedy):
    api.failing["cuStreamSynchronize"] = status
    with pytest.raises(RuntimeError, match=f"cuStreamSynchronize failed: {status}.*{remedy}"):
        gpu.synchronize("s")


def test_pinned_memory_that_runs_out_is_the_hosts(api, gpu):
    api.failing["cuMemHostAlloc"] = "CUDA_ERROR_OUT_OF_MEMORY"
    with pytest.raises(OutOfMemory, match="the host has no more memory"):
        gpu.allocate_pinned(1)


FREEING = [
    ("free", "cuMemFree"),
    ("free_pinned", "cuMemFreeHost"),
    ("free_event", "cuEventDestroy"),
    ("free_graph", "cuGraphExecDestroy"),
]


@pytest.mark.parametrize(("method", "name"), FREEING)
def test_nothing_is_told_of_freeing_on_a_gpu_that_is_lost(api, gpu, method, name):
    api.failing[name] = "CUDA_ERROR_ILLEGAL_ADDRESS"
    getattr(gpu, method)(1)
    assert (name, 1) in api.calls


@pytest.mark.parametrize(("method", "name"), FREEING)
def test_nothing_is_freed_at_the_end_of_the_process(api, gpu, monkeypatch, method, name):
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    getattr(gpu, method)(1)
    assert (name, 1) not in api.calls


@pytest.mark.parametrize(("method", "name"), FREEING)
def test_freeing_what_is_not_there_is_an_error(api, gpu, method, name):
    api.failing[name] = "CUDA_ERROR_INVALID_VALUE"
    with pytest.raises(RuntimeError, match=f"{name} failed: CUDA_ERROR_INVALID_VALUE"):
        getattr(gpu, method)(1)


def bindings(monkeypatch, **functions):
    """Have `from cuda.bindings import driver` give a module with these functions."""
    package, inner = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
    package.bindings, inner.driver = inner, types.SimpleNamespace(**functions)
    monkeypatch.setitem(sys.modules, "cuda", package)
    monkeypatch.setitem(sys.modules, "cuda.bindings", inner)
    return inner.driver


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(RuntimeError, match=r"pip install 'minigrad-bn\[cuda\]'"):
        Driver()


def test_missing_driver_is_named(monkeypatch):
    def version():
        raise OSError("libcuda.so.1 not found")

    bindings(monkeypatch, cuDriverGetVersion=version)
    with pytest.raises(RuntimeError, match=r"no NVIDIA driver was found .*libcuda.so.1.*nvidia-smi.*device="):
        Driver()


def test_bindings_are_taken_where_there_is_a_driver(monkeypatch):
    api = bindings(monkeypatch, cuDriverGetVersion=lambda: (0, 13000))
    assert driver.load_api() is api


def test_calls_fit_the_installed_bindings(api, gpu):
    """Without a driver, a call whose arguments the binding takes fails for the lack of the library only."""
    real = pytest.importorskip("cuda.bindings.driver")
    try:
        real.cuDriverGetVersion()
    except Exception as error:
        missing = type(error)
    else:
        pytest.skip("there is a driver, and the calls would be made")
    gpu.api, gpu.device, gpu.context = real, 0, 0
    gpu.multiprocessors = real.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
    calls = [
        (gpu.attribute, gpu.multiprocessors), (gpu.allocate, 100), (gpu.free, 4096), (gpu.free_memory,),
        (gpu.allocate_pinned, 100), (gpu.free_pinned, 4096), (gpu.to_device, 4096, 8192, 4, 0),
        (gpu.to_host, 8192, 4096, 4, 0), (gpu.on_device, 4096, 8192, 4, 0), (gpu.new_stream,), (gpu.synchronize, 0),
        (gpu.new_event,), (gpu.free_event, 0), (gpu.record, 0, 0), (gpu.wait, 0, 0), (gpu.wait_on_host, 0),
        (gpu.is_past, 0), (gpu.is_noting, 0),
        (gpu.elapsed, 0, 0), (gpu.begin_graph, 0), (gpu.end_graph, 0), (gpu.launch_graph, 0, 0), (gpu.free_graph, 0),
        (gpu.call, "cuGraphInstantiate", 0, 0), (gpu.call, "cuGraphDestroy", 0), (gpu.call, "cuDeviceGetName", 128, 0),
        (gpu.call, "cuModuleLoadData", b"// PTX\0"), (gpu.call, "cuModuleGetFunction", 0, b"entry"),
        (gpu.call, "cuInit", 0), (gpu.call, "cuDeviceTotalMem", 0), (gpu.call, "cuDevicePrimaryCtxRetain", 0),
        (gpu.call, "cuFuncSetAttribute", 0, real.CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, 1),
        (gpu.call, "cuFuncGetAttribute", real.CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, 0),
        (gpu.call, "cuLaunchKernel", 0, 1, 1, 1, 32, 1, 1, 0, 0, 4096, 0),
    ]  # fmt: skip
    for call, *arguments in calls:
        with pytest.raises(missing):
            call(*arguments)
