"""A device: where arrays live, and the kernels that work on them.

"cpu"         NumPy arrays, Numba kernels (minigrad.kernels.cpu)
"reference"   NumPy arrays, plain NumPy kernels (minigrad.kernels.reference): slow, nothing compiled, a second opinion
"cuda"        arrays in a GPU's memory, numba.cuda kernels (minigrad.kernels.cuda); see minigrad.devices.cuda
"""

import functools
import importlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba.core.dispatcher import Dispatcher

from minigrad.devices.dlpack import CPU
from minigrad.devices.memory import Lease, Pool

# Below this size malloc is faster than our bookkeeping; above it the system hands out fresh pages, which costs a page
# fault for every 4 KB, on every step, unless we keep the memory.
POOLED_BYTES = 1 << 18

Call = tuple[Callable[..., None], tuple[Any, ...]]  # a launch: a function, and what it is called with


class Chosen(NamedTuple):
    """What a launch will run for which nothing has to be compiled."""

    function: Callable[..., None]
    arguments: tuple[Any, ...]

    def has_to_wait(self) -> bool:
        """Never."""
        return False

    def call(self) -> Call:
        """Itself."""
        return self


class Device:
    """A home of arrays: `kernels` has the kernel families as attributes; `empty` allocates.

    This one's arrays are NumPy's, in the memory of the host.
    """

    array_type: Any = np.ndarray
    dlpack_device = CPU, 0  # as DLPack says where arrays are
    precision = "float32"  # of products where there is a choice, for all devices: see mg.matmul_precision
    replays_python = True  # whether a replay may run Python functions between its launches
    moves_results = True  # whether a replay may write into memory that it is given for its results
    works_on = False  # whether launches return before they are done, and there is a `read_later`

    def __init__(self, name: str) -> None:
        self.name = name
        self.pool = self.new_pool()
        self.constants: dict[tuple[float, tuple[int, ...], np.dtype], Any] = {}

    @functools.cached_property
    def kernels(self) -> Any:
        """The kernel families of this device, imported when first used."""
        return importlib.import_module(f"minigrad.kernels.{self.name}")

    def new_pool(self) -> Pool:
        """Memory of this device."""
        return Pool()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A C-contiguous array with whatever its memory holds."""
        size = math.prod(shape)
        if size < POOLED_BYTES // 8 or size * np.dtype(dtype).itemsize < POOLED_BYTES:
            return np.empty(shape, dtype)
        return self.pool.empty(shape, np.dtype(dtype))

    def shared_constant(self, value: float, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """An array of one value, made once and shared: for kernels to read, never handed to an op, a hook or a user."""
        key = value, shape, dtype
        if key not in self.constants:
            self.constants[key] = self.from_host(np.full(shape, value, dtype))
        return self.constants[key]

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A new array of zeros."""
        return self.from_host(np.zeros(shape, dtype))

    def from_host(self, array: np.ndarray) -> Any:
        """An array here of the values of a NumPy array, whose memory it may share."""
        return array

    def to_host(self, array: Any) -> np.ndarray:
        """A NumPy array of the values of an array here, whose memory it may share."""
        return array

    def copy(self, array: Any) -> Any:
        """A copy of an array here."""
        return array.copy()

    def lend(
        self,
        array: Any,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule of DLPack for an array here; the arguments are those of `__dlpack__` in the Python array API."""
        asked = {"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": copy}
        return array.__dlpack__(**{name: value for name, value in asked.items() if value is not None})

    def borrow(self, x: Any, number: int, copy: bool | None) -> Any:
        """An array here on the memory of one that speaks DLPack; a copy where it is not laid out as ours are.

        `number` is that of its device, of several of a kind. Raises BufferError where copy=False and it must be a copy.
        """
        try:
            array = np.from_dlpack(x)
        except RuntimeError as error:  # NumPy's word for a dtype that it has not
            dtype = getattr(x, "dtype", "its dtype")
            raise TypeError(f"{dtype} is not supported: {error} Convert to float32 or float64 first") from error
        if array.flags.c_contiguous and array.flags.aligned:
            return array
        if copy is False:
            raise BufferError(
                f"the array {list(array.shape)} has strides {array.strides}, in bytes; as a tensor, which is C-contiguous and "
                "aligned, it is a copy, which copy=False forbids"
            )
        return np.array(array, order="C")

    def write(self, target: Any, values: Any) -> None:
        """Put the values of a NumPy array, or of an array here, into an array here of the same shape and dtype."""
        np.copyto(target, values)

    def mirror(self, array: np.ndarray) -> Any:
        """A NumPy array that Python goes on to write, as kernels may read it at any launch: always up to date."""
        return array

    def mirror_for(self, recorder: Any, array: np.ndarray) -> Any:
        """The same for a recording, which notes what its replays have to bring up to date."""
        return array

    def alias(self, array: Any, lease: Lease) -> Any:
        """The same memory without the lease it is on; it stays alive all the same, but may be used again."""
        block = lease.block
        offset = array.__array_interface__["data"][0] - block.__array_interface__["data"][0]
        return np.ndarray(array.shape, array.dtype, block, offset, array.strides)

    def stager(self) -> Any:
        """What brings batches here ahead of the steps that use them; None where they are already."""
        return None

    def share_memory(self, a: Any, b: Any) -> bool:
        """Whether two arrays may overlap."""
        return np.may_share_memory(a, b)

    def as_result(self, op: str, y: Any) -> Any:
        """What an op's forward returned, as an array of this device; TypeError if it is none."""
        if isinstance(y, np.generic):  # NumPy makes a scalar of a result without axes
            return np.asarray(y)
        raise TypeError(f"{op}.forward must return an array, or a tuple of arrays, not {type(y).__name__}")

    def resolve(self, kernel: Any, arguments: tuple[Any, ...]) -> Call:
        """What a launch of a kernel runs, now and whenever it is repeated."""
        return kernel.resolve(*arguments) if hasattr(kernel, "resolve") else (kernel, arguments)

    def choose(self, kernel: Any, arguments: tuple[Any, ...]) -> Any:
        """What a launch of a kernel will run, chosen now: `call()` gives the same, and compiles it if it is not yet."""
        return kernel.choose(*arguments) if hasattr(kernel, "choose") else Chosen(*self.resolve(kernel, arguments))

    def compile(self, choices: list[Any]) -> None:
        """Compile what is missing for what was chosen, by all cores."""
        from minigrad.kernels.cpu.tools.ahead import compile_all

        compile_all(dict.fromkeys([choice.entry() for choice in choices if not isinstance(choice, Chosen)]))

    def launch(self, family: str, name: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Run a function that is no kernel of the device, by the name that a recording gives it."""
        function(*arguments)

    def launch_own(self, op: Any, kernel: Any, arguments: tuple[Any, ...]) -> None:
        """Run a kernel of the user's own, as `op` asks for it."""
        self.own_kernel(kernel)(*arguments)

    def own_kernel(self, kernel: Any) -> Any:
        """What runs a kernel of the user's own; for `resolve` too."""
        if isinstance(kernel, Dispatcher):
            from minigrad.devices.own import OwnKernel

            return OwnKernel(kernel)
        return kernel

    def program(self, calls: list[Call], blocks: Sequence[Any] = ()) -> "Program":
        """Recorded launches, to be repeated; blocks of memory that may lie elsewhere then."""
        return Program(self, calls, blocks)

    def use_precision(self, precision: str) -> None:
        """Set how float32 products are computed from now on; see mg.matmul_precision."""

    def synchronize(self) -> None:
        """Wait until all that was launched is done."""

    def check(self, function: Any, *arguments: Any) -> None:
        """Run a check of values, which raises if they are wrong."""
        function(*arguments)

    def __repr__(self) -> str:
        return f"Device({self.name!r})"


class Program:
    """Recorded launches, a function and its arguments each; calling it runs them all, by machine code where it can."""

    def __init__(self, device: Device, calls: list[Call], blocks: Sequence[Any] = ()) -> None:
        self.device = device
        self.calls = calls
        self.blocks = blocks
        self.replay: Callable[..., list[Any]] | None = None

    def __call__(self) -> list[Any]:
        """Run all launches in order; gives the blocks, each itself or the fresh memory that was written instead."""
        if self.replay is None:
            from minigrad.kernels.cpu.tools.replay import Replay

            self.replay = Replay(self.calls, self.blocks)
        return self.replay(self.fresh)

    def fresh(self) -> list[Any]:
        """Memory for each block."""
        return [self.device.empty(block.shape, block.dtype) for block in self.blocks]

    def run(self) -> None:
        """Run the list."""
        for function, arguments in self.calls:
            function(*arguments)

    def timed(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> float:
        """Run one launch; the seconds it takes."""
        start = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - start
