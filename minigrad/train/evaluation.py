"""Loss and metrics of a model over batches it does not learn from."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from minigrad.capture import each_tensor
from minigrad.checkpoint import Json
from minigrad.checks import integer, number
from minigrad.data.loader import Loader
from minigrad.devices import Device, get_device, is_array
from minigrad.modes import no_grad
from minigrad.nn import Module
from minigrad.nn.module import Value, modes_kept
from minigrad.ops import cross_entropy
from minigrad.tensor import Tensor
from minigrad.train.fallback import CapturedOrEager

Metric = Callable[[Value, np.ndarray], float]  # (outputs, targets) of a batch, as NumPy arrays, to a mean over its rows
Loss = Callable[[Value, Tensor], Tensor]
Metrics = Mapping[str, Metric] | Iterable[str | Metric] | str | Metric | None  # as given: by name, or several, or one
Step = Callable[..., tuple[Tensor, Value]]  # of a batch's arrays or tensors, to its loss and the model's outputs
NAME_THEM = "name inputs and targets in the Loader, like keys=('image', 'label'), or write a step of your own"
ROWS = 256  # of a batch where nobody says how many


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of the rows whose largest logit is the label's: logits (..., classes), integer labels (...)."""
    return float((logits.argmax(axis=-1) == labels).mean())


def evaluate(
    model: Module,
    batches: Iterable[object],
    *,
    loss: Loss = cross_entropy,
    metrics: Metrics = None,
    capture: bool = True,
) -> dict[str, float]:
    """Means over all rows of the loss and the metrics, in evaluation mode and off the tape.

    A smaller last batch counts by its rows; it is recorded as a second shape, and nothing is compiled for it. The modules'
    training flags are put back.

    Args:
        model: on any device; the batches go to it.
        batches: pairs (inputs, targets) of NumPy arrays, or one such pair with all samples. Of a Loader its first epoch is
            taken, and its position stays.
        loss: a function of (outputs, targets) that returns the mean over the batch.
        metrics: functions of NumPy arrays (outputs, targets) that return a mean over the batch, by name; or one or several
            without names, which have theirs, and "accuracy". None is `accuracy` with cross_entropy and nothing with another
            loss.
        capture: record the forward pass once for each shape (see `mg.capture`).

    Returns:
        {"loss": ..., and each metric by its name}

    Raises:
        ValueError: there are no batches, or a batch is no pair.
    """
    loss = checked_loss(loss)
    return Evaluator(model, loss, measures_of(loss, metrics), capture)(epoch_of(in_batches(batches)))


def checked_loss(loss: Loss) -> Loss:
    """The loss; TypeError unless it can be called."""
    if not callable(loss) or isinstance(loss, type):
        came = f"the class {loss.__name__}" if isinstance(loss, type) else repr(loss)
        raise TypeError(f"loss must be a function of (outputs, targets), as mg.cross_entropy is, not {came}")
    return loss


def measures_of(loss: Loss, metrics: Metrics) -> dict[str, Metric]:
    """The metrics by name, or those that go with the loss."""
    if metrics is None:
        return {"accuracy": accuracy} if loss is cross_entropy else {}
    if isinstance(metrics, Mapping):
        named = list(metrics.items())
    else:
        single = isinstance(metrics, str) or callable(metrics) or not isinstance(metrics, Iterable)
        listed: list[object] = [metrics] if single else list(metrics)  # type: ignore[arg-type]  # it is iterable then
        named = [(m if isinstance(m, str) else getattr(m, "__name__", ""), m) for m in listed]  # type: ignore[misc]
    found: dict[str, Metric] = {}
    for name, metric in named:
        if isinstance(metric, str):
            if metric != "accuracy":
                raise ValueError(
                    f"there is no metric {metric!r}, only 'accuracy'; others are functions, {{name: function}}"
                )
            metric = accuracy
        if not callable(metric) or isinstance(metric, type):
            raise TypeError(f"a metric must be a function of NumPy arrays (outputs, targets), not {metric!r}")
        if not isinstance(name, str) or not name or name == "<lambda>":
            raise ValueError(f"the metric {metric!r} has no name; give it one: metrics={{'name': function}}")
        if name == "loss":
            raise ValueError("a metric cannot be called 'loss', which is there already")
        if name in found:
            raise ValueError(f"two metrics are called {name!r}; give them names: metrics={{'name': function}}")
        found[name] = metric
    return found


def in_batches(data: Iterable[object]) -> Iterable[object]:
    """Batches as they are; of one pair of arrays with all samples, a Loader."""
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, np.ndarray) for part in data):
        return Loader(*data, batch_size=ROWS, shuffle=False)
    return data


