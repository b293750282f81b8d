"""fit: train a model."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from minigrad.checkpoint import Json
from minigrad.checks import integer
from minigrad.nn import Module
from minigrad.ops import cross_entropy
from minigrad.optim import Optimizer
from minigrad.train.callbacks import Checkpoints, checked_callbacks
from minigrad.train.evaluation import Loss, Metric, default_metrics, device_name
from minigrad.train.history import History
from minigrad.train.run import Batches, Run, Schedule

LOADER = (
    "position",
    "batch",
    "steps",
    "state_dict",
    "load_state_dict",
)  # what fit needs of a loader, besides its length


def fit(
    model: Module,
    optimizer: Optimizer,
    loader: Batches,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    loss: Loss = cross_entropy,
    metrics: Mapping[str, Metric] | None = None,
    validation: Iterable[object] | None = None,
    validate_every: int | None = None,
    log_every: int | None = None,
    schedule: Schedule | None = None,
    schedule_by: str = "epoch",
    callbacks: Iterable[object] = (),
    checkpoint: str | os.PathLike[str] | Checkpoints | None = None,
    resume: bool | str | os.PathLike[str] = False,
    configuration: Json = None,
    capture: bool = True,
    device: str | None = None,
    diagnose: bool = True,
) -> History:
    """Train a model: forward, loss, backward and the optimizer's step on each batch of a loader.

    A step is exactly `optimizer.zero_grad(); value = loss(model(inputs), targets); value.backward(); optimizer.step()`.
    A run that was interrupted and resumed gives the same bits as one that was not, with any number of threads. The model
    is in training mode during and after it.

    Args:
        model, optimizer: the optimizer's parameters are the model's.
        loader: a `mg.data.Loader` of (inputs, targets), or what works like it; training begins at its position.
        epochs, steps: how long, by one of the two; with `resume`, counted from the very beginning.
        loss: a function of (outputs, targets) that returns the mean over the batch.
        metrics: functions of NumPy arrays (outputs, targets) that return a mean over the batch, by name; measured on the
            training batches, as they are trained on, and on the validation batches. None: accuracy, with cross_entropy.
        validation: batches for `evaluate` after each epoch: a Loader (its first epoch) or a list.
        validate_every: also validate every so many steps, in a row of `history.steps`.
        log_every: a row of `history.steps` every so many steps.
        schedule: a learning-rate schedule of `mg.optim`, on this optimizer.
        schedule_by: "epoch" or "step": when `schedule.step()` is called.
        callbacks: see `minigrad.train.callbacks`.
        checkpoint: a folder for last.safetensors and best.safetensors, or a `Checkpoints` with more settings.
        resume: True goes on from the folder's last.safetensors if it is there and begins if not; a path goes on from that
            file. False begins, and refuses a folder that has a checkpoint already.
        configuration: numbers, strings, lists and dicts that say which run this is; together with model, optimizer,
            schedule, loss and metrics they must be those of the checkpoint that is resumed.
        capture: replay a recorded step (see `mg.capture`) instead of building the tape anew each time; the same bits.
        device: where the model must be; None takes it where it is.
        diagnose: keep one copy of model and optimizer, at a hundredth of the time, to find which op made a loss NaN or
            infinite.

    Returns:
        The history, of all parts if the run was resumed.

    Raises:
        DivergedError: the loss became NaN or infinite; it names the step and the op that did it first.
        TrainingInterrupted: on SIGINT or SIGTERM in the main thread, after the step at work was ended and a checkpoint
            written, if there are any; a second signal raises it at once. It has the history and the model. SIGINT makes it
            a KeyboardInterrupt and, but at an interactive prompt, a SystemExit of code 130; SIGTERM a SystemExit of code
            143. The handlers are put back in any case.
        CheckpointError: the checkpoint is damaged or of another run; nothing is changed.
        FileExistsError: the folder has a checkpoint, and `resume` was not asked for.
        TypeError, ValueError: arguments that make no sense, before anything is done.
    """
    check_parts(model, optimizer, loader, device)
    check_schedule(optimizer, schedule, schedule_by)
    if validation is not None and iter(validation) is validation:
        raise TypeError(
            "validation is an iterator, which would be used up after the first epoch; pass a Loader or a list"
        )
    if validate_every is not None and validation is None:
        raise ValueError("validate_every needs validation=..., the batches to validate on")
    checkpoints = checkpoint if checkpoint is None or isinstance(checkpoint, Checkpoints) else Checkpoints(checkpoint)
    measures = default_metrics(loss, metrics)
    run = Run(
        model,
        optimizer,
        loader,
        count=step_count(epochs, steps, len(loader)),
        loss=loss,
        metrics=measures,
        validation=validation,
        schedule=schedule,
        schedule_by=schedule_by,
        log_every=None if log_every is None else integer("log_every", log_every),
        validate_every=None if validate_every is None else integer("validate_every", validate_every),
        callbacks=checked_callbacks(callbacks),
        checkpoints=checkpoints,
        configuration={
            "model": {name: repr(module) for name, module in model.modules() if not any(module.children())},
            "optimizer": optimizer_settings(optimizer, schedule),
            "schedule": None if schedule is None else {"by": schedule_by, **schedule_settings(schedule)},
            "loss": getattr(loss, "__qualname__", type(loss).__name__),
            "metrics": sorted(measures),
            "configuration": configuration,
        },
        capture=capture,
        diagnose=diagnose,
    )
    check_callbacks(run)
    path = resume_path(checkpoints, resume)
    if path is not None:
        run.load(path)
    with run.signals:
        try:
            run.call("on_start")
            run.train()
        finally:
            run.call("on_end")
    if run.signals.received:
        error = run.interrupted(run.signals.received)
        if isinstance(error, SystemExit):  # of which Python says nothing
            print(f"minigrad: {error}", file=sys.stderr)
        raise error
    return run.history


def step_count(epochs: int | None, steps: int | None, per_epoch: int) -> int:
    """How many steps to train."""
    if epochs is not None and steps is None:
        return integer("epochs", epochs) * per_epoch
    if steps is not None and epochs is None:
        return integer("steps", steps)
    raise ValueError("give either epochs or steps: how long shall it train?")


def check_parts(model: Module, optimizer: Optimizer, loader: Batches, device: str | None) -> None:
    """Raise unless model, optimizer and loader go together."""
    if not isinstance(model, Module):
        raise TypeError(f"model must be a mg.nn.Module, not {type(model).__name__}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be one of mg.optim, not {type(optimizer).__name__}")
    lacks = [name for name in ("__len__", *LOADER) if not hasattr(loader, name)]
    if lacks:
        raise TypeError(
            f"loader must be a mg.data.Loader, or work like one; {type(loader).__name__} has no {', '.join(lacks)}"
        )
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


def check_schedule(optimizer: Optimizer, schedule: Schedule | None, schedule_by: str) -> None:
    """Raise unless the schedule drives this optimizer."""
    if schedule_by not in ("epoch", "step"):
        raise ValueError(f"schedule_by must be 'epoch' or 'step', not {schedule_by!r}")
    if schedule is not None and getattr(schedule, "optimizer", optimizer) is not optimizer:
        raise ValueError("the schedule was made for another optimizer")


def check_callbacks(run: Run) -> None:
    """Raise for checkpoints among the callbacks, where nobody would resume from them."""
    if any(isinstance(c, Checkpoints) and c is not run.checkpoints for c in run.callbacks):
        raise TypeError("pass Checkpoints as checkpoint=..., not among the callbacks")


def optimizer_settings(optimizer: Optimizer, schedule: Schedule | None) -> dict[str, Json]:
    """Kind and hyperparameters; the learning rate is the schedule's if there is one."""
    numbers = dict(zip(optimizer.names, optimizer.hyper.tolist(), strict=True))
    if schedule is not None:
        del numbers["lr"]
    return {"type": type(optimizer).__name__, **numbers}


def schedule_settings(schedule: Schedule) -> dict[str, Json]:
    """Kind and settings, without where it stands."""
    settings = {k: v for k, v in vars(schedule).items() if isinstance(v, int | float | str) and k != "count"}
    return {"type": type(schedule).__name__, **settings}


def resume_path(checkpoints: Checkpoints | None, resume: bool | str | os.PathLike[str]) -> Path | None:
    """The checkpoint to go on from, if any."""
    if not isinstance(resume, bool):
        return Path(resume)
    if checkpoints is None:
        if resume:
            raise ValueError(
                "resume=True needs checkpoint=..., the folder to resume from; or pass resume the path of a file"
            )
        return None
    there = checkpoints.last_path.exists()
    if there and not resume:
        raise FileExistsError(
            f"{checkpoints.last_path} is there already; pass resume=True to go on from it, or remove it, or take another folder"
        )
    return checkpoints.last_path if there else None
