import ast
import inspect
from pathlib import Path

import pytest

from minigrad.kernels import cuda, reference

SOURCES = sorted(Path(cuda.__file__).parent.glob("*.py"))


def functions_of(module):
    """{name: function} of those that a module defines for others."""
    functions = dict(inspect.getmembers(module, inspect.isfunction))
    return {name: f for name, f in functions.items() if f.__module__ == module.__name__ and not name.startswith("_")}


REFERENCE = {name: functions_of(getattr(reference, name)) for name in reference.__all__}


def imported_modules(path):
    """Full names of all that a file imports, also inside functions: `from a import b` gives a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_families_are_those_of_the_reference():
    assert set(cuda.__all__) == set(reference.__all__)


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, functions in REFERENCE.items() for name in sorted(functions)]
)
def test_function_takes_the_arguments_of_the_reference(family, name):
    function = getattr(getattr(cuda, family), name)
    assert inspect.isfunction(function)
    assert list(inspect.signature(function).parameters) == list(inspect.signature(REFERENCE[family][name]).parameters)


@pytest.mark.parametrize("path", [path for path in SOURCES if path.stem != "language"], ids=lambda path: path.stem)
def test_only_the_language_imports_the_compiler_for_cuda(path):
    found = {name for name in imported_modules(path) if name.startswith(("numba.cuda", "numba_cuda"))}
    assert not found


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.stem not in ("language", "launch", "simulator")],
    ids=lambda path: path.stem,
)
def test_only_what_compiles_and_simulates_kernels_imports_numba(path):
    found = {name for name in imported_modules(path) if name.partition(".")[0] in ("numba", "numba_cuda", "llvmlite")}
    assert not found
