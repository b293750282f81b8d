"""Lists and dicts whose modules and parameters are found, for modules with more parts than attributes to name them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

from minigrad.nn.module import Module, Parameter

Item = TypeVar("Item")


class Listed(Module, Generic[Item]):
    """What changes a list of parts, for modules that say how they hold one."""

    kind: ClassVar[Any]  # of its items

    def hold(self, items: list[Item]) -> None:
        """Have these items, instead of those before."""
        raise NotImplementedError

    def check_kind(self, items: Iterable[object]) -> None:
        """TypeError for an item that is not of the kind."""
        for item in items:
            if not isinstance(item, self.kind):
                raise TypeError(f"{type(self).__name__} holds {self.kind.__name__}s, not {type(item).__name__}")

    def __iter__(self) -> Iterator[Item]:
        raise NotImplementedError

    def append(self, item: Item) -> Self:
        """Add an item at the end."""
        return self.extend([item])

    def extend(self, items: Iterable[Item]) -> Self:
        """Add items at the end."""
        self.hold([*self, *items])
        return self

    def insert(self, index: int, item: Item) -> None:
        """Put an item before the one of this number."""
        items = list(self)
        items.insert(index, item)
        self.hold(items)

    def pop(self, index: int = -1) -> Item:
        """Take an item out, the last by default."""
        items = list(self)
        item = items.pop(index)
        self.hold(items)
        return item

    def __contains__(self, item: object) -> bool:
        return any(own is item for own in self)

    def __setitem__(self, index: int, item: Item) -> None:
        items = list(self)
        items[index] = item
        self.hold(items)

    def __delitem__(self, index: int | slice) -> None:
        items = list(self)
        del items[index]
        self.hold(items)

    def __iadd__(self, items: Iterable[Item]) -> Self:
        return self.extend(items)


class Numbered(Listed[Item]):
    """A list whose items are attributes named by their numbers, and so are found as all attributes are."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self.extend(items)

    def hold(self, items: list[Item]) -> None:
        """Have these items, instead of those before."""
        self.check_kind(items)
        for name in [name for name in vars(self) if name.isdecimal()]:
            delattr(self, name)
        for i, item in enumerate(items):
            setattr(self, str(i), item)

    def __len__(self) -> int:
        return sum(map(str.isdecimal, vars(self)))

    def __iter__(self) -> Iterator[Item]:
        return iter([value for name, value in vars(self).items() if name.isdecimal()])

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> Item | Self:
        items = list(self)
        return type(self)(items[index]) if isinstance(index, slice) else items[index]


class ModuleList(Numbered[Module]):
    """A list of modules: indexing, slices (a ModuleList again), append, extend, insert, pop. It computes nothing itself.

    In `state_dict` they are named by their numbers, as "blocks.0.weight". Raises TypeError for what is no module.
    """

    kind = Module


class ParameterList(Numbered[Parameter]):
    """A list of parameters: indexing, slices (a ParameterList again), append, extend, insert, pop.

    In `state_dict` they are named by their numbers, as "scales.0". Raises TypeError for what is no Parameter.
    """

    kind = Parameter

    def settings(self) -> str:
        """The shapes."""
        return ", ".join(str(parameter.shape) for parameter in self)


class ModuleDict(Module):
    """Modules by name, in the order of their coming, with a dict's methods. It computes nothing itself.

    In `state_dict` they have these names, as "heads.digits.weight". Raises TypeError for what is no module, and ValueError for
    a name that is empty, has a dot in it, or is that of an attribute.
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        self.update(modules)

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Put modules under their names."""
        for name, module in modules.items() if isinstance(modules, Mapping) else modules:
            self[name] = module

    def keys(self) -> Iterable[str]:
        """The names."""
        return dict(self.children()).keys()

    def values(self) -> Iterable[Module]:
        """The modules."""
        return dict(self.children()).values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """(name, module)."""
        return dict(self.children()).items()

    def pop(self, name: str) -> Module:
        """Take a module out; KeyError if there is none of this name."""
        module = self[name]
        delattr(self, name)
        return module

    def __getitem__(self, name: str) -> Module:
        return dict(self.children())[name]

    def __setitem__(self, name: str, module: Module) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"ModuleDict holds Modules, not {type(module).__name__}")
        if not isinstance(name, str):
            raise TypeError(f"a module's name in a ModuleDict must be a string, not {name!r}")
        if not name or "." in name or hasattr(type(self), name):
            raise ValueError(
                f"{name!r} cannot be a module's name in a ModuleDict: it must not be empty, hold a dot, or be an attribute's"
            )
        setattr(self, name, module)

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def __contains__(self, name: object) -> bool:
        return name in dict(self.children())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(dict(self.children()))
