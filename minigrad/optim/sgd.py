"""Gradient descent with one learning rate for all elements of a parameter."""

from collections.abc import Mapping

from minigrad.kernels.contract import Array, Optim
from minigrad.optim.optimizer import Arrays, Optimizer, hyperparameter
from minigrad.optim.settings import Params


class SGD(Optimizer):
    """Stochastic gradient descent: v = momentum v + g, p -= lr v, with g + weight_decay p for g.

    nesterov=True steps by g + momentum v instead of v (Sutskever et al. 2013, as in PyTorch).
    """

    names = ("lr", "momentum", "nesterov", "weight_decay")
    momentum = hyperparameter("momentum", "Kept share of the velocity.")
    weight_decay = hyperparameter("weight_decay", "L2 penalty: this times the parameter is added to its gradient.")

    def __init__(
        self,
        params: Params,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        ema: float | None = None,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, nesterov=bool(nesterov), weight_decay=weight_decay, ema=ema)

    def check_group(self, numbers: Mapping[str, float]) -> None:
        """Nesterov's step is one of momentum."""
        if numbers["nesterov"] and not numbers["momentum"]:
            raise ValueError("nesterov needs a momentum above 0")

    def kept(self) -> tuple[str, ...]:
        """Velocities where a group has momentum."""
        return ("velocity",) if self.hyper[:, 1].any() else ()

    def update(
        self, kernels: Optim, params: Arrays, grads: Arrays, state: dict[str, Arrays], groups: list[int], hyper: Array
    ) -> None:
        """One launch of the sgd kernel."""
        if "velocity" not in self.slots and self.hyper[:, 1].any():
            raise ValueError("momentum was set on an SGD made without; make it with the momentum it shall have")
        kernels.sgd(params, grads, state.get("velocity", []), groups, hyper)
