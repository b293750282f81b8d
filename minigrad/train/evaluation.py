"""Loss and metrics of a model over batches it does not learn from."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from minigrad.capture import Captured, each_tensor
from minigrad.checkpoint import Json
from minigrad.devices import Device, get_device, is_array
from minigrad.modes import no_grad
from minigrad.nn import Module
from minigrad.nn.module import Value
from minigrad.ops import cross_entropy
from minigrad.tensor import Tensor

Metric = Callable[[Value, np.ndarray], float]  # (outputs, targets) of a batch, as NumPy arrays, to a mean over its rows
Loss = Callable[[Value, Tensor], Tensor]
Step = Callable[..., tuple[Tensor, Value]]  # of a batch's arrays or tensors, to its loss and the model's outputs


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of the rows whose largest logit is the label's: logits (..., classes), integer labels (...)."""
    return float((logits.argmax(axis=-1) == labels).mean())


def evaluate(
    model: Module,
    batches: Iterable[object],
    *,
    loss: Loss = cross_entropy,
    metrics: Mapping[str, Metric] | None = None,
    capture: bool = True,
) -> dict[str, float]:
    """Means over all rows of the loss and the metrics, in evaluation mode and off the tape.

    A smaller last batch counts by its rows; it is recorded as a second shape, and nothing is compiled for it. The modules'
    training flags are put back.

    Args:
        model: on any device; the batches go to it.
        batches: pairs (inputs, targets) of NumPy arrays. Of a Loader its first epoch is taken, and its position stays.
        loss: a function of (outputs, targets) that returns the mean over the batch.
        metrics: functions of NumPy arrays (outputs, targets) that return a mean over the batch, by name. None is
            `accuracy` with cross_entropy and nothing with another loss.
        capture: record the forward pass once for each shape (see `mg.capture`).

    Returns:
        {"loss": ..., and each metric by its name}

    Raises:
        ValueError: there are no batches, or a batch is no pair.
    """
    return Evaluator(model, loss, default_metrics(loss, metrics), capture)(epoch_of(batches))


def default_metrics(loss: Loss, metrics: Mapping[str, Metric] | None) -> dict[str, Metric]:
    """The metrics, or those that go with the loss."""
    if metrics is None:
        return {"accuracy": accuracy} if loss is cross_entropy else {}
    if "loss" in metrics:
        raise ValueError("a metric cannot be called 'loss', which is there already")
    return dict(metrics)


def epoch_of(batches: Iterable[object]) -> Iterator[object]:
    """One pass over the batches; over a loader's first epoch without moving its position."""
    return batches.one_epoch() if hasattr(batches, "one_epoch") else iter(batches)


def pair(batch: object) -> tuple[np.ndarray, np.ndarray]:
    """The batch as (inputs, targets)."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        came = f"{len(batch)} arrays" if isinstance(batch, tuple | list) else type(batch).__name__
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
        """Count on from there."""
        vars(self).update(state)


class Evaluator:
    """The forward pass of a model in evaluation mode; keeps its recordings from one evaluation to the next."""

    def __init__(self, model: Module, loss: Loss, metrics: Mapping[str, Metric], capture: bool) -> None:
        self.model, self.metrics = model, metrics
        self.device = get_device(device_name(model))
        measured_too = bool(metrics)

        def forward(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Value]:
            outputs = model(inputs)
            return loss(outputs, targets), outputs if measured_too else None

        self.forward: Step = Captured(forward, self.device) if capture else on_device(forward, self.device)

    def __call__(self, batches: Iterable[object]) -> dict[str, float]:
        """Means over one pass."""
        tally = Tally()
        before = [(module, module.training) for _, module in self.model.modules()]
        self.model.eval()
        try:
            with no_grad():
                for inputs, targets in map(pair, batches):
                    loss, outputs = self.forward(inputs, targets)
                    tally.add(measured(loss, outputs, targets, self.metrics), len(inputs))
        finally:
            for module, training in before:
                module.training = training
        if not tally.rows:
            raise ValueError("there is nothing to evaluate: no batches came, or an iterator that was used up before")
        return tally.means()


def measured(loss: Tensor, outputs: Value, targets: np.ndarray, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Loss and metrics of a batch."""
    values = {"loss": loss.item()}
    if metrics:
        arrays = as_arrays(outputs)
        for name, metric in metrics.items():
            values[name] = float(metric(arrays, np.asarray(targets)))
    return values


def on_device(step: Step, device: Device) -> Step:
    """The step, given tensors on the device for the NumPy arrays it is called with."""

    def eager(*arrays: np.ndarray) -> tuple[Tensor, Value]:
        own = device.array_type
        return step(*[Tensor._wrap(a, device) if type(a) is own else Tensor(a, device=device) for a in arrays])

    return eager
