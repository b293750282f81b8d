"""Every target has the kernels of kernels/contract.py, with their parameters, and no others."""

import ast
import functools
import importlib
import inspect
import typing
from pathlib import Path

import pytest

import minigrad
from minigrad.kernels import contract
from minigrad.kernels.cpu.tools.launch import CpuKernel

PROTOCOLS = typing.get_type_hints(contract.Kernels)
KERNELS = {
    family: {
        name: list(inspect.signature(function).parameters)[1:]
        for name, function in vars(protocol).items()
        if inspect.isfunction(function) and not name.startswith("_")
    }
    for family, protocol in PROTOCOLS.items()
}
EACH = [(family, name) for family, kernels in KERNELS.items() for name in kernels]
SOURCES = Path(minigrad.__file__).parent
FOLDER = Path(contract.__file__).parent


@pytest.fixture(scope="module", params=["reference", "cpu", "cuda"])
def target(request):
    if request.param == "cuda":
        pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)
    return request.param


def family_of(target, family):
    return importlib.import_module(f"minigrad.kernels.{target}.{family}")


def functions(module):
    """{name: function} of the plain functions that a module defines for others."""
    found = dict(inspect.getmembers(module, inspect.isfunction))
    return {name: f for name, f in found.items() if f.__module__ == module.__name__ and not name.startswith("_")}


def launched(module):
    """{name: kernel} of the CPU kernels that a module defines."""
    return {name: k for name, k in vars(module).items() if isinstance(k, CpuKernel) and k.__module__ == module.__name__}


def entries(target, family):
    """{name: function} of what callers may call; its parameters are those that they pass.

    On the CPU a kernel's are those of `prepare` if it has that, and kernels that others hand some calls to are not for
    callers. On CUDA a function is for callers unless something in kernels/cuda uses it.
    """
    module = family_of(target, family)
    if target == "reference":
        return functions(module)
    if target == "cpu":
        return {name: k.prepare or k.__wrapped__ for name, k in launched(module).items() if k not in handed_calls()}
    return {name: f for name, f in functions(module).items() if name in KERNELS[family] or name not in used_in_cuda()}


@functools.cache
def handed_calls():
    """The CPU kernels that others hand some of their calls to."""
    modules = [family_of("cpu", family) for family in KERNELS]
    return {other for module in modules for kernel in launched(module).values() for other in others(kernel)}


def others(kernel):
    """The CPU kernels that one hands some of its calls to."""
    return [other for _, other in kernel.instead]


@functools.cache
def used_in_cuda():
    """All names that the sources in kernels/cuda read."""
    nodes = [node for path in (FOLDER / "cuda").rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    read = {node.id for node in nodes if isinstance(node, ast.Name)}
    return read | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def test_families_are_those_of_the_contract(target):
    package = importlib.import_module(f"minigrad.kernels.{target}")
    modules = {path.stem for path in Path(package.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(package.__all__) == modules == set(KERNELS)


@pytest.mark.parametrize("family", KERNELS)
def test_family_has_the_kernels_of_the_contract(target, family):
    assert set(entries(target, family)) == set(KERNELS[family])


@pytest.mark.parametrize(("family", "name"), EACH)
def test_kernel_takes_the_parameters_of_the_contract(target, family, name):
    assert list(inspect.signature(entries(target, family)[name]).parameters) == KERNELS[family][name]


@pytest.mark.parametrize("family", KERNELS)
def test_contract_leads_to_the_three_files(family):
    named = [f"kernels/{target}/{family}.py" for target in ("reference", "cpu", "cuda")]
    assert ", ".join(named) in PROTOCOLS[family].__doc__
    assert all((FOLDER / Path(path).relative_to("kernels")).is_file() for path in named)


@pytest.mark.parametrize(("family", "name"), EACH)
def test_contract_says_in_a_line_what_a_kernel_does(family, name):
    assert len(inspect.getdoc(getattr(PROTOCOLS[family], name)).splitlines()) == 1


@functools.cache
def names_in_minigrad():
    """All attributes that minigrad's sources read outside of the kernels, and all names that they import."""
    paths = [path for path in SOURCES.rglob("*.py") if path.relative_to(SOURCES).parts[0] != "kernels"]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return read | {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}


@pytest.mark.parametrize(("family", "name"), EACH)
def test_kernel_is_found_where_it_is_called(family, name):
    assert name in names_in_minigrad()


@pytest.mark.parametrize("path", sorted((SOURCES / "ops").glob("*.py")), ids=lambda path: path.stem)
def test_ops_build_no_name_of_a_kernel(path):
    called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert "getattr" not in [function.id for function in called if isinstance(function, ast.Name)]


def test_kernels_take_the_arguments_of_those_that_they_run_instead_of():
    kernels = [kernel for family in KERNELS for kernel in launched(family_of("cpu", family)).values() if kernel.instead]
    assert kernels
    for kernel in kernels:
        wanted, *found = [
            list(inspect.signature(k.prepare or k.__wrapped__).parameters) for k in (kernel, *others(kernel))
        ]
        assert all(parameters == wanted for parameters in found)


def imported(path):
    """Full names of all that a file imports, also inside functions: `from a import b` gives a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def packages(path):
    return {name.partition(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", sorted((FOLDER / "reference").glob("*.py")), ids=lambda path: path.stem)
def test_reference_needs_no_compiler(path):
    assert not packages(path) & {"numba", "numba_cuda", "llvmlite"}
    assert not any(name.startswith(("minigrad.kernels.cpu", "minigrad.kernels.cuda")) for name in imported(path))


CUDA = sorted((FOLDER / "cuda").rglob("*.py"))
COMPILES = "async_copies", "choices", "language", "launch", "mma", "simulator"


@pytest.mark.parametrize("path", [path for path in CUDA if path.stem != "language"], ids=lambda path: path.stem)
def test_only_the_language_imports_the_compiler_for_cuda(path):
    assert not any(name.startswith(("numba.cuda", "numba_cuda")) for name in imported(path))


@pytest.mark.parametrize(
    "path",
    [path for path in CUDA if path.stem not in COMPILES and path.parent.name != "host"],
    ids=lambda path: path.stem,
)
def test_only_what_compiles_simulates_and_translates_kernels_imports_numba(path):
    assert not packages(path) & {"numba", "numba_cuda", "llvmlite"}
