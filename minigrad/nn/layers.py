"""Layers: parameters and state; the math is in minigrad.ops."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import overload

import numpy as np

from minigrad import ops
from minigrad.checks import integer, number, share
from minigrad.exchange import Session, current
from minigrad.kernels.activations import NUMBERS
from minigrad.modes import state, takes_part
from minigrad.nn import init
from minigrad.nn.containers import Listed
from minigrad.nn.module import Module, Parameter, Value
from minigrad.random import counter_state
from minigrad.tensor import Tensor

Initializer = Callable[[tuple[int, ...]], np.ndarray]


class Linear(Module):
    """Fully connected: (..., in_features) to (..., out_features), y = x W + b.

    Parameters `weight` (in, out), by default Glorot uniform, and `bias` (out,), zeros, unless bias=False.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, weight_init: Initializer = init.glorot_uniform
    ) -> None:
        self.in_features, self.out_features = integer("in", in_features), integer("out", out_features)
        self.weight = Parameter(weight_init((self.in_features, self.out_features)))
        self.bias = Parameter(init.zeros((self.out_features,))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x W + b."""
        return ops.linear(x, self.weight, self.bias)

    def settings(self) -> str:
        """in, out and whether there is a bias."""
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias is not None else ", bias=False")


class BatchNorm(Module):
    """Batch Normalization over the last axis (Ioffe & Szegedy 2015), for dense layers and images alike.

    Training normalizes by the statistics of the batch and keeps running averages, of which `decay` is the kept share;
    evaluation normalizes by those, or by what `recompute_statistics` put in their place. Parameters `gamma` and `beta`
    (features,), unless turned off; buffers `running_mean` and `running_var`.
    """

    unwatched = frozenset({"has_statistics"})  # it only decides about a warning

    def __init__(
        self, features: int, *, decay: float = 0.9, eps: float = 1e-5, gamma: bool = True, beta: bool = True
    ) -> None:
        self.features = integer("features", features)
        share("decay, the kept share of the running averages,", decay)
        number("eps", eps, math.inf)
        self.decay, self.eps = decay, eps
        self.gamma = Parameter(init.ones((features,))) if gamma else None
        self.beta = Parameter(init.zeros((features,))) if beta else None
        self.running_mean = Tensor(init.zeros((features,)))
        self.running_var = Tensor(init.ones((features,)))
        self.has_statistics = False

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Normalized, scaled and shifted, and with "relu" or "sigmoid" activated in the same pass."""
        if self.training and not self.has_statistics:
            self.has_statistics = True
        elif not self.has_statistics:
            warnings.warn(
                "BatchNorm is evaluated before any training step: its running statistics are still mean 0, variance 1",
                stacklevel=2,
            )
            self.has_statistics = True  # one warning is enough
        return self.normalized(x, activation)

    def normalized(self, x: Tensor, activation: str | None) -> Tensor:
        """By the statistics of x in training, by the running averages otherwise."""
        return ops.batch_norm(
            x, self.gamma, self.beta, self.running_mean, self.running_var,
            training=self.training, decay=self.decay, eps=self.eps, activation=activation,
        )  # fmt: skip

    def for_training(self) -> ops.Normalization:
        """What training normalizes by, for an op that does it together with other work."""
        takes_part(self)
        if not self.has_statistics:
            self.has_statistics = True
        return ops.Normalization(self.gamma, self.beta, self.running_mean, self.running_var, self.decay, self.eps)

    def loaded(self) -> None:
        """The statistics are real now."""
        self.has_statistics = True

    def settings(self) -> str:
        """Features and what differs from the defaults."""
        off = [f"{name}=False" for name in ("gamma", "beta") if getattr(self, name) is None]
        return ", ".join([str(self.features), f"decay={self.decay}", f"eps={self.eps}", *off])


def processes() -> Session | None:
    """The processes of a run, if there are several."""
    session = current()
    return session if session is not None and session.world > 1 else None


class SyncBatchNorm(BatchNorm):
    """Batch Normalization by the statistics of the batches of all processes of a run, in training.

    With `mg.distributed.init()` called, and more than one process: so that small parts of a batch are normalized as the whole
    would be in one process. Else, and in evaluation, it is BatchNorm. All processes use their layers in the same order. Parts
    may be of different lengths. `mg.nn.convert_sync_batch_norm(model)` makes the BatchNorms of a model such.
    """

    def normalized(self, x: Tensor, activation: str | None) -> Tensor:
        """By the statistics of the x of all processes in training."""
        session = processes()
        if not self.training or session is None:
            return super().normalized(x, activation)
        return ops.sync_batch_norm(x, self.for_training(), session, activation)


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """max(x, 0)."""
        return ops.relu(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        """1 / (1 + exp(-x))."""
        return ops.sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        """Hyperbolic tangent."""
        return ops.tanh(x)


class Flatten(Module):
    """(N, ...) to (N, features)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to (N, features)."""
        return x if x.ndim == 2 else x.reshape(x.shape[0], int(np.prod(x.shape[1:], dtype=np.int64)))


class Dropout(Module):
    """In training, zeroes each element with probability p and scales the others by 1 / (1 - p).

    The masks follow from the seed drawn at construction (see `mg.manual_seed`) and a counter of the uses, both in the
    buffer `counter`, so that a resumed run goes on with the same masks.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = number("p", p, 1)
        self.counter = Tensor(counter_state())

    def forward(self, x: Tensor) -> Tensor:
        """x with elements dropped."""
        return ops.dropout(x, self.p, training=self.training, seed=self.counter)

    def settings(self) -> str:
        """The probability."""
        return str(self.p)


ACTIVATIONS: dict[str, type[Module]] = {"relu": ReLU, "sigmoid": Sigmoid, "tanh": Tanh}
FUSED = {ACTIVATIONS[name]: name for name in NUMBERS if name is not None}  # those that BatchNorm applies on the way


def activation_layer(name: str) -> Module:
    """A layer by the activation's name; ValueError for one that there is not."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {name!r}")
    return ACTIVATIONS[name]()


def fused_activation(norm: Module, activation: Module) -> str | None:
    """The activation's name if both modules run as one op: the same bits, with fewer passes over memory.

    Not where each op is looked at (anomaly mode, mg.inspect), or the forward of one of the two was replaced.
    """
    name = FUSED.get(type(activation))
    if name is None or type(norm) not in (BatchNorm, SyncBatchNorm) or state.trace:
        return None
    return None if "forward" in vars(norm) or "forward" in vars(activation) else name


def run(layers: Sequence[Module], x: Value) -> Value:
    """Modules one after another, a BatchNorm together with the activation after it."""
    i, count = 0, len(layers)
    while i < count:
        layer = layers[i]
        i += 1
        name = fused_activation(layer, layers[i]) if isinstance(layer, BatchNorm) and i < count else None
        if name is None:
            x = layer(x)
        else:
            x = layer(x, activation=name)
            i += 1
    return x


def run_branch(branch: Module, x: Value, kind: type[BatchNorm]) -> ops.Branch:
    """A branch up to its last normalization, if it is of this kind, and activation, which are left to `concat_branches`."""
    if type(branch) is not Sequential or "forward" in vars(branch) or not branch.layers:
        return ops.Branch(branch(x), None, None)
    *first, last = branch.layers
    name = FUSED.get(type(last)) if "forward" not in vars(last) else None
    if name is None:
        return ops.Branch(branch(x), None, None)
    norm = first[-1] if first else None
    if type(norm) is kind and norm.training and fused_activation(norm, last):
        return ops.Branch(run(first[:-1], x), norm.for_training(), name)
    return ops.Branch(run(first, x), None, name)


class Sequential(Listed[Module]):
    """Modules one after another; they are named by their numbers.

    `model[i]` is the i-th, `model[i:j]` a Sequential of some: the same modules, with the same parameters. `model[i] = module`
    puts another in its place, and `append`, `extend`, `insert`, `pop` and `del` change it as a list. An optimizer made before
    knows the parameters that there were then.
    """

    kind = Module

    def __init__(self, *layers: Module) -> None:
        self.hold(list(layers))

    def hold(self, items: list[Module]) -> None:
        """Have these layers, instead of those before."""
        self.check_kind(items)
        if "layers" in vars(self) and len(items) != len(self) and type(self).children is not Sequential.children:
            raise TypeError(
                f"the {len(self)} layers of {type(self).__name__} have names: one may be replaced, none be added or taken"
            )
        self.layers = items

    def forward(self, x: Value) -> Value:
        """The last layer's result."""
        return run(self.layers, x)

    def children(self) -> Iterator[tuple[str, Module]]:
        """(number, layer)."""
        return ((str(i), layer) for i, layer in enumerate(self.layers))

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> "Sequential": ...
    def __getitem__(self, index: int | slice) -> Module:
        if not isinstance(index, slice):
            return self.layers[index]
        part = Sequential(*self.layers[index])
        part.training = self.training
        return part

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)


class Concat(Listed[Module]):
    """Branches that read the same input, their results one after another on the last axis; a list as Sequential is."""

    kind = Module

    def __init__(self, *branches: Module) -> None:
        self.hold(list(branches))

    def hold(self, items: list[Module]) -> None:
        """Have these branches, instead of those before."""
        self.check_kind(items)
        self.branches = items

    def forward(self, x: Tensor) -> Tensor:
        """All results, concatenated; the last normalization and activation of a branch write to their place in it."""
        if state.trace:
            return ops.concat([branch(x) for branch in self.branches], axis=-1)
        session = processes()
        if session is not None and any(isinstance(m, SyncBatchNorm) for _, m in self.modules()):
            branches = [run_branch(branch, x, SyncBatchNorm) for branch in self.branches]
            if any(branch.norm is not None for branch in branches):
                return ops.sync_concat_branches(branches, session)
            return ops.concat_branches(branches)
        return ops.concat_branches([run_branch(branch, x, BatchNorm) for branch in self.branches])

    def children(self) -> Iterator[tuple[str, Module]]:
        """(number, branch)."""
        return ((str(i), branch) for i, branch in enumerate(self.branches))

    def __len__(self) -> int:
        return len(self.branches)

    def __getitem__(self, index: int) -> Module:
        return self.branches[index]

    def __iter__(self) -> Iterator[Module]:
        return iter(self.branches)
