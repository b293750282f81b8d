"""minigrad and PyTorch on one GPU, in one process: the same few things asked of both, and how work there is timed.

A side puts NumPy arrays into the GPU's memory and reads them back, sets the precision of products, and turns calls into a
replay: a CUDA graph of them, so that what it costs the host to launch is not in the time of a kernel. Time is taken
by events of the device, on the stream that does the work.
"""

import contextlib
import gc
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg

OURS, THEIRS = "minigrad", "PyTorch"
PRECISIONS = ("float32", "tf32")

Replay = Callable[[], Any]


class Work(NamedTuple):
    """One call on arrays of its own in the GPU's memory."""

    call: Callable[[], Any]
    results: Callable[[Any], list[np.ndarray]]  # of what the call returned: what is compared with `Case.expected`


class Case(NamedTuple):
    """The same work for all sides."""

    name: str
    nbytes: int  # the fewest that it moves
    operations: int  # floating-point
    expected: list[np.ndarray]  # in float64, or a part of the results
    builders: dict[str, Callable[[Any], Work]]  # by side; each call of one takes other memory


class Ours:
    """minigrad's kernels."""

    name = OURS

    def __init__(self, device: Any) -> None:
        self.device = device

    def put(self, array: np.ndarray) -> Any:
        """A copy on the GPU."""
        return self.device.from_host(np.ascontiguousarray(array))

    def get(self, array: Any) -> np.ndarray:
        """A copy on the host."""
        return np.array(self.device.to_host(array))

    def room(self, *shape: int, dtype: Any = np.float32) -> Any:
        """An array for a result, full of what no result is."""
        array = self.device.empty(shape, np.dtype(dtype))
        self.device.kernels.movement.fill(nothing(dtype), array.reshape(-1))
        return array

    def precision(self, name: str) -> contextlib.AbstractContextManager:
        """Products inside are computed like that."""
        return mg.matmul_precision(name)

    def replay(self, calls: list[Callable[[], Any]]) -> Replay:
        """A CUDA graph of the calls, ready."""
        program = self.device.program([(call, ()) for call in calls])
        with no_collection():
            for call in calls:  # also what makes the memory that kernels take from it
                program.timed(call, ())
            program()
        self.synchronize()
        return program

    def seconds(self, work: Callable[[], Any]) -> float:
        """What some work takes, from the moment the GPU could begin."""
        driver, stream = self.device.driver, self.device.stream
        start, end = driver.new_event(), driver.new_event()
        self.synchronize()
        driver.record(start, stream)
        work()
        driver.record(end, stream)
        driver.wait_on_host(end)
        found = driver.elapsed(start, end)
        driver.free_event(start)
        driver.free_event(end)
        return found

    def synchronize(self) -> None:
        """Wait until all is done."""
        self.device.synchronize()

    def release(self) -> None:
        """Give memory that is not in use back to the GPU."""
        self.synchronize()
        self.device.pool.release()


class Theirs:
    """PyTorch's kernels; on its device "cpu" for tests, where a replay is just the calls."""

    name = THEIRS

    def __init__(self, device: str = "cuda") -> None:
        import torch

        self.torch, self.device = torch, device
        if device == "cuda":
            torch.backends.cudnn.benchmark = True  # let cuDNN choose the fastest algorithm of each shape

    def put(self, array: np.ndarray) -> Any:
        """A copy on the GPU."""
        return self.torch.tensor(array, device=self.device)

    def images(self, array: np.ndarray) -> Any:
        """(n, h, w, c) as PyTorch's (n, c, h, w), its memory in the order of `channels_last`."""
        return self.put(array).permute(0, 3, 1, 2)

    def get(self, tensor: Any) -> np.ndarray:
        """A copy on the host."""
        return tensor.detach().cpu().numpy()

    def get_images(self, tensor: Any) -> np.ndarray:
        """A copy on the host, (n, h, w, c)."""
        return self.get(tensor.permute(0, 2, 3, 1))

    def room(self, *shape: int, dtype: Any = np.float32) -> Any:
        """A tensor for a result, full of what no result is."""
        return self.put(np.full(shape, nothing(dtype), dtype))

    @contextlib.contextmanager
    def precision(self, name: str) -> Iterator[None]:
        """Products and convolutions inside are computed like that."""
        products, convolutions = self.torch.backends.cuda.matmul, self.torch.backends.cudnn
        before = products.allow_tf32, convolutions.allow_tf32
        products.allow_tf32 = convolutions.allow_tf32 = name == "tf32"
        try:
            yield
        finally:
            products.allow_tf32, convolutions.allow_tf32 = before

    def replay(self, calls: list[Callable[[], Any]]) -> Replay:
        """A CUDA graph of the calls, ready."""

        def run() -> None:
            for call in calls:
                call()

        if self.device == "cpu":
            run()
            return run
        cuda = self.torch.cuda
        aside = cuda.Stream()
        aside.wait_stream(cuda.current_stream())
        with cuda.stream(aside):  # a first time outside the graph: handles, workspaces, the choice of algorithms
            run()
        cuda.current_stream().wait_stream(aside)
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with no_collection(), cuda.graph(graph):
            run()
        graph.replay()
        cuda.synchronize()
        return graph.replay

    def seconds(self, work: Callable[[], Any]) -> float:
        """What some work takes, from the moment the GPU could begin."""
        if self.device == "cpu":
            import time

            begin = time.perf_counter()
            work()
            return time.perf_counter() - begin
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000

    def synchronize(self) -> None:
        """Wait until all is done."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def release(self) -> None:
        """Give memory that is not in use back to the GPU."""
        self.synchronize()
        if self.device == "cuda":
            self.torch.cuda.empty_cache()


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Inside, Python collects no garbage: memory of the GPU among it may not be freed while a graph is made."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def pytorch() -> tuple[Theirs | None, str]:
    """(PyTorch's side, "") or (None, why it is left out)."""
    try:
        import torch
    except ModuleNotFoundError as error:
        return None, str(error)
    if not torch.cuda.is_available():
        return None, f"PyTorch {torch.__version__} finds no GPU"
    return Theirs(), ""


def cache_bytes(device: Any) -> int:
    """Of the GPU's second-level cache."""
    driver = device.driver
    if driver.is_simulated:
        return 0
    return driver.attribute(driver.api.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)


def nothing(dtype: Any) -> float:
    """A value that no result has."""
    return math.nan if np.dtype(dtype).kind == "f" else 99


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)
