"""Which launches of a recording may run side by side in its CUDA graph: those that share no memory that one of them writes.

Gradients of weights, which few launches wait for, go to a second branch, all others stay on the first. A launch of one branch
waits for the last launch before it on the other that it shares memory with, if one of the two may write there. What counts is
the memory itself, from its first byte to its last: where a block of the pool holds one array after another, their users are
ordered.

Each branch runs in the order of the recording, and any two launches whose order matters keep it: results are those of one
chain, to the last bit. A kernel whose inputs are not listed in INPUTS may write whatever it is given; what is no kernel of
minigrad's may write anywhere.
"""

from collections.abc import Iterator
from types import FunctionType
from typing import Any, NamedTuple

from minigrad.devices.base import Call
from minigrad.kernels.cuda.tools.array import CudaArray

INPUTS = {  # how many arguments, the first ones, a kernel only reads (kernels/contract.py)
    "conv.conv_forward": 3,
    "conv.conv_backward_x": 3,
    "conv.conv_backward_w": 3,
    "depthwise.depthwise_backward_x": 3,
    "depthwise.depthwise_backward_w": 3,
    "dropout.dropout": 3,
    "elementwise.activate_backward": 4,
    "elementwise.relu_backward": 2,
    "gemm.gemm": 3,
    "movement.strided_read": 4,
    "norm.batch_norm_backward": 10,
    "norm.batch_norms_backward": 10,
    "reduce.sum_forward": 1,
}
GRADIENTS_OF_WEIGHTS = {"conv.conv_backward_w", "depthwise.depthwise_backward_w"}

Bytes = tuple[int, int]  # the first, and the one behind the last


class Use(NamedTuple):
    """What a launch does with memory; `anywhere` if that is not known."""

    reads: list[Bytes]
    writes: list[Bytes]
    anywhere: bool
    of_weights: bool  # a gradient of weights, for the second branch

    def comes_first(self, later: "Use") -> bool:
        """Whether a later launch has to wait for this one."""
        if self.anywhere or later.anywhere:
            return True
        return meet(self.writes, later.writes) or meet(self.writes, later.reads) or meet(self.reads, later.writes)


class Place(NamedTuple):
    """Where a launch goes: on the second branch or not; and the launch of the other branch that it waits for, or None."""

    beside: bool
    after: int | None


def name_of(kernel: Any) -> str:
    """family.kernel of one of minigrad's; "" of any other function."""
    package, _, family = getattr(kernel, "__module__", "").rpartition(".")
    return f"{family}.{kernel.__name__}" if type(kernel) is FunctionType and package == "minigrad.kernels.cuda" else ""


def bytes_of(argument: Any) -> Iterator[Bytes]:
    """The memory of the arrays in an argument."""
    if isinstance(argument, CudaArray):
        if argument.size:
            yield argument.pointer, argument.pointer + argument.nbytes
    elif isinstance(argument, list | tuple):
        for part in argument:
            yield from bytes_of(part)


def meet(some: list[Bytes], others: list[Bytes]) -> bool:
    """Whether any bytes are in both."""
    return any(a < other_end and other < end for a, end in some for other, other_end in others)


def use_of(kernel: Any, arguments: tuple[Any, ...]) -> Use:
    """What a launch of a kernel does."""
    name = name_of(kernel)
    inputs = INPUTS.get(name, 0)
    is_product_of_turned = name == "gemm.gemm" and arguments[4] and not arguments[5]  # A^T B, as x^T dy
    return Use(
        list(bytes_of(arguments[:inputs])),
        list(bytes_of(arguments[inputs:])),
        not name,
        name in GRADIENTS_OF_WEIGHTS or is_product_of_turned,
    )


def places(uses: list[Use]) -> list[Place]:
    """Where each launch of a recording goes."""
    found: list[Place] = []
    waited = {False: -1, True: -1}  # by branch: the last launch of the other that it has waited for
    for i, use in enumerate(uses):
        beside = use.of_weights and not use.anywhere
        after = None
        for j in range(i - 1, waited[beside], -1):
            if found[j].beside != beside and uses[j].comes_first(use):
                after = waited[beside] = j
                break
        found.append(Place(beside, after))
    return found


def kernel_uses(calls: list[Call]) -> list[Use]:
    """The uses of launches as a recording notes them: a partial of (precision, kernel), and the kernel's arguments."""
    return [use_of(function.args[1] if hasattr(function, "args") else function, given) for function, given in calls]
