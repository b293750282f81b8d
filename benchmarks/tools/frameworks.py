"""The frameworks under comparison, each asked for the same few things: arrays in and out, and work repeated and timed.

On a GPU a replay is a CUDA graph of the calls, so that what it costs the host to launch is not in the time of a kernel, and
time is taken by events of the device, on the stream that does the work. On the CPU the calls just follow each other.
"""

import contextlib
import functools
import gc
import importlib
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

OURS = "minigrad"
PRECISIONS = ("float32", "bf16_3x", "tf32", "bf16")  # of products on a GPU, see mg.matmul_precision
CLOCK = "MINIGRAD_BENCHMARK_CLOCK"  # "cpu" counts a process's own time; in the environment, for contenders in processes

Calls = list[Callable[[], Any]]


class NumPy:
    """Arrays of the host, and what all frameworks do alike on the CPU. Its BLAS is told the threads by the environment."""

    device = "cpu"

    precisions = PRECISIONS

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def put(self, array: np.ndarray) -> Any:
        """An array where the framework works, of these values."""
        return array

    def factor(self, array: np.ndarray) -> Any:
        """An array as a product in the current precision takes it."""
        return self.put(array)

    def get(self, array: Any) -> np.ndarray:
        """The values on the host."""
        return np.array(array)

    def room(self, *shape: int, dtype: Any = np.float32) -> Any:
        """An array for a result, full of what no result is."""
        return self.put(np.full(shape, math.nan if np.dtype(dtype).kind == "f" else 99, dtype))

    def precision(self, name: str) -> contextlib.AbstractContextManager:
        """Products inside are computed like that."""
        return contextlib.nullcontext()

    def no_compile(self) -> contextlib.AbstractContextManager:
        """What makes a compilation an error, where the framework offers it."""
        return contextlib.nullcontext()

    def compiled(self) -> dict | None:
        """What the framework compiled in this process rather than load it from disk; None if it does not tell."""
        return None

    def replay(self, calls: Calls) -> Callable[[], Any]:
        """All of the calls as one, ready."""

        def run() -> None:
            for call in calls:
                call()

        return run

    def seconds(self, work: Callable[[], Any]) -> float:
        """What some work takes."""
        clock = time.process_time if os.environ.get(CLOCK) == "cpu" else time.perf_counter
        start = clock()
        work()
        return clock() - start

    def release(self) -> None:
        """Give memory of a GPU that is not in use back."""


class Minigrad(NumPy):
    """minigrad's kernels on one of its devices."""

    def __init__(self, threads: int | None = None, home: Any = None) -> None:
        import minigrad as mg
        from minigrad.devices import get_device

        if threads is not None:
            mg.set_num_threads(threads)
        self.mg = mg
        self.home = home or get_device("cpu")
        self.device = self.home.name

    def put(self, array: np.ndarray) -> Any:
        return self.home.from_host(np.ascontiguousarray(array))

    def get(self, array: Any) -> np.ndarray:
        return np.array(self.home.to_host(array))

    def precision(self, name: str) -> contextlib.AbstractContextManager:
        return self.mg.matmul_precision(name)

    def no_compile(self) -> contextlib.AbstractContextManager:
        return self.mg.no_compile()

    def compiled(self) -> dict:
        from minigrad.kernels.build.progress import progress

        return {"kernels": len(progress.compiled), "seconds": progress.total}

    def replay(self, calls: Calls) -> Callable[[], Any]:
        if self.device == "cpu":
            return super().replay(calls)
        program = self.home.program([(call, ()) for call in calls])
        with no_collection():
            for call in calls:  # also what makes the memory that kernels take from it
                program.timed(call, ())
            program()
        self.home.synchronize()
        return program

    def seconds(self, work: Callable[[], Any]) -> float:
        if self.device == "cpu":
            return super().seconds(work)
        driver, stream = self.home.driver, self.home.stream
        start, end = driver.new_event(), driver.new_event()
        self.home.synchronize()
        driver.record(start, stream)
        work()
        driver.record(end, stream)
        driver.wait_on_host(end)
        found = driver.elapsed(start, end)
        driver.free_event(start)
        driver.free_event(end)
        return found

    def release(self) -> None:
        self.home.synchronize()
        if self.device == "cuda":
            self.home.pool.release()


