"""How a CPU kernel is compiled and launched: lazily, once serial and once parallel, cached on disk.

    @kernel                          one thread always
    @parallel_kernel()               `prange` loops run in parallel from GRAIN elements in the last argument on

Which variant runs depends on sizes alone, and loops over `prange` are cut into fixed blocks, so the number of threads
never changes a bit of a result. Entering a parallel region costs a few microseconds: small work stays on one thread.
"""

import functools
import importlib
import sys
from typing import NamedTuple

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.targetconfig import ConfigStack
from numba.extending import intrinsic

from minigrad.kernels.build.cache import KernelCache, cache_folder
from minigrad.kernels.build.progress import progress
from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.tools.pipeline import KernelCompiler, PartCompiler, PartLibrary

GRAIN = 1 << 15  # elements from which a parallel region pays

# Only contraction (a * b + c in one rounding) is allowed by default: NaN and infinities survive, and no reordering undoes
# the error terms of the formulas. SUMS adds reassociation, for loops whose sum is to be vectorized.
FLAGS = {"contract"}
SUMS = {"contract", "reassoc", "nsz"}

compile_results = {}  # what Numba knows of the compiled functions that `CpuKernel.resolve` gave out


def kind_of(argument):
    """Numba's type of an argument, with arrays that can be written for those that cannot.

    Kernels write to none but their outputs, so they need not be compiled anew for an input that is read-only. That an output
    can be written is for the caller to see to.
    """
    kind = numba.typeof(argument)
    if isinstance(kind, types.Array) and not kind.mutable:
        return kind.copy(readonly=False)
    if isinstance(kind, types.BaseTuple) and any(isinstance(part, types.Array) for part in kind.types):
        parts = tuple([kind_of(part) for part in argument])
        return types.BaseTuple.from_types(parts, getattr(kind, "instance_class", None))
    return kind


def machine_code_of(dispatcher, kinds):
    """The compiled function for arguments of just these types: it is called without looking at the types again."""
    function = dispatcher.compile(kinds)
    compile_results[function] = dispatcher.overloads[kinds]
    return function


def run_large(variants, arguments):
    """Launch `variants.parallel`, or `variants.serial` where there is but one thread to use or the others are busy."""
    if not threads.may_run_parallel():
        variants.serial(*arguments)
    elif threads.get_ready():
        variants.parallel(*arguments)
    else:
        with threads.parallel_region() as several:
            function = variants.parallel if several else variants.serial
            function(*arguments)


class Variants:
    """What large work runs, for arguments of just these types: compiled when first used."""

    def __init__(self, kernel, kinds):
        self.kernel, self.kinds = kernel, kinds

    @functools.cached_property
    def serial(self):
        """The machine code for one thread."""
        return machine_code_of(self.kernel.serial, self.kinds)

    @functools.cached_property
    def parallel(self):
        """The machine code for all threads."""
        return machine_code_of(self.kernel.parallel, self.kinds)

    def __call__(self, *arguments):
        """Launch."""
        run_large(self, arguments)


def may_share_out():
    """Whether other processes may compile kernels for this one: where there are cores for them and a folder between them."""
    return threads.get_num_threads() > 1 and not progress.forbidden and cache_folder("cpu") is not None


class Choice(NamedTuple):
    """What a call runs: a kernel, whether its parallel variant, the types of its arguments, and these."""

    kernel: "CpuKernel"
    parallel: bool
    kinds: tuple
    arguments: tuple

    def entry(self):
        """(kernel, whether the parallel variant, types) of what is compiled for it."""
        return self.kernel.shares or self.kernel, self.parallel and threads.may_run_parallel(), self.kinds

    def has_to_wait(self):
        """Whether it is not compiled yet, and other processes could do that as well."""
        return not CpuKernel.is_kept(*self.entry()) and may_share_out()

    def call(self):
        """(function, arguments), compiled if need be."""
        kernel, parallel, kinds, arguments = self
        if parallel:
            return kernel.variants.setdefault(kinds, Variants(kernel, kinds)), arguments
        return machine_code_of(kernel.serial, kinds), arguments


