"""The library onnx, an extra, and what of the format is written and read."""

from typing import Any

from minigrad.kernels.build.settings import install

OPSET = 18  # written: the first in which all reductions take their axes alike
IR = 8  # written: the version of the format that came with it
OLDEST, NEWEST = 11, 25  # opsets that are read
LARGEST = 2**31 - 1  # bytes of a file, protobuf's limit


def library() -> Any:
    """The package onnx; ImportError that says how to get it."""
    try:
        import onnx
    except ImportError:
        raise ImportError(f"minigrad.onnx needs the package onnx; install it with: {install('onnx')}") from None
    return onnx