def several_times(data: Iterable[object] | None) -> Iterable[object] | None:
    """What can be evaluated again and again, if anything; TypeError or ValueError for what cannot."""
    if data is None:
        return None
    if isinstance(data, np.ndarray | str | Mapping) or not isinstance(data, Iterable):
        raise TypeError(
            f"validation must be a Loader, a list of batches (inputs, targets), or two arrays, not {type(data).__name__}"
        )
    if iter(data) is data:
        raise TypeError(
            "validation is an iterator, which would be used up after the first epoch; pass a Loader or a list"
        )
    if isinstance(data, tuple | list):
        data = in_batches(data)
    if isinstance(data, Loader):
        came = no_pairs(data)
        if came:
            raise ValueError(f"validation must give pairs (inputs, targets), not {came}")
    elif isinstance(data, tuple | list):
        if not data:
            raise ValueError("validation is empty")
        for batch in data:
            pair(batch)
    return data


def epoch_of(batches: Iterable[object]) -> Iterator[object]:
    """One pass over the batches; over a loader's first epoch without moving its position."""
    return batches.one_epoch() if hasattr(batches, "one_epoch") else iter(batches)


def no_pairs(loader: Loader) -> str | None:
    """What the batches of a loader are, where it is known before any is made that they are no pairs."""
    if loader.transform is not None or loader.collate is not None:
        return None
    if loader.keys is not None:
        return None if len(loader.keys) == 2 else f"batches of {len(loader.keys)} entries, keys={loader.keys}"
    if loader.sample_transform is not None:
        return None
    if loader.source.names is not None:
        return f"dicts of {', '.join(loader.source.names)}; {NAME_THEM}"
    return None if len(loader.arrays) in (0, 2) else f"batches of {len(loader.arrays)} arrays"


def pair(batch: object) -> tuple[np.ndarray, np.ndarray]:
    """The batch as (inputs, targets)."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        came = f"{len(batch)} arrays" if isinstance(batch, tuple | list) else type(batch).__name__
        if isinstance(batch, Mapping):
            came = f"a dict of {', '.join(map(str, batch))}; {NAME_THEM}"
        raise ValueError(f"a batch must be a pair (inputs, targets) of arrays, not {came}")
    inputs, targets = batch
    return (
        inputs if is_array(inputs) else np.asarray(inputs),
        targets if is_array(targets) else np.asarray(targets),
    )


def as_arrays(outputs: Value) -> Value:
    """The same nest of tuples, lists and dicts with NumPy arrays for the tensors."""
    return each_tensor(outputs, Tensor.numpy)  # type: ignore[arg-type]


def device_name(model: Module) -> str:
    """The device a model's parameters are on."""
    devices = sorted({p.device for p in model.parameters()})
    if len(devices) != 1:
        raise ValueError(f"the model must have parameters, all on one device; it has them on {devices or 'none'}")
    return devices[0]


class Tally:
    """Sums that become means over rows, and how many rows a second brought."""

    def __init__(self) -> None:
        self.rows = 0
        self.steps = 0
        self.timed_rows = 0
        self.seconds = 0.0  # of the timed rows
        self.sums: dict[str, float] = {}

    def add(self, values: Mapping[str, float], rows: int, seconds: float | None = None) -> None:
        """Count a batch's means, and the time it took unless that is None."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * rows
        self.rows += rows
        self.steps += 1
        if seconds is not None:
            self.timed_rows += rows
            self.seconds += seconds

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: total / self.rows for name, total in self.sums.items()}

    @property
    def images_per_second(self) -> float | None:
        """Timed rows in a second; None if there are none."""
        return self.timed_rows / self.seconds if self.seconds else None

    def state_dict(self) -> dict[str, Json]:
        """All of it."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Count on from there; TypeError or ValueError for what is no such state, changing nothing."""
        if set(state) != set(vars(self)):
            raise ValueError(f"the tally has {sorted(state)}, where {sorted(vars(self))} were expected")
        for name in ("rows", "steps", "timed_rows"):
            integer(name, state[name], 0)
        number("seconds", state["seconds"], math.inf)
        if not isinstance(state["sums"], dict) or not all(isinstance(value, float) for value in state["sums"].values()):
            raise TypeError(f"sums must be numbers by name, not {state['sums']!r}")
        vars(self).update(state)


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode and nothing goes on the tape; after it the training flags are as before."""
    with modes_kept(model), no_grad():
        model.eval()
        yield


class Evaluator:
    """The forward pass of a model in evaluation mode; keeps its recordings from one evaluation to the next."""

    def __init__(
        self,
        model: Module,
        loss: Loss,
        metrics: Mapping[str, Metric],
        capture: bool,
        told: set[str] | None = None,
    ) -> None:
        self.model, self.metrics = model, metrics
        self.device = get_device(device_name(model))
        measured_too = bool(metrics)

        def forward(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Value]:
            outputs = model(inputs)
            return loss(outputs, targets), outputs if measured_too else None

        self.forward = prepared(forward, self.device, model, capture, set() if told is None else told)

    def __call__(self, batches: Iterable[object]) -> dict[str, float]:
        """Means over one pass."""
        tally = self.tally(batches)
        if not tally.rows:
            raise ValueError("there is nothing to evaluate: no batches came, or an iterator that was used up before")
        return tally.means()

    def tally(self, batches: Iterable[object]) -> Tally:
        """Sums over one pass."""
        tally = Tally()
        with evaluating(self.model):
            for inputs, targets in map(pair, batches):
                loss, outputs = self.forward(inputs, targets)
                tally.add(measured(loss, outputs, targets, self.metrics), len(inputs))
        return tally


def measured(loss: Tensor, outputs: Value, targets: np.ndarray, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Loss and metrics of a batch."""
    arrays = as_arrays(outputs) if metrics else None
    return with_metrics(loss.item(), arrays, targets, metrics)


