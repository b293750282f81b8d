"""Losses that are a formula of each element: of numbers, of yes and no, of probabilities."""

from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.arrays import is_number
from minigrad.kernels.expressions import exp, log, sigmoid
from minigrad.kernels.expressions import where as chosen
from minigrad.modes import refuse_constant
from minigrad.ops.arithmetic import div, mul, operands
from minigrad.ops.checks import refuse_dtypes
from minigrad.ops.loss import REDUCTIONS, check_reduction, reduced
from minigrad.ops.pointwise import made
from minigrad.ops.reduce import sum
from minigrad.ops.table import softplus
from minigrad.tensor import Tensor
from minigrad.types import Operand

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Number = Any  # a symbol while the formula is traced


def squared(x: Number, t: Number) -> Number:
    """(x - t)^2."""
    return (x - t) * (x - t)


def absolute(x: Number, t: Number) -> Number:
    """|x - t|."""
    return (x - t).abs()


def huber(x: Number, t: Number, delta: Number) -> Number:
    """(x - t)^2 / 2 up to delta, and from there straight on."""
    error = (x - t).abs()
    return chosen(error <= delta, 0.5 * error * error, delta * (error - 0.5 * delta))


def binary(x: Number, t: Number) -> Number:
    """-t log sigmoid(x) - (1 - t) log(1 - sigmoid(x))."""
    return t * softplus(-x) + (1 - t) * softplus(x)  # small losses are exact, where (1 - t) x + softplus(-x) gives 0


def binary_weighted(x: Number, t: Number, p: Number) -> Number:
    """-p t log sigmoid(x) - (1 - t) log(1 - sigmoid(x))."""
    return p * t * softplus(-x) + (1 - t) * softplus(x)


def divergence(x: Number, t: Number) -> Number:
    """t (log t - x), and 0 for t = 0."""
    return chosen(t == 0, t * x, t * (log(t) - x))


def divergence_of_logs(x: Number, t: Number) -> Number:
    """e^t (t - x)."""
    return exp(t) * (t - x)


squared_error, absolute_error = made(squared, name="squared_error"), made(absolute, name="absolute_error")
huber_error = made(huber, name="huber_error")
binary_cross_entropy = made(
    binary, lambda x, t: ((1 - t) * sigmoid(x) - t * sigmoid(-x), -x), name="binary_cross_entropy"
)
weighted_binary_cross_entropy = made(
    binary_weighted,
    lambda x, t, p: (
        (1 - t) * sigmoid(x) - p * t * sigmoid(-x),
        (p - 1) * softplus(-x) - x,
        t * softplus(-x),
    ),
    name="weighted_binary_cross_entropy",
)
kl_divergence = made(divergence, lambda x, t: (-t, log(t) + 1 - x), name="kl_divergence")
kl_divergence_of_logs = made(divergence_of_logs, name="kl_divergence_of_logs")


def mse_loss(output: Tensor, target: Operand, *, reduction: str = "mean") -> Tensor:
    """(output - target)^2, by default the mean over all elements; target is a tensor or an array like the output.

    Both have one shape, which is checked: (n, 1) minus (n,) would pair every output with every target. `reduction` is "mean",
    "sum" or "none". Raises ValueError for other shapes and for the mean of no elements, TypeError for dtypes that differ.
    """
    output, target = alike("mse_loss", output, target)
    check_reduction("mse_loss", reduction)
    return reduced("mse_loss", squared_error(output, target), reduction)


def l1_loss(output: Tensor, target: Operand, *, reduction: str = "mean") -> Tensor:
    """|output - target|, by default the mean over all elements; shapes, reduction and errors as of `mse_loss`."""
    output, target = alike("l1_loss", output, target)
    check_reduction("l1_loss", reduction)
    return reduced("l1_loss", absolute_error(output, target), reduction)


