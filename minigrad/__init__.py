"""minigrad: a small tape-based autograd engine whose hot loops are Numba kernels."""

import importlib
from typing import TYPE_CHECKING

from minigrad import models, nn, optim, testing
from minigrad.capture import capture
from minigrad.kernels.cpu.compile import UnexpectedCompile, no_compile
from minigrad.kernels.cpu.threads import get_num_threads, set_num_threads
from minigrad.ops import (
    add,
    batch_norm,
    concat,
    cross_entropy,
    div,
    dropout,
    exp,
    linear,
    log,
    log_softmax,
    matmul,
    max,
    mean,
    mul,
    power,
    relu,
    reshape,
    sigmoid,
    softmax,
    sqrt,
    sub,
    sum,
    tanh,
    transpose,
)
from minigrad.random import manual_seed
from minigrad.tape import AnomalyError, CaptureError, Op, detect_anomaly, enable_grad, is_grad_enabled, no_grad
from minigrad.tensor import Tensor, tensor

if TYPE_CHECKING:
    from minigrad import data, inspect
else:

    def __getattr__(name: str) -> object:
        if name in ("data", "inspect"):  # imported when first used, so that `import minigrad` stays quick
            return importlib.import_module(f"minigrad.{name}")
        raise AttributeError(f"module 'minigrad' has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "AnomalyError",
    "CaptureError",
    "Op",
    "Tensor",
    "UnexpectedCompile",
    "add",
    "batch_norm",
    "capture",
    "concat",
    "cross_entropy",
    "data",
    "detect_anomaly",
    "div",
    "dropout",
    "enable_grad",
    "exp",
    "get_num_threads",
    "inspect",
    "is_grad_enabled",
    "linear",
    "log",
    "log_softmax",
    "manual_seed",
    "matmul",
    "max",
    "mean",
    "models",
    "mul",
    "nn",
    "no_compile",
    "no_grad",
    "optim",
    "power",
    "relu",
    "reshape",
    "set_num_threads",
    "sigmoid",
    "softmax",
    "sqrt",
    "sub",
    "sum",
    "tanh",
    "tensor",
    "testing",
    "transpose",
]
