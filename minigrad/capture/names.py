"""Which names a function's code may read: globals, closed-over variables, and the attributes taken from them.

Found by going through the instructions, without running anything. `self.config.rate * SCALE` reads the chain
(self, config, rate) and the global SCALE. Of a variable that is set once from such a chain, the chain is known too; of any
other variable only the attributes are, and these are looked for on all objects that are found otherwise.
"""

import dis
import functools
import sys
import types
from collections import defaultdict
from typing import NamedTuple

Chain = tuple[str, ...]  # names of attributes, one after another

TRANSPARENT = {"CACHE", "EXTENDED_ARG", "NOP", "NOT_TAKEN", "PRECALL", "PUSH_NULL", "RESUME"}
GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
CELLS = {"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF", "DELETE_DEREF"}
ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR"}


class Root(NamedTuple):
    """Where a chain begins: kind is "global", "free" (closed over), "parameter", "module" (imported) or "unknown"."""

    kind: str
    name: str


class Read(NamedTuple):
    """A chain of attributes that code may follow; (attribute, ...) of the root. What it sets is among them."""

    root: Root
    chain: Chain


UNKNOWN = Root("unknown", "")


@functools.lru_cache(maxsize=4096)
def reads(code: types.CodeType) -> frozenset[Read]:
    """All that a function with this code may read by name, the functions defined inside it included."""
    found, aliases = followed(code)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            for root, chain in reads(inner):
                if root.kind == "parameter":
                    found.add(Read(UNKNOWN, chain))
                elif root.kind == "free" and root.name not in code.co_freevars:
                    found.add(Read(Root("local", root.name), chain))
                else:
                    found.add(Read(root, chain))
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    result = set()
    for read in found:
        for root, chain in resolved(read, aliases, parameters, 5):
            if chain or root is not UNKNOWN:
                result.add(Read(root, chain))
    return frozenset(result)


def followed(code: types.CodeType) -> tuple[set[Read], dict[str, set[Read]]]:
    """Chains that begin at any name, and what local variables were set to."""
    found: set[Read] = set()
    aliases: dict[str, set[Read]] = defaultdict(set)
    here: Read | None = None  # what the value on top of the stack is
    constant = None
    for instruction in dis.get_instructions(code):
        name, value = instruction.opname, instruction.argval
        if name in TRANSPARENT or (name == "COPY" and value == 1):
            continue
        before, here = here, None
        if name in ATTRIBUTES:
            is_method = name == "LOAD_METHOD" or (
                name == "LOAD_ATTR" and sys.version_info >= (3, 12) and bool(instruction.arg and instruction.arg & 1)
            )
            here = longer(before, value + "()" if is_method else value)
            continue
        if name == "IMPORT_FROM":
            here = longer(before, value)
            continue
        if before is not None:
            found.add(before)
        if name in GLOBALS:
            here = Read(Root("global", value), ())
        elif name in CELLS:
            here = Read(Root("free" if value in code.co_freevars else "local", value), ())
        elif name == "STORE_DEREF":
            if value in code.co_freevars:
                found.add(Read(Root("free", value), ()))
            else:
                aliases[value].add(before or Read(UNKNOWN, ()))
        elif "FAST" in name:
            *stored, loaded = fast(name, value if isinstance(value, tuple) else (value,))
            for variable in filter(None, stored):
                aliases[variable].add(before or Read(UNKNOWN, ()))
                before = None
            here = Read(Root("local", loaded), ()) if loaded else None
        elif name == "LOAD_SUPER_ATTR":
            here = Read(Root("local", code.co_varnames[0]) if code.co_varnames else UNKNOWN, (value + "()",))
        elif name == "IMPORT_NAME":
            top, *below = value.split(".")
            here = Read(Root("module", top), tuple(below) if constant else ())
        constant = value if name == "LOAD_CONST" else None
    if here is not None:
        found.add(here)
    return found, aliases


def longer(read: Read | None, name: str) -> Read:
    """The chain with one attribute more."""
    root, chain = read or Read(UNKNOWN, ())
    return Read(root, (*chain, name))


def fast(name: str, names: Chain) -> tuple[str | None, ...]:
    """Of an instruction on local variables: those it stores, and the one it leaves on top of the stack, or None."""
    if "LOAD" not in name:
        return (*(names if name.startswith("STORE") else ()), None)
    return (*(names[:-1] if name.startswith("STORE") else ()), names[-1])


def resolved(read: Read, aliases: dict[str, set[Read]], parameters: Chain, depth: int) -> list[Read]:
    """The same chain from where its local variable got its value."""
    root, chain = read
    if root.kind != "local":
        return [read]
    result = [Read(Root("parameter", root.name), chain)] if root.name in parameters else []
    for alias in aliases.get(root.name, () if result else (Read(UNKNOWN, ()),)):
        longer = Read(alias.root, alias.chain + chain)
        result += resolved(longer, aliases, parameters, depth - 1) if depth else [Read(UNKNOWN, chain)]
    return result
