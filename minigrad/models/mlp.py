"""Fully connected networks, and the one of the Batch Normalization paper's section 4.1."""

import functools
import operator
from collections.abc import Sequence

from minigrad.nn import BatchNorm, Flatten, Linear, Module, Sequential, init
from minigrad.nn.layers import activation_layer


class MLP(Sequential):
    """Hidden layers of one activation, each with or without Batch Normalization, and a last layer of logits.

    By default the network of Ioffe & Szegedy 2015, section 4.1: 784 binary pixels, three hidden layers of 100 sigmoid
    units, 10 classes, weights drawn from a Gaussian of standard deviation `sigma`, biases zero. With BN a hidden layer is
    Linear without bias, BatchNorm, activation: beta does the work of the bias. Input (N, ...) is flattened to (N, inputs).
    """

    def __init__(
        self,
        inputs: int = 784,
        hidden: Sequence[int] = (100, 100, 100),
        classes: int = 10,
        *,
        batch_norm: bool = True,
        activation: str = "sigmoid",
        sigma: float = 0.05,
    ) -> None:
        activation_layer(activation)  # raises for a name that is none, with no hidden layers too
        gaussian = functools.partial(init.gaussian, std=sigma)
        layers: list[Module] = [Flatten()]
        width = operator.index(inputs)
        for units in hidden:
            layers.append(Linear(width, units, bias=not batch_norm, weight_init=gaussian))
            if batch_norm:
                layers.append(BatchNorm(units))
            layers.append(activation_layer(activation))
            width = units
        layers.append(Linear(width, classes, weight_init=gaussian))
        super().__init__(*layers)
