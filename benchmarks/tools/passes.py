"""Forward alone, and forward with its gradients, as users of each framework write them."""

from collections.abc import Callable
from typing import Any


def forward_of(no_grad: Callable, function: Callable, leaves: list) -> Callable[[], Any]:
    """Forward off the tape."""

    def forward() -> Any:
        with no_grad():
            return function(*leaves)

    return forward


def with_gradients(function: Callable, leaves: list, dy: Any, parameters: list | None = None) -> Callable[[], Any]:
    """Forward and backward, by a framework that keeps gradients in `.grad`: of the leaves, and of parameters besides."""

    def both() -> Any:
        for tensor in (*leaves, *(parameters or ())):
            tensor.grad = None
        y = function(*leaves)
        y.backward(dy)
        return y

    return both


def under_jit(jax: Any, function: Callable, inputs: tuple, dy: Any = None) -> Callable[[], list]:
    """[y], or [y, the gradients of all inputs] where dy is given: one function that XLA has compiled."""

    def both(dy: Any, *inputs: Any) -> list:
        y, pull_back = jax.vjp(function, *inputs)
        return [y, *pull_back(dy)]

    compiled = jax.jit((lambda *inputs: [function(*inputs)]) if dy is None else both)
    given = inputs if dy is None else (dy, *inputs)
    return lambda: jax.block_until_ready(compiled(*given))
