"""Users' own kernels, compiled by Numba for the CPU: launched and recorded like ours."""

import functools
from typing import Any

import numba
from numba.core.dispatcher import Dispatcher

from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.tools.launch import machine_code_of


@functools.lru_cache
def for_one_thread(dispatcher: Dispatcher) -> Dispatcher:
    """The same function without threads."""
    options = {name: value for name, value in dispatcher.targetoptions.items() if name != "parallel"}
    return numba.jit(**options)(dispatcher.py_func)


class OwnKernel:
    """A function that the user compiled by `@numba.njit`.

    One with `parallel=True` keeps to our number of threads; where there is but one to use, also in a child that was forked
    or while the others are busy, it runs without.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.is_parallel = bool(dispatcher.targetoptions.get("parallel"))

    def __call__(self, *arguments: Any) -> None:
        """Launch."""
        if not self.is_parallel:
            self.dispatcher(*arguments)
        elif threads.may_run_parallel():
            with threads.parallel_region() as several:
                function = self.dispatcher if several else for_one_thread(self.dispatcher)
                function(*arguments)
        else:
            for_one_thread(self.dispatcher)(*arguments)

    def resolve(self, *arguments: Any) -> tuple[Any, tuple[Any, ...]]:
        """(function, arguments) that a call with these arguments runs: the machine code for just these types, if it can be had.

        Not where threads take turns, arguments are left to their defaults, or only the signatures that the user gave are
        compiled.
        """
        if self.is_parallel or len(arguments) != self.dispatcher.py_func.__code__.co_argcount:
            return self, arguments
        try:
            return machine_code_of(self.dispatcher, tuple([numba.typeof(a) for a in arguments])), arguments
        except RuntimeError:  # no signature but the user's own is compiled, and these types are none of them
            return self, arguments