def measured_later(
    device: Any, loss: Tensor, outputs: Value, targets: np.ndarray, metrics: Mapping[str, Metric]
) -> Callable[[], dict[str, float]]:
    """The same, to be called for it: of what the device computes by what was launched before, not by what comes after."""
    read_loss = device.read_later(loss._data)
    readings: list[Callable[[], np.ndarray]] = []
    if metrics:
        each_tensor(outputs, lambda tensor: readings.append(device.read_later(tensor._data)))
        if type(targets) is device.array_type:
            readings.append(device.read_later(targets))

    def read() -> dict[str, float]:
        found = iter([reading() for reading in readings])
        arrays = each_tensor(outputs, lambda _: next(found)) if metrics else None
        return with_metrics(read_loss().item(), arrays, next(found, targets), metrics)

    return read


def with_metrics(loss: float, arrays: Any, targets: np.ndarray, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """A loss, and the metrics of a network's outputs on the host; the targets may be a GPU's."""
    values = {"loss": loss}
    for name, metric in metrics.items():
        values[name] = float(metric(arrays, np.asarray(targets)))
    return values


def share_of(inputs: np.ndarray, rows: int) -> float:
    """The share of a step's rows that a batch has."""
    return len(inputs) / rows if rows else 1.0


def together(found: list[tuple[dict[str, float], int]]) -> tuple[dict[str, float], int]:
    """Means over the rows of several batches, of their means and numbers of rows; and how many rows there are."""
    if len(found) == 1:
        return found[0]
    tally = Tally()
    for values, rows in found:
        tally.add(values, rows)
    return tally.means(), tally.rows


def prepared(step: Step, device: Device, model: Module, capture: bool, told: set[str]) -> Step:
    """The step, to be called with NumPy arrays: captured, if that is asked for and its ops can be, or as it stands.

    `told` has the names of the ops of which a warning said that they cannot.
    """
    eager = on_device(step, device)
    chosen = CapturedOrEager(step, eager, device, model, told) if capture else eager
    return explained(chosen, model.parameters()[0].dtype)


def on_device(step: Step, device: Device) -> Step:
    """The step, given tensors on the device for the NumPy arrays it is called with."""

    def eager(*arrays: np.ndarray) -> tuple[Tensor, Value]:
        own = device.array_type
        return step(*[Tensor._wrap(a, device) if type(a) is own else Tensor(a, device=device) for a in arrays])

    return eager


def explained(step: Step, dtype: np.dtype) -> Step:
    """The step of a model with parameters of this dtype; its TypeErrors say what to do about batches of another."""

    def run(*arrays: np.ndarray) -> tuple[Tensor, Value]:
        try:
            return step(*arrays)
        except TypeError as error:
            hint = mend(arrays, dtype)
            if hint is None:
                raise
            raise TypeError(f"{error}. {hint}") from error

    return run


def mend(arrays: tuple[np.ndarray, ...], dtype: np.dtype) -> str | None:
    """What to do about a batch's arrays (inputs, and perhaps targets) that a model of this dtype does not take, if anything."""
    inputs = arrays[0].dtype
    if inputs == np.uint8:
        pictures = arrays[0].ndim == 4
        way = "Give the Loader transform=mg.data.Scale()" if pictures else "Pass inputs.astype(np.float32) / 255"
        return f"{way}, if they are pixels"
    for name, array in zip(("inputs", "targets"), arrays, strict=False):
        if array.dtype != dtype and (array.dtype.kind == "f" or name == "inputs"):
            return (
                f"The {name} are {array.dtype}{', which is what NumPy makes,' if array.dtype == np.float64 else ''} and the "
                f"model's parameters {dtype}: pass {name}.astype(np.{dtype}), to the Loader if there is one"
            )
    return None
