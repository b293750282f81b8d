"""What `fit` is asked for: its parameters, and whether they make sense."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

from minigrad.checkpoint import Json, Stateful, plain
from minigrad.checks import integer
from minigrad.data.loader import Loader
from minigrad.distributed.processes import init, started_among
from minigrad.exchange import Session, current
from minigrad.exchange.gpus import library
from minigrad.nn import Module
from minigrad.ops import cross_entropy
from minigrad.optim import FunctionSchedule, Optimizer, PlateauSchedule, checked
from minigrad.optim import Schedule as MadeSchedule
from minigrad.train.callbacks import Checkpoints, checked_callbacks, checked_monitors
from minigrad.train.evaluation import Loss, Metrics, checked_loss, device_name, measures_of, no_pairs, several_times
from minigrad.train.history import meant
from minigrad.train.progress import Progress, unasked


class Batches(Stateful, Protocol):
    """What a run needs of a loader; a `mg.data.Loader` has it."""

    position: int

    def __len__(self) -> int:
        """Steps in an epoch."""

    def batch(self, step: int) -> object:
        """The batch of a step, counted from 0 across epochs."""

    def steps(self, count: int) -> Iterator[object]:
        """The next `count` batches, across epochs."""


class Schedule(Stateful, Protocol):
    """What a run needs of a learning-rate schedule; those of `mg.optim` have it."""

    def step(self) -> None:
        """Go on by one epoch, or by one step."""


LOADER = ("__len__", "position", "batch", "steps", "state_dict", "load_state_dict")  # of `Batches`
SCHEDULE = ("step", "state_dict", "load_state_dict")  # of `Schedule`


@dataclass
class Settings:
    """The parameters of `fit`, whose docstring explains them; this is the one place that lists them.

    Once made, they make sense, so far as that can be known without training. Nothing else has been done by then.
    """

    model: Module
    optimizer: Optimizer
    loader: Batches
    _: KW_ONLY
    epochs: int | None = None
    steps: int | None = None
    loss: Loss = cross_entropy
    metrics: Metrics = None
    validation: Iterable[object] | None = None
    validate_every: int | None = None
    log_every: int | None = None
    schedule: Schedule | PlateauSchedule | Callable[[int], float] | None = None
    schedule_by: str = "epoch"
    accumulate: int = 1
    clip_norm: float | None = None
    callbacks: Iterable[object] | object = ()
    checkpoint: str | os.PathLike[str] | Checkpoints | None = None
    resume: bool | str | os.PathLike[str] = False
    configuration: Json = None
    capture: bool = True
    device: str | None = None
    diagnose: bool = True
    progress: bool = True
    distributed: bool | None = None
    overlap: bool = False

    def __post_init__(self) -> None:
        check_parts(self.model, self.optimizer, self.loader, self.device)
        self.accumulate = integer("accumulate", self.accumulate)
        self.clip_norm = None if self.clip_norm is None else checked("clip_norm", self.clip_norm)
        self.count = step_count(self.epochs, self.steps, self.loader, self.accumulate)
        self.loss = checked_loss(self.loss)
        self.measures = measures_of(self.loss, self.metrics)
        self.validation_batches = several_times(self.validation)
        self.log_every = None if self.log_every is None else integer("log_every", self.log_every)
        if self.validate_every is not None:
            self.validate_every = integer("validate_every", self.validate_every)
            if self.validation is None:
                raise ValueError("validate_every needs validation=..., the batches to validate on")
        check_schedule(self.optimizer, self.schedule, self.schedule_by)
        plain("configuration", self.configuration)
        self.checkpoints = checkpoints_of(self.checkpoint)
        self.watchers = watchers_of(self.callbacks, self.progress, self.checkpoints)
        checked_monitors(self.watchers, self.row_names())
        if isinstance(self.schedule, PlateauSchedule):
            check_plateau(self.schedule, self.schedule_by, self.row_names())
        self.session = session_of(self.distributed)
        if self.session is not None and self.session.world > 1 and self.optimizer.params[0].device == "cuda":
            library()  # raises here, rather than in the first step
            if self.overlap:
                raise ValueError(
                    "overlap=True exchanges gradients by MPI while backward goes on; NCCL exchanges those of GPUs after it, on "
                    "the stream of the kernels: leave it out"
                )

    def row_names(self) -> list[str]:
        """What a row of epochs has, see `History`."""
        measured = ["loss", *self.measures]
        validated = [] if self.validation is None else [f"validation_{name}" for name in measured]
        return [*measured, *validated, "epoch", "step", "lr", "images_per_second", "seconds"]

    def made_schedule(self) -> Schedule | PlateauSchedule | None:
        """The schedule; of a function, one that has set the learning rate of the beginning."""
        if self.schedule is None or hasattr(self.schedule, "step"):
            return self.schedule  # type: ignore[return-value]  # check_schedule has looked at it
        return FunctionSchedule(self.optimizer, self.schedule)  # type: ignore[arg-type]

    def identity(self, schedule: Schedule | PlateauSchedule | None) -> Json:
        """What a checkpoint must agree with for the run to go on from it."""
        more = {
            **({} if self.accumulate == 1 else {"accumulate": self.accumulate}),
            **({} if self.clip_norm is None else {"clip_norm": self.clip_norm}),
        }
        return {
            "model": {name: repr(module) for name, module in self.model.modules() if not any(module.children())},
            "optimizer": optimizer_settings(self.optimizer, schedule),
            "schedule": None if schedule is None else {"by": self.schedule_by, **schedule_settings(schedule)},
            "loss": getattr(self.loss, "__qualname__", type(self.loss).__name__),
            "metrics": sorted(self.measures),
            "configuration": self.configuration,
            **more,
        }


def session_of(distributed: bool | None) -> Session | None:
    """The processes to train together with: those that `mg.distributed.init` has found, unless said otherwise."""
    if distributed is not None:
        return init() if distributed else None
    count = started_among()
    if current() is None and count > 1:
        warnings.warn(
            f"this is one of {count} processes that mpiexec has started, and each trains by itself; call "
            "mg.distributed.init() before, to train one model together, or pass distributed=False",
            RuntimeWarning,
            stacklevel=6,
        )
    return current()


def step_count(epochs: int | None, steps: int | None, loader: Batches, accumulate: int) -> int:
    """How many steps to train."""
    if epochs is not None and steps is None:
        return integer("epochs", epochs) * -(-len(loader) // accumulate)
    if steps is not None and epochs is None:
        return integer("steps", steps)
    raise ValueError("give either epochs or steps: how long shall it train?")


def check_parts(model: Module, optimizer: Optimizer, loader: Batches, device: str | None) -> None:
    """Raise unless model, optimizer and loader go together."""
    if not isinstance(model, Module):
        raise TypeError(f"model must be a mg.nn.Module, not {type(model).__name__}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be one of mg.optim, not {type(optimizer).__name__}")
    lacks = [name for name in LOADER if not hasattr(loader, name)]
    if lacks:
        raise TypeError(
            "loader must be a mg.data.Loader, mg.data.Loader(inputs, targets, batch_size=...), or work like one; "
            f"{type(loader).__name__} has no {', '.join(lacks)}"
        )
    came = no_pairs(loader) if isinstance(loader, Loader) else None
    if came:
        raise ValueError(f"the loader gives {came}, where a batch must be a pair: Loader(inputs, targets, ...)")
    home = device_name(model)
    if device is not None and device not in (home, "auto"):
        raise ValueError(f"the model is on {home!r}, not {device!r}; move it by model.to({device!r}) before")
    own = {id(p) for p in model.parameters()}
    strange = [i for i, p in enumerate(optimizer.params) if id(p) not in own]
    if strange:
        raise ValueError(
            f"parameters {strange[:5]} of the optimizer are not the model's (was it made for another one?), "
            "so no checkpoint would hold them; put what is trained into one Module"
        )


def check_schedule(optimizer: Optimizer, schedule: object, schedule_by: str) -> None:
    """Raise unless the schedule drives this optimizer, or is a function of the count of steps or epochs."""
    if schedule_by not in ("epoch", "step"):
        raise ValueError(f"schedule_by must be 'epoch' or 'step', not {schedule_by!r}")
    if schedule is None:
        return
    if isinstance(schedule, type):
        raise TypeError(
            f"the schedule {schedule.__name__} is a class; make an instance: {schedule.__name__}(optimizer, ...)"
        )
    if hasattr(schedule, "step"):
        if getattr(schedule, "optimizer", optimizer) is not optimizer:
            raise ValueError("the schedule was made for another optimizer")
        lacks = [name for name in SCHEDULE if not hasattr(schedule, name)]
    elif callable(schedule):
        checked("the learning rate that the schedule gives for 0", schedule(0))
        lacks = []
    else:
        lacks = list(SCHEDULE)
    if lacks:
        raise TypeError(
            "schedule must be one of mg.optim, or a function that gives the learning rate after so many epochs (or steps); "
            f"{type(schedule).__name__} has no {', '.join(lacks)}"
        )


def check_plateau(schedule: PlateauSchedule, schedule_by: str, names: list[str]) -> None:
    """Let the schedule watch an entry as the epochs' rows call it; ValueError if there will be none of that name."""
    schedule.monitor = meant(schedule.monitor, names)
    if schedule.monitor not in names:
        raise ValueError(
            f"PlateauSchedule watches {schedule.monitor!r}, which the epochs will not have; pass validation=... to fit, or "
            f"watch another; there are {', '.join(names)}"
        )
    if schedule_by != "epoch":
        raise ValueError("PlateauSchedule goes by the rows of epochs; leave schedule_by='epoch'")


