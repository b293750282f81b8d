"""What a recorded step found in Python's own memory, and whether it is still so.

A global, a closed-over variable and an attribute are places; each is compared with what it held when the step was recorded,
by identity first, then by value where it is a number, a string or a tuple of such. Lists, dicts and sets are compared by what
they contain, small NumPy arrays by their numbers, modules and optimizers by all their attributes. What the step itself changed
while it was recorded stands here as it was before.
"""

import types
from collections.abc import Iterable, Iterator, MutableMapping
from itertools import chain, repeat
from operator import attrgetter, is_
from typing import Any

import numpy as np

from minigrad.changes import CAPTURED_METHODS, MISSING, Watched, changes
from minigrad.devices import is_array
from minigrad.tensor import Tensor

ANY: Any = type(
    "Any", (), {"__repr__": lambda self: "anything"}
)()  # found in a place that the step writes but never reads
LARGEST_CONTAINER = 1000  # entries; of more, only their number is compared
LARGEST_ARRAY = 64  # numbers; of more, only the identity is compared
BY_VALUE = (int, bool, str, bytes, type(None), range, slice, type(...), np.dtype)
contents_of_cell = attrgetter("cell_contents")


def same(a: Any, b: Any) -> bool:
    """Whether Python code could not tell one from the other: the same object, or the same immutable value."""
    if a is b or a is ANY:
        return True
    kind = type(a)
    if kind is not type(b):
        return False
    if kind is float:
        return a.hex() == b.hex()  # which tells -0.0 from 0.0, and takes one NaN for another
    if kind is complex:
        return same(a.real, b.real) and same(a.imag, b.imag)
    if issubclass(kind, tuple) or kind is frozenset:
        return len(a) == len(b) and (all(map(same, a, b)) if kind is not frozenset else a == b)
    if issubclass(kind, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if kind is types.MethodType:  # made anew wherever it is looked up
        return a.__func__ is b.__func__ and a.__self__ is b.__self__
    return issubclass(kind, BY_VALUE) and bool(a == b)


def elements(container: Any) -> tuple[Any, ...]:
    """What a container holds, the keys of a dict first."""
    return (*container.keys(), *container.values()) if isinstance(container, dict) else tuple(container)


class Place:
    """Where Python keeps a value that the step may read: `found` is what it was, `label` what to call it."""

    def __init__(self, label: str, found: object) -> None:
        self.label, self.found = label, found

    def now(self) -> object:
        """What is there now; MISSING if nothing is."""
        raise NotImplementedError

    def put(self, value: object) -> None:
        """Set it."""
        raise NotImplementedError

    def holds(self) -> bool:
        """Whether it is as it was."""
        return same(self.found, self.now())


class Entry(Place):
    """An entry of a dict: a global, an attribute of an object or of a class."""

    def __init__(self, label: str, names: Any, name: str) -> None:
        self.names, self.name = names, name
        super().__init__(label, names.get(name, MISSING))

    def now(self) -> Any:
        """What the dict has under the name."""
        return self.names.get(self.name, MISSING)

    def put(self, value: object) -> None:
        """Set it, past any __setattr__."""
        if isinstance(self.names, MutableMapping | dict):
            self.names[self.name] = value


class Cell(Place):
    """A closed-over variable."""

    def __init__(self, label: str, cell: types.CellType) -> None:
        self.cell = cell
        super().__init__(label, self.now())

    def now(self) -> object:
        """What the variable holds."""
        try:
            return self.cell.cell_contents
        except ValueError:
            return MISSING

    def put(self, value: object) -> None:
        """Set it."""
        self.cell.cell_contents = value


class Slot(Place):
    """An attribute of an object that keeps it somewhere else than in a dict."""

    def __init__(self, label: str, owner: object, name: str) -> None:
        self.owner, self.name = owner, name
        super().__init__(label, self.now())

    def now(self) -> object:
        """The attribute."""
        return getattr(self.owner, self.name, MISSING)

    def put(self, value: object) -> None:
        """Set it."""
        setattr(self.owner, self.name, value)


class Content(Place):
    """What a list, dict, set or deque contains."""

    found: Any  # a tuple of its elements if there are few, else how many there are

    def __init__(self, label: str, container: Any) -> None:
        self.container, self.size = container, len(container)
        self.small = self.size <= LARGEST_CONTAINER
        super().__init__(label, self.now())

    def now(self) -> Any:
        """Its elements, or how many there are."""
        return elements(self.container) if self.small else len(self.container)

    def views(self) -> list[Iterable[Any]]:
        """The same elements to go over without a copy."""
        if not self.small:
            return []
        return (
            [self.container.keys(), self.container.values()] if isinstance(self.container, dict) else [self.container]
        )


class Numbers(Place):
    """The numbers in a small NumPy array."""

    def __init__(self, label: str, array: np.ndarray) -> None:
        self.array = array
        super().__init__(label, array.tobytes())

    def now(self) -> object:
        """Its bytes."""
        return self.array.tobytes()


class Attributes:
    """All attributes of a module or an optimizer. The dict they are in is kept, not the object."""

    def __init__(self, label: str, owner: Watched) -> None:
        self.label = label
        self.names = vars(owner)
        self.unwatched = owner.unwatched | {CAPTURED_METHODS}
        self.found = {name: value for name, value in self.names.items() if name not in self.unwatched}

    def freeze(self) -> None:
        """Get ready to be compared."""
        keys = [name for name, value in self.found.items() if value is not ANY]
        self.keys, self.values = tuple(keys), tuple([self.found[name] for name in keys])
        self.known = frozenset(self.found) | self.unwatched

    def hold(self) -> bool:
        """Whether all are the very same."""
        names = self.names
        return names.keys() <= self.known and all(map(is_, map(names.get, self.keys, repeat(MISSING)), self.values))

    def places(self) -> Iterator[Entry]:
        """Each attribute, those that came since included."""
        for name in dict.fromkeys((*self.found, *self.names)):
            if name not in self.unwatched:
                entry = Entry(f"{self.label}.{name}", self.names, name)
                entry.found = self.found.get(name, MISSING)
                yield entry


class Conditions:
    """All that a recording found in Python's memory; it may be replayed while `hold()`."""

    def __init__(self) -> None:
        self.entries: dict[tuple[int, str], Entry] = {}
        self.cells: dict[int, Cell] = {}
        self.others: dict[object, Slot | Numbers] = {}
        self.contents: dict[int, Content] = {}
        self.attributes: dict[int, Attributes] = {}
        self.count = 0  # of changes of modules and optimizers that were looked at

    def places(self) -> Iterator[Place]:
        """Everything compared."""
        yield from self.entries.values()
        yield from self.cells.values()
        yield from self.others.values()
        yield from self.contents.values()
        for attributes in self.attributes.values():
            yield from attributes.places()

    def forget(self, place: Place) -> None:
        """Compare this place no more: the step writes it, and does not read what was there."""
        if isinstance(place, Entry) and id(place.names) in self.attributes:
            self.attributes[id(place.names)].found[place.name] = ANY
        elif isinstance(place, Entry):
            self.entries.pop((id(place.names), place.name), None)
        elif isinstance(place, Cell):
            self.cells.pop(id(place.cell), None)
        else:
            place.found = ANY

    def freeze(self) -> None:
        """Lay out what is compared before every replay, so that it takes little time."""
        groups: dict[int, list[Entry]] = {}
        for entry in self.entries.values():
            groups.setdefault(id(entry.names), []).append(entry)
        self.groups = [
            (group[0].names.get, tuple([e.name for e in group]), tuple([e.found for e in group]))
            for group in groups.values()
        ]
        self.cell_list = [cell.cell for cell in self.cells.values()]
        self.cell_values = [cell.found for cell in self.cells.values()]
        self.slots = [place for place in self.others.values() if place.found is not ANY]
        contents = [content for content in self.contents.values() if content.found is not ANY]
        self.containers = [content.container for content in contents]
        self.sizes = [content.size for content in contents]
        self.views = [view for content in contents for view in content.views()]
        self.view_values = [value for content in contents if content.small for value in content.found]
        for attributes in self.attributes.values():
            attributes.freeze()

    def hold(self) -> bool:
        """Whether all is as it was found. Short, since it runs before every replay."""
        count = changes.count
        if count != self.count:
            for attributes in self.attributes.values():
                if not attributes.hold():
                    return self.hold_in_detail()
            self.count = count
        try:
            for get, names, values in self.groups:
                if not all(map(is_, map(get, names, repeat(MISSING)), values)):
                    return self.hold_in_detail()
            if not (
                all(map(is_, map(contents_of_cell, self.cell_list), self.cell_values))
                and list(map(len, self.containers)) == self.sizes
                and all(map(is_, chain.from_iterable(self.views), self.view_values))
            ):
                return self.hold_in_detail()
        except (ValueError, RuntimeError):  # a variable was deleted, or a container changed meanwhile
            return False
        return all(place.holds() for place in self.slots)

    def hold_in_detail(self) -> bool:
        """The same by value; what is equal though not identical is taken for what was found, for the next time."""
        count = changes.count
        if self.difference() is not None:
            return False
        for place in self.places():
            if place.found is not ANY:
                place.found = place.now()
        for attributes in self.attributes.values():
            for name, value in attributes.found.items():
                if value is not ANY and value is not MISSING:
                    attributes.found[name] = attributes.names.get(name, MISSING)
        self.freeze()
        self.count = count
        return True

    def difference(self) -> Place | None:
        """The first place that is not as it was."""
        return next((place for place in self.places() if not place.holds()), None)

    def changed(self) -> list[Place]:
        """All places that are not as they were."""
        return [place for place in self.places() if not place.holds()]


def told(value: Any) -> str:
    """A value in an error's text."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {value.shape}"
    if is_array(value):
        return f"an array of shape {value.shape}"
    text = repr(value) if isinstance(value, int | float | str | bool | type(None)) else f"a {type(value).__name__}"
    return text if value is not MISSING else "nothing"
