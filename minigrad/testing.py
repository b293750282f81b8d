"""Checks for ops, public so that users can check their own: gradients by finite differences, results by a reference."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from minigrad.derivatives import grad
from minigrad.ops import concat
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike


__all__ = ["check_forward", "check_grads"]


def check_grads(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    *inputs: object,
    device: str | None = None,
    eps: float = 1e-6,
    rtol: float = 1e-6,
    atol: float = 1e-7,
    directions: int = 3,
    full_size: int = 64,
    seed: int = 0,
    order: int = 1,
) -> None:
    """Assert that `function`'s gradients are right, in float64, by central differences.

    Every float input becomes a float64 tensor that requires a gradient; other inputs are passed on. The result is weighted
    by a fixed random array v, so that one backward gives vᵀJ. Inputs of up to `full_size` elements are then checked
    element by element, larger ones along random directions (Gaussian projections, which miss a wrong gradient with
    probability 0). Keep inputs off kinks by more than `eps`. With order=2 the gradients are derived themselves, and their
    gradients are checked in the same way, with order=3 those of these. Of several results all that are of floats count. Raises
    AssertionError that names the input and the element, ValueError if no input is of floats, and TypeError if a result is no
    tensor.
    """
    rng = np.random.default_rng(seed)
    arrays = {i: np.array(x, np.float64) for i, x in enumerate(inputs) if is_float(x)}
    if not arrays:
        came = ", ".join(type_name(x) for x in inputs) or "none"
        raise ValueError(f"check_grads: there is no input of floats whose gradient to check; the inputs are: {came}")

    def call(values: dict[int, np.ndarray], requires_grad: bool) -> tuple[Tensor, dict[int, Tensor]]:
        tensors = {i: Tensor(v, np.float64, device, requires_grad=requires_grad) for i, v in values.items()}
        return as_one(function(*[tensors.get(i, x) for i, x in enumerate(inputs)])), tensors

    y, tensors = call(arrays, True)
    weights = rng.standard_normal(y.shape)
    y.backward(Tensor(weights, np.float64, device))
    rounding = np.finfo(np.float64).eps * float(np.sum(np.abs(y.numpy() * weights))) / eps  # of the difference quotient

    def weighted(index: int, value: np.ndarray) -> float:
        return float(np.sum(call({**arrays, index: value}, False)[0].numpy() * weights))

    for i, x in arrays.items():
        grad = tensors[i].grad
        dx = np.zeros_like(x) if grad is None else grad.numpy()
        assert dx.shape == x.shape, f"input {i}: gradient of shape {dx.shape}, expected {x.shape}"
        if x.size <= full_size:
            steps = [
                (f"element {tuple(map(int, np.unravel_index(j, x.shape)))}", unit(x.shape, j)) for j in range(x.size)
            ]
        else:
            steps = [(f"direction {k}", rng.standard_normal(x.shape)) for k in range(directions)]
        for where, step in steps:
            numeric = (weighted(i, x + eps * step) - weighted(i, x - eps * step)) / (2 * eps)
            analytic = float(np.sum(dx * step))
            scale = max(abs(numeric), abs(analytic))
            noise = atol + 4 * rounding + 1e-9 * float(np.sum(np.abs(dx * step))) / np.sqrt(max(x.size, 1))
            assert abs(numeric - analytic) <= noise + rtol * scale, (
                f"gradient of input {i}, {where}: backward gives {analytic:.10g}, finite differences {numeric:.10g}"
            )

    if order > 1:
        slopes = functools.partial(slope, function, seed)
        check_grads(
            slopes, *inputs, device=device, eps=eps, rtol=rtol, atol=atol, directions=directions, full_size=full_size,
            seed=seed + 1, order=order - 1,
        )  # fmt: skip


def as_one(y: object) -> Tensor:
    """A result as it is, or several, those that are of floats, one after another."""
    for part in y if isinstance(y, tuple) else (y,):
        if not isinstance(part, Tensor):
            raise TypeError(
                f"check_grads: the function must return a Tensor, or a tuple of them, not {type(part).__name__}"
            )
    if isinstance(y, tuple):
        return concat([part.reshape(-1) for part in y if part.dtype.kind == "f"])
    return y  # type: ignore[return-value]


def slope(function: Callable[..., Tensor | tuple[Tensor, ...]], seed: int, *inputs: object) -> Tensor:
    """The gradients of a function on the tape, weighted and added up to one number."""
    rng = np.random.default_rng(seed)
    given = list(inputs)
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor) and x.dtype.kind == "f" and not x.requires_grad:
            given[i] = leaf = x.detach()
            leaf.requires_grad = True
    xs = [x for x in given if isinstance(x, Tensor) and x.dtype.kind == "f"]
    y = as_one(function(*given))
    weights = Tensor(rng.standard_normal(y.shape), np.float64, y._device)
    total = (xs[0] * 0.0).sum()  # a function of the inputs, where the gradients are none
    for dx in grad(y, xs, weights, create_graph=True, allow_unused=True):
        if dx is not None:
            total = total + (dx * Tensor(rng.standard_normal(dx.shape), np.float64, y._device)).sum()
    return total


def check_forward(
    function: Callable[..., Tensor],
    reference: "Callable[..., ArrayLike]",
    *inputs: object,
    device: str | None = None,
    dtype: "DTypeLike | None" = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Assert that `function` on tensors gives what `reference` gives on the same NumPy arrays.

    Float inputs become tensors (of `dtype` if given). Tolerances default to a few roundings of the result's dtype.
    """
    arrays = [np.asarray(x, dtype or np.asarray(x).dtype) if is_float(x) else x for x in inputs]
    y = function(*[Tensor(np.asarray(a), device=device) if is_float(a) else a for a in arrays])
    expected = np.asarray(reference(*arrays))
    precision = float(np.finfo(y.dtype).eps) if y.dtype.kind == "f" else 0.0
    assert y.shape == expected.shape, f"result of shape {y.shape}, expected {expected.shape}"
    np.testing.assert_allclose(
        y.numpy(),
        expected,
        rtol=20 * precision if rtol is None else rtol,
        atol=20 * precision if atol is None else atol,
    )


def is_float(x: object) -> bool:
    """Whether an input is an array (or list, or Tensor) of floats, hence differentiable."""
    if isinstance(x, Tensor):
        x = x.numpy()
    return isinstance(x, np.ndarray | float | list | np.floating) and np.asarray(x).dtype.kind == "f"


def type_name(x: object) -> str:
    """What an input is, for an error."""
    return f"{x.dtype} {type(x).__name__}" if isinstance(x, Tensor | np.ndarray) else type(x).__name__


def unit(shape: tuple[int, ...], position: int) -> np.ndarray:
    """An array of zeros with a one at a flat position."""
    e = np.zeros(shape)
    e.reshape(-1)[position] = 1
    return e
