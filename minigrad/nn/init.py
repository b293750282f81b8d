"""Initial weights: each draws from the next random stream of `mg.manual_seed`.

Weights are (in, out) for layers that multiply a matrix and (kh, kw, in, out) for convolutions: fan_in is the product of
all axes but the last, fan_out that of all axes but the one before it.
"""

import math

import numpy as np

from minigrad.random import stream

__all__ = [
    "fans",
    "gaussian",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "ones",
    "uniform",
    "zeros",
]


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight."""
    if len(shape) < 2:
        raise ValueError(f"a weight needs at least two axes to have a fan_in and a fan_out, not shape {shape}")
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def gaussian(shape: tuple[int, ...], std: float = 0.01) -> np.ndarray:
    """Normal with mean 0 and standard deviation `std`."""
    return (std * stream().standard_normal(shape)).astype(np.float32)


def uniform(shape: tuple[int, ...], limit: float) -> np.ndarray:
    """Uniform in +-limit."""
    return stream().uniform(-limit, limit, shape).astype(np.float32)


def glorot_uniform(shape: tuple[int, ...]) -> np.ndarray:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    limit = math.sqrt(6 / sum(fans(shape)))
    return stream().uniform(-limit, limit, shape).astype(np.float32)


def glorot_normal(shape: tuple[int, ...]) -> np.ndarray:
    """Normal with variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010)."""
    return gaussian(shape, math.sqrt(2 / sum(fans(shape))))


def he_normal(shape: tuple[int, ...]) -> np.ndarray:
    """Normal with variance 2 / fan_in, for ReLU (He et al. 2015)."""
    return gaussian(shape, math.sqrt(2 / fans(shape)[0]))


def he_uniform(shape: tuple[int, ...]) -> np.ndarray:
    """Uniform in +-sqrt(6 / fan_in), for ReLU (He et al. 2015)."""
    limit = math.sqrt(6 / fans(shape)[0])
    return stream().uniform(-limit, limit, shape).astype(np.float32)


def zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros."""
    return np.zeros(shape, np.float32)


def ones(shape: tuple[int, ...]) -> np.ndarray:
    """Ones."""
    return np.ones(shape, np.float32)
