"""Plain weights in safetensors files, as other tools write and read them; the file says whose layout they are in.

A checkpoint of a run is another thing: `mg.checkpoint`. The entry "format" of the header's metadata is "pt" for PyTorch's names
and layouts, which PyTorch's own tools write, and "minigrad" for ours.
"""

import math
import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minigrad.checkpoint import library, write_atomically
from minigrad.checkpoint.contents import DTYPES
from minigrad.interop.pairs import Axes, Names
from minigrad.interop.pytorch import from_torch, torch_arrays
from minigrad.nn import Module

AnyModule = TypeVar("AnyModule", bound=Module)
SURPLUS = 16_000_000  # numbers that a file may hold beyond the model's, to be named when they are compared
FORMATS = {"pt": "torch", "minigrad": "minigrad"}  # what the metadata say, and what we call it


def save_safetensors(
    model: Module,
    path: str | os.PathLike[str],
    *,
    layout: str = "minigrad",
    names: Names = None,
    example: Any = None,
    axes: Axes = None,
) -> None:
    """Write a model's parameters and buffers to a safetensors file, which is replaced in one go.

    `layout` is "minigrad", or "torch": names and layouts of PyTorch's, by the arguments of `mg.interop.from_torch`, to be read
    by `safetensors.torch.load_file`. Needs the extra `checkpoint`. Raises ValueError as `from_torch` does.
    """
    check_layout(layout)
    safetensors = library()
    if layout == "torch":
        arrays = torch_arrays(model, names, example, axes)
    else:
        check_unused(names, example, axes)
        arrays = {name: np.asarray(t) for name, t in model.state_dict().items()}
    kept = next(name for name, ours in FORMATS.items() if ours == layout)
    write_atomically(Path(path), safetensors.numpy.save(arrays, {"format": kept}))


def load_safetensors(
    model: AnyModule,
    path: str | os.PathLike[str],
    *,
    layout: str | None = None,
    names: Names = None,
    example: Any = None,
    axes: Axes = None,
) -> AnyModule:
    """Put the weights of a safetensors file into a model, in place, and return it.

    The file's metadata say whose layout it is, minigrad's or PyTorch's; of one that does not say, `layout` must, "minigrad" or
    "torch": a square weight fits both ways. For PyTorch's the other arguments are those of `mg.interop.from_torch`. Needs the
    extra `checkpoint`. Raises ValueError for a file that is damaged, does not fit, or is in the other layout, and then
    changes nothing; FileNotFoundError.
    """
    arrays, kept = read(path, sum(t.size for t in model.state_dict().values()))
    if layout is not None:
        check_layout(layout)
    told = FORMATS.get(kept or "")
    if kept is not None and kept.startswith("minigrad checkpoint"):
        raise ValueError(f"{path} is a checkpoint of a whole run; load it by mg.checkpoint.load(path, model=model)")
    if told is None and layout is None:
        raise ValueError(
            f"{path} does not say whose layout its weights are in (its format is {kept!r}); a square weight would fit both "
            'ways: pass layout="torch" or layout="minigrad"'
        )
    if told is not None and layout not in (None, told):
        raise ValueError(f"{path} says that it is in the layout {told!r}, not {layout!r}")
    if (told or layout) == "torch":
        return from_torch(model, arrays, names=names, example=example, axes=axes)
    check_unused(names, example, axes)
    model.load_state_dict(arrays)
    return model


def read(path: str | os.PathLike[str], expected: int) -> tuple[dict[str, np.ndarray], str | None]:
    """(the arrays of a file, the format that its metadata name); ValueError for many more numbers than are expected."""
    library()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no dict
            count = sum(math.prod(part.get_shape()) for part in slices.values())
            if count > expected + SURPLUS:
                raise ValueError(f"{path} holds {count:,} numbers, and the model {expected:,}: it is another model's")
            for name, part in slices.items():
                if part.get_dtype() not in DTYPES:
                    raise ValueError(
                        f"{path} holds {name} in {part.get_dtype()}, which NumPy lacks; convert it to float32"
                    )
            return {name: file.get_tensor(name) for name in slices}, (file.metadata() or {}).get("format")
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error


def check_layout(layout: str) -> None:
    """Raise ValueError for a name that is no layout."""
    if layout not in FORMATS.values():
        raise ValueError(f"layout must be 'minigrad' or 'torch', not {layout!r}")


def check_unused(names: Names, example: Any, axes: Axes) -> None:
    """Raise ValueError for arguments that only PyTorch's layout needs."""
    given = {"names": names, "example": example, "axes": axes}
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is for PyTorch's layout, and this is minigrad's, with its own names")
