import importlib
import inspect
import pkgutil

import pytest

from minigrad.kernels import cpu, reference
from minigrad.kernels.cpu.tools.launch import CpuKernel


def modules(package):
    return {
        info.name: importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
    }


def kernels_of(module):
    return {name: value for name, value in vars(module).items() if isinstance(value, CpuKernel)}


INSTEAD = {
    kernel.instead[1] for module in modules(cpu).values() for kernel in kernels_of(module).values() if kernel.instead
}  # kernels that other kernels hand some of their calls to, with the same arguments


def cpu_functions(module):
    """Kernels of a module; what `prepare` takes is what callers pass."""
    kernels = {name: kernel for name, kernel in kernels_of(module).items() if kernel not in INSTEAD}
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


@pytest.mark.parametrize(
    "kernel",
    [kernel for module in modules(cpu).values() for kernel in kernels_of(module).values() if kernel.instead],
    ids=lambda kernel: kernel.instead[1].__name__ if hasattr(kernel, "instead") else str(kernel),
)
def test_kernel_takes_the_arguments_of_the_one_it_runs_instead_of(kernel):
    _, other = kernel.instead
    assert list(inspect.signature(other.prepare).parameters) == list(inspect.signature(kernel.prepare).parameters)
