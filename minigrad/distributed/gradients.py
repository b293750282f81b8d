"""The same model in all processes: sent out once, and kept the same by averaging the gradients of each step."""

import math
import zlib
from typing import Any

import numpy as np

from minigrad.checks import number
from minigrad.distributed.alike import agree_on_optimizer
from minigrad.exchange import Session, current, launches
from minigrad.modes import at_work, begin, read, state
from minigrad.nn import BatchNorm, Dropout, Module, SyncBatchNorm
from minigrad.optim import Optimizer
from minigrad.tensor import FLOATS, Tensor

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: multiples of it are far apart


def session_at_work() -> Session | None:
    """The processes, if there are several; RuntimeError before `init`."""
    session = current()
    if session is None:
        raise RuntimeError("the processes do not know each other yet; call mg.distributed.init() first")
    return session if session.world > 1 else None


def broadcast(model: Module) -> None:
    """Give all processes the parameters and buffers of rank 0, in place.

    But for the seeds of Dropout: each process gets one of its own, which follows from that of rank 0, since equal ones would
    drop the same places of all parts of a batch. RanksDiffer, in every process, for models that are not alike.
    """
    session = session_at_work()
    if session is None:
        return
    session.agree("the model", shapes(model))
    tensors = [*(t for _, t in model.named_parameters()), *(t for _, t in model.named_buffers())]
    values = [t._device.to_host(t._data) for t in tensors]  # of the CPU the arrays themselves
    session.send(values, "the model of rank 0")
    counters = {id(module.counter) for _, module in model.modules() if isinstance(module, Dropout)}
    for t, array in zip(tensors, values, strict=True):
        if id(t) in counters:
            seed = int(array[0]) + session.rank * GOLDEN
            array[0] = np.uint64(seed % (1 << 64))
        if array is not t._data:
            t._device.write(t._data, array)
        t._version[0] += 1


def shapes(model: Module) -> dict[str, str]:
    """What a model holds: names, dtypes and shapes, and whether in the memory of a GPU."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: f"{t.dtype}{list(t.shape)}" + (" on a GPU" if t.device == "cuda" else "") for name, t in named}


def average_gradients(model: Module, samples: float = 1.0) -> None:
    """Replace each gradient of a model by its average over all processes, in place; then all have the same, to the bit.

    So with the running statistics of BatchNorm layers, which have seen only the batch of their own process; of SyncBatchNorm
    they are the same already. `samples` is how many the loss of this process was the mean of: averages are weighted by it, so
    that parts of different lengths are as one batch. One exchange for all parameters; added in float64, rank by rank, so the
    same number of processes gives the same bits on any network. In a captured step it is a launch like any other.

    Between GPUs NCCL moves the numbers, on the stream of the device.

    Raises RuntimeError before `init`, ImportError on a GPU without nccl4py, RanksDiffer, in every process, where the gradients
    are of other parameters or not as long, ValueError for samples that are negative, not finite, or none in all processes.
    """
    session = session_at_work()
    if session is None:
        return
    found = gradients_of(model) | statistics_of(model)
    samples = number("samples", samples, math.inf)
    begin("average_gradients")
    for dtype in FLOATS:
        named = {name: t for name, t in found.items() if t._data.dtype == dtype}
        if not named:
            continue
        tensors = [*named.values()]
        device = at_work(tensors[0]._device)
        arrays = [t._data for t in tensors]
        label = f"gradients of {which(named)}"
        launches.check_exchanges(session, device, label, sum([array.nbytes for array in arrays]))
        launches.average(session, device, label, arrays, arrays, samples)
        for t in tensors:
            t._version[0] += 1


def gradients_of(model: Module) -> dict[str, Tensor]:
    """The gradients there are, by their parameters' names."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if state.recording is not None:
            state.recording.reads_grad(parameter)
            grad = parameter._grad
        else:
            grad = parameter.grad
        if grad is not None:
            found[name] = grad
    return found


def statistics_of(model: Module) -> dict[str, Tensor]:
    """The running statistics that differ from process to process."""
    norms = [(n, m) for n, m in model.modules() if isinstance(m, BatchNorm) and not isinstance(m, SyncBatchNorm)]
    found: dict[str, Tensor] = {}
    for name, norm in norms:
        if norm.training:
            found |= {f"{name}.running_mean": norm.running_mean, f"{name}.running_var": norm.running_var}
    for t in found.values():
        read(t)
    return found


def which(named: dict[str, Tensor]) -> str:
    """What is averaged, in a few letters: two processes that have gradients of other parameters are told."""
    text = "".join([f"{name}{t.shape};" for name, t in named.items()])
    return f"{zlib.crc32(text.encode()):08x}"


class Averaging:
    """An optimizer whose `step(samples)` averages the gradients over all processes first.

        optimizer = mg.distributed.Averaging(mg.optim.SGD(model.parameters(), lr=0.1), model)

    All else is that of the optimizer it is made of. When it is made, the model of rank 0 is given to all. The optimizer's state
    is not: RanksDiffer, in every process, for optimizers that are not alike.
    """

    def __init__(self, optimizer: Optimizer, model: Module) -> None:
        self.optimizer, self.model = optimizer, model
        broadcast(model)
        if (session := session_at_work()) is not None:
            agree_on_optimizer(session, optimizer, model)

    def step(self, samples: float = 1.0) -> None:
        """Average, then update; `samples` as in `average_gradients`."""
        average_gradients(self.model, samples)
        self.optimizer.step()

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":  # while a copy is being made
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("optimizer", "model"):
            object.__setattr__(self, name, value)
        else:
            setattr(self.optimizer, name, value)