def huber_loss(output: Tensor, target: Operand, *, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """e^2 / 2 for errors e = |output - target| up to delta, then delta (e - delta / 2), by default the mean (Huber 1964).

    Shapes, reduction and errors as of `mse_loss`; ValueError also for a delta that is not above 0.
    """
    output, target = alike("huber_loss", output, target)
    check_reduction("huber_loss", reduction)
    if not is_number(delta) or not delta > 0:
        raise ValueError(f"huber_loss: delta must be a number above 0, not {delta!r}")
    return reduced("huber_loss", huber_error(output, target, delta), reduction)


def binary_cross_entropy_with_logits(
    logits: Tensor,
    target: Operand,
    *,
    weight: "ArrayLike | Tensor | None" = None,
    pos_weight: "ArrayLike | Tensor | None" = None,
    reduction: str = "mean",
) -> Tensor:
    """-t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)), by default the mean over all elements, without overflow.

    Targets t are floats from 0 to 1, a tensor or an array of the shape of the logits x. The numbers are PyTorch's.

    Args:
        weight: each element's loss is multiplied by it; it broadcasts to the logits' shape.
        pos_weight: what t log sigmoid(x) is multiplied by, for classes of which there are few; it broadcasts too.
        reduction: "mean" (over all elements, whatever their weights), "sum" or "none".

    Raises:
        ValueError: shapes that do not match; the mean of no elements.
        TypeError: dtypes that differ.
    """
    name = "binary_cross_entropy_with_logits"
    logits, target = alike(name, logits, target)
    check_reduction(name, reduction)
    if pos_weight is None:
        losses = binary_cross_entropy(logits, target)
    else:
        losses = weighted_binary_cross_entropy(logits, target, spread(name, "pos_weight", pos_weight, logits))
    if weight is not None:
        losses = mul(losses, spread(name, "weight", weight, logits))
    return reduced(name, losses, reduction)


def kl_div(input: Tensor, target: Operand, *, log_target: bool = False, reduction: str = "mean") -> Tensor:
    """t (log t - x), of log-probabilities x and probabilities t, by default the mean over all elements.

    With log_target the target is of log-probabilities too: e^t (t - x). The Kullback-Leibler divergence of whole distributions
    is reduction="batchmean", the sum divided by the length of the first axis; "sum" and "none" are there too. Shapes and errors
    as of `mse_loss`. The numbers are PyTorch's; 0 log 0 is 0.
    """
    input, target = alike("kl_div", input, target)
    check_reduction("kl_div", reduction, (*REDUCTIONS, "batchmean"))
    losses = (kl_divergence_of_logs if log_target else kl_divergence)(input, target)
    if reduction != "batchmean":
        return reduced("kl_div", losses, reduction)
    if not input.ndim or not input.shape[0]:
        raise ValueError(f'kl_div: reduction="batchmean" needs rows along the first axis, not shape {input.shape}')
    return div(sum(losses), float(input.shape[0]))


def alike(name: str, output: Tensor, target: Operand) -> tuple[Tensor, Tensor]:
    """Both as tensors of one dtype and one shape."""
    output, target = operands(name, output, target)
    if output.shape != target.shape:
        raise ValueError(
            f"{name}: output and target must have one shape, not {output.shape} and {target.shape}; reshape one of them"
        )
    return output, target


def spread(name: str, argument: str, weight: object, like: Tensor) -> Tensor:
    """Weights as a tensor beside `like`, to whose shape they broadcast; no gradient goes to them."""
    if not isinstance(weight, Tensor):
        given = np.asarray(weight)
        weight = Tensor(given, None if isinstance(weight, np.ndarray) else like.dtype, like._device)
        if given.ndim:
            refuse_constant(given.shape)
    try:
        fits = np.broadcast_shapes(weight.shape, like.shape) == like.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name}: {argument} of shape {weight.shape} does not broadcast to the logits' shape {like.shape}"
        )
    if weight.dtype != like.dtype:
        refuse_dtypes(name, logits=like, **{argument: weight})
    return weight.detach()
