"""How one text of a kernel becomes several: what a variant chooses is put in the place of a name before the text is compiled.

Numba compiles global names in as constants, and leaves out what they make unreachable. A kernel reads a Choice by such a name,
and so do the device functions it calls, in whichever module they are; `rebuilt` gives copies of them all in which the name
stands for what was chosen.
"""

import functools
import types as python_types

import numpy as np
from numba import types


class Choice:
    """What kernels and their device functions are compiled with and each variant chooses: a number, a type, a function.

        FOURS = Choice("FOURS")      in one module, from which all take it that read it
        kernel.variant(FOURS=True)   the kernel in which it is True, whichever of its functions reads it

    A kernel that chooses nothing has the default, if there is one.
    """

    def __init__(self, name, *default):
        self.name, self.default = name, default

    def among(self, chosen):
        """What it stands for, by {name: value} of a variant; LookupError if that says nothing and there is no default."""
        if self.name in chosen:
            return chosen[self.name]
        if not self.default:
            raise LookupError(f"{self.name} is left open; choose by .variant({self.name}=...)")
        return self.default[0]

    def known(self, chosen):
        """The same; None while it is left open."""
        return chosen.get(self.name, *(self.default or (None,)))


def device_function(function):
    """Mark a function that kernels call. Choices mean in it what they mean in the kernel."""
    function.is_device_function = True
    return function


def globals_of(function):
    """{name: value} of the globals that a function reads."""
    names = function.__globals__
    return {name: names[name] for name in function.__code__.co_names if name in names}


def rebuilt(function, replaced, finished=lambda function: function, chosen=None):
    """A copy of a function in which each Choice is what was chosen, and each other global replaced(its value).

    So it is in the device functions it calls; `finished` is applied to each of those.
    """
    chosen = chosen or {}

    @functools.cache
    def copy(function):
        used = {name: meaning(value) for name, value in globals_of(function).items()}
        names = function.__globals__
        used["__builtins__"] = names["__builtins__"]
        used["__name__"] = function.__module__
        new = python_types.FunctionType(function.__code__, used, function.__name__, function.__defaults__)
        new.__module__, new.__qualname__, new.__annotations__ = function.__module__, function.__qualname__, {}
        return new

    def meaning(value):
        if isinstance(value, Choice):
            value = value.among(chosen)
        if getattr(value, "is_device_function", False):
            return finished(copy(value))
        return replaced(value)

    return copy(function)


def choices_in(function, chosen):
    """The names of what is chosen for a function and the device functions it calls, as far as `chosen` tells those."""
    found, functions = set(), [function]
    for function in functions:
        for value in globals_of(function).values():
            if isinstance(value, Choice):
                found.add(value.name)
                value = value.known(chosen)
            if is_new_device_function(value, functions):
                functions.append(value)
    return found


def content(function, chosen):
    """What a function and those it calls are made of, as text, which a change changes. Functions of packages are not in it."""
    found, functions = [], [function]
    for function in functions:
        used = {
            name: value.known(chosen) if isinstance(value, Choice) else value
            for name, value in globals_of(function).items()
        }
        functions += [value for value in used.values() if is_users(value) and value not in functions]
        found += [
            instructions(function.__code__),
            sorted((name, str(value)) for name, value in used.items() if is_plain(value)),
        ]
    return repr(found)


def instructions(code):
    """A code object's instructions and constants, those of functions in it too, without the file and lines they stand in."""
    constants = [instructions(value) if isinstance(value, python_types.CodeType) else value for value in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames


def is_users(value):
    """Whether it is a function that a user has written."""
    packages = "minigrad", "numba", "numpy"
    return isinstance(value, python_types.FunctionType) and value.__module__.partition(".")[0] not in packages


def is_plain(value):
    """Whether it is a number, a text, a type, or a tuple of such."""
    return isinstance(value, bool | int | float | str | np.generic | types.Type) or (
        isinstance(value, tuple) and all(map(is_plain, value))
    )


def is_new_device_function(value, functions):
    """Whether it is a device function and none of those."""
    return getattr(value, "is_device_function", False) and value not in functions
