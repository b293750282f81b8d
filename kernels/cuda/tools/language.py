"""The language of the CUDA kernels: numba.cuda, and what it lacks.

This is the only module that knows which package compiles for CUDA. A kernel reads like any numba.cuda kernel (threadIdx,
shared.array, syncthreads), takes bare pointers, and finds here

    Choice             what the variants of a kernel differ in, a constant when they are compiled
    real               the type a kernel is compiled for, float32 or float64: `real(0)`, shared.array(n, real, 16)
    device_function    marks a function that kernels call; it is compiled into each of them
    load4, store4      four elements in one instruction of 16 bytes (two if they have 8 bytes), at a multiple of 4
    store2             two elements in one instruction, at a multiple of 2
    load4_if           load4 without a branch, or zeros
    settled            a value that is worked out where it stands, once
    at                 the pointer to element i
    memory_at, cast    a pointer from an address, or to elements of another type
    next_ticket        a number for each thread that asks, of all blocks

Copies that go on while a thread works are in async_copies.py, what a warp does on tensor cores in mma.py.

Every function here is plain Python that says what is meant, which is what the simulator runs; compiled code gets a few
instructions in its place. All indices are uint32: a bare literal would make them int64, and addresses twice as dear.
"""

import contextlib
import functools
import types as python_types
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload

from minigrad.kernels.cuda.tools.choices import Choice as Choice  # the kernels take both from here
from minigrad.kernels.cuda.tools.choices import device_function as device_function
from minigrad.kernels.cuda.tools.context import context


class NoCompiler:
    """Stands for numba.cuda where it is not installed, and only kernels run that were compiled before."""


try:
    version("numba-cuda")
    from numba import cuda
    from numba.cuda.extending import intrinsic
except ImportError:  # also what importlib.metadata raises for a package that is not there
    from numba.extending import intrinsic

    cuda = NoCompiler()  # the kernels take it from here

COMPILERS = "numba-cuda", "nvidia-nvvm", "nvidia-cuda-nvcc", "cuda-toolkit"


@functools.cache
def versions():
    """Of the packages that make PTX; None for one that is not there, as where the toolkit is the system's."""

    def found(package):
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return tuple(map(found, COMPILERS))


float32, float64 = types.float32, types.float64
int8, int16, int32, int64 = types.int8, types.int16, types.int32, types.int64
uint8, uint16, uint32, uint64 = types.uint8, types.uint16, types.uint32, types.uint64
real = Choice("real")  # the type a kernel is compiled for


@contextlib.contextmanager
def target(capability):
    """Inside, device functions are compiled for that compute capability; numba.cuda would ask the GPU, which may be none."""
    from numba.cuda import dispatcher

    ask = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: python_types.SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = ask


WORD = ir.IntType(32)
GENERIC, GLOBAL, SHARED = 0, 1, 3  # address spaces


WIDE = float32, float64, int32, int64, uint32, uint64  # of what four make 16 or 32 bytes


def is_memory(kind, dtypes=(float32,)):
    """Whether a Numba type is a pointer or an array, of one of these types."""
    return isinstance(kind, types.CPointer | types.Array) and kind.dtype in dtypes


def pointer_to(context, builder, kind, value, index):
    """LLVM pointer to an element of a pointer's or an array's memory."""
    if isinstance(kind, types.Array):
        value = context.make_array(kind)(context, builder, value=value).data
    if index.type.width < 64:
        index = builder.zext(index, ir.IntType(64))
    return builder.gep(value, [index])