def named_kernel(module, name):
    """A kernel by the name it has in its module."""
    return getattr(importlib.import_module(module), name)


class CpuKernel:
    """A kernel: call it with arrays and scalars, outputs last.

    `resolve` gives the compiled function a call runs and its arguments, so that a recorded call is repeated without the
    work of choosing and preparing. `prepare` turns the caller's arguments into the compiled function's where they differ.
    `instead` has pairs (predicate of the caller's arguments, another kernel): the first runs whose predicate holds. The
    parallel variant runs where argument `sized_by` has GRAIN elements or more, or where `is_large(*arguments)` says so.
    """

    def __init__(self, function, flags, *, sized_by=None, is_large=None, prepare=None, shares=None, instead=()):
        self.function = function
        self.instead = instead
        self.shares = shares  # another kernel of the same function, whose compiled variants serve this one too
        self.flags = flags
        self.sized_by = sized_by
        self.is_large = is_large
        self.prepare = prepare
        self.is_plain = prepare is None and sized_by is not None
        self.variants = {}  # that large work has been resolved to, by the types of the arguments
        functools.update_wrapper(self, function)

    def dispatcher(self, parallel):
        """Numba's dispatcher for one variant."""
        options = {"nogil": True, "fastmath": self.flags, "error_model": "numpy", "parallel": parallel}
        dispatcher = numba.njit(pipeline_class=KernelCompiler, **options)(self.function)
        family = self.function.__module__.rpartition(".")[2]
        name = f"{family}.{self.function.__name__}" + (".parallel" if parallel else "")
        dispatcher._cache = KernelCache(name, progress.begin, progress.end)
        # what Numba calls where it has nothing for the types of the arguments, and whose result it then calls
        dispatcher._compile_for_args = lambda *arguments: dispatcher.compile(tuple(map(kind_of, arguments)))
        return dispatcher

    @functools.cached_property
    def serial(self):
        """The variant for one thread."""
        return self.shares.serial if self.shares else self.dispatcher(parallel=False)

    @functools.cached_property
    def parallel(self):
        """The variant for all threads."""
        return self.shares.parallel if self.shares else self.dispatcher(parallel=True)

    def dispatcher_of(self, parallel):
        """One variant or the other."""
        return self.parallel if parallel else self.serial

    def __reduce__(self):
        """Another process has the same kernel under the same name."""
        module = sys.modules[self.function.__module__]
        name = next(name for name, value in vars(module).items() if value is self)
        return named_kernel, (module.__name__, name)

    def runs_parallel(self, arguments):
        """Whether a call runs the parallel variant."""
        if self.sized_by is not None:
            return arguments[self.sized_by].size >= GRAIN
        return self.is_large is not None and self.is_large(*arguments)

    def chosen(self, *arguments):
        """(the kernel that a call with these arguments runs, what its compiled function takes)."""
        for is_for, kernel in self.instead:
            if is_for(*arguments):
                return kernel.chosen(*arguments)
        return self, arguments if self.prepare is None else self.prepare(*arguments)

    def choose(self, *arguments):
        """What a call with these arguments runs, as a Choice."""
        kernel, arguments = self.chosen(*arguments)
        return Choice(kernel, kernel.runs_parallel(arguments), tuple([kind_of(a) for a in arguments]), arguments)

    def resolve(self, *arguments):
        """(function, arguments) that a call with these arguments runs.

        The function is the machine code for just these types, or for large work `Variants` of it.
        """
        return self.choose(*arguments).call()

    def is_kept(self, parallel, kinds):
        """Whether a variant is there for arguments of these types, in memory or on disk."""
        dispatcher = self.dispatcher_of(parallel)
        if kinds in dispatcher.overloads:
            return True
        path = dispatcher._cache.path(kinds, dispatcher.targetctx.codegen())
        return path is not None and path.exists()

    def run_parallel(self, *arguments):
        """Launch the parallel variant, or the serial one where there is but one thread to use or the others are busy."""
        run_large(self, arguments)

    def __call__(self, *arguments):
        """Launch."""
        if self.is_plain:  # the usual kernel, told apart first: this runs for every launch
            if arguments[self.sized_by].size < GRAIN:
                self.serial(*arguments)
            else:
                self.run_parallel(*arguments)
            return
        kernel, arguments = self.chosen(*arguments)
        if kernel.runs_parallel(arguments):
            kernel.run_parallel(*arguments)
        else:
            kernel.serial(*arguments)

    def itself(self, *arguments):
        """Launch this kernel, also where `instead` has another."""
        if self.prepare is not None:
            arguments = self.prepare(*arguments)
        (self.run_parallel if self.runs_parallel(arguments) else self.serial)(*arguments)

    def __repr__(self):
        return f"<kernel {self.__module__}.{self.__qualname__}>"


