"""The environment variables that minigrad looks at, the folder they and the system's custom lead to, and what it installs as.

The list of variables is the only one: `minigrad info` prints it, docs/configuration.md explains it, and a test finds every use
in the sources.
"""

import os
from pathlib import Path
from typing import NamedTuple


class Variable(NamedTuple):
    """An environment variable."""

    name: str
    default: str  # in words
    meaning: str


VARIABLES = (
    Variable("MINIGRAD_CACHE", "by the system's custom", "the folder of compiled kernels and of downloaded data"),
    Variable("MINIGRAD_DATA", "not set", "the folder of data sets: the only place they are looked for, if it is set"),
    Variable("MINIGRAD_CUDA", "the GPU", '"host": device="cuda" without a GPU; "simulator": in Python'),
    Variable("XDG_CACHE_HOME", "by the system's custom", "where folders of caches are, if absolute; not on Windows"),
    Variable("GOMP_SPINCOUNT", "set by minigrad", "how long threads of GNU's OpenMP spin while they wait"),
    Variable("OMP_WAIT_POLICY", "passive", "how threads of OpenMP wait"),
    Variable("KMP_BLOCKTIME", "not set", "how long threads of Intel's and LLVM's OpenMP spin"),
)

DISTRIBUTION = "minigrad-bn"  # what pip calls it: the name it is imported by belongs to another project on PyPI


def install(extra: str) -> str:
    """The command that installs what an extra brings."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def cache_root() -> Path:
    """The folder for what can be made or downloaded again; it may not exist yet.

    `$MINIGRAD_CACHE`, or what platformdirs says: `minigrad` in `$XDG_CACHE_HOME`, or by the custom of the system in
    `%LOCALAPPDATA%` on Windows, in `~/Library/Caches` on macOS, and elsewhere in `~/.cache`.
    """
    if os.environ.get("MINIGRAD_CACHE"):
        return Path(os.environ["MINIGRAD_CACHE"]).absolute()
    from platformdirs import user_cache_path

    return user_cache_path("minigrad", appauthor=False, opinion=False)
