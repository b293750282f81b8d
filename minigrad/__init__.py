"""minigrad: a small tape-based autograd engine whose hot loops are Numba kernels."""

from pathlib import Path
from typing import TYPE_CHECKING

if (
    not Path(__file__).with_name("kernels").is_dir()
):  # sources without the link minigrad/kernels, as zip files leave them
    __path__.append(str(Path(__file__).parent.parent))  # where `kernels` is

import numba  # noqa: F401 - before ours: the garbage collector then runs at cheaper moments, 20 ms less in all

from minigrad import models, nn, optim, testing
from minigrad.anomaly import AnomalyError
from minigrad.capture import capture
from minigrad.devices.precision import matmul_precision
from minigrad.dlpack import from_dlpack
from minigrad.kernels.build.progress import UnexpectedCompile, no_compile
from minigrad.kernels.cpu.tools.threads import get_num_threads, set_num_threads
from minigrad.modes import CaptureError, detect_anomaly, enable_grad, is_grad_enabled, no_grad
from minigrad.ops import (
    abs,
    add,
    avg_pool2d,
    batch_norm,
    binary_cross_entropy_with_logits,
    clip,
    concat,
    conv2d,
    cos,
    cross_entropy,
    div,
    dropout,
    elu,
    embedding,
    equal,
    erf,
    exp,
    expm1,
    gelu,
    global_avg_pool,
    greater,
    greater_equal,
    group_norm,
    hard_sigmoid,
    huber_loss,
    isfinite,
    isinf,
    isnan,
    kl_div,
    l1_loss,
    layer_norm,
    leaky_relu,
    less,
    less_equal,
    linear,
    local_response_norm,
    log,
    log1p,
    log_softmax,
    logical_and,
    logical_not,
    logical_or,
    matmul,
    max,
    max_pool2d,
    maximum,
    mean,
    minimum,
    mish,
    mse_loss,
    mul,
    nll_loss,
    not_equal,
    pow,
    power,
    reciprocal,
    relu,
    reshape,
    rms_norm,
    selu,
    sigmoid,
    sign,
    silu,
    sin,
    softmax,
    softplus,
    sqrt,
    square,
    sub,
    sum,
    tan,
    tanh,
    transpose,
    where,
)
from minigrad.ops.pointwise import elementwise
from minigrad.random import manual_seed
from minigrad.tape import Op
from minigrad.tensor import Tensor, tensor
from minigrad.version import __version__ as __version__

if TYPE_CHECKING:
    from minigrad import checkpoint, data, distributed, inspect, interop, onnx, sklearn, train
else:

    def __getattr__(name: str) -> object:
        if name in (
            "checkpoint",
            "data",
            "distributed",
            "inspect",
            "interop",
            "onnx",
            "sklearn",
            "train",
        ):  # imported when first used: `import minigrad` stays quick
            from importlib import import_module

            return import_module(f"minigrad.{name}")
        raise AttributeError(f"module 'minigrad' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is public, for completion; the modules that are loaded when first used are among it."""
    return [*__all__, *[name for name in globals() if name.startswith("__")]]


__all__ = [
    "AnomalyError",
    "CaptureError",
    "Op",
    "Tensor",
    "UnexpectedCompile",
    "abs",
    "add",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "capture",
    "checkpoint",
    "clip",
    "concat",
    "conv2d",
    "cos",
    "cross_entropy",
    "data",
    "detect_anomaly",
    "distributed",
    "div",
    "dropout",
    "elementwise",
    "elu",
    "embedding",
    "enable_grad",
    "equal",
    "erf",
    "exp",
    "expm1",
    "from_dlpack",
    "gelu",
    "get_num_threads",
    "global_avg_pool",
    "greater",
    "greater_equal",
    "group_norm",
    "hard_sigmoid",
    "huber_loss",
    "inspect",
    "interop",
    "is_grad_enabled",
    "isfinite",
    "isinf",
    "isnan",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "less",
    "less_equal",
    "linear",
    "local_response_norm",
    "log",
    "log1p",
    "log_softmax",
    "logical_and",
    "logical_not",
    "logical_or",
    "manual_seed",
    "matmul",
    "matmul_precision",
    "max",
    "max_pool2d",
    "maximum",
    "mean",
    "minimum",
    "mish",
    "models",
    "mse_loss",
    "mul",
    "nll_loss",
    "nn",
    "no_compile",
    "no_grad",
    "not_equal",
    "onnx",
    "optim",
    "pow",
    "power",
    "reciprocal",
    "relu",
    "reshape",
    "rms_norm",
    "selu",
    "set_num_threads",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "sklearn",
    "softmax",
    "softplus",
    "sqrt",
    "square",
    "sub",
    "sum",
    "tan",
    "tanh",
    "tensor",
    "testing",
    "train",
    "transpose",
    "where",
]
