"""Layers and what belongs to them: parameters and state, no math."""

from minigrad.nn import init
from minigrad.nn.layers import BatchNorm, Concat, Dropout, Flatten, Linear, ReLU, Sequential, Sigmoid, Tanh
from minigrad.nn.module import Module, Parameter
from minigrad.nn.statistics import fold_batch_norm, recompute_statistics

__all__ = [
    "BatchNorm",
    "Concat",
    "Dropout",
    "Flatten",
    "Linear",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "fold_batch_norm",
    "init",
    "recompute_statistics",
]
