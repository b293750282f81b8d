"""How a CUDA kernel is written, compiled and launched.

    @kernel(threads=256)
    def relu_forward(x: Reals, y: Reals, n: UInt):
        i = uint32(cuda.blockIdx.x) * uint32(256) + uint32(cuda.threadIdx.x)
        if i < n:
            y[i] = formulas.relu(x[i])

    relu_forward[blocks_for(n, 256), 256](x, y, n)

Annotations say what the machine gets: bare pointers, numbers, and what belongs together as a NamedTuple of such, whose fields
are annotated alike. It costs nothing: the machine gets its numbers one by one. `Reals` and `Real` are of the type the kernel is
compiled for, that of the first such array in a call; in the kernel's body that type is called `real`. What kernels of one text
differ in is a `Choice`, compiled in: `move.variant(LOAD=load4_bytes, STORE=store4_bytes)[grid, block](...)`.

A kernel comes as PTX, for the oldest GPU that will do, with a release of minigrad; or it is compiled when it is first launched,
and kept on disk beside the CPU's kernels. The driver makes machine code of it for the machine's GPU. Launches go to the
context's driver: the GPU, or what stands for it.
"""

import functools
import hashlib
import inspect
import re

import numpy as np
from numba import types
from numba.extending import register_jitable

from minigrad.kernels.axes import DIMS
from minigrad.kernels.build.cache import cache_folder, keep, kept_or_made, read, warn_once
from minigrad.kernels.build.garbage import left_lying
from minigrad.kernels.build.progress import progress
from minigrad.kernels.build.settings import install
from minigrad.kernels.cuda.tools import choices, language, shipped
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.window import Window

if isinstance(language.cuda, language.NoCompiler) and not shipped.kernels():
    raise ImportError(
        f"this copy of minigrad has no compiled CUDA kernels, as a release has, and no compiler; run: {install('compiler')}"
    )


class KernelParameter:
    """What a kernel takes in one place: a number, or a pointer to numbers. dtype None is that of the kernel."""

    def __init__(self, dtype, is_pointer):
        self.dtype = None if dtype is None else np.dtype(dtype)
        self.is_pointer = is_pointer

    def numba_type(self, real):
        """As the compiler knows it."""
        scalar = NUMBA[self.dtype or real]
        return types.CPointer(scalar) if self.is_pointer else scalar

    def codes(self, real):
        """As the struct module packs it."""
        return "Q" if self.is_pointer else CODES[self.dtype or real]

    def put(self, argument, values, name):
        """Append to the values of a launch what the machine gets; `name` is the kernel's."""
        if not self.is_pointer:
            values.append(argument)
        elif argument.size > MOST_ELEMENTS:
            raise too_large(name, argument)
        else:
            values.append(argument.pointer)

    def taken(self, values, real, memory_at):
        """What a kernel written in Python is given, of the values (an iterator) of a launch."""
        dtype = self.dtype or real
        return memory_at(next(values), dtype) if self.is_pointer else dtype.type(next(values))


class TupleParameter:
    """A tuple of parameters, which the machine gets one by one; `named` is the NamedTuple that the kernel has."""

    def __init__(self, fields, named=None):
        self.fields, self.named = fields, named

    def numba_type(self, real):
        """As the compiler knows it."""
        return types.BaseTuple.from_types([field.numba_type(real) for field in self.fields], self.named)

    def codes(self, real):
        """As the struct module packs it, one letter for each number."""
        return "".join([field.codes(real) for field in self.fields])

    def put(self, argument, values, name):
        """Append to the values of a launch what the machine gets."""
        for field, part in zip(self.fields, argument, strict=True):
            field.put(part, values, name)

    def taken(self, values, real, memory_at):
        """What a kernel written in Python is given."""
        parts = [field.taken(values, real, memory_at) for field in self.fields]
        return tuple(parts) if self.named is None else self.named(*parts)


class Of:
    """An annotation: a pointer to numbers of the type that a Choice stands for.

    With `IMAGE = Choice("IMAGE")` in the module and `images: Of(IMAGE)`, variant(IMAGE=float32) takes float32 images.
    """

    def __init__(self, choice):
        self.choice = choice


class Several:
    """An annotation: a tuple of as many of a NamedTuple as a Choice stands for.

    With `COUNT = Choice("COUNT")` in the module and `pairs: Several(Pair, COUNT)`, variant(COUNT=2) takes two of them.
    """

    def __init__(self, kind, choice):
        self.kind, self.choice = kind, choice


def parameter_of(annotation, chosen):
    """The parameter that an annotation asks for, in the variant that chooses so; None for what is left open."""
    if isinstance(annotation, Several):
        count = annotation.choice.known(chosen)
        return None if count is None else TupleParameter([parameter_of(annotation.kind, chosen)] * count)
    if isinstance(annotation, Of):
        is_open = annotation.choice.name not in chosen and not annotation.choice.default
        return None if is_open else KernelParameter(annotation.choice.among(chosen).name, True)
    if isinstance(annotation, type) and hasattr(annotation, "_fields"):
        fields = inspect.get_annotations(annotation).values()
        return TupleParameter([parameter_of(field, chosen) for field in fields], annotation)
    return annotation


