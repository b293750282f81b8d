"""The ops: one file per family, each with the Op classes and their public functions."""

import minigrad.tensor  # noqa: F401 - first: it and the tape are whole before an op is made of them
from minigrad.ops.arithmetic import add, assign, div, mul, sub
from minigrad.ops.branches import Branch, concat_branches
from minigrad.ops.comparison import equal, greater, greater_equal, less, less_equal, not_equal
from minigrad.ops.conv import conv2d
from minigrad.ops.dropout import dropout
from minigrad.ops.elementwise import exp, log, power, relu, sigmoid, sqrt, tanh
from minigrad.ops.gemm import linear, matmul
from minigrad.ops.loss import cross_entropy, log_softmax, mse_loss, softmax
from minigrad.ops.lrn import local_response_norm
from minigrad.ops.movement import concat, copied, getitem, reshape, to, transpose
from minigrad.ops.norm import Normalization, batch_norm
from minigrad.ops.pool import avg_pool2d, global_avg_pool, max_pool2d
from minigrad.ops.reduce import max, mean, sum
from minigrad.ops.sync_norm import refuse_gpu, sync_batch_norm

__all__ = [
    "Branch",
    "Normalization",
    "add",
    "assign",
    "avg_pool2d",
    "batch_norm",
    "concat",
    "concat_branches",
    "conv2d",
    "copied",
    "cross_entropy",
    "div",
    "dropout",
    "equal",
    "exp",
    "getitem",
    "global_avg_pool",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "linear",
    "local_response_norm",
    "log",
    "log_softmax",
    "matmul",
    "max",
    "max_pool2d",
    "mean",
    "mse_loss",
    "mul",
    "not_equal",
    "power",
    "refuse_gpu",
    "relu",
    "reshape",
    "sigmoid",
    "softmax",
    "sqrt",
    "sub",
    "sum",
    "sync_batch_norm",
    "tanh",
    "to",
    "transpose",
]