def assembly(builder, result, arguments, text, constraints, *, effects):
    """Call inline PTX."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=effects), arguments)


# Sixteen bytes at once


def neighbours(name, memory, i, count=4):
    """What an instruction over several elements is about, memory[i : i + count]; raises IndexError where the GPU would."""
    i = int(i)
    if not 0 <= i <= memory.size - count:
        raise IndexError(f"{name} at {i} to {i + count - 1} of {memory.size} elements")
    part = memory.reshape(-1)[i : i + count]
    size = min(16, part.nbytes)
    if part.__array_interface__["data"][0] % size:
        raise IndexError(f"{name} at {i}, which is not aligned to {size} bytes")
    return part


def load4(memory, i):
    """(memory[i], ..., memory[i + 3]); i a multiple of 4, counted from where memory is aligned to 16 bytes."""
    return tuple(neighbours("load4", memory, i))


def vector_pointer(context, builder, kind, memory, i, count=4):
    """(LLVM type of several elements, pointer to those at i)."""
    vector = ir.VectorType(context.get_data_type(kind.dtype), count)
    pointer = pointer_to(context, builder, kind, memory, i)
    return vector, builder.bitcast(pointer, vector.as_pointer(pointer.type.addrspace))


@intrinsic
def _load4(typing_context, memory, i):
    if not is_memory(memory, WIDE):
        raise TypingError(f"load4 reads elements of 4 or 8 bytes, not {memory}")

    def generate(context, builder, signature, arguments):
        _, pointer = vector_pointer(context, builder, signature.args[0], *arguments)
        vector = builder.load(pointer, align=16)
        parts = [builder.extract_element(vector, WORD(k)) for k in range(4)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(memory.dtype, 4)(memory, i), generate


@overload(load4)
def _compiled_load4(memory, i):
    return lambda memory, i: _load4(memory, i)


def load4_if(memory, i, holds):
    """load4 of float32 in the GPU's memory, or zeros where something does not hold and memory[i] need not be there.

    A branch would part the reads of a thread from one another; this is an instruction that not all threads carry out.
    """
    return load4(memory, i) if holds else (np.float32(0),) * 4


@intrinsic
def _load4_if(typing_context, memory, i, holds):
    if not is_memory(memory):
        raise TypingError(f"load4_if reads float32, not {memory}")

    def generate(context, builder, signature, arguments):
        memory, i, holds = arguments
        pointer = pointer_to(context, builder, signature.args[0], memory, i)
        pointer = builder.addrspacecast(pointer, ir.PointerType(ir.FloatType(), GLOBAL))
        zero = ir.Constant(ir.FloatType(), 0)
        value = assembly(
            builder,
            ir.LiteralStructType([ir.FloatType()] * 4),
            [builder.zext(holds, WORD), builder.ptrtoint(pointer, ir.IntType(64)), *[zero] * 4],
            "{ .reg .pred %holds; setp.ne.u32 %holds, $4, 0; @%holds ld.global.v4.f32 {$0,$1,$2,$3}, [$5]; }",
            "=f,=f,=f,=f,r,l,0,1,2,3",
            effects=True,  # or it might be moved to where it is needed
        )
        parts = [builder.extract_value(value, k) for k in range(4)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(float32, 4)(memory, i, types.boolean), generate


@overload(load4_if)
def _compiled_load4_if(memory, i, holds):
    return lambda memory, i, holds: _load4_if(memory, i, bool(holds))


def settled(x):
    """A uint32 or a pointer as it is. What it comes to is worked out here, and kept, for the compiler cannot look into it.

    Else it might work out again, in each turn of a loop, what it has where the loop begins, and join it with other sums.
    """
    return x


@intrinsic
def _settled(typing_context, x):
    if x != uint32 and not isinstance(x, types.CPointer):
        raise TypingError(f"settled takes a uint32 or a pointer, not {x}")

    def generate(context, builder, signature, arguments):
        (value,) = arguments
        if value.type == WORD:
            return assembly(builder, WORD, [value], "mov.u32 $0, $1;", "=r,r", effects=True)
        long = ir.IntType(64)
        number = builder.ptrtoint(builder.addrspacecast(value, ir.PointerType(value.type.pointee, GLOBAL)), long)
        number = assembly(builder, long, [number], "mov.u64 $0, $1;", "=l,l", effects=True)
        return builder.addrspacecast(builder.inttoptr(number, ir.PointerType(value.type.pointee, GLOBAL)), value.type)

    return x(x), generate


@overload(settled)
def _compiled_settled(x):
    return lambda x: _settled(x)


def store4(memory, i, a, b, c, d):
    """memory[i : i + 4] = a, b, c, d, of the type of the memory; i as in load4."""
    neighbours("store4", memory, i)[:] = a, b, c, d


@intrinsic
def _store4(typing_context, memory, i, a, b, c, d):
    if not is_memory(memory, WIDE) or {a, b, c, d} != {memory.dtype}:
        raise TypingError(f"store4 writes four elements of the memory's type, not {a}, {b}, {c}, {d} to {memory}")
    return types.void(memory, i, a, b, c, d), generate_store


def generate_store(context, builder, signature, arguments):
    """One instruction for all values."""
    memory, i, *values = arguments
    kind, pointer = vector_pointer(context, builder, signature.args[0], memory, i, len(values))
    vector = ir.Constant(kind, ir.Undefined)
    for k, value in enumerate(values):
        vector = builder.insert_element(vector, value, WORD(k))
    size = signature.args[0].dtype.bitwidth // 8
    builder.store(vector, pointer, align=min(16, size * len(values)))
    return context.get_dummy_value()


@overload(store4)
def _compiled_store4(memory, i, a, b, c, d):
    return lambda memory, i, a, b, c, d: _store4(memory, i, a, b, c, d)


def store2(memory, i, a, b):
    """memory[i : i + 2] = a, b, of the type of the memory; i a multiple of 2, counted as in load4."""
    neighbours("store2", memory, i, 2)[:] = a, b


@intrinsic
def _store2(typing_context, memory, i, a, b):
    if not is_memory(memory, WIDE) or {a, b} != {memory.dtype}:
        raise TypingError(f"store2 writes two elements of the memory's type, not {a} and {b} to {memory}")
    return types.void(memory, i, a, b), generate_store


@overload(store2)
def _compiled_store2(memory, i, a, b):
    return lambda memory, i, a, b: _store2(memory, i, a, b)


def at(pointer, i):
    """The pointer to element i of a pointer's memory."""
    if not 0 <= int(i) <= pointer.size:
        raise IndexError(f"at {int(i)} of {pointer.size} elements")
    return pointer[int(i) :]


