"""Compiled kernels kept on disk, one file a kernel and signature, in a folder named by a hash of what they are made from.

Numba's own cache does not notice an edit in an imported file, nor a damaged entry. Here the folder's name covers every
source file of the target and those above it, and the versions of Python, NumPy, Numba and llvmlite (compiled code knows how
they lay out their objects), and every file starts with the SHA-256 of the rest. The folder is `$MINIGRAD_CACHE`, else
`minigrad` in the user's cache folder. It must be out of the reach of other users, since what is loaded from it is run. What
cannot be read or written costs one warning and a compilation, never an error.
"""

import contextlib
import functools
import hashlib
import sys
import tempfile
import time
import warnings
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.caching import _Cache

from minigrad.kernels.build import kept
from minigrad.kernels.build.files import Claim, replace
from minigrad.kernels.build.owner import NotOursError, check_folder, make_private, read_own
from minigrad.kernels.build.settings import cache_root

PATIENCE = 60  # seconds that another process may take to compile a kernel, before this one does so too

# Files that no kernel is made from: types, counts, what writes the text of kernels that are named by it, and what is done
# when kernels are launched.
NOT_COMPILED = {
    "contract.py",
    "work.py",
    *("build/files.py", "build/garbage.py", "build/settings.py"),
    *(f"cuda/tools/{name}.py" for name in ("machine_code", "shipped")),
    *(f"cpu/tools/{name}.py" for name in ("ahead", "contention", "replay", "threads", "workers")),
}
HOST = "cuda/host"


@functools.cache
def sources_hash(target):
    """A hash of the sources of a target's kernels and of what they are compiled by and for.

    A target is "cpu", "cuda", or "cuda/host": what runs CUDA kernels without a GPU, of which those themselves know nothing.
    """
    abi = f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}"
    versions = f"{abi} numpy {np.__version__} numba {numba.__version__} llvmlite {llvmlite.__version__}"
    return hashlib.sha256(f"{versions} {digest_of_sources(target)}".encode()).hexdigest()[:20]


@functools.cache
def digest_of_sources(target):
    """A hash of the sources of a target's kernels alone."""
    folder = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    patterns = "*.py", "build/*.py", f"{target}/**/*.py", *(("cpu/tools/*.py",) if target == HOST else ())
    files = [path for pattern in patterns for path in folder.glob(pattern)]
    for path in sorted(files):
        name = path.relative_to(folder).as_posix()
        if name not in NOT_COMPILED and (target == HOST or not name.startswith(HOST)):
            digest.update(name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def cache_folder(target):
    """The folder for this version of a target's kernels, made if need be; None (and one warning) where there can be none."""
    try:
        folder = cache_root() / "kernels" / sources_hash(target)
        make_private(folder)
        check_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
        remove_leftovers(folder)
    except NotOursError as error:
        warn_once("write", f"compiled kernels are not kept, as others could have theirs run from there: {error}")
        return None
    except (OSError, RuntimeError) as error:
        warn_once("write", f"compiled kernels are not kept: {error}; set MINIGRAD_CACHE to a folder you can write")
        return None
    return folder


def remove_leftovers(folder):
    """Remove what processes have left that were killed while they wrote, once nobody can be writing it any more."""
    for path in [*folder.glob("*.part"), *folder.glob("*.claim")]:
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - 3600:
                path.unlink()


def warn_once(problem, message):
    """Warn of a kind of problem, the first time it comes; where warnings are errors, only say it: kernels still run."""
    if problem not in _warned:
        _warned.add(problem)
        try:
            warnings.warn(f"minigrad: {message}", RuntimeWarning, stacklevel=3)
        except RuntimeWarning:
            if sys.stderr is not None:
                print(f"minigrad: {message}", file=sys.stderr, flush=True)


_warned = set()


def read(path):
    """The bytes of a compiled kernel; None where there is none, or none that may be taken."""
    try:
        return read_own(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        warn_once("read", f"the compiled kernel {path} cannot be read ({error}); such are compiled again")
        return None


def keep(path, content):
    """Write a compiled kernel aside and rename it, so that a reader never sees half of it."""
    part = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as file:
            part = Path(file.name)
            file.write(content)
        replace(part, path)
    except OSError as error:
        if part:
            part.unlink(missing_ok=True)
        warn_once("write", f"compiled kernels are not kept: {error}; set MINIGRAD_CACHE to a folder you can write")


def kept_or_made(path, look, make):
    """What `look()` finds in a file, or what `make()` gives and writes there; `look` gives None where there is nothing.

    Where another process makes the same just now, this one waits for it. A path of None: nothing is kept.
    """
    found = look() if path else None
    if found is not None or path is None:
        return make() if found is None else found
    claim = Claim(path)
    claim.take(PATIENCE)
    try:
        found = look()  # another may have made it, even between the look and the claim
        return make() if found is None else found
    finally:
        claim.release()


class KernelCache(_Cache):
    """Numba asks this before it compiles a signature of one kernel, and hands over what it compiled.

    Where another process compiles the same just now, as all ranks of a run do in their first step, this one waits for it.
    """

    def __init__(self, name, on_compile, on_compiled, target="cpu"):
        self.name = name
        self.claim = None  # on what is being compiled
        self.target = target
        self.on_compile = on_compile
        self.on_compiled = on_compiled

    @property
    def cache_path(self):
        """The folder, as Numba's interface wants it."""
        return str(cache_folder(self.target))

    def path(self, signature, codegen):
        """The file of one signature."""
        folder = cache_folder(self.target)
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
        result = self.load(path, sig, target_context) if path else None
        if result is None and path:
            self.leave()
            self.claim = Claim(path)
            self.claim.take(PATIENCE)
            # Another may have made it, even between the look and the claim.
            result = self.load(path, sig, target_context)
            if result is not None:
                self.leave()
        if result is None:
            try:
                self.on_compile(self.name, sig)
            except RuntimeError:  # it may not be compiled now
                self.leave()
                raise
        return result

    def leave(self):
        """Let others compile what this process has compiled, or failed to."""
        if self.claim is not None:
            self.claim.release()
            self.claim = None

    def load(self, path, signature, target_context):
        """Load one file; None where there is none or it is damaged."""
        content = read(path)
        if content is None:
            return None
        try:
            return kept.from_bytes(content, signature, target_context)
        except Exception as error:  # whatever a damaged file raises, the remedy is the same
            warn_once("read", f"the compiled kernel {path} is damaged ({error}); such are compiled again")
            return None

    def save_overload(self, sig, cres):
        """Keep a compiled kernel."""
        self.on_compiled(self.name)
        path = self.path(sig, cres.codegen)
        if path is None:
            return
        try:
            keep(path, kept.as_bytes(cres))
        except kept.NotKeptError as error:
            warn_once(f"kind {self.name}", f"kernel {self.name} is compiled by every process anew, for {error}")
        finally:
            self.leave()

    def enable(self):
        """Part of Numba's interface; this cache is always on."""

    def disable(self):
        """Part of Numba's interface; this cache is always on."""

    def flush(self):
        """Part of Numba's interface; folders of other versions may simply be deleted."""
