"""Layers and what belongs to them: parameters and state, no math."""

from minigrad.nn import init
from minigrad.nn.activations import ELU, GELU, LeakyReLU, SiLU, Softplus
from minigrad.nn.attention import MultiheadAttention
from minigrad.nn.containers import ModuleDict, ModuleList, ParameterList
from minigrad.nn.conv import Conv1d, Conv2d, ConvTranspose2d
from minigrad.nn.layer_norm import Embedding, GroupNorm, LayerNorm, RMSNorm
from minigrad.nn.layers import (
    BatchNorm,
    Concat,
    Dropout,
    Flatten,
    Linear,
    ReLU,
    Sequential,
    Sigmoid,
    SyncBatchNorm,
    Tanh,
)
from minigrad.nn.lrn import LocalResponseNorm
from minigrad.nn.module import Module, Parameter
from minigrad.nn.pool import AvgPool2d, GlobalAvgPool, MaxPool2d
from minigrad.nn.recurrent import GRU, LSTM, RNN
from minigrad.nn.resample import AdaptiveAvgPool2d, Upsample
from minigrad.nn.statistics import convert_sync_batch_norm, fold_batch_norm, recompute_statistics

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm",
    "Concat",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAvgPool",
    "GroupNorm",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "ParameterList",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "SyncBatchNorm",
    "Tanh",
    "Upsample",
    "convert_sync_batch_norm",
    "fold_batch_norm",
    "init",
    "recompute_statistics",
]
