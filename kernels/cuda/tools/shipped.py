"""The kernels' PTX that comes with a release, so that a GPU needs no compiler; it is looked for before a kernel is compiled.

Beside the kernels' sources, `kernels.ptx.xz` is {"sources": a hash, "kernels": {"name:type": PTX}} in JSON, compressed by LZMA.
`tools/ship_kernels.py` writes it, for the sources as they are: where one of them has been changed since, none of it is taken.
"""

import functools
import json
import lzma
from pathlib import Path
from types import FunctionType

from minigrad.kernels.build.cache import digest_of_sources, warn_once

PATH = Path(__file__).resolve().parent.parent / "kernels.ptx.xz"
OURS = "minigrad.kernels."


@functools.cache
def kernels():
    """{"name:type": PTX} of what was shipped for these sources; nothing if that is none."""
    try:
        content = json.loads(lzma.decompress(PATH.read_bytes()))
        return content["kernels"] if content["sources"] == digest_of_sources("cuda") else {}
    except FileNotFoundError:
        return {}
    except (OSError, lzma.LZMAError, ValueError, LookupError, TypeError) as error:
        warn_once("shipped", f"the kernels shipped in {PATH} cannot be read ({error}); they are compiled instead")
        return {}


def is_ours(kernel):
    """Whether all of a kernel is from minigrad's sources; others may have the same names."""
    functions = [kernel.function, *[value for value in kernel.constants.values() if isinstance(value, FunctionType)]]
    return all(function.__module__.startswith(OURS) for function in functions)


def ptx_of(kernel, real):
    """The PTX shipped for a kernel and type; None if there is none."""
    return kernels().get(f"{kernel.name}:{real.name}") if is_ours(kernel) else None


def write(ptx):
    """Ship {"name:type": PTX}; gives the bytes of the file."""
    content = json.dumps({"sources": digest_of_sources("cuda"), "kernels": ptx}).encode()
    return PATH.write_bytes(lzma.compress(content, preset=9))
