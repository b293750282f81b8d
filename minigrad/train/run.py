"""A training run: its state and its loop."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

from minigrad import checkpoint, random
from minigrad.checkpoint import Json
from minigrad.data.loader import LAST_STEP, Loader
from minigrad.distributed.alike import agree_on_optimizer
from minigrad.distributed.gradients import average_gradients, broadcast, shapes
from minigrad.distributed.overlap import backward
from minigrad.exchange.session import Part
from minigrad.nn.module import Value
from minigrad.optim import PlateauSchedule, clip_grad_norm
from minigrad.optim import Schedule as MadeSchedule
from minigrad.tensor import Tensor
from minigrad.train.divergence import DivergedError, Rewind
from minigrad.train.evaluation import (
    Evaluator,
    Step,
    Tally,
    epoch_of,
    measured,
    measured_later,
    pair,
    prepared,
    share_of,
    together,
)
from minigrad.train.history import History, Row
from minigrad.train.ranks import Ranks
from minigrad.train.resuming import go_on, misfits, state_of
from minigrad.train.settings import Batches, Settings
from minigrad.train.signals import Leave, Signals, TrainingInterrupted, interruption


def only_looks(callback: object) -> bool:
    """Whether a callback changes nothing of the run: then one process is enough to call it."""
    return bool(getattr(callback, "only_looks", False))


Mark = tuple[int, int, int, str | None]


class MicroBatch(NamedTuple):
    """Where in a step of so many batches one comes: the first forgets old gradients, the last updates."""

    first: bool
    last: bool
    share: float  # of the step's rows
    rows: int | None  # of all of them, where gradients are averaged with those of other processes, by that
    part: Part | None  # how its loss counts among those of all processes, where a step has several batches


class Unread(NamedTuple):
    """A step that was launched, of which loss and metrics are yet to be read."""

    found: list[tuple[Callable[[], dict[str, float]], int]]  # of each batch: what reads them, and its rows
    step: int
    position: int  # of the loader after it
    start: float
    is_timed: bool


class Run:
    """A training run as its callbacks see it; made by `fit`.

    `model`, `optimizer`, `schedule` and `loader` are those given to fit. `step` counts the steps done, `start` and
    `target` are where it began and where it ends, `loss` is that of the latest step, `history` what was measured so far.
    """

    def __init__(self, settings: Settings) -> None:
        model, optimizer, loss = settings.model, settings.optimizer, settings.loss
        self.model, self.optimizer, self.loader = model, optimizer, settings.loader
        self.schedule = settings.made_schedule()
        self.settings = settings
        self.configuration = settings.identity(self.schedule)
        self.accumulate = settings.accumulate
        self.batches_per_epoch = batches_in_epoch(self.loader)
        self.per_epoch = -(-self.batches_per_epoch // self.accumulate)
        self.start = self.step = self.steps_before(self.loader.position)
        self.count, self.target = settings.count, self.start + settings.count
        self.latest_loss = math.nan
        self.lr = optimizer.rates[0]  # of the latest step; of the first group of parameters
        self.history = History()
        self.ranks = Ranks(settings.session)
        self.signals = Signals(self.interrupted, alone=not self.ranks.several)
        self.metrics, self.validation = settings.measures, settings.validation_batches
        self.checkpoints, self.callbacks = settings.checkpoints, settings.watchers
        self.step_hooks = [c.on_step for c in self.callbacks if hasattr(c, "on_step") and self.calls(c)]
        self.may_stop = [c for c in self.callbacks if hasattr(c, "on_step") and not only_looks(c)]
        self.tally_of_epoch, self.tally_of_row = Tally(), Tally()
        self.unread: Unread | None = None
        self.settled = 0.0  # when a step was read the last time
        self.earlier_seconds, self.began = 0.0, time.perf_counter()
        self.shapes: set[tuple[tuple[int, ...], ...]] = set()  # of a step's inputs, once seen: the first is not timed
        self.validated: tuple[int, dict[str, float]] | None = None
        self.shared = False  # whether the loader was told to hand out parts
        self.losses: list[float] = []  # of the latest step, by rank, if there are several
        # repeating steps op by op takes all processes, which do not find a fault in the same op
        diagnose = settings.diagnose and not self.ranks.several
        self.rewind = Rewind(model, optimizer, loss, settings.clip_norm) if diagnose else None
        self.told: set[str] = set()  # ops of which a warning was given
        self.evaluator = None
        if self.validation is not None:
            self.evaluator = Evaluator(model, loss, self.metrics, settings.capture, self.told)
        self.device = optimizer.params[0]._device
        self.reads_later = self.device.works_on and not self.ranks.several
        self.parts: dict[MicroBatch, Step] = {}
        self.drawing_before: Json = None  # the random numbers' state before a checkpoint was loaded

    def part(self, part: MicroBatch) -> Step:
        """What a step does for one of its batches, made when it is first needed."""
        if part not in self.parts:
            model, optimizer, loss, clip_norm = self.model, self.optimizer, self.settings.loss, self.settings.clip_norm
            measured_too = bool(self.metrics)
            rows, overlap = part.rows if part.last else None, self.settings.overlap

            def train_step(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Value]:
                if part.first:
                    optimizer.zero_grad()
                outputs = model(inputs)
                value = loss(outputs, targets)
                scaled = value if part.share == 1 else value * part.share
                if rows is not None and overlap:
                    backward(scaled, model, rows)
                else:
                    scaled.backward()
                    if rows is not None:
                        average_gradients(model, rows)
                if part.last:
                    if clip_norm is not None:
                        clip_grad_norm(optimizer.params, clip_norm)
                    optimizer.step()
                return value, outputs if measured_too else None

            self.parts[part] = prepared(train_step, self.device, model, self.settings.capture, self.told)
        return self.parts[part]

    def steps_before(self, position: int) -> int:
        """How many steps the batches before this one make."""
        epochs, batches = divmod(position, self.batches_per_epoch)
        return epochs * self.per_epoch + batches // self.accumulate

    def position_of(self, step: int) -> int:
        """The first batch after so many steps; the last step of an epoch may have fewer of them than the others."""
        epochs, steps = divmod(step, self.per_epoch)
        return epochs * self.batches_per_epoch + steps * self.accumulate

    @property
    def epoch(self) -> int:
        """The epoch the latest step belongs to; the first is 1."""
        return max(1, -(-self.step // self.per_epoch))

    @property
    def finished(self) -> bool:
        """Whether no step will follow."""
        return self.step >= self.target or self.history.stopped is not None

    @property
    def loss(self) -> float:
        """That of the latest step."""
        self.settle()
        return self.latest_loss

    @property
    def in_epoch(self) -> Tally:
        """What the steps of the epoch so far have brought."""
        self.settle()
        return self.tally_of_epoch

    @property
    def in_row(self) -> Tally:
        """What the steps since the last row have brought."""
        self.settle()
        return self.tally_of_row

    @property
    def seconds(self) -> float:
        """Since training began, all parts of a resumed run added up."""
        return self.earlier_seconds + time.perf_counter() - self.began

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the speed in this epoch, if that is known; validation is not in it."""
        speed = self.in_epoch.images_per_second
        return speed and (self.target - self.step) * self.in_epoch.rows / self.in_epoch.steps / speed

    @property
    def batches_left(self) -> int:
        """How many batches training takes up to its target."""
        return max(0, self.position_of(self.target) - self.loader.position)

    @property
    def mark(self) -> Mark:
        """Tells apart the states that this run passes through."""
        return self.step, len(self.history.epochs), len(self.history.steps), self.history.stopped

    def means(self) -> Row:
        """Loss, metrics and speed of the epoch so far."""
        return {**self.in_epoch.means(), "images_per_second": self.in_epoch.images_per_second}

    @property
    def signal(self) -> int | None:
        """The signal that ends the run, if one came; where there are several processes, once all know of it."""
        return (self.ranks.signal or None) if self.ranks.several else self.signals.received

    def agree(self, path: Path | None) -> None:
        """Raise, in every process, unless all are about to do the same."""
        self.ranks.agree(
            "the training",
            {
                "configuration": self.configuration,
                "model": shapes(self.model),
                "loader": {"batches in an epoch": self.batches_per_epoch, **self.loader.state_dict()},
                "steps": self.count,
                "validation": self.validation is not None,
                "overlap": self.settings.overlap,
                "row every": [self.settings.log_every, self.settings.validate_every],
                "checkpoint to go on from": None
                if path is None
                else (path.name if path.exists() else "not to be seen"),
                "callbacks": [type(c).__name__ for c in self.callbacks if not only_looks(c)],
            },
        )

    def join(self) -> None:
        """Give all processes the model of rank 0, and each its part of the batches; what is not given must be alike."""
        if self.ranks.several:
            schedule = self.schedule.state_dict() if isinstance(self.schedule, MadeSchedule | PlateauSchedule) else None
            self.ranks.agree(
                "the state to go on from",
                {"step": self.step, "loader": self.loader.state_dict(), "schedule": schedule},
            )
            self.ranks.agree_on_data(self.loader, self.validation)
            agree_on_optimizer(self.ranks.session, self.optimizer, self.model)
            broadcast(self.model)
            if isinstance(self.loader, Loader) and self.loader.world == 1:
                self.loader.share(self.ranks.rank, self.ranks.world)
                self.shared = True

    def leave(self) -> None:
        """The loader has whole batches again."""
        if self.shared and isinstance(self.loader, Loader):
            self.loader.share(0, 1)

    def stop(self, reason: str) -> None:
        """End training after this step or epoch; the reason goes to `history.stopped`."""
        self.history.stopped = reason

    def validate(self) -> dict[str, float]:
        """Loss and metrics over the validation set with the model as it is now, without counting as a validation."""
        if self.evaluator is None or self.validation is None:
            raise ValueError("there is nothing to validate on; pass validation=... to fit")
        averaged = self.optimizer.averaged() if self.optimizer.ema is not None else nullcontext()
        if not self.ranks.several:
            with self.signals.watched(epoch_of(self.validation)) as batches, averaged:
                return self.evaluator(batches)
        with averaged:
            tally = self.evaluator.tally(self.ranks.parts(self.validation, lambda: self.signals.received))
        tally.sums, tally.rows = self.ranks.totals(["loss", *self.metrics], tally.sums, tally.rows)
        return tally.means()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a checkpoint that `fit(..., resume=path)` goes on from; of several processes rank 0 does, and all call this."""
        self.settle()
        drawn = self.ranks.everyone(random.state_dict(), "random numbers")  # each process has its own

        def write() -> None:
            checkpoint.save(
                path, model=self.model, optimizer=self.optimizer, schedule=self.schedule, loader=self.loader,
                configuration=self.configuration, extra={"run": {**state_of(self), "random": drawn}},
            )  # fmt: skip

        self.ranks.first(write, "writing", os.fspath(path))
        return Path(path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a checkpoint."""
        self.drawing_before = random.state_dict()
        found = checkpoint.load(
            path, model=self.model, optimizer=self.optimizer, schedule=self.schedule, loader=self.loader,
            configuration=self.configuration, random=True, check_extra=partial(misfits, self),
        )  # fmt: skip
        go_on(self, found.extra["run"])
        if self.checkpoints is not None and self.checkpoints.last_path == found.path:
            self.checkpoints.saved = self.mark

    def call(self, hook: str, *arguments: Row) -> None:
        """Call a hook of all callbacks that have it; of several processes, those that only look are called in rank 0."""
        for callback in self.callbacks:
            if not hasattr(callback, hook):
                continue
            task = partial(getattr(callback, hook), self, *arguments)
            if self.ranks.several and only_looks(callback) and hook != "on_end":  # there an error may be on its way
                self.ranks.first(task, f"{hook} of {type(callback).__name__}")
            elif self.calls(callback):
                task()

    def calls(self, callback: object) -> bool:
        """Whether a callback's hooks are called in this process."""
        return self.ranks.leads or not only_looks(callback)

    def train(self) -> None:
        """Train to the target, or until stopped or a signal comes; the state is always one between two steps."""
        self.model.train()
        if isinstance(self.loader, Loader):
            self.loader.stager = self.device.stager()
        try:
            with self.signals.watched(self.loader.steps(self.batches_left)) as batches:
                while True:
                    if self.signal:
                        raise Leave
                    if self.may_stop:
                        self.history.stopped = self.ranks.stopped(self.history.stopped)
                    if self.write_rows():
                        self.history.stopped = self.ranks.stopped(self.history.stopped)
                    if self.finished:
                        break
                    self.train_batches(batches)
            if self.ranks.several:
                self.ranks.told(self.signals.received)  # one that has come since the latest step
        except Leave:
            if not self.ranks.several:  # where the others may be elsewhere
                self.write_rows(validating=False)  # the signal may have come between the step and its row
        finally:
            if isinstance(self.loader, Loader):
                self.loader.stager = None
        self.settle()
        if self.checkpoints is not None and self.checkpoints.saved != self.mark:
            self.checkpoints.save_last(self)

    def train_batches(self, batches: Iterator[object]) -> None:
        """One step, of one batch or, where gradients are accumulated, of several.

        On a GPU its loss is read when the next step was launched, so that the GPU does not wait for Python, or when asked for.
        """
        start, position = time.perf_counter(), self.loader.position
        count = self.position_of(self.step + 1) - position
        try:
            given = [pair(next(batches)) for _ in range(count)]  # all, so that a signal leaves no step half done
        except BaseException:
            self.loader.position = position  # a signal may have come between its move and ours
            raise
        if self.rewind is not None:
            if self.rewind.is_due():
                self.settle()  # the copies are to be of a state that is sound
            self.rewind.note(self.step, position)
        found = []
        lengths = [len(inputs) for inputs, _ in given]
        own, parts = sum(lengths), self.ranks.parts_of(lengths)
        for i, (inputs, targets) in enumerate(given):
            last = i == count - 1
            rows = own if last and self.ranks.several else None
            part = MicroBatch(i == 0, last, share_of(inputs, own), rows, parts[i])
            with self.ranks.going_back(part.part):
                loss, outputs = self.part(part)(inputs, targets)
            what = loss, outputs, targets, self.metrics
            read = measured_later(self.device, *what) if self.reads_later else partial(measured, *what)
            found.append((read, len(inputs)))
        shapes = tuple([inputs.shape for inputs, _ in given])
        step = Unread(found, self.step + 1, self.loader.position, start, shapes in self.shapes)
        self.settle()  # the step before, while this one is at work
        self.unread = step
        if not self.reads_later:
            self.settle()
        self.shapes.add(shapes)
        self.step += 1
        self.lr = self.optimizer.rates[0]
        due = self.settings.schedule_by == "step" or self.step % self.per_epoch == 0
        if self.schedule is not None and due and not isinstance(self.schedule, PlateauSchedule):
            self.schedule.step()
        for hook in self.step_hooks:
            hook(self)

    def settle(self) -> None:
        """Read and count what is unread; raises DivergedError if a loss is not finite."""
        if self.unread is None:
            return
        step, self.unread = self.unread, None
        values, rows = together([(read(), rows) for read, rows in step.found])
        if self.ranks.several:
            values, rows, self.losses = self.ranks.means(values, rows, self.signals.received)
        self.latest_loss = values["loss"]
        if not math.isfinite(self.latest_loss):
            raise self.diverged(step)
        end = time.perf_counter()
        seconds = end - max(step.start, self.settled) if step.is_timed else None
        self.settled = end
        self.tally_of_epoch.add(values, rows, seconds)
        self.tally_of_row.add(values, rows, seconds)

    def diverged(self, step: Unread) -> DivergedError:
        """The error for a step whose loss is not finite."""
        if self.ranks.several:
            bad = ", ".join(
                f"{loss} of rank {rank}" for rank, loss in enumerate(self.losses) if not math.isfinite(loss)
            )
            cause = f"it was {bad}; which op produced it is not looked for in several processes"
        elif self.rewind is None:
            further = "" if step.position == self.loader.position else " and one more"
            cause = (
                "which op produced it was not looked for (diagnose=False), and the parameters are those after the "
                f"step{further}"
            )
        else:
            try:
                cause = self.rewind.cause(self.loader.batch, step.step, step.position)
            except ValueError as error:  # the batches of a stream that can be read once
                cause = f"which op produced it was not found, since the step can't be repeated: {error}"
        return DivergedError(step.step, self.latest_loss, cause, self.history)

    def write_rows(self, validating: bool = True) -> bool:
        """Measure what is due after this step, and call the hooks; a pure function of the state, so it resumes as well.

        Without `validating` rows that need a validation are left for the run that goes on. Returns whether anything was due.
        """
        due = self.row_due(), self.epoch_due()
        every = self.settings.validate_every
        validates = every is not None and self.step % every == 0
        if self.row_due() and (validating or not validates):
            row = self.row(self.in_row, validates)
            self.tally_of_row = Tally()
            self.history.steps.append(row)
            self.call("on_log", row)
        if self.epoch_due() and (validating or self.evaluator is None):
            row = self.row(self.in_epoch, self.evaluator is not None)
            if self.step % self.per_epoch == 0:
                self.tally_of_epoch = Tally()
            self.history.epochs.append(row)
            if isinstance(self.schedule, PlateauSchedule) and self.step % self.per_epoch == 0:
                self.schedule.step(row[self.schedule.monitor])
            self.call("on_epoch_end", row)
        return any(due)

    def row_due(self) -> bool:
        """Whether a row of steps is due and not there."""
        every = [n for n in (self.settings.log_every, self.settings.validate_every) if n is not None]
        return any(self.step % n == 0 for n in every) and self.in_row.rows > 0

    def epoch_due(self) -> bool:
        """Whether a row of epochs is due and not there: after a whole epoch, and after the last step of all."""
        there = bool(self.history.epochs) and self.history.epochs[-1]["step"] == self.step
        return (self.step % self.per_epoch == 0 or self.finished) and not there and self.in_epoch.rows > 0

    def row(self, tally: Tally, validate: bool) -> Row:
        """A row of the history."""
        row: Row = {"epoch": self.epoch, "step": self.step, **tally.means()}
        if validate:
            if self.validated is None or self.validated[0] != self.step:
                self.validated = self.step, self.validate()
            row.update({f"validation_{name}": value for name, value in self.validated[1].items()})
        row.update(lr=self.lr, images_per_second=tally.images_per_second, seconds=self.seconds)
        return self.ranks.row(row)

    def interrupted(self, number: int) -> TrainingInterrupted:
        """The error for a signal."""
        saved = self.checkpoints is not None and self.checkpoints.saved == self.mark
        path = self.checkpoints.last_path if self.checkpoints is not None and saved else None
        return interruption(number)(number, self.step, self.history, self.model, path)


def batches_in_epoch(loader: Batches) -> int:
    """How many; of a stream without a length, so many that the whole run is in one epoch."""
    try:
        return len(loader)
    except TypeError:
        return LAST_STEP