class Chooser(CpuKernel):
    """Stands for many kernels: its function gives, for the arguments of a call, (the one to run, what that takes)."""

    def chosen(self, *arguments):
        """(the kernel that a call with these arguments runs, what its compiled function takes)."""
        return self.function(*arguments)


def chooser(function):
    """Make `function` stand for the kernels that it gives."""
    return Chooser(function, FLAGS)


def kernel(function=None, *, flags=FLAGS):
    """Make `function` a kernel of one thread."""
    if function is None:
        return functools.partial(kernel, flags=flags)
    return CpuKernel(function, flags)


def parallel_kernel(*, sized_by=-1, is_large=None, flags=FLAGS, prepare=None):
    """Make a function with `prange` loops a kernel that runs them in parallel when the work is large.

    That is when argument `sized_by` has GRAIN elements or more, or when `is_large(*arguments)` says so.
    `prepare(*arguments)` may turn what callers pass into what the compiled function takes.
    """
    chosen_by = {"sized_by": sized_by} if is_large is None else {"is_large": is_large}
    return lambda function: CpuKernel(function, flags, prepare=prepare, **chosen_by)


def inlined(function=None, *, flags=FLAGS):
    """Compile a helper that kernels call; it is compiled into each of them. Python may call it too, for tests."""
    if function is None:
        return functools.partial(inlined, flags=flags)
    options = {"nogil": True, "fastmath": flags, "error_model": "numpy"}
    part = numba.njit(pipeline_class=PartCompiler, **options)(function)
    # Numba would compile it anew for every constant among the arguments of a call.
    template = part.get_call_template
    part.get_call_template = lambda arguments, named: template(tuple(map(types.unliteral, arguments)), named)
    # There is no machine code of a part that Python could run: it is not entered where Python looks, which then asks for some.
    part.add_overload = lambda result: part.overloads.__setitem__(tuple(result.signature.args), result)
    alone = functools.cache(lambda: numba.njit(**options)(function))
    part._compile_for_args = lambda *arguments, **named: alone()._compile_for_args(*arguments, **named)
    return part


@intrinsic
def team_size(typingctx):
    """Inside a kernel: the number of threads of its parallel loops; 1 in the serial variant.

    To share out work evenly, never to order a sum. (numba.get_num_threads would embed an address, which cannot be cached.)
    A function that is `inlined` has no variants and cannot ask: it takes the number from its kernel.
    """

    def codegen(context, builder, signature, arguments):
        if isinstance(context.active_code_library, PartLibrary):
            raise numba.errors.LoweringError("team_size() is known in kernels only: hand it to the inlined function")
        flags = ConfigStack.top_or_none()
        if flags is None or not flags.auto_parallel.enabled:
            return ir.Constant(ir.IntType(64), 1)
        kind = ir.FunctionType(ir.IntType(64), [])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "get_num_threads"), [])

    return types.intp(), codegen
