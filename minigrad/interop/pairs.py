"""Each tensor of a model beside PyTorch's: the names of both, and how one is laid out as the other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad.interop.order import Orders, flattened_orders
from minigrad.nn import BatchNorm, Conv1d, Conv2d, ConvTranspose2d, Dropout, Linear, Module, MultiheadAttention
from minigrad.nn.recurrent import Recurrent
from minigrad.tensor import Tensor

Names = Mapping[str, str] | Callable[[str], str] | None
Axes = Mapping[str, Sequence[int]] | None

# By layer: {ours: (PyTorch's, our axes as they lie in PyTorch's)}
LAYERS: dict[type[Module], dict[str, tuple[str, tuple[int, ...]]]] = {
    Linear: {"weight": ("weight", (1, 0)), "bias": ("bias", (0,))},
    MultiheadAttention: {"in_proj_weight": ("in_proj_weight", (1, 0)), "in_proj_bias": ("in_proj_bias", (0,))},
    Conv1d: {"weight": ("weight", (2, 1, 0)), "bias": ("bias", (0,))},
    Conv2d: {"weight": ("weight", (2, 3, 1, 0)), "bias": ("bias", (0,))},
    ConvTranspose2d: {"weight": ("weight", (2, 3, 0, 1)), "bias": ("bias", (0,))},
    BatchNorm: {
        "gamma": ("weight", (0,)),
        "beta": ("bias", (0,)),
        "running_mean": ("running_mean", (0,)),
        "running_var": ("running_var", (0,)),
    },
}
SINGLE = np.dtype(np.float32)
OURS_ALONE = {(Dropout, "counter"), (MultiheadAttention, "counter")}  # the place in the random numbers


@dataclass
class Pair:
    """A tensor here and its like in PyTorch. Without one here, PyTorch's may only be `fill` everywhere."""

    own: str
    theirs: str
    tensor: Tensor | None
    shape: tuple[int, ...]  # here
    axes: tuple[int, ...]  # ours = theirs.transpose(axes)
    order: np.ndarray | None = None  # of the features, see minigrad.interop.order
    fill: float = 0.0
    dtype: np.dtype = SINGLE  # of what is filled
    counts: bool = False  # number of batches so far, which PyTorch counts and does not use: any value will do

    @property
    def their_shape(self) -> tuple[int, ...]:
        """The shape in PyTorch."""
        return tuple(self.shape[self.axes.index(i)] for i in range(len(self.axes)))

    @property
    def feature_axis(self) -> int:
        """Our axis that `order` is about: the inputs of a weight, the features of a vector."""
        return max(0, len(self.shape) - 2)

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """PyTorch's values as we have them."""
        array = array.transpose(self.axes)
        if self.order is not None:
            array = np.take(array, np.argsort(self.order), axis=self.feature_axis)
        return np.ascontiguousarray(array).reshape(self.shape)

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Our values as PyTorch has them; a copy."""
        if self.order is not None:
            array = np.take(array, self.order, axis=self.feature_axis)
        return np.array(array.transpose(np.argsort(self.axes)), order="C")


def pairs_of(model: Module, names: Names = None, example: Any = None, axes: Axes = None) -> list[Pair]:
    """A pair for every tensor of the model, in the order of its modules.

    `names` gives PyTorch's name of a module by ours: a function, or a dict of names of modules, where what is below one goes
    along. `axes` says of other parameters than those of our layers, by name, how PyTorch's axes are transposed to ours.
    Raises ValueError for a parameter of which that is not known, and where the order of features is not known.
    """
    model.state_dict()  # raises for parameters where nobody looks for them
    orders, given = flattened_orders(model, example), dict(axes or {})
    pairs: list[Pair] = []
    for path, module in model.modules():
        theirs = renamed(path, names)
        pairs += pairs_of_module(module, path, theirs, orders, given)
    if given:
        raise ValueError(f"axes names {', '.join(given)}, and the model has no other parameters of these names")
    return pairs


def pairs_of_module(module: Module, path: str, theirs: str, orders: Orders, axes: dict[str, Any]) -> Iterator[Pair]:
    """The pairs of a module's own tensors."""
    kind = next((kind for kind in LAYERS if isinstance(module, kind)), None)
    known = {} if kind is None else LAYERS[kind]
    for name, t in vars(module).items():
        if not isinstance(t, Tensor) or any(isinstance(module, k) and name == n for k, n in OURS_ALONE):
            continue
        own = joined(path, name)
        their_name, order = known.get(name, (name, None))
        if own in axes:
            order = tuple(int(a) for a in axes.pop(own))
        if order is None and t.ndim == 2 and isinstance(module, Recurrent):
            order = (1, 0)
        if order is None and t.ndim < 2:
            order = tuple(range(t.ndim))
        if order is None or sorted(order) != list(range(t.ndim)):
            raise ValueError(
                f"{own} {t.shape} belongs to a {type(module).__name__}, of which it is not known how PyTorch lays it out; pass "
                f"axes={{{own!r}: (...)}}, with which PyTorch's array is transposed to ours, (0, 1, ...) if it is the same"
            )
        yield Pair(own, joined(theirs, their_name), t, t.shape, order, orders.get(id(t._data)))
    if isinstance(module, BatchNorm):
        shape = (module.features,)
        if (module.gamma is None) != (module.beta is None):  # PyTorch has both or none
            missing, fill = ("weight", 1.0) if module.gamma is None else ("bias", 0.0)
            yield Pair(
                joined(path, missing),
                joined(theirs, missing),
                None,
                shape,
                (0,),
                fill=fill,
                dtype=module.running_mean.dtype,
            )
        yield Pair(
            joined(path, "num_batches_tracked"), joined(theirs, "num_batches_tracked"), None, (), (), counts=True
        )


def renamed(path: str, names: Names) -> str:
    """PyTorch's name of a module."""
    if callable(names):
        return names(path)
    for prefix in sorted(names or {}, key=len, reverse=True):
        if not prefix or path == prefix or path.startswith(f"{prefix}."):
            return joined(names[prefix], path[len(prefix) :].lstrip("."))  # type: ignore[index]  # there is one
    return path


def joined(path: str, name: str) -> str:
    """A dotted name."""
    return f"{path}.{name}" if path and name else path or name
