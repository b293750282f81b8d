"""Arithmetic of the numbers that a graph computes shapes from."""

from collections.abc import Sequence

import numpy as np


def divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A quotient; of integers without what is left, towards 0, as ONNX has it."""
    if a.dtype.kind == "f":
        return a / b
    if (b == 0).any():
        raise ValueError("the file divides a length by 0")
    return np.trunc(a / b).astype(a.dtype)


def remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What is left of a division of integers, with the divisor's sign."""
    if (b == 0).any():
        raise ValueError("the file divides a length by 0")
    return np.mod(a, b)


def kept(result: np.ndarray, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """The result as an array of the inputs' dtype."""
    return np.asarray(result, inputs[0].dtype)