@intrinsic
def _at(typing_context, pointer, i):
    if not isinstance(pointer, types.CPointer):
        raise TypingError(f"at takes a pointer, not {pointer}")

    def generate(context, builder, signature, arguments):
        return pointer_to(context, builder, signature.args[0], *arguments)

    return pointer(pointer, i), generate


@overload(at)
def _compiled_at(pointer, i):
    return lambda pointer, i: _at(pointer, i)


def memory_at(address, dtype):
    """A pointer to elements of a type, from an address out of a table."""
    return context.driver.memory_at(int(address), np.dtype(dtype))


@intrinsic
def _memory_at(typing_context, address, dtype):
    if address != uint64:
        raise TypingError(f"memory_at takes an address in uint64, not in {address}")

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(signature.return_type)
        pointer = builder.inttoptr(arguments[0], ir.PointerType(kind.pointee, GLOBAL))
        return builder.addrspacecast(pointer, kind)

    return types.CPointer(dtype.dtype)(address, dtype), generate


@overload(memory_at)
def _compiled_memory_at(address, dtype):
    return lambda address, dtype: _memory_at(address, dtype)


def cast(pointer, dtype):
    """The pointer to the same memory as elements of another type."""
    size = np.dtype(dtype).itemsize
    whole = pointer.nbytes // size * size
    return pointer.view(np.uint8)[:whole].view(dtype)


@intrinsic
def _cast(typing_context, pointer, dtype):
    if not isinstance(pointer, types.CPointer):
        raise TypingError(f"cast takes a pointer, not {pointer}")

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype.dtype)(pointer, dtype), generate


@overload(cast)
def _compiled_cast(pointer, dtype):
    return lambda pointer, dtype: _cast(pointer, dtype)


def next_ticket(memory, i, last):
    """memory[i], of uint32 in the GPU's memory, which counts on by it, and behind `last` begins at 0 again.

    An atomic operation (PTX ISA, atom.inc): all threads of all blocks get a number of their own.
    """
    i = int(i)
    ticket = memory[i]
    memory[i] = 0 if ticket >= last else ticket + np.uint32(1)
    return ticket


@intrinsic
def _next_ticket(typing_context, memory, i, last):
    if not is_memory(memory, (uint32,)) or last != uint32:
        raise TypingError(f"tickets are uint32, in memory and the last one, not {memory} and {last}")

    def generate(context, builder, signature, arguments):
        place = pointer_to(context, builder, signature.args[0], *arguments[:2])
        place = builder.addrspacecast(place, ir.PointerType(WORD, GLOBAL))
        given = [builder.ptrtoint(place, ir.IntType(64)), arguments[2]]
        return assembly(builder, WORD, given, "atom.global.inc.u32 $0, [$1], $2;", "=r,l,r,~{memory}", effects=True)

    return uint32(memory, i, last), generate


@overload(next_ticket)
def _compiled_next_ticket(memory, i, last):
    return lambda memory, i, last: _next_ticket(memory, i, last)


def simulated_block():
    """What a block of simulated threads does; imported when used, since it needs greenlet, an extra."""
    from minigrad.kernels.cuda.tools import block

    return block
