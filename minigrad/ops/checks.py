"""Checks of the tensors that ops of several families take."""

from minigrad.tensor import FLOATS, Tensor


def float_tensor(name: str, x: object) -> Tensor:
    """x itself; TypeError unless it is a float tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} needs a Tensor, not {type(x).__name__}; make one with mg.tensor(...)")
    if x._data.dtype not in FLOATS:
        raise TypeError(f"{name} needs a float32 or float64 tensor, not {x.dtype}; convert with .to('float32')")
    return x


def image_tensor(name: str, x: Tensor) -> Tensor:
    """x itself; TypeError unless it is a float tensor, ValueError unless it is (N, H, W, C)."""
    if float_tensor(name, x).ndim != 4:
        raise ValueError(f"{name} needs images (N, H, W, C), not shape {x.shape}")
    return x