MOST_ELEMENTS = 1 << 31  # of an array: an index, and one past the end by what a grid covers too much, is a uint32
RESERVED_SHARED = 1024  # bytes of shared memory that the driver keeps for itself of each block's

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
CODES = {
    np.dtype(dtype): code
    for dtype, code in {
        np.float32: "f",
        np.float64: "d",
        np.int32: "i",
        np.int64: "q",
        np.uint8: "B",
        np.uint16: "H",
        np.uint32: "I",
        np.uint64: "Q",
    }.items()
}
NUMBA = {dtype: getattr(types, dtype.name) for dtype in CODES}

Real, Reals = KernelParameter(None, False), KernelParameter(None, True)
Float, Floats = KernelParameter(np.float32, False), KernelParameter(np.float32, True)
Double, Doubles = KernelParameter(np.float64, False), KernelParameter(np.float64, True)
Int = KernelParameter(np.int32, False)
Long, Longs = KernelParameter(np.int64, False), KernelParameter(np.int64, True)
UInt, UInts = KernelParameter(np.uint32, False), KernelParameter(np.uint32, True)
ULong, ULongs = KernelParameter(np.uint64, False), KernelParameter(np.uint64, True)
Bytes = KernelParameter(np.uint8, True)
Axes = TupleParameter([UInt] * DIMS)  # a number for each axis of a layout
UIntWindow = TupleParameter([UInt] * len(Window._fields), Window)


kernels: list["CudaKernel"] = []  # all that are defined


class CudaKernel:
    """One kernel, with its constants; `kernel[grid, block](...)` launches it.

    `kernel[grid, block, shared_bytes](...)` gives a block so much shared memory beside the arrays of fixed size, if it is not
    what the kernel says of itself.
    """

    def __init__(self, function, threads, min_blocks, constants, types=None, uses_float64=False, shared_bytes=0):
        self.function = function
        self.threads, self.min_blocks, self.shared_bytes = threads, min_blocks, shared_bytes
        self.uses_float64 = uses_float64
        self.constants = constants
        self.parameters = [parameter_of(kind, constants) for kind in inspect.get_annotations(function).values()]
        if len(self.parameters) != function.__code__.co_argcount:
            raise TypeError(f"{function.__name__}: every argument of a kernel needs an annotation")
        self.leading = next((i for i, p in enumerate(self.parameters) if p is Reals), None)
        self.types = types or ((FLOAT32, FLOAT64) if self.leading is not None else (FLOAT32,))
        self.variants = {}
        self.handles = {}
        functools.update_wrapper(self, function)

    @property
    def name(self):
        """family.function, and its constants."""
        family = self.function.__module__.rpartition(".")[2]
        values = sorted(self.constants.items())
        constants = "".join(f",{name}={getattr(value, '__name__', value)}" for name, value in values)
        return f"{family}.{self.function.__name__}{constants}"

    def variant(self, *, types=None, shared_bytes=None, **constants):
        """The same kernel with these values for its Choices; `types` if it is not for all of the kernel's."""
        key = tuple(sorted(constants.items()))
        if key not in self.variants:
            together = {**self.constants, **constants}
            named = {p.choice.name for p in inspect.get_annotations(self.function).values() if isinstance(p, Of)}
            known = choices.choices_in(self.function, together) | named
            unknown = [name for name in constants if name not in known]
            if unknown:
                raise TypeError(f"{self.function.__name__} knows no {', '.join(unknown)}")
            shared_bytes = self.shared_bytes if shared_bytes is None else shared_bytes
            self.variants[key] = CudaKernel(
                *(self.function, self.threads, self.min_blocks, together, types or self.types),
                *(self.uses_float64, shared_bytes),
            )
        return self.variants[key]

    def specialized(self, real, finished=lambda function: function, replaced=lambda value: value):
        """The kernel's function for one type, what was chosen put in; raises TypeError if something is left open."""
        try:
            return choices.rebuilt(self.function, replaced, finished, {**self.constants, "real": NUMBA[real]})
        except LookupError as error:
            raise TypeError(f"{self.name}: {error}") from None

    def __getitem__(self, configuration):
        grid, block, *rest = configuration
        return functools.partial(self.launch, grid, block, rest[0] if rest else self.shared_bytes)

    def launch(self, grid, block, shared_bytes, *arguments):
        """Run it on `grid` blocks (an int or up to three) of `block` threads."""
        if len(arguments) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments, not {len(arguments)}")
        real = FLOAT32 if self.leading is None else arguments[self.leading].dtype
        key = context.driver, real
        handle = self.handles.get(key)
        if handle is None:
            handle = self.handles[key] = context.driver.prepare(self, real)
        values = []
        for parameter, argument in zip(self.parameters, arguments, strict=True):
            parameter.put(argument, values, self.name)
        context.driver.launch(handle, three(grid), three(block), shared_bytes, context.stream, values)

    def __repr__(self):
        return f"<CUDA kernel {self.name}>"


