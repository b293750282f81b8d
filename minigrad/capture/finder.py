"""What a step's code can read: found by following names, before the step runs.

It begins at the step, and goes on through the functions, methods, modules and objects that their code names. minigrad's own
functions, NumPy's and the standard library's are not entered; what they were given is.
"""

import collections
import functools
import inspect
import pickle
import random
import sys
import threading
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from minigrad.capture.names import Chain, reads
from minigrad.capture.watch import LARGEST_ARRAY, Attributes, Cell, Conditions, Content, Entry, Numbers, Slot
from minigrad.changes import CAPTURED_METHODS, MISSING, Watched
from minigrad.devices import is_array
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

CONTAINERS = (list, tuple, dict, set, frozenset, collections.deque)
LEAVES = (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype, Tensor)
GENERATORS = (np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
LIBRARIES = sys.stdlib_module_names | {"minigrad", "numpy", "numba", "llvmlite", "builtins"}
WRITES = {"append()", "appendleft()", "extend()", "add()", "insert()", "update()", "clear()"}  # without reading
STOP: object = object()  # a chain leads nowhere from here


@functools.cache
def is_library(module: str | None) -> bool:
    """Whether code of this module is not the user's own: minigrad's, the standard library's, or an installed package's."""
    if (module or "").partition(".")[0] in LIBRARIES:
        return True
    file = getattr(sys.modules.get(module or ""), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def is_foreign(value: object) -> bool:
    """Whether an object's class is a library's other than minigrad."""
    module = type(value).__module__
    return is_library(module) and module.partition(".")[0] != "minigrad"


def state_of(generator: Any) -> Any:
    """The state of a random generator; None if it has none."""
    if isinstance(generator, random.Random):
        try:
            return generator.getstate()
        except NotImplementedError:  # it draws from the system
            return None
    if isinstance(generator, np.random.RandomState):
        return pickle.dumps(generator.get_state(legacy=False))
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
    return pickle.dumps(bits.state)


class Generator:
    """A random generator, and its state when it was found."""

    def __init__(self, label: str, bits: object) -> None:
        self.label, self.bits = label, bits
        self.state = state_of(bits)
        self.named = False  # whether code of the step can get at it


class Instance(NamedTuple):
    """Stands for the instances of a class that the step makes itself."""

    kind: type


class Finder:
    """Goes through code and objects; what it finds stands in `conditions`, and the random generators in `generators`."""

    def __init__(self) -> None:
        self.conditions = Conditions()
        self.generators: dict[int, Generator] = {}
        self.constants: list[object] = []  # that stand in the code
        self.seen: dict[object, object] = {}  # what was visited, kept so that no id is given anew
        self.young: dict[int, object] = {}  # modules made by the step itself
        self.objects: dict[int, tuple[str, object]] = {}  # on which attributes of unknown variables are looked for
        self.loose: dict[Chain, None] = {}
        self.written: dict[int, tuple[str, object]] = {}  # containers that code adds to
        self.read: set[int] = set()  # containers whose contents code can look at
        self.matched: set[tuple[int, Chain]] = set()
        self.generator("the global generator of `random`", getattr(random.random, "__self__", None), named=False)
        self.generator("the global generator of `numpy.random`", getattr(np.random.rand, "__self__", None), named=False)

    def begin(self, step: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Find what a call of the step with these arguments can read."""
        function = step.__func__ if isinstance(step, types.MethodType) else step
        for name, value in [*((f"argument {i}", a) for i, a in enumerate(args)), *kwargs.items()]:
            if not is_array(value):
                self.visit(name, value)
        if isinstance(function, types.FunctionType):
            bound = (step.__self__,) if isinstance(step, types.MethodType) else ()
            try:
                given = inspect.signature(function, follow_wrapped=False).bind(*bound, *args, **kwargs).arguments
            except TypeError:  # the call itself will tell
                given = {}
            for value in bound:
                self.visit("self", value)
            self.function(function, given, enter=True)
        else:
            self.visit("the step", step)
        self.settle()

    def visit(self, label: str, value: object, then: Chain = (), by_code: bool = True) -> None:
        """Note what matters of a value that the step can get at, to take the attributes `then` of it."""
        if isinstance(value, LEAVES):
            return
        if isinstance(value, CONTAINERS):
            if then and then[0] in WRITES:
                self.written[id(value)] = label, value
                return
            if by_code:
                self.read.add(id(value))
        if id(value) in self.seen:
            return
        self.seen[id(value)] = value
        if isinstance(value, Watched):
            self.watch(value)
        elif isinstance(value, GENERATORS):
            self.generator(label, value)
        elif isinstance(value, types.FunctionType):
            self.function(value, {})
        elif isinstance(value, types.MethodType):
            self.visit(label, value.__self__)
            self.method(value.__func__, value.__self__)
        elif isinstance(value, functools.partial):
            self.visit(label, value.func)
            self.visit(label, (value.args, *value.keywords.values()))
        elif isinstance(value, CONTAINERS):
            self.container(label, value)
        elif isinstance(value, np.ndarray):
            if value.size <= LARGEST_ARRAY and not value.dtype.hasobject:
                self.conditions.others[id(value)] = Numbers(f"the numbers in {label}", value)
        elif isinstance(value, types.ModuleType):
            pass  # only what is taken from it by name
        elif isinstance(value, type):
            self.instances_to_come(value)
        elif isinstance(value, types.BuiltinMethodType):
            self.visit(label, value.__self__)  # np.random.normal belongs to a generator
        else:
            self.instance(label, value)

    def instance(self, label: str, value: object) -> None:
        """An object of some class: its attributes matter as far as code names them."""
        wrapped = getattr(value, "__wrapped__", None)  # of a decorator's result: functools.cache, mg.capture
        if wrapped is not None:
            self.visit(label, wrapped)
        if type(value).__module__.startswith("minigrad.capture"):
            return
        self.objects[id(value)] = label, value
        call = inspect.getattr_static(type(value), "__call__", None)
        if isinstance(call, types.FunctionType) and not is_foreign(value):
            self.method(call, value)

    def instances_to_come(self, kind: type) -> None:
        """A class that code names and may call: what its methods read, through the instances too that the step makes."""
        if issubclass(kind, Watched):  # which take part by themselves
            return
        instance = Instance(kind)
        for part in kind.__mro__:
            for value in vars(part).values() if not is_library(part.__module__) else ():
                if isinstance(code := function_in(value), types.FunctionType):
                    self.method(code, instance)

    def container(self, label: str, container: Any) -> None:
        """A list, tuple, dict, set or deque, and what is in it."""
        content = Content(f"the contents of {label}", container)
        if not isinstance(container, tuple | frozenset):
            self.conditions.contents[id(container)] = content
        if content.small:
            for i, value in enumerate(content.found):
                self.visit(f"{label}[{i}]", value)

    def generator(self, label: str, generator: object, named: bool = True) -> None:
        """A random generator: the step must leave its state alone."""
        bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
        if bits is None:
            return
        if id(bits) not in self.generators:
            self.generators[id(bits)] = Generator(label, bits)
        self.generators[id(bits)].named |= named

    def watch(self, owner: Watched) -> None:
        """A module with all below it, or an optimizer."""
        for name, part in owner.modules() if isinstance(owner, Module) else [("", owner)]:
            names = vars(part)
            if id(part) in self.young or id(names) in self.conditions.attributes:
                continue
            self.seen[id(part)] = part
            label = type(part).__name__ + (f" {name!r}" if name else "")
            if isinstance(part, Module):
                names.setdefault("training", part.training)
            self.conditions.attributes[id(names)] = Attributes(label, part)
            for attribute, value in list(names.items()):
                if attribute == CAPTURED_METHODS:
                    continue
                if isinstance(part, Module):
                    self.visit(f"{label}.{attribute}", value, by_code=is_library(type(part).__module__))
                elif isinstance(value, list | dict):
                    self.lists(f"{label}.{attribute}", value)
            if not is_library(type(part).__module__):
                self.objects[id(part)] = label, part
            for method in ("forward",) if isinstance(part, Module) else ("step", "update", "zero_grad"):
                self.methods(part, method)

    def lists(self, label: str, container: object) -> None:
        """An optimizer's parameters and state: which arrays they are, not the numbers in them."""
        self.conditions.contents[id(container)] = Content(f"the contents of {label}", container)
        for value in container.values() if isinstance(container, dict) else ():
            if isinstance(value, list):
                self.lists(label, value)

    def methods(self, owner: object, name: str) -> None:
        """The user's own methods of this name in the classes of an object, since each may call the next by super()."""
        for kind in type(owner).__mro__:
            method = vars(kind).get(name)
            if isinstance(method, types.FunctionType):
                self.method(method, owner)

    def method(self, function: object, owner: object, enter: bool = False) -> None:
        """A function whose first argument is known."""
        if not isinstance(function, types.FunctionType):
            self.visit(getattr(function, "__name__", "a method"), function)
            return
        first = function.__code__.co_varnames[:1] if function.__code__.co_argcount else ()
        self.function(function, dict.fromkeys(first, owner), enter)

    def function(self, function: types.FunctionType, given: dict[str, object], enter: bool = False) -> None:
        """A function, with the arguments that are known; a library's is entered only if told to."""
        key = id(function), *[(name, id(value)) for name, value in given.items()]
        if key in self.seen:
            return
        self.seen[key] = function, given
        self.visit(function.__name__, getattr(function, "__wrapped__", None))
        variables = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        enter = enter or not is_library(function.__globals__.get("__name__"))
        if not enter:
            for cell in variables.values():
                value = Cell("", cell).found
                if callable(value):  # what a decorator of a library has wrapped
                    self.visit(function.__name__, value)
            return
        self.constants += constants(function.__code__)
        self.visit(f"the defaults of {function.__name__}", (function.__defaults__, function.__kwdefaults__))
        for root, chain in sorted(reads(function.__code__)):
            if root.kind == "global":
                self.follow(self.named(function, root.name, chain), chain)
            elif root.kind == "free":
                self.follow(self.closed_over(function, root.name, variables[root.name], chain), chain)
            elif root.kind == "module":
                self.follow(sys.modules.get(root.name, STOP), chain)
            elif root.kind == "parameter" and isinstance(owner := given.get(root.name), Instance):
                if chain:
                    self.of_class(owner.kind, chain[0].removesuffix("()"), owner, chain[1:])
                if chain[1:]:  # of what the instance holds, which is unknown
                    self.loose[chain[1:]] = None
            elif root.kind == "parameter" and root.name in given:
                self.follow(given[root.name], chain)
            elif chain:
                self.loose[chain] = None

    def named(self, function: types.FunctionType, name: str, then: Chain) -> object:
        """The value of a global."""
        return self.entry(f"the global {name!r}", function.__globals__, name, then)

    def entry(self, label: str, names: object, name: str, then: Chain) -> object:
        """What stands in a dict under a name; a condition."""
        key = id(names), name
        entry = self.conditions.entries.get(key)
        if entry is None:
            entry = self.conditions.entries[key] = Entry(label, names, name)
        self.visit(label, entry.found, then)
        return entry.found

    def closed_over(self, function: types.FunctionType, name: str, cell: types.CellType, then: Chain) -> object:
        """The value of a variable of an enclosing function."""
        place = self.conditions.cells.get(id(cell))
        if place is None:
            place = self.conditions.cells[id(cell)] = Cell(f"the variable {name!r} around {function.__name__}", cell)
        self.visit(place.label, place.found, then)
        return place.found

    def follow(self, owner: object, chain: Chain) -> None:
        """From an object along a chain of attributes."""
        for i, name in enumerate(chain):
            if owner is STOP or owner is MISSING:
                return
            owner = self.attribute(owner, name.removesuffix("()"), chain[i + 1 :])

    def attribute(self, owner: object, name: str, then: Chain) -> object:
        """What an attribute of an object is, noted as a condition; STOP where that cannot be said without running code."""
        if isinstance(owner, (*LEAVES, *CONTAINERS, *GENERATORS, types.FunctionType)):
            return STOP
        if isinstance(owner, types.ModuleType):
            return self.of_module(owner, name, then)
        if isinstance(owner, type):
            return self.of_class(owner, name, owner, then)
        kind = type(owner)
        names = getattr(owner, "__dict__", None)
        if is_foreign(owner) and (names is None or name not in names):
            return STOP  # a namespace of argparse has what was parsed; what else libraries' objects do is not followed
        label = f"{kind.__name__}.{name}"
        if isinstance(owner, Watched):
            value = vars(owner).get(name, MISSING)
            self.visit(label, value, then)
        elif names is not None:
            value = self.entry(label, names, name, then)
        elif isinstance(inspect.getattr_static(kind, name, None), types.MemberDescriptorType):
            slot = self.conditions.others.setdefault((id(owner), name), Slot(label, owner, name))
            value = slot.found
            self.visit(label, value, then)
        else:
            value = MISSING
        return self.of_class(kind, name, owner, then) if value is MISSING else value

    def of_module(self, module: types.ModuleType, name: str, then: Chain) -> object:
        """A name in a Python module."""
        if not is_library(module.__name__):
            return self.entry(f"{module.__name__}.{name}", vars(module), name, then)
        value = vars(module).get(name, STOP)
        if isinstance(value, types.BuiltinMethodType):
            self.visit(f"{module.__name__}.{name}", value)  # np.random.normal has a generator
        return value

    def of_class(self, kind: type, name: str, owner: object, then: Chain) -> object:
        """A name in a class and those above it."""
        found = STOP
        for part in kind.__mro__:
            if name not in vars(part):
                continue
            value = vars(part)[name]
            if not is_library(part.__module__):
                self.conditions.entries.setdefault((id(part), name), Entry(f"{part.__name__}.{name}", vars(part), name))
            code = function_in(value)
            if isinstance(code, types.FunctionType):
                # of a plain object of minigrad's (a schedule, say) the methods compute with Python numbers
                self.method(
                    code,
                    owner,
                    enter=not isinstance(owner, Watched | type | Instance) or not is_library(part.__module__),
                )
            elif found is STOP:
                self.visit(f"{part.__name__}.{name}", value, then)
                found = MISSING if hasattr(type(value), "__get__") else value
        return found

    def settle(self) -> None:
        """Look for the attributes of unknown variables on all objects found, until nothing new comes."""
        while True:
            pairs = [
                (i, chain) for i in list(self.objects) for chain in list(self.loose) if (i, chain) not in self.matched
            ]
            if not pairs:
                return
            self.matched.update(pairs)
            for i, chain in pairs:
                _, value = self.objects[i]
                name = chain[0].removesuffix("()")
                try:
                    inspect.getattr_static(value, name)
                except AttributeError:
                    continue
                if chain[0].endswith("()") and not callable(getattr(value, "__dict__", {}).get(name, callable)):
                    continue  # another object's method, of the same name as this one's number
                self.follow(value, chain)

    def module(self, module: Any) -> None:
        """A module or optimizer takes part while the step runs."""
        if id(module) in self.seen or id(module) in self.young:
            return
        if not vars(module):
            self.young[id(module)] = module
            return
        self.watch(module)
        self.settle()

    def op(self, op: object) -> None:
        """An op of the user's own was used."""
        kind = type(op)
        if kind in self.seen or is_library(kind.__module__):
            return
        self.seen[kind] = kind
        for part in kind.__mro__:
            for name in ("forward", "backward"):
                if isinstance(function := vars(part).get(name), types.FunctionType):
                    self.method(function, kind)
        self.settle()

    def finish(self) -> None:
        """Let go of containers that the step only adds to: what is in them decides nothing."""
        for i in self.written.keys() - self.read:
            self.conditions.contents.pop(i, None)

    def drawn(self) -> str | None:
        """A random generator that the step has drawn from. While other threads run, a global one may be theirs."""
        alone = threading.active_count() == 1
        moved = (g.label for g in self.generators.values() if (g.named or alone) and state_of(g.bits) != g.state)
        return next(moved, None)


def function_in(value: object) -> object:
    """The function in what a class has under a name: a property, a class or static method; anything else is itself."""
    if isinstance(value, property):
        return value.fget
    if isinstance(value, functools.cached_property):
        return value.func
    return getattr(value, "__func__", value)


def constants(code: types.CodeType) -> Iterable[object]:
    """Values that stand in the code, those in tuples and in functions defined inside it included."""
    pending: list[object] = list(code.co_consts)
    while pending:
        value = pending.pop()
        if isinstance(value, types.CodeType):
            pending += value.co_consts
        elif isinstance(value, tuple):
            pending += value
        else:
            yield value
