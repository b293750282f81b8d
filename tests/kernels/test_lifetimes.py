"""An array that a kernel makes lives as long as its address is used.

Numba frees an array after the last statement that names it, and knows nothing of an address that was taken of it: what is
read or written there afterwards is somebody else's memory. `keep(array)` after the last use of the address is such a
statement. Held here for every function of the CPU kernels, on Numba's own plan of what is freed where.
"""

import importlib
import pkgutil
from types import FunctionType

import numpy as np
import pytest
from numba.core import ir
from numba.core.analysis import compute_cfg_from_blocks
from numba.core.compiler import run_frontend

import minigrad.kernels.cpu as cpu
from minigrad.kernels.cpu.parts.winograd import find_places
from minigrad.kernels.cpu.tools.launch import Chooser
from minigrad.kernels.cpu.tools.pointers import element_at, keep, row_at

TAKES_ADDRESS = {"element_at", "row_at", "pixel_at", "panel_at"}  # of their first argument


def compiled_functions():
    """The functions of the CPU kernels that Numba compiles, by module and name."""
    found = {}
    for info in pkgutil.walk_packages(cpu.__path__, cpu.__name__ + "."):
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, Chooser):  # Python
                continue
            function = getattr(value, "py_func", getattr(value, "function", None))
            if isinstance(function, FunctionType) and function.__module__ == info.name:
                found[f"{info.name.removeprefix(cpu.__name__ + '.')}.{function.__name__}"] = function
    return found


FUNCTIONS = compiled_functions()


def names_in(value):
    """The variables that a statement or an expression reads."""
    if isinstance(value, ir.Var):
        return {value.name}
    if isinstance(value, ir.Assign):
        return names_in(value.value)
    return {variable.name for variable in value.list_vars()} if hasattr(value, "list_vars") else set()


def callee(expression, function_ir):
    """The name of the function that is called."""
    definition = function_ir.get_definition(expression.func)
    return definition.name if isinstance(definition, ir.Global | ir.FreeVar) else ""


def addressed(value, function_ir):
    """The variables of which an expression takes the address."""
    if isinstance(value, ir.Expr) and value.op == "getattr" and value.attr == "ctypes":
        return {value.value.name}
    if isinstance(value, ir.Expr) and value.op == "call" and callee(value, function_ir) in TAKES_ADDRESS:
        return {value.args[0].name}
    return set()


def base_of(name, function_ir):
    """The array whose life keeps the memory of a variable there: itself, or what an expression takes a part of.

    None if it is the caller's.
    """
    try:
        definition = function_ir.get_definition(name)
    except KeyError:  # has several: one of them was made here, perhaps
        return name
    if isinstance(definition, ir.Expr) and definition.op in ("getitem", "static_getitem"):
        base = base_of(definition.value.name, function_ir)
        return base if base is None or name.startswith("$") else name
    return name if isinstance(definition, ir.Expr) else None


def owners_of(function_ir):
    """For each variable that is an address, comes from one, or has one among its elements: whose addresses they are."""
    owners, before = {}, None
    statements = [statement for block in function_ir.blocks.values() for statement in block.body]
    while before != (before := {name: set(found) for name, found in owners.items()}):
        for statement in statements:
            if isinstance(statement, ir.Assign):
                of = set().union(*[owners.get(name, set()) for name in names_in(statement)])
                of |= {base_of(name, function_ir) for name in addressed(statement.value, function_ir)} - {None}
            elif isinstance(statement, ir.SetItem | ir.StaticSetItem):
                of = owners.get(statement.value.name, set()) - {statement.target.name}
            else:
                continue
            if of:
                owners.setdefault(statement.target.name, set()).update(of)
    return owners


def used_after_free(function):
    """(array, line) for each use of an address whose array Numba has freed before."""
    function_ir = run_frontend(function, emit_dels=True)
    owners, graph = owners_of(function_ir), compute_cfg_from_blocks(function_ir.blocks)
    freed = {block: set() for block in function_ir.blocks}  # before it begins
    to_do, found = list(function_ir.blocks), set()
    while to_do:
        block = to_do.pop()
        gone = set(freed[block])
        for statement in function_ir.blocks[block].body:
            if isinstance(statement, ir.Del):
                gone.add(statement.value)
                continue
            for name in names_in(statement):
                found |= {(owner, statement.loc.line) for owner in owners.get(name, set()) & gone}
            if isinstance(statement, ir.Assign):
                gone.discard(statement.target.name)
        for successor, _ in graph.successors(block):
            if not gone <= freed[successor]:
                freed[successor] |= gone
                to_do.append(successor)
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_address_is_used_after_its_array_is_freed(name):
    assert used_after_free(FUNCTIONS[name]) == set()


def forgets(n):
    buffer = np.empty((n, n))
    last = element_at(buffer, n - 1, 0) + 8
    other = np.empty(n)
    find_places(last, 8, other)


def forgets_a_part(n):
    buffer = np.empty((n, n))
    find_places(row_at(buffer[1:], 0), 8, buffer[0])


def forgets_what_a_table_holds(n):
    table, buffer = np.empty(n, np.int64), np.empty(n)
    table[:] = buffer.ctypes.data
    for i in range(n):
        find_places(table[i], 8, table)


def keeps(n):
    buffer = np.empty((n, n))
    last = element_at(buffer, n - 1, 0) + 8
    other = np.empty(n)
    find_places(last, 8, other)
    keep(buffer)


def uses_the_callers(x):
    first = x[0]
    find_places(row_at(x, 1), 8, first)


@pytest.mark.parametrize("function", [forgets, forgets_a_part, forgets_what_a_table_holds, keeps, uses_the_callers])
def test_what_is_forgotten_is_found(function):
    found = {array for array, _ in used_after_free(function)}
    assert found == ({"buffer"} if "forgets" in function.__name__ else set())
