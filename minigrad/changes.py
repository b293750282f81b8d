"""Changes that no array shows: attributes that are set on modules and optimizers.

A captured step is good only while the modules and optimizers it worked with have the attributes they had. To look at all of
them before every replay would take too long, so whatever sets one counts it here, and only a recording that finds the count
moved compares in detail (minigrad.capture.watch).
"""

from typing import Any, ClassVar

from minigrad.modes import takes_part


class Missing:
    """The value of an attribute that is not there."""

    def __repr__(self) -> str:
        return "nothing"


MISSING: Any = Missing()
CAPTURED_METHODS = "_captured_methods"  # an attribute that minigrad.capture gives to instances


class Changes:
    """How many there were, of all objects."""

    count = 0

    def add(self) -> None:
        """Count one; call it after the change, so that whoever sees the count move sees the change too."""
        self.count += 1


changes = Changes()


class Watched:
    """An object whose attributes a captured step may decide by; what sets or deletes one is counted."""

    unwatched: ClassVar[frozenset[str]] = frozenset()  # attributes that decide nothing of what is computed

    def __setattr__(self, name: str, value: Any) -> None:
        takes_part(self)
        before = vars(self).get(name, MISSING)
        super().__setattr__(name, value)
        if vars(self).get(name, MISSING) is not before:  # else it was set already, or a property keeps it elsewhere
            changes.add()

    def __delattr__(self, name: str) -> None:
        takes_part(self)
        super().__delattr__(name)
        changes.add()