class Torch(NumPy):
    """PyTorch on one of its devices. In "bf16" arrays lie in bfloat16, as autocast has them from layer to layer."""

    precisions = ("float32", "tf32", "bf16")

    def __init__(self, threads: int | None = None, device: str = "cpu") -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self.torch, self.device = torch, device
        self.factors = torch.float32
        if device == "cuda":
            torch.backends.cudnn.benchmark = True  # let cuDNN choose the fastest algorithm of each shape

    def put(self, array: np.ndarray) -> Any:
        return self.torch.tensor(array, device=self.device)

    def factor(self, array: np.ndarray) -> Any:
        return self.put(array).to(self.factors)

    def images(self, array: np.ndarray) -> Any:
        """(n, h, w, c) as PyTorch's (n, c, h, w), its memory in the order of `channels_last`."""
        return self.put(array).permute(0, 3, 1, 2)

    def get(self, array: Any) -> np.ndarray:
        whole = array.float() if array.dtype == self.torch.bfloat16 else array  # of which NumPy has no type
        return whole.detach().cpu().numpy()

    def get_images(self, tensor: Any) -> np.ndarray:
        """On the host, (n, h, w, c)."""
        return self.get(tensor.permute(0, 2, 3, 1))

    @contextlib.contextmanager
    def precision(self, name: str) -> Iterator[None]:
        products, convolutions = self.torch.backends.cuda.matmul, self.torch.backends.cudnn
        before, factors = (products.allow_tf32, convolutions.allow_tf32), self.factors
        products.allow_tf32 = convolutions.allow_tf32 = name == "tf32"
        self.factors = self.torch.bfloat16 if name == "bf16" else self.torch.float32
        try:
            yield
        finally:
            products.allow_tf32, convolutions.allow_tf32 = before
            self.factors = factors

    def replay(self, calls: Calls) -> Callable[[], Any]:
        run = super().replay(calls)
        if self.device == "cpu":
            return run
        cuda = self.torch.cuda
        self.aside(run)  # a first time outside the graph: handles, workspaces, the choice of algorithms
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with no_collection(), cuda.graph(graph):
            run()
        graph.replay()
        cuda.synchronize()
        return graph.replay

    def aside(self, work: Callable[[], Any]) -> None:
        """Run it on another stream, as has to be done before it is captured."""
        cuda = self.torch.cuda
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            work()
        cuda.current_stream().wait_stream(stream)

    def seconds(self, work: Callable[[], Any]) -> float:
        if self.device == "cpu":
            return super().seconds(work)
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000

    def release(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()
            self.torch.cuda.empty_cache()


class Jax(NumPy):
    """JAX on the CPU, which the environment tells the threads."""

    def __init__(self, threads: int = 1) -> None:
        import jax

        self.jax = jax

    def put(self, array: np.ndarray) -> Any:
        return self.jax.numpy.asarray(array)


class Peer(NumPy):
    """A framework that only its own contender knows, on the CPU; ModuleNotFoundError where it is not installed."""

    def __init__(self, module: str, threads: int = 1) -> None:
        importlib.import_module(module)
        super().__init__(threads)


PEERS = {"MLX": "mlx", "tinygrad": "tinygrad", "MyGrad": "mygrad"}
FRAMEWORKS: dict[str, Callable[..., Any]] = {OURS: Minigrad, "PyTorch": Torch, "JAX": Jax, "NumPy": NumPy}
FRAMEWORKS |= {name: functools.partial(Peer, module) for name, module in PEERS.items()}


def framework_of(contender: str) -> str:
    """A contender is called by its framework and how that is used: "PyTorch eager"."""
    return contender.split()[0]


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Inside, Python collects no garbage: memory of the GPU among it may not be freed while a graph is made."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
