"""Recorded launches made by machine code: Python takes 0.3 us from one to the next, a small kernel itself no longer.

A recorded launch is a compiled function and its arguments, which stay as they are. A run of them is therefore compiled to
one function that hands constants to kernel after kernel, in the way that Numba's compiled functions call each other:

    status = kernel(place for a result, place for an error, fields of the first argument, fields of the second, ...)

The fields of an array are its owner and its Python object, which may both be null, the number of elements and the bytes of
one, the address, the shape and the strides; a number is one field. A status that is not 0 says that the kernel raised.

Blocks of memory may lie elsewhere at each replay, so that what is in them can be kept by who has them then: where they are
the code reads from cells, one for each.
"""

import ctypes
import functools
import itertools

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import types

from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.tools.launch import Variants, compile_results

INDEX = ir.IntType(64)
NUMBERS = types.Boolean | types.Integer | types.Float


class Moving:
    """Blocks of memory, where they are now, and the cells in which machine code reads that."""

    def __init__(self, blocks):
        self.blocks, self.now = blocks, blocks
        self.homes = [address_of(block) for block in blocks]
        self.cells = (ctypes.c_int64 * len(blocks))(*self.homes)

    def put(self, memory):
        """From now on the blocks are there."""
        self.now = memory
        self.cells[:] = [address_of(block) for block in memory]

    def come_home(self):
        """The blocks, with what is in them, are where they were recorded."""
        for block, now in zip(self.blocks, self.now, strict=True):
            if now is not block:
                block[:] = now
        self.put(self.blocks)

    def cell(self, address):
        """(address of the cell, distance from the block's beginning) of memory that is in a block; None for any other."""
        for i, (home, block) in enumerate(zip(self.homes, self.blocks, strict=True)):
            if home <= address < home + block.size:
                return ctypes.addressof(self.cells) + i * ctypes.sizeof(ctypes.c_int64), address - home
        return None


class Replay:
    """Recorded calls, made again in order whenever this is called; `blocks` of bytes may move."""

    def __init__(self, calls, blocks=()):
        self.calls = calls
        self.moving = Moving(list(blocks))
        self.has_large = any(isinstance(function, Variants) for function, arguments in calls)
        self.joined = {}  # for one thread (False), for all (True), or for large work that chooses when it is launched (None)

    def __call__(self, memory=list):
        """Run them. Where all is machine code, blocks move to what `memory` gives; gives the blocks, where they were then."""
        parallel = self.has_large and threads.may_run_parallel()
        if parallel and not threads.get_ready():
            parallel = None
        if parallel not in self.joined:
            self.joined[parallel] = joined(self.calls, parallel, self.moving)
        calls, moving = self.joined[parallel], self.moving
        if moving.blocks:
            moving.put(memory() if all(isinstance(function, JoinedCalls) for function, _ in calls) else moving.blocks)
        for function, arguments in calls:
            function(*arguments)
        there, moving.now = moving.now, moving.blocks
        return there


def joined(calls, parallel=None, moving=None):
    """The same (function, arguments) calls in the same order, each run of compiled kernels as one call without arguments.

    Large work becomes part of a run as well if it is said by how many threads it is done: `parallel` is True for all, False
    for one. Other functions stay as they are.
    """
    if parallel is not None:
        calls = [(variant(function, parallel), arguments) for function, arguments in calls]
    groups = [(joins, list(group)) for joins, group in itertools.groupby(calls, lambda call: can_join(call[0]))]
    runs = [group for joins, group in groups if joins]
    moving = moving or Moving([])
    functions = assemble(runs, moving) if runs else []
    result = []
    for joins, group in groups:
        result += [(JoinedCalls(group, functions.pop(0), moving), ())] if joins else group
    return result


def variant(function, parallel):
    """The compiled function that large work runs on all threads, or on one; any other function is itself."""
    if not isinstance(function, Variants):
        return function
    return function.parallel if parallel else function.serial


def can_join(function):
    """Whether this is a compiled kernel whose arguments can be written as constants."""
    known = compile_results.get(function)
    if known is None or known.signature.return_type != types.none:
        return False
    return all(isinstance(kind, types.Array | NUMBERS) for kind in known.signature.args)


class JoinedCalls:
    """Calls of compiled kernels, made by one function of machine code that holds no lock of Python's."""

    def __init__(self, calls, function, moving):
        self.calls = calls  # keeps alive the arrays whose addresses are in the code
        self.function = function
        self.moving = moving

    def __call__(self):
        """Make the calls. A kernel that raised is called again from here, so that its error comes out as ever."""
        done = self.function()
        if done < len(self.calls):
            self.moving.come_home()
            for function, arguments in self.calls[done:]:
                function(*arguments)


def assemble(runs, moving):
    """For each run of calls, a function that makes them and returns how many went well."""
    module = ir.Module()
    for i, calls in enumerate(runs):
        emit(ir.Function(module, ir.FunctionType(INDEX, []), f"run_{i}"), calls, moving)
    # opt=0: there is nothing to optimize, and trying would take longer than all the rest
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0, jit=True, codemodel="jitdefault")
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    functions = [ctypes.CFUNCTYPE(ctypes.c_int64)(engine.get_function_address(f"run_{i}")) for i in range(len(runs))]
    for function in functions:
        function.engine = engine  # keeps the code alive
    return functions


def emit(function, calls, moving):
    """The body of a function that makes the calls."""
    builder = ir.IRBuilder(function.append_basic_block())
    places = []
    for i, (entry, arguments) in enumerate(calls):
        address, kind = machine_code(entry)
        places = places or [builder.alloca(place.pointee) for place in kind.args[:2]]
        values = [value for argument in arguments for value in fields(argument)]
        given = [passed(builder, field, value, moving) for field, value in zip(kind.args[2:], values, strict=True)]
        status = builder.call(builder.inttoptr(INDEX(address), kind.as_pointer()), [*places, *given])
        with builder.if_then(builder.icmp_signed("!=", status, status.type(0)), likely=False):
            builder.ret(INDEX(i))
    builder.ret(INDEX(len(calls)))


@functools.cache
def machine_code(function):
    """(address, LLVM type) of what a compiled function runs once it has looked at its arguments."""
    known = compile_results[function]
    kind = known.target_context.call_conv.get_function_type(types.none, known.signature.args)
    return known.library.get_pointer_to_function(known.fndesc.llvm_func_name), kind


def fields(argument):
    """What a compiled kernel takes for an argument."""
    if not isinstance(argument, np.ndarray):
        return (argument,)
    return 0, 0, argument.size, argument.itemsize, address_of(argument), *argument.shape, *argument.strides


def address_of(array):
    """Where an array begins."""
    return array.__array_interface__["data"][0]


def passed(builder, kind, value, moving):
    """A number, or an address where `kind` is a pointer: a constant, but for what moves."""
    if isinstance(kind, ir.PointerType):
        if (found := moving.cell(value)) is None:
            return INDEX(value).inttoptr(kind)
        cell, distance = found
        begin = builder.load(builder.inttoptr(INDEX(cell), INDEX.as_pointer()))
        return builder.inttoptr(builder.add(begin, INDEX(distance)), kind)
    return kind(int(value) if isinstance(kind, ir.IntType) else float(value))
