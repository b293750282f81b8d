"""A compiled CPU kernel as bytes and back: machine code with a description in JSON, from which nothing is run but the code.

    SHA-256 of all that follows | length of the description, uint64 | description | object code | LLVM bitcode

The parts are those of Numba's `CompileResult._reduce`, which Numba pickles. What a kernel of ours has of them is little:
arguments known to whoever asks, no result, and environments, which hold the dtypes that compiled code makes arrays of.
"""

import hashlib
import json
import struct

import numpy as np
from numba.core import compiler, types, typing
from numba.core.environment import _rebuild_env
from numba.core.funcdesc import PythonFunctionDescriptor
from numba.core.typed_passes import _reload_parfors


class NotKeptError(ValueError):
    """A kernel of a kind that this format has no words for."""


def as_bytes(result):
    """A compiled kernel as bytes.

    Raises:
        NotKeptError: it holds an address of this process, returns something, or has a constant that is no dtype.
    """
    if result.library.has_dynamic_globals:
        raise NotKeptError("it holds an address of this process")
    library, function, environment, signature, objectmode, lifted, _, reload, referenced = result._reduce()
    name, kind, (code, bitcode) = library
    if signature.return_type != types.none or kind != "object" or objectmode or lifted:
        raise NotKeptError(f"it returns {signature.return_type}, or some of it is run by the interpreter")
    if any(start is not _reload_parfors for start in reload):
        raise NotKeptError("it needs more than Numba's threads to be started")
    description = {
        "library": name,
        "function": {name: getattr(function, name) for name in PLAIN},
        "environments": [[e.env_name, e.globals["__name__"], dtypes(e.consts)] for e in (environment, *referenced)],
        "parallel": bool(reload),
        "code": len(code),
    }
    text = json.dumps(description).encode()
    payload = struct.pack("<Q", len(text)) + text + code + bitcode
    return hashlib.sha256(payload).digest() + payload


PLAIN = (
    "native", "modname", "qualname", "unique_name", "doc", "args", "kws",
    "inline", "noalias", "abi_tags", "uid", "mangled_name", "env_name",
)  # fmt: skip
"""What Numba knows of a function beside its types: strings, lists of strings, and whether something holds."""


def dtypes(constants):
    """The names of an environment's constants."""
    for constant in constants:
        if not isinstance(constant, np.dtype) or constant.hasobject or constant.names:
            raise NotKeptError(f"it has the constant {constant!r}")
    return [constant.str for constant in constants]


def from_bytes(content, arguments, target_context):
    """The kernel that `as_bytes` was given, for arguments of the same types; ValueError or KeyError for anything else."""
    digest, payload = content[:32], content[32:]
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError("its checksum is wrong")
    if len(payload) < 8:
        raise ValueError("it is empty")
    (length,) = struct.unpack("<Q", payload[:8])
    description, rest = json.loads(payload[8 : 8 + length]), payload[8 + length :]
    code, bitcode = rest[: description["code"]], rest[description["code"] :]
    known = description["function"]
    function = PythonFunctionDescriptor(
        known["native"], known["modname"], known["qualname"], known["unique_name"], known["doc"],
        typemap=None, restype=types.none, calltypes=None, args=tuple(known["args"]), kws=tuple(known["kws"]),
        mangler=lambda *names, **tags: known["mangled_name"], argtypes=tuple(arguments), inline=known["inline"],
        noalias=known["noalias"], env_name=known["env_name"], abi_tags=known["abi_tags"], uid=known["uid"],
    )  # fmt: skip
    environment, *referenced = [
        _rebuild_env(module, [np.dtype(constant) for constant in constants], name)
        for name, module, constants in description["environments"]
    ]
    return compiler.CompileResult._rebuild(
        target_context, (description["library"], "object", (code, bitcode)), function, environment,
        typing.signature(types.none, *arguments), False, (), "",
        [_reload_parfors] if description["parallel"] else [], referenced,
    )  # fmt: skip
