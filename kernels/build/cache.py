"""Compiled kernels kept on disk, one file a kernel and signature, in a folder named by a hash of what they are made from.

Numba's own cache does not notice an edit in an imported file, nor a damaged entry. Here the folder's name covers every
source file of the target and those above it, and the versions of Python, NumPy, Numba and llvmlite (compiled code knows how
they lay out their objects), and every file starts with the SHA-256 of the rest. The folder is `$MINIGRAD_CACHE`, else
`minigrad` in the user's cache folder. It must belong to the user, since loading a file runs it. What cannot be read or
written costs one warning and a compilation, never an error.
"""

import functools
import hashlib
import os
import pickle
import sys
import tempfile
import warnings
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba.core import compiler, config
from numba.core.caching import _Cache
from numba.core.serialize import dumps


def cache_root():
    """The folder under which kernels are kept."""
    if os.environ.get("MINIGRAD_CACHE"):
        return Path(os.environ["MINIGRAD_CACHE"]).absolute()
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "minigrad"


NOT_COMPILED = "contract.py", "work.py"  # of the shared files, those that no kernel is made from: types, counts


@functools.cache
def sources_hash(target):
    """A hash of the sources of a target's kernels ("cpu" or "cuda") and of what they are compiled by and for."""
    folder = Path(__file__).resolve().parent.parent
    abi = f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}"
    versions = f"{abi} numpy {np.__version__} numba {numba.__version__} llvmlite {llvmlite.__version__}"
    digest = hashlib.sha256(versions.encode())
    shared = [path for path in (*folder.glob("*.py"), *folder.glob("build/*.py")) if path.name not in NOT_COMPILED]
    for path in sorted([*shared, *folder.glob(f"{target}/**/*.py")]):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


@functools.cache
def cache_folder(target):
    """The folder for this version of a target's kernels, made if need be; None (and one warning) where there can be none."""
    try:
        folder = cache_root() / "kernels" / sources_hash(target)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(
                "the folder belongs to another user, and loading kernels from it would run their code"
            )
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:
        warn_once("write", f"compiled kernels are not kept: {error}; set MINIGRAD_CACHE to a folder you can write")
        return None
    return folder


def warn_once(problem, message):
    """Warn of a kind of problem, the first time it comes."""
    if problem not in _warned:
        _warned.add(problem)
        warnings.warn(f"minigrad: {message}", RuntimeWarning, stacklevel=3)


_warned = set()


def keep(path, content):
    """Write a compiled kernel aside and rename it, so that a reader never sees half of it."""
    part = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as file:
            part = Path(file.name)
            file.write(content)
        os.replace(part, path)
    except OSError as error:
        if part:
            part.unlink(missing_ok=True)
        warn_once("write", f"compiled kernels are not kept: {error}; set MINIGRAD_CACHE to a folder you can write")


class KernelCache(_Cache):
    """Numba asks this before it compiles a signature of one kernel, and hands over what it compiled."""

    def __init__(self, name, on_compile, on_compiled):
        self.name = name
        self.on_compile = on_compile
        self.on_compiled = on_compiled

    @property
    def cache_path(self):
        """The folder, as Numba's interface wants it."""
        return str(cache_folder("cpu"))

    def path(self, signature, codegen):
        """The file of one signature."""
        folder = cache_folder("cpu")
        if folder is None:
            return None
        key = repr(
            (self.name, signature, codegen.magic_tuple(), config.BOUNDSCHECK, config.OPT, config.FULL_TRACEBACKS)
        )
        return folder / f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.kernel"

    def load_overload(self, sig, target_context):
        """The compiled kernel, or None after telling that a compilation starts."""
        target_context.refresh()
        path = self.path(sig, target_context.codegen())
        result = self.read(path, target_context) if path else None
        if result is None:
            self.on_compile(self.name, sig)
        return result

    def read(self, path, target_context):
        """Load one file; None where there is none or it is damaged."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            warn_once("read", f"the compiled kernel {path} cannot be read ({error}); such are compiled again")
            return None
        digest, payload = content[:32], content[32:]
        try:
            if hashlib.sha256(payload).digest() != digest:
                raise ValueError("its checksum is wrong")
            return compiler.CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception as error:  # whatever a damaged file raises, the remedy is the same
            warn_once("read", f"the compiled kernel {path} is damaged ({error}); such are compiled again")
            return None

    def save_overload(self, sig, cres):
        """Keep a compiled kernel."""
        self.on_compiled(self.name)
        path = self.path(sig, cres.codegen)
        if path is None:
            return
        if cres.library.has_dynamic_globals:
            raise RuntimeError(f"kernel {self.name} holds an address of this process and cannot be kept on disk")
        payload = dumps(cres._reduce())
        keep(path, hashlib.sha256(payload).digest() + payload)

    def enable(self):
        """Part of Numba's interface; this cache is always on."""

    def disable(self):
        """Part of Numba's interface; this cache is always on."""

    def flush(self):
        """Part of Numba's interface; folders of other versions may simply be deleted."""
