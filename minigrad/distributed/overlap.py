"""Gradients exchanged while backward goes on: in a few buckets, each on its way when the tape has left its last gradient."""

import math
from typing import Any

from minigrad import tape
from minigrad.checks import integer, number
from minigrad.devices import Device
from minigrad.distributed.gradients import gradients_of, session_at_work, statistics_of, which
from minigrad.exchange import Session, launches
from minigrad.modes import at_work, begin, read_grad
from minigrad.nn import Module
from minigrad.tape import Op
from minigrad.tensor import FLOATS, Tensor

BUCKETS = 4


def backward(loss: Tensor, model: Module, samples: float = 1.0, buckets: int = BUCKETS) -> None:
    """`loss.backward()` and `average_gradients(model, samples)` at the same time; the gradients have the same bits.

    A thread exchanges a bucket of gradients as soon as the last of them is there, in the order in which backward comes to the
    parameters, the last layers first. There are up to `buckets` of them, of about as many bytes each. The last has what is
    only there at the end: the running statistics of BatchNorm, gradients with a hook, those from a backward before. In a
    captured step each bucket has a launch that begins its exchange, and one launch waits for all.

    It pays where an exchange takes about as long as backward, over a slow network, and costs where it is short, since the
    thread needs a core: docs/distributed.md has the numbers. All processes use it, or none, with as many buckets.

    Raises what `average_gradients` does, and ValueError on a GPU, where NCCL's calls stand on one stream with the kernels.
    """
    integer("buckets", buckets)
    session = session_at_work()
    if session is None:
        loss.backward()
        return
    if loss.device == "cuda":
        raise ValueError(
            "gradients of a GPU are exchanged after backward, since NCCL's calls stand on the stream of the kernels: call "
            "loss.backward() and mg.distributed.average_gradients(model, samples) instead"
        )
    overlapped = Overlapped(session, loss, model, number("samples", samples, math.inf), buckets)
    tape.backward(loss, passed=overlapped.passed)
    overlapped.finish()


class Overlapped:
    """The buckets of a backward, and how far it is."""

    def __init__(self, session: Session, loss: Tensor, model: Module, samples: float, count: int) -> None:
        self.session, self.model, self.samples = session, model, samples
        self.device: Device = at_work(loss._device)
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        self.uses = {
            op: [leaf for leaf in leaves if leaf in self.names and not leaf._hooks]
            for op, leaves in tape.last_uses(loss).items()
        }
        self.buckets = cut([leaf for leaves in self.uses.values() for leaf in leaves], count)
        self.complete: set[Tensor] = set()
        self.begun: dict[Tensor, tuple[Tensor, int]] = {}  # by parameter: its gradient, and which version is exchanged
        self.averages: list[Any] = []
        self.next = 0  # the bucket that goes on its way next

    def passed(self, op: Op) -> None:
        """Backward has left an op: the gradients that it was the last to add to are complete."""
        self.complete.update(self.uses.get(op, ()))
        while self.next < len(self.buckets) - 1 and self.complete.issuperset(self.buckets[self.next]):
            self.start(self.buckets[self.next])
            self.next += 1

    def start(self, bucket: list[Tensor]) -> None:
        """Begin to exchange the gradients of a bucket."""
        for parameter in bucket:
            read_grad(parameter)
        found = {parameter: grad for parameter in bucket if (grad := parameter._grad) is not None}
        self.begun |= {parameter: (grad, grad._version[0]) for parameter, grad in found.items()}
        self.exchange({self.names[parameter]: grad for parameter, grad in found.items()})

    def exchange(self, named: dict[str, Tensor]) -> None:
        """Begin to average tensors in place."""
        begin("average_gradients")
        for dtype in FLOATS:
            found = {name: t for name, t in named.items() if t._data.dtype == dtype}
            if found:
                arrays = [t._data for t in found.values()]
                label = f"gradients of {which(found)}"
                started = launches.start_average(self.session, self.device, label, arrays, self.samples)
                self.averages.append(started)

    def finish(self) -> None:
        """Exchange what is left, and wait for all."""
        for bucket in self.buckets[self.next : -1]:  # an op gave no gradient: backward did not come there
            self.start(bucket)
        for parameter, (grad, version) in self.begun.items():
            if parameter._grad is not grad or grad._version[0] != version:
                raise RuntimeError(
                    f"the gradient of {self.names[parameter]} was changed after it went to the other processes: by an op whose "
                    "backward goes backward itself. Use loss.backward() and average_gradients(model, samples)"
                )
        exchanged = {self.names[parameter] for parameter in self.begun}
        rest = {name: grad for name, grad in gradients_of(self.model).items() if name not in exchanged}
        rest |= statistics_of(self.model)
        self.exchange(rest)
        launches.finish_averages(self.device, self.averages)
        for grad in [*[grad for grad, _ in self.begun.values()], *rest.values()]:
            grad._version[0] += 1


def cut(parameters: list[Tensor], count: int) -> list[list[Tensor]]:
    """Up to so many buckets of parameters, in their order, of about as many bytes each."""
    total, done = sum([p._data.nbytes for p in parameters]), 0
    buckets: list[list[Tensor]] = [[]]
    for parameter in parameters:
        if buckets[-1] and done + parameter._data.nbytes / 2 >= total * len(buckets) / count:
            buckets.append([])
        buckets[-1].append(parameter)
        done += parameter._data.nbytes
    return buckets
