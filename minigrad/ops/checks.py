"""Checks of the tensors that ops of several families take."""

from typing import Never

import numpy as np

from minigrad.tensor import FLOATS, Tensor


def float_tensor(name: str, x: object) -> Tensor:
    """x itself; TypeError unless it is a float tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} needs a Tensor, not {type(x).__name__}; make one with mg.tensor(...)")
    if x._data.dtype not in FLOATS:
        mend = "convert with .to('float32')"
        if x.dtype == np.uint8:  # which .to would make a float of, for a model to be trained on 0 to 255
            way = "mg.data.Scale()" if x.ndim == 4 else "array.astype(np.float32) / 255"
            mend = f"pixels of 0 to 255 become float32 from 0 to 1 by {way}"
        raise TypeError(f"{name} needs a float32 or float64 tensor, not {x.dtype}; {mend}")
    return x


def refuse_dtypes(name: str, **tensors: Tensor | None) -> Never:
    """Raise TypeError: the tensors, those that are there, have not one dtype."""
    given = ", ".join(f"{which} is {t.dtype}" for which, t in tensors.items() if t is not None)
    raise TypeError(
        f"{name}: dtypes differ: {given}; convert with .to(...), or the array that a tensor is made of with .astype(np.float32)"
    )


def image_tensor(name: str, x: Tensor) -> Tensor:
    """x itself; TypeError unless it is a float tensor, ValueError unless it is (N, H, W, C)."""
    if float_tensor(name, x).ndim != 4:
        raise ValueError(f"{name} needs images (N, H, W, C), not shape {x.shape}")
    return x
