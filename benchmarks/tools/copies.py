"""Which minigrad is measured: that of the sources here, or an installed copy, which may be older than they are."""

import os
import sys
from pathlib import Path

import minigrad
import minigrad.kernels

ROOT = Path(__file__).resolve().parents[2]


def check_copy() -> None:
    """Raise ImportError if an installed copy is imported that differs from the sources here.

    Not in the environments that asv makes, which have the commit that is to be measured.
    """
    if Path(sys.prefix).resolve().is_relative_to(ROOT / ".asv"):
        return
    for package, sources in ((minigrad, ROOT / "minigrad"), (minigrad.kernels, ROOT / "kernels")):
        folder = Path(package.__file__ or "").resolve().parent
        if folder != sources and sources.is_dir() and contents(folder) != contents(sources):
            raise ImportError(
                f"what would be measured is the copy of minigrad in {folder}, which differs from the sources in {sources}; "
                "install the sources themselves: pip install -e ."
            )


def contents(folder: Path) -> dict[str, bytes]:
    """The Python files of a package by their path in it; `minigrad/kernels`, a package of its own, is left out."""
    files = {}
    for place, folders, names in os.walk(folder):
        if place == str(folder) and folder.name == "minigrad":
            folders[:] = [name for name in folders if name != "kernels"]
        for name in names:
            if name.endswith(".py"):
                path = Path(place, name)
                files[str(path.relative_to(folder))] = path.read_bytes()
    return files
