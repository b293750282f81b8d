"""What the reference shows of a function that has its parameters from elsewhere; mkdocs.yml names this file.

`takes(Settings)` in minigrad/train/fit.py gives `fit` the parameters of `Settings`. The reference is made of the sources as
they are written, where that does not show.
"""

import re
from collections.abc import Iterator

import griffe

TAKES = re.compile(r"takes\((\w+)\)")


class Signatures(griffe.Extension):
    """Gives every function below `@takes(Class)` the parameters of that class."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """All sources are read: classes can be looked up."""
        for function in functions(pkg):
            for decorator in function.decorators:
                if named := TAKES.fullmatch(str(decorator.value)):
                    taken = pkg.modules_collection[function.resolve(named[1])]
                    function.parameters = griffe.Parameters(*[p for p in taken.parameters if p.name != "self"])


def functions(module: griffe.Module) -> Iterator[griffe.Function]:
    """The functions of a package and of all that is in it."""
    for member in module.members.values():
        if isinstance(member, griffe.Function):
            yield member
        elif isinstance(member, griffe.Module):
            yield from functions(member)
