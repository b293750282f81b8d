"""What an estimator is asked for, made: its network, its optimizer, its batches. Nothing here needs scikit-learn."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from minigrad import optim
from minigrad.checks import integer
from minigrad.data.loader import Loader
from minigrad.devices import get_device
from minigrad.exchange import current
from minigrad.nn import BatchNorm, Linear, Module, Sequential
from minigrad.nn.layers import activation_layer
from minigrad.optim import Optimizer
from minigrad.random import seeded
from minigrad.train.callbacks import Best
from minigrad.train.history import Row
from minigrad.train.ranks import Ranks
from minigrad.train.run import Run

Factory = Callable[[int, int], Module]  # of the numbers of features and of outputs
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "sgd": functools.partial(optim.SGD, momentum=0.9),
    "rmsprop": optim.RMSprop,
    "adagrad": optim.AdaGrad,
}


def same_everywhere(seed: int) -> int:
    """The seed; RanksDiffer, in every process, where those that train together have others."""
    Ranks(current()).agree(
        "the estimator's random numbers",
        {"seed": seed},
        "set random_state=0, or another number that all have, so that initial weights, batches and validation are the same",
    )
    return seed


def made_model(
    model: Sequence[int] | Factory,
    features: int,
    outputs: int,
    *,
    batch_norm: bool,
    activation: str,
    seed: int,
    device: str,
) -> Module:
    """The network, on its device, with the initial weights that belong to the seed; other random numbers are left alone."""
    if isinstance(model, Module):
        raise TypeError(
            "model must be the widths of hidden layers or a function that makes a network, not a network, which a second fit "
            "would find trained: pass model=lambda features, outputs: ..., or a function of that kind"
        )
    with seeded(seed):
        made = model(features, outputs) if callable(model) else layers(model, features, outputs, batch_norm, activation)
    if not isinstance(made, Module):
        raise TypeError(f"model must make a mg.nn.Module, and it made a {type(made).__name__}")
    return made.to(get_device(device))


def layers(hidden: Sequence[int], features: int, outputs: int, batch_norm: bool, activation: str) -> Sequential:
    """Hidden layers of one activation, each with or without Batch Normalization, and a last layer that is linear."""
    if isinstance(hidden, str) or not isinstance(hidden, Sequence | np.ndarray):
        raise TypeError(
            f"model must be the widths of hidden layers, such as (100,), or a function of the numbers of features and outputs "
            f"that makes a network, not {hidden!r}"
        )
    activation_layer(activation)  # raises for a name that is none, with no hidden layers too
    chain: list[Module] = []
    width = features
    for i, units in enumerate(hidden):
        units = integer(f"model[{i}]", units)
        chain.append(Linear(width, units, bias=not batch_norm))
        if batch_norm:
            chain.append(BatchNorm(units))
        chain.append(activation_layer(activation))
        width = units
    return Sequential(*chain, Linear(width, outputs))


def made_optimizer(
    optimizer: str | Callable[..., Optimizer], model: Module, lr: float, weight_decay: float
) -> Optimizer:
    """The optimizer of the model's parameters: by name, or what a function makes of them."""
    make = OPTIMIZERS.get(optimizer) if isinstance(optimizer, str) else optimizer
    if not callable(make):
        raise ValueError(
            f"optimizer must be {', '.join(map(repr, OPTIMIZERS))}, or what makes one when called with parameters, lr and "
            f"weight_decay, such as mg.optim.Adam, not {optimizer!r}"
        )
    made = make(model.parameters(), lr=lr, weight_decay=weight_decay)
    if not isinstance(made, Optimizer):
        raise TypeError(f"optimizer must make one of mg.optim's, and it made a {type(made).__name__}")
    return made


def normalizes(model: Module) -> bool:
    """Whether it has a Batch Normalization."""
    return any(isinstance(module, BatchNorm) for _, module in model.modules())


def made_loader(x: np.ndarray, targets: np.ndarray, batch_size: int, seed: int, model: Module) -> Loader:
    """Shuffled batches; a last one of a single row, which Batch Normalization could not normalize, is left out of its epoch."""
    size = min(batch_size, len(x))
    if len(x) == 1 and normalizes(model):
        raise ValueError(
            "Batch Normalization cannot train on n_samples=1, whose variance is 0; give more rows, or batch_norm=False"
        )
    alone = normalizes(model) and len(x) % size == 1 and size > 1
    return Loader(x, targets, batch_size=size, seed=seed, drop_last=alone)


class BestWeights:
    """A callback that keeps the model's values of the epoch whose validation loss was least, for `put_back`.

    Each of several processes keeps its own, as each puts them back.
    """

    def __init__(self) -> None:
        self.best = Best("validation_loss", None)
        self.values: dict[str, np.ndarray] = {}

    def on_epoch_end(self, run: Run, row: Row) -> None:
        """Copy them if this epoch is the best so far."""
        if self.best.improved(row):
            self.values = {name: t.numpy() for name, t in run.model.state_dict().items()}

    def put_back(self, model: Module) -> None:
        """Write them into the model; they stay as they are if no epoch had a loss that is a number."""
        if self.values:
            model.load_state_dict(self.values)