def too_large(name, array):
    """The error for an array that 32-bit indices do not reach all of."""
    return ValueError(
        f"{name}: an array of shape {array.shape} has {array.size:,} elements, and the GPU's kernels count them in 32 bits: at "
        f"most {MOST_ELEMENTS:,} in one array; use a smaller batch, or split the array"
    )


def three(size):
    """A grid or block size along three axes."""
    if isinstance(size, int):
        return size, 1, 1
    return (*size, 1, 1)[:3]


def kernel(*, threads, min_blocks=1, types=None, uses_float64=False):
    """Make a function a CUDA kernel for blocks of at most `threads` threads.

    With `min_blocks` the compiler leaves enough registers for so many blocks on a multiprocessor at once. `types` are
    those it may be compiled for, by default float32 and float64. `uses_float64` says that a float32 kernel computes in
    float64 too, on purpose: a few numbers at its end, never its inner loop.
    """

    def define(function):
        defined = CudaKernel(function, threads, min_blocks, {}, types, uses_float64)
        kernels.append(defined)
        return defined

    return define


def blocks_for(n, size, most=None):
    """How many blocks of `size` cover n, at least one; `most` limits it, for kernels that go on in a loop."""
    count = max(1, -(-n // size))
    return count if most is None else min(count, most)


# Compilation


def signature(kernel, real):
    """The Numba types of a kernel's arguments."""
    return tuple([parameter.numba_type(real) for parameter in kernel.parameters])


OLDEST = 8, 0  # the compute capability that PTX is made for; the driver makes of it what is best for a newer GPU
PTX_VERSION = "7.1"  # of CUDA 11.1: nothing newer is in it, and a driver refuses what names a version it does not know


def entry_of(ptx):
    """The name of the kernel in its PTX."""
    return re.search(r"\.entry\s+(\S+?)\s*\(", ptx)[1]


def compile_ptx(kernel, real, capability=OLDEST):
    """(PTX, name of the entry) of a kernel, for GPUs of at least that compute capability.

    Raises ImportError where the compiler is not installed.
    """
    if isinstance(language.cuda, language.NoCompiler):
        raise ImportError(
            f"{kernel.name} for {real} did not come with this release, as your own kernels do not, nor many that are made of a "
            f"formula; to compile it takes numba-cuda, which is not installed; run: {install('compiler')}"
        )
    function = kernel.specialized(real, register_jitable)
    with language.target(capability), left_lying():
        ptx, _ = language.cuda.compile(
            function,
            signature(kernel, real),
            cc=capability,
            output="ptx",
            device=False,
            abi="numba",
            launch_bounds=(kernel.threads, kernel.min_blocks),
        )
    if capability == OLDEST:
        ptx = re.sub(r"^\.version .*$", f".version {PTX_VERSION}", ptx, count=1, flags=re.MULTILINE)
    return ptx, entry_of(ptx)


def cached_ptx(kernel, real, capability=OLDEST):
    """What compile_ptx gives, from what was shipped or kept on disk, if it is there."""
    ptx = shipped.ptx_of(kernel, real) if capability == OLDEST else None
    if ptx is not None:
        return ptx, entry_of(ptx)
    folder = cache_folder("cuda")
    path = None
    if folder is not None:
        how = kernel.name, real.name, capability, kernel.threads, kernel.min_blocks, language.versions()
        # the folder's name covers our sources
        key = repr(how if shipped.is_ours(kernel) else (*how, choices.content(kernel.function, kernel.constants)))
        digest = hashlib.sha256(key.encode()).hexdigest()[:20]
        path = folder / f"cuda.{kernel.function.__name__}-{digest}.ptx"

    def make():
        progress.begin(f"cuda.{kernel.name}", signature(kernel, real))
        ptx, entry = compile_ptx(kernel, real, capability)
        progress.end(f"cuda.{kernel.name}")
        if path is not None:
            keep(path, f"{checksum(ptx)}\n{ptx}".encode())
        return ptx, entry

    return kept_or_made(path, lambda: kept_ptx(path), make)


def kept_ptx(path):
    """(PTX, name of the entry) in a file; None where there is none, or where it is damaged."""
    content = read(path)
    if content is None:
        return None
    first, _, ptx = content.decode(errors="replace").partition("\n")
    if first != checksum(ptx):
        warn_once("read", f"the compiled kernel {path} is damaged; such are compiled again")
        return None
    return ptx, entry_of(ptx)


def checksum(ptx):
    """A comment line that says what the rest must be."""
    return f"// sha256 {hashlib.sha256(ptx.encode()).hexdigest()}"


class ArgumentLayout:
    """How a kernel's arguments lie in memory, one after another, each aligned to its size."""

    def __init__(self, kernel, real):
        codes = [code for parameter in kernel.parameters for code in parameter.codes(real)]
        sizes = [np.dtype(code).itemsize for code in codes]
        self.offsets = []
        end = 0
        for size in sizes:
            start = -(-end // size) * size
            self.offsets.append(start)
            end = start + size
        self.format = "@" + "".join(codes)
        self.size = end


def final(kernel):
    """The kernels that are launched: the kernel itself, or the variants of it that its family has defined."""
    if not kernel.variants:
        return [kernel]
    return [last for variant in kernel.variants.values() for last in final(variant)]
