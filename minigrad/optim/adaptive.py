"""Optimizers that divide by averages of the squared gradients: AdaGrad, RMSprop, Adam and AdamW."""

from collections.abc import Mapping
from typing import ClassVar

from minigrad.kernels.contract import Array, Optim
from minigrad.optim.optimizer import Arrays, Entry, Optimizer, hyperparameter
from minigrad.optim.settings import Params
from minigrad.tensor import FLOATS

WEIGHT_DECAY = "L2 penalty: this times the parameter is added to its gradient."


class AdaGrad(Optimizer):
    """AdaGrad: s += g², p -= lr g / (√s + eps), with g + weight_decay p for g (Duchi, Hazan & Singer 2011)."""

    names = ("lr", "eps", "weight_decay")
    weight_decay = hyperparameter("weight_decay", WEIGHT_DECAY)

    def __init__(
        self,
        params: Params,
        lr: float = 0.01,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        *,
        ema: float | None = None,
    ) -> None:
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay, ema=ema)

    def kept(self) -> tuple[str, ...]:
        """The sums of squares."""
        return ("sums",)

    def update(
        self, kernels: Optim, params: Arrays, grads: Arrays, state: dict[str, Arrays], groups: list[int], hyper: Array
    ) -> None:
        """One launch of the adagrad kernel."""
        kernels.adagrad(params, grads, state["sums"], groups, hyper)


class RMSprop(Optimizer):
    """RMSprop: s = alpha s + (1 - alpha) g², p -= lr g / (√s + eps), with g + weight_decay p for g (Tieleman & Hinton 2012).

    `centered` takes the variance, s - m² with m the average of g, for s (Graves 2013), and 0 where rounding has made it
    negative. With momentum, v = momentum v + g / (√s + eps) and p -= lr v. Numbers and arguments are PyTorch's.
    """

    names = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered")
    alpha = hyperparameter("alpha", "Kept share of the average of squares.")
    momentum = hyperparameter("momentum", "Kept share of the velocity.")
    weight_decay = hyperparameter("weight_decay", WEIGHT_DECAY)

    def __init__(
        self,
        params: Params,
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        ema: float | None = None,
    ) -> None:
        super().__init__(
            params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
            centered=bool(centered), ema=ema,
        )  # fmt: skip

    def kept(self) -> tuple[str, ...]:
        """Averages of squares, and what a group with momentum, or a centered one, needs."""
        velocity = ("velocity",) if self.hyper[:, 4].any() else ()
        means = ("means",) if self.hyper[:, 5].any() else ()
        return ("squares", *means, *velocity)

    def update(
        self, kernels: Optim, params: Arrays, grads: Arrays, state: dict[str, Arrays], groups: list[int], hyper: Array
    ) -> None:
        """One launch of the rmsprop kernel."""
        for name, slot, column in (("momentum", "velocity", 4), ("centered", "means", 5)):
            if slot not in self.slots and self.hyper[:, column].any():
                raise ValueError(f"{name} was set on an RMSprop made without; make it with what it shall have")
        kernels.rmsprop(
            params, grads, state["squares"], state.get("means", []), state.get("velocity", []), groups, hyper
        )


class Adam(Optimizer):
    """Adam with bias correction (Kingma & Ba 2015), with g + weight_decay p for g.

    Updates are counted for each parameter, so that one whose first gradient comes late begins as the others did.
    """

    names = ("lr", "beta1", "beta2", "eps", "weight_decay")
    pairs: ClassVar = {"betas": ("beta1", "beta2")}
    betas = hyperparameter("betas", "Kept shares of the running means of gradients and of their squares.")
    weight_decay = hyperparameter("weight_decay", WEIGHT_DECAY)
    decoupled = False  # whether weight decay is AdamW's

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        ema: float | None = None,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, ema=ema)

    def kept(self) -> tuple[str, ...]:
        """Averages of gradients and of their squares, and counts."""
        return ("means", "squares", "counts")

    def of_today(self, saved: Mapping[str, Entry]) -> dict[str, Entry]:
        """minigrad 0.1.0 counted steps once for all parameters of a dtype."""
        if "counts.0" in saved or not all(f"steps.{k}" in saved for k in range(len(FLOATS))):
            return dict(saved)
        found = {name: entry for name, entry in saved.items() if not name.startswith("steps.")}
        counts = {f"counts.{i}": saved[f"steps.{FLOATS.index(p.dtype)}"] for i, p in enumerate(self.params)}
        return found | counts

    def update(
        self, kernels: Optim, params: Arrays, grads: Arrays, state: dict[str, Arrays], groups: list[int], hyper: Array
    ) -> None:
        """One launch of the adam kernel."""
        kernels.adam(params, grads, state["means"], state["squares"], state["counts"], groups, self.decoupled, hyper)


class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov & Hutter 2019): p -= lr weight_decay p first."""

    weight_decay = hyperparameter(
        "weight_decay", "The parameter loses this share, times the learning rate, in each step."
    )
    decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        ema: float | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, ema=ema)
