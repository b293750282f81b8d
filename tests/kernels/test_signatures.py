import importlib
import inspect
import pkgutil

import pytest

from minigrad.kernels import cpu, reference
from minigrad.kernels.cpu.compile import Kernel


def modules(package):
    return {
        info.name: importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
    }


def cpu_functions(module):
    """Kernels of a module; what `prepare` takes is what callers pass."""
    kernels = {name: value for name, value in vars(module).items() if isinstance(value, Kernel)}
    return {
        name: kernel.prepare or kernel.__wrapped__
        for name, kernel in kernels.items()
        if kernel.__module__ == module.__name__
    }


def reference_functions(module):
    functions = dict(inspect.getmembers(module, inspect.isfunction))
    return {name: f for name, f in functions.items() if f.__module__ == module.__name__ and not name.startswith("_")}


CPU = {name: functions for name, module in modules(cpu).items() if (functions := cpu_functions(module))}
REFERENCE = {name: reference_functions(module) for name, module in modules(reference).items()}


def test_cpu_and_reference_have_the_same_families():
    assert set(CPU) == set(REFERENCE)


@pytest.mark.parametrize("family", sorted(CPU.keys() | REFERENCE.keys()))
def test_family_has_the_same_functions(family):
    assert set(CPU.get(family, ())) == set(REFERENCE.get(family, ()))


@pytest.mark.parametrize(
    ("family", "name"),
    sorted((family, name) for family in CPU for name in CPU[family].keys() & REFERENCE.get(family, {})),
)
def test_function_has_the_same_argument_names(family, name):
    assert list(inspect.signature(CPU[family][name]).parameters) == list(
        inspect.signature(REFERENCE[family][name]).parameters
    )


@pytest.mark.parametrize("family", sorted(REFERENCE))
def test_reference_does_not_use_numba(family):
    source = inspect.getsource(importlib.import_module(f"minigrad.kernels.reference.{family}"))
    assert "numba" not in source
    assert "kernels.cpu" not in source