def checkpoints_of(checkpoint: str | os.PathLike[str] | Checkpoints | None) -> Checkpoints | None:
    """What writes the checkpoints."""
    if checkpoint is None or isinstance(checkpoint, Checkpoints):
        return checkpoint
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint must be a folder, or mg.train.Checkpoints(...), not {checkpoint!r}")
    return Checkpoints(checkpoint)


def watchers_of(callbacks: object, progress: bool, checkpoints: Checkpoints | None) -> list[object]:
    """All callbacks, in the order of their calls: progress unless it is among them or not wanted, checkpoints last."""
    watchers = checked_callbacks(callbacks)
    if any(isinstance(c, Checkpoints) for c in watchers):
        raise TypeError("pass Checkpoints as checkpoint=..., not among the callbacks")
    if progress and not any(isinstance(c, Progress) for c in watchers):
        watchers.insert(0, unasked())
    return watchers if checkpoints is None else [*watchers, checkpoints]


def optimizer_settings(optimizer: Optimizer, schedule: object) -> dict[str, Json]:
    """Kind and hyperparameters, of each group if there are several; the learning rate is the schedule's if there is one."""
    groups = [dict(zip(optimizer.names, row, strict=True)) for row in optimizer.hyper.tolist()]
    if schedule is not None:
        for numbers in groups:
            del numbers["lr"]
    ema = {} if optimizer.ema is None else {"ema": optimizer.ema}
    return {"type": type(optimizer).__name__, **(groups[0] if len(groups) == 1 else {"groups": groups}), **ema}


def schedule_settings(schedule: object) -> dict[str, Json]:
    """Kind and settings, without where it stands."""
    standing = ("count", "best", "waited", "resting")
    settings = {k: v for k, v in vars(schedule).items() if isinstance(v, int | float | str) and k not in standing}
    inner = {k: schedule_settings(v) for k, v in vars(schedule).items() if isinstance(v, MadeSchedule)}
    return {"type": type(schedule).__name__, **settings, **inner}
