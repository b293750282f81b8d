"""fit: train a model."""

import difflib
import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from minigrad.checkpoint import CheckpointError
from minigrad.train.callbacks import Checkpoints
from minigrad.train.history import History
from minigrad.train.run import Run
from minigrad.train.settings import Settings

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def takes(
    settings: Callable[Parameters, object],
) -> Callable[[Callable[..., Result]], Callable[Parameters, Result]]:
    """A decorator that gives a function the parameters of `settings`, for type checkers, `help` and editors.

    So they are listed once. A call with others raises the TypeError that Python would, with the name that was perhaps meant.
    """
    signature = inspect.signature(settings)

    def decorate(function: Callable[..., Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def checked(*given: Parameters.args, **named: Parameters.kwargs) -> Result:
            try:
                signature.bind(*given, **named)
            except TypeError as error:
                unknown = [name for name in named if name not in signature.parameters]
                meant = difflib.get_close_matches(unknown[0], signature.parameters, 1) if unknown else []
                hint = f"; did you mean {meant[0]!r}?" if meant else ""
                raise TypeError(f"{function.__name__}(): {error}{hint}") from None
            return function(*given, **named)

        result = inspect.signature(function).return_annotation
        checked.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined]
        return checked

    return decorate


@takes(Settings)
def fit(*given: Any, **named: Any) -> History:
    """Train a model: forward, loss, backward and the optimizer's step on each batch of a loader.

    A step is exactly `optimizer.zero_grad(); value = loss(model(inputs), targets); value.backward(); optimizer.step()`, unless
    `accumulate` or `clip_norm` say otherwise.
    A run that was interrupted and resumed gives the same bits as one that was not, with any number of threads. The model
    is in training mode during and after it.

    Args:
        model, optimizer: the optimizer's parameters are the model's.
        loader: a `mg.data.Loader` of (inputs, targets), or what works like it; training begins at its position. A stream
            without a length is one long epoch, its `steps` are given.
        epochs, steps: how long, by one of the two; with `resume`, counted from the very beginning.
        loss: a function of (outputs, targets) that returns the mean over the batch.
        metrics: functions of NumPy arrays (outputs, targets) that return a mean over the batch, by name; or one or several
            without names, which have theirs, and "accuracy". They are measured on the training batches, as they are trained
            on, and on the validation batches. None: accuracy, with cross_entropy.
        validation: batches for `evaluate` after each epoch: a Loader (its first epoch), a list, or arrays (inputs, targets). An
            optimizer with `ema` has the averages of the parameters validated.
        validate_every: also validate every so many steps, in a row of `history.steps`.
        log_every: a row of `history.steps` every so many steps.
        schedule: a learning-rate schedule of `mg.optim`, on this optimizer; or a function that gives the learning rate
            after so many epochs (or steps), see `mg.optim.FunctionSchedule`. A `PlateauSchedule` is told each epoch's row.
        schedule_by: "epoch" or "step": when `schedule.step()` is called.
        accumulate: so many batches make one step, whose gradient is the mean of theirs, weighted by their numbers of samples:
            that of one large batch, if no layer looks at the batch as a whole. The last step of an epoch may have fewer.
            `steps`, `log_every` and schedules count such steps.
        clip_norm: scale the gradient of each step to at most this norm, see `mg.optim.clip_grad_norm`.
        callbacks: one or several, see `minigrad.train.callbacks`.
        checkpoint: a folder for last.safetensors and best.safetensors, or a `Checkpoints` with more settings.
        resume: True goes on from the folder's last.safetensors if it is there and begins if not; a path goes on from that
            file. False begins, and refuses a folder that has a checkpoint already.
        configuration: numbers, strings, lists and dicts that say which run this is; together with model, optimizer,
            schedule, loss and metrics they must be those of the checkpoint that is resumed.
        capture: replay a recorded step (see `mg.capture`) instead of building the tape anew each time; the same bits. An
            op of your own that computes by NumPy makes it run without, and one warning says so.
        device: where the model must be; None takes it where it is.
        diagnose: keep one copy of model and optimizer, at a hundredth of the time, to find which op made a loss NaN or
            infinite.
        progress: unless `Progress` is among the callbacks, show by it where someone looks: a bar on a terminal and in a
            notebook; elsewhere, where a run lasts longer than half a minute, a line every half minute.
        distributed: whether to train together with the other processes that `mpiexec` has started; None does if
            `mg.distributed.init()` was called, and True calls it. Loader and batch size are those of one process: each gets
            its part of every batch. Metrics are of all parts; rank 0 shows progress and writes files, which all can read. A
            run may be resumed by another number of processes. Callbacks are called in all of them, but for those that only
            look (`Progress`, `HistoryFile`, `TensorBoard`). After a loss that is not finite no op is looked for.
        overlap: exchange gradients with the other processes while backward goes on (`mg.distributed.backward`): the same bits,
            sooner over a slow network. Alone it changes nothing.

    Returns:
        The history, of all parts if the run was resumed.

    Raises:
        RanksDiffer, RankFailed: the processes differ in their version, script, model or configuration, or rank 0 could not
            write a file; in every process, with the rank and what it was.
        DivergedError: the loss became NaN or infinite; it names the step and the op that did it first.
        TrainingInterrupted: on SIGINT or SIGTERM in the main thread, after the step at work was ended and a checkpoint
            written, if there are any; a second signal raises it at once. It has the history and the model. SIGINT makes it
            a KeyboardInterrupt and, but at an interactive prompt, a SystemExit of code 130; SIGTERM a SystemExit of code
            143. The handlers are put back in any case.
        CheckpointError: the checkpoint is damaged or of another run; nothing is changed.
        FileExistsError: the folder has a checkpoint, and `resume` was not asked for.
        TypeError, ValueError: arguments that make no sense, before anything is done.
    """
    settings = Settings(*given, **named)
    path = resume_path(settings.checkpoints, settings.resume)
    rates = settings.optimizer.rates
    run = Run(settings)
    run.agree(path)
    if path is not None:
        try:
            run.load(path)
        except CheckpointError:
            settings.optimizer.rates = rates  # which a schedule that is a function has set
            raise
    run.join()
    with run.signals:
        try:
            run.call("on_start")
            run.train()
        finally:
            run.call("on_end")
            run.leave()
    if number := run.signal:
        error = run.interrupted(number)
        if isinstance(error, SystemExit):  # of which Python says nothing
            print(f"minigrad: {error}\n", end="", file=sys.stderr)  # whole: other processes write there too
        raise error
    return run.history


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
