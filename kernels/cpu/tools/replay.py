"""Recorded launches made by machine code: Python takes 0.3 us from one to the next, a small kernel itself no longer.

A recorded launch is a compiled function and its arguments, which stay as they are. A run of them is therefore compiled to
one function that hands constants to kernel after kernel, in the way that Numba's compiled functions call each other:

    status = kernel(place for a result, place for an error, fields of the first argument, fields of the second, ...)

The fields of an array are its owner and its Python object, which may both be null, the number of elements and the bytes of
one, the address, the shape and the strides; a number is one field. A status that is not 0 says that the kernel raised.
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


class Replay:
    """Recorded calls, made again in order whenever this is called."""

    def __init__(self, calls):
        self.calls = calls
        self.has_large = any(isinstance(function, Variants) for function, arguments in calls)
        self.joined = {}  # for one thread (False), for all (True), or for large work that chooses when it is launched (None)

    def __call__(self):
        parallel = self.has_large and threads.may_run_parallel()
        if parallel and not threads.get_ready():
            parallel = None
        if parallel not in self.joined:
            self.joined[parallel] = joined(self.calls, parallel)
        for function, arguments in self.joined[parallel]:
            function(*arguments)


def joined(calls, parallel=None):
    """The same (function, arguments) calls in the same order, each run of compiled kernels as one call without arguments.

    Large work becomes part of a run as well if it is said by how many threads it is done: `parallel` is True for all, False
    for one. Other functions stay as they are.
    """
    if parallel is not None:
        calls = [(variant(function, parallel), arguments) for function, arguments in calls]
    groups = [(joins, list(group)) for joins, group in itertools.groupby(calls, lambda call: can_join(call[0]))]
    runs = [group for joins, group in groups if joins]
    functions = assemble(runs) if runs else []
    result = []
    for joins, group in groups:
        result += [(JoinedCalls(group, functions.pop(0)), ())] if joins else group
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

    def __init__(self, calls, function):
        self.calls = calls  # keeps alive the arrays whose addresses are in the code
        self.function = function

    def __call__(self):
        """Make the calls. A kernel that raised is called again from here, so that its error comes out as ever."""
        done = self.function()
        if done < len(self.calls):
            for function, arguments in self.calls[done:]:
                function(*arguments)


def assemble(runs):
    """For each run of calls, a function that makes them and returns how many went well."""
    module = ir.Module()
    for i, calls in enumerate(runs):
        emit(ir.Function(module, ir.FunctionType(INDEX, []), f"run_{i}"), calls)
    # opt=0: there is nothing to optimize, and trying would take longer than all the rest
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0, jit=True, codemodel="jitdefault")
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    functions = [ctypes.CFUNCTYPE(ctypes.c_int64)(engine.get_function_address(f"run_{i}")) for i in range(len(runs))]
    for function in functions:
        function.engine = engine  # keeps the code alive
    return functions


def emit(function, calls):
    """The body of a function that makes the calls."""
    builder = ir.IRBuilder(function.append_basic_block())
    places = []
    for i, (entry, arguments) in enumerate(calls):
        address, kind = machine_code(entry)
        places = places or [builder.alloca(place.pointee) for place in kind.args[:2]]
        values = [value for argument in arguments for value in fields(argument)]
        given = [constant(field, value) for field, value in zip(kind.args[2:], values, strict=True)]
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
    address = argument.__array_interface__["data"][0]
    return 0, 0, argument.size, argument.itemsize, address, *argument.shape, *argument.strides


def constant(kind, value):
    """A number, or an address where `kind` is a pointer."""
    if isinstance(kind, ir.PointerType):
        return INDEX(value).inttoptr(kind)
    return kind(int(value) if isinstance(kind, ir.IntType) else float(value))
