"""Copies from global to shared memory that go on while the thread works, for kernels (PTX ISA, cp.async; sm_80).

copy16, copy4      begin to copy 16 bytes, or one float32
copy_commit        those begun so far are a group
copy_wait_all, copy_wait_but_one    until groups of this thread have arrived
"""

import functools

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload

from minigrad.kernels.cuda.tools.language import (
    GLOBAL,
    SHARED,
    WORD,
    assembly,
    intrinsic,
    is_memory,
    neighbours,
    pointer_to,
    simulated_block,
    uint32,
)


def copy16(shared, i, source, j, size):
    """Begin to copy 16 bytes, source[j : j + 4] to shared[i : i + 4]; with size 0 zeros, and source is not read."""
    if size not in (0, 16):
        raise ValueError(f"copy16 copies 16 bytes or, with size 0, none; not {size}")
    simulated_block().begin_copy(neighbours("copy16", shared, i), neighbours("copy16", source, j) if size else None)


def copy4(shared, i, source, j, size):
    """Begin to copy one float32, source[j] to shared[i]; with size 0 a zero, and source is not read."""
    i, j = int(i), int(j)
    simulated_block().begin_copy(shared[i : i + 1], source[j : j + 1] if size else None)


def copy_intrinsic(text):
    """An intrinsic that begins a copy to shared memory by one instruction."""

    @intrinsic
    def copy(typing_context, shared, i, source, j, size):
        if not is_memory(shared) or not is_memory(source):
            raise TypingError(f"copies are of float32, not {source} to {shared}")
        return types.void(shared, i, source, j, uint32), functools.partial(generate_copy, text)

    return copy


def generate_copy(text, context, builder, signature, arguments):
    """The instruction, its addresses in the spaces that it wants."""
    target = pointer_to(context, builder, signature.args[0], *arguments[:2])
    origin = pointer_to(context, builder, signature.args[2], *arguments[2:4])
    if target.type.addrspace != SHARED:
        target = builder.addrspacecast(target, ir.PointerType(ir.FloatType(), SHARED))
    if origin.type.addrspace != GLOBAL:
        origin = builder.addrspacecast(origin, ir.PointerType(ir.FloatType(), GLOBAL))
    addresses = [builder.ptrtoint(target, WORD), builder.ptrtoint(origin, ir.IntType(64)), arguments[4]]
    assembly(builder, ir.VoidType(), addresses, text, "r,l,r,~{memory}", effects=True)
    return context.get_dummy_value()


_copy16 = copy_intrinsic("cp.async.cg.shared.global [$0], [$1], 16, $2;")
_copy4 = copy_intrinsic("cp.async.ca.shared.global [$0], [$1], 4, $2;")


@overload(copy16)
def _compiled_copy16(shared, i, source, j, size):
    return lambda shared, i, source, j, size: _copy16(shared, i, source, j, uint32(size))


@overload(copy4)
def _compiled_copy4(shared, i, source, j, size):
    return lambda shared, i, source, j, size: _copy4(shared, i, source, j, uint32(size))


def instruction(text):
    """An intrinsic of one instruction without operands, which nothing may be moved across."""

    @intrinsic
    def emit(typing_context):
        def generate(context, builder, signature, arguments):
            assembly(builder, ir.VoidType(), [], text, "~{memory}", effects=True)
            return context.get_dummy_value()

        return types.void(), generate

    return emit


def copy_commit():
    """The copies begun so far are a group."""
    simulated_block().commit_copies()


def copy_wait_all():
    """Wait for all groups of this thread; the others' copies are seen after the next syncthreads."""
    simulated_block().finish_copies(0)


def copy_wait_but_one():
    """Wait for all groups of this thread but the latest."""
    simulated_block().finish_copies(1)


_copy_commit = instruction("cp.async.commit_group;")
_copy_wait_all = instruction("cp.async.wait_group 0;")
_copy_wait_but_one = instruction("cp.async.wait_group 1;")
overload(copy_commit)(lambda: lambda: _copy_commit())
overload(copy_wait_all)(lambda: lambda: _copy_wait_all())
overload(copy_wait_but_one)(lambda: lambda: _copy_wait_but_one())
