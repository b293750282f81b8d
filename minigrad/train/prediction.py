"""The outputs of a model for data without targets."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from minigrad.checks import integer
from minigrad.data.loader import Loader
from minigrad.data.sources import Samples
from minigrad.devices import get_device
from minigrad.nn import Module
from minigrad.nn.module import Value
from minigrad.tensor import Tensor
from minigrad.train.evaluation import ROWS, as_arrays, device_name, evaluating, explained, on_device


def predict(
    model: Module, data: "np.ndarray | Tensor | Samples | Iterable[object]", *, batch_size: int | None = None
) -> Value:
    """What the model makes of all rows of the data, in their order, batch by batch, in evaluation mode and off the tape.

    The modules' training flags are put back. But for rounding, a row's outputs do not depend on the batch it is in.

    Args:
        model: on any device; the batches go to it.
        data: all inputs as one array; or what makes them when asked, like `ImageFolder.images`; or a Loader, of whose batches
            the first array counts: its samples come in their order, whether it shuffles or not, and none is left out; or
            any other batches, of which the first array counts too.
        batch_size: rows in a batch of one array, 256 by default; a Loader has its own.

    Returns:
        One array (rows, ...) with the model's outputs; of a model that returns a tuple or a dict, the same of such arrays.

    Raises:
        ValueError: there are no batches, or `batch_size` is given for batches that are made already.
        TypeError: the data is nothing of that kind, or of a dtype that the model does not take.
    """
    device = get_device(device_name(model))
    forward = explained(on_device(model, device), model.parameters()[0].dtype)  # type: ignore[arg-type]  # no loss here
    with evaluating(model):
        parts = [as_arrays(forward(inputs)) for inputs in inputs_of(data, batch_size)]
    if not parts:
        raise ValueError("there is nothing to predict: no batches came, or an iterator that was used up before")
    return joined(parts)


def inputs_of(data: object, batch_size: int | None) -> Iterator[np.ndarray]:
    """The inputs of each batch."""
    size = ROWS if batch_size is None else integer("batch_size", batch_size)
    if isinstance(data, Tensor):
        data = data.numpy()
    if isinstance(data, np.ndarray):
        if not data.ndim:
            raise ValueError("the data is a single number, where rows along axis 0 were expected")
        for start in range(0, max(1, len(data)), size):
            yield data[start : start + size]
        return
    if isinstance(data, Samples):
        data = Loader(data, batch_size=size)
    elif batch_size is not None:
        raise ValueError("batch_size is for one array; the batches of a Loader, or of a list, have their sizes already")
    if isinstance(data, Loader):
        data = in_order(data)
    if isinstance(data, tuple | str) or not isinstance(data, Iterable):
        raise TypeError(f"predict takes an array of inputs, or a Loader, not a {type(data).__name__}")
    for batch in data:
        inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(inputs, np.ndarray):
            hint = "; name the inputs in the Loader, like keys=('image',)" if isinstance(inputs, Mapping) else ""
            raise TypeError(f"a batch must be an array, or begin with one, not {type(inputs).__name__}{hint}")
        yield inputs


def in_order(loader: Loader) -> Iterator[object]:
    """All samples of a loader in their order; its position stays."""
    twin = loader.twin()
    twin.shuffle = twin.drop_last = False
    return twin.one_epoch()


def joined(parts: list[Value]) -> Value:
    """The outputs of several batches as one, by rows."""
    first = parts[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(parts)
    if isinstance(first, dict):
        return {name: joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple | list):
        columns = [joined(list(column)) for column in zip(*parts, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)
    return first
