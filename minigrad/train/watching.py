"""Looking at a run: TensorBoard, curves, which classes are taken for which, and the learning rate to begin with.

The libraries are the extra `watch`, imported when used.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import minigrad.random
from minigrad.checks import integer
from minigrad.data.loader import Loader
from minigrad.kernels.build.settings import install
from minigrad.nn import Module
from minigrad.nn.module import modes_kept
from minigrad.ops import cross_entropy
from minigrad.optim import Optimizer
from minigrad.tensor import Tensor
from minigrad.train.evaluation import Loss, checked_loss, epoch_of, in_batches, pair
from minigrad.train.history import History, Row, meant
from minigrad.train.prediction import predict

if TYPE_CHECKING:
    from minigrad.train.run import Run

WORSE = 4.0  # times the best loss so far: the search has gone too far
SMOOTHING = 0.9  # the kept share of the running mean of the loss


class TensorBoard:
    """A callback that writes each row of the history, with its step, to a folder that `tensorboard --logdir` reads.

    Rows of steps go under "steps/", those of epochs under "epochs/". Needs tensorboardX, which is looked for here and now.
    """

    only_looks = True  # it adds nothing to the rows it is given

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            import tensorboardX
        except ImportError as error:
            raise ImportError(f"TensorBoard needs tensorboardX: {install('watch')}") from error
        self.folder = os.fspath(folder)
        self.new_writer = tensorboardX.SummaryWriter
        self.writer: Any = None

    def on_start(self, run: "Run") -> None:
        """Open a file; what an interrupted run wrote after the step that this one goes on from is dropped."""
        self.writer = self.new_writer(self.folder, purge_step=run.step + 1 if run.step else None)

    def on_log(self, run: "Run", row: Row) -> None:
        """A row of steps."""
        self.write("steps", row)

    def on_epoch_end(self, run: "Run", row: Row) -> None:
        """A row of epochs."""
        self.write("epochs", row)
        self.writer.flush()

    def on_end(self, run: "Run") -> None:
        """Close the file."""
        if self.writer is not None:
            self.writer.close()

    def write(self, group: str, row: Row) -> None:
        """The numbers of a row."""
        for name, value in row.items():
            if name not in ("epoch", "step") and value is not None:
                self.writer.add_scalar(f"{group}/{name}", value, row["step"])


def plot(history: History, names: Sequence[str] | None = None, rows: str = "epochs") -> Any:
    """The curves of a history over the steps, by matplotlib: one panel for each entry, the validation's in the same.

    `names` are entries of the rows, by default loss and metrics; `rows` is "epochs" or "steps". Returns the figure, which
    notebooks show and `.savefig(path)` writes. ValueError for an entry that no row has.
    """
    from matplotlib.figure import Figure

    found = history.rows(rows)
    there = list(dict.fromkeys(name for row in found for name in row))
    beside = ("epoch", "step", "lr", "images_per_second", "seconds")
    wanted = [n for n in there if n not in beside and not n.startswith("validation_")] if names is None else list(names)
    unknown = [name for name in wanted if meant(name, there) not in there]
    if unknown or not wanted:
        raise ValueError(
            f"the {rows} have no {', '.join(map(repr, unknown)) or 'rows'}; there are {', '.join(there) or 'none'}"
        )
    figure = Figure(figsize=(4.6 * len(wanted), 3.4), layout="constrained")
    for i, name in enumerate(wanted, 1):
        axes = figure.add_subplot(1, len(wanted), i)
        for entry in dict.fromkeys([meant(name, there), f"validation_{name}"]):
            points = [(row["step"], row[entry]) for row in found if row.get(entry) is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True), marker="." if len(points) < 30 else None, label=entry.replace("_", " ")
                )
        axes.set(xlabel="step", title=name.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def confusion_matrix(model: Module, data: object) -> np.ndarray:
    """How often each class (row) is taken for each class (column), by scikit-learn: int64 (classes, classes).

    `data` are batches (inputs, integer labels), or one such pair with all samples; of a Loader, its first epoch.
    """
    from sklearn.metrics import confusion_matrix as counted

    batches = in_batches(data)  # type: ignore[arg-type]
    labels = []

    def inputs() -> Iterator[np.ndarray]:
        for batch in epoch_of(batches):
            x, targets = pair(batch)
            labels.append(np.asarray(targets))
            yield x

    logits = predict(model, inputs())
    classes = np.arange(logits.shape[1])
    return counted(np.concatenate(labels), logits.argmax(axis=1), labels=classes)


@dataclass(frozen=True)
class LearningRates:
    """What `find_learning_rate` measured: learning rates, the smoothed loss at each, and the one to begin with."""

    rates: list[float]
    losses: list[float]
    suggestion: float

    def plot(self) -> Any:
        """The curve, by matplotlib; returns the figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.semilogx(self.rates, self.losses)
        axes.axvline(self.suggestion, linestyle="--", label=f"{self.suggestion:.2g}")
        axes.set(xlabel="learning rate", ylabel="loss")
        axes.legend()
        return figure


def find_learning_rate(
    model: Module,
    optimizer: Optimizer,
    loader: Loader,
    *,
    loss: Loss = cross_entropy,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
) -> LearningRates:
    """Train for up to `steps` steps with a learning rate that grows from `low` to `high`, and watch the loss (Smith 2017).

    The suggestion is the rate where the smoothed loss falls fastest. The search ends early where the loss is four times
    its best, or not finite. Model, gradients, optimizer, training flags and random numbers are afterwards as they were, also
    after an error; the loader's position stays. ValueError where fewer than three rates could be tried.
    """
    if not 0 < low < high:
        raise ValueError(f"low and high must be 0 < low < high, not {low} and {high}")
    steps, loss = integer("steps", steps, 3), checked_loss(loss)
    device = optimizer.params[0]._device
    shares = [
        rate / (optimizer.rates[0] or 1.0) for rate in optimizer.rates
    ]  # groups of parameters keep their proportion
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    with unchanged(model, optimizer), closing(loader.twin().steps(steps)) as batches:
        model.train()
        for i, batch in enumerate(batches):
            rate = low * (high / low) ** (i / (steps - 1))
            inputs, targets = pair(batch)
            optimizer.zero_grad()
            value = loss(model(Tensor(inputs, device=device)), Tensor(targets, device=device))
            value.backward()
            mean = SMOOTHING * mean + (1 - SMOOTHING) * value.item()
            smooth = mean / (1 - SMOOTHING ** (i + 1))
            if not np.isfinite(smooth) or (losses and smooth > WORSE * min(losses)):
                break
            rates.append(rate)
            losses.append(smooth)
            optimizer.rates = [rate * share for share in shares]
            optimizer.step()
    if len(rates) < 3:
        raise ValueError(
            f"the loss was not finite, or four times its best, after {len(rates)} steps; begin with a smaller low"
        )
    falls = np.gradient(losses, np.log(rates))
    return LearningRates(rates, losses, rates[int(np.argmin(falls))])


@contextmanager
def unchanged(model: Module, optimizer: Optimizer) -> Iterator[None]:
    """Inside, they may be trained; after it values, gradients, optimizer, training flags and random numbers are as before."""
    kept = model.state_dict(), optimizer.state_dict(), minigrad.random.state_dict()
    gradients = [p.grad for p in optimizer.params]
    try:
        with modes_kept(model):
            yield
    finally:
        model.load_state_dict(kept[0])
        optimizer.load_state_dict(kept[1])
        minigrad.random.load_state_dict(kept[2])
        for p, gradient in zip(optimizer.params, gradients, strict=True):
            p.grad = gradient
