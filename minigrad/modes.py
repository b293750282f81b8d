"""What a Python thread has switched on: gradients, tracing, the search for NaN, a recording.

Ops and layers do not look at it. They ask `at_work` for the device that allocates and launches now, and tell what a
recording must know: `read` (a tensor or module from outside takes part), `refuse` (this cannot be repeated).
"""

import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import minigrad.kernels

if TYPE_CHECKING:
    from minigrad.devices import Device
    from minigrad.tape import Op
    from minigrad.tensor import Tensor

OWN_FOLDERS = tuple(os.path.join(os.path.dirname(file), "") for file in (__file__, minigrad.kernels.__file__))


class Recording(Protocol):
    """What `mg.capture` puts in the place of the device, and what the engine tells it while a step is recorded."""

    device: "Device"

    def begin(self, name: str) -> None:
        """The launches to come belong to this op."""

    def sees_op(self, op: "Op", inputs: "tuple[Tensor | None, ...]") -> None:
        """An op is about to run forward."""

    def saw_op(self, op: "Op", inputs: "tuple[Tensor | None, ...]", ys: list[np.ndarray]) -> None:
        """An op ran forward, and gave these results."""

    def saw_leaf(self, tensor: "Tensor") -> None:
        """A tensor that may come from outside is used."""

    def saw_array(self, array: Any) -> None:
        """A kernel works on an array that belongs to no tensor."""

    def saw_module(self, module: Any) -> None:
        """A module takes part."""

    def reads_grad(self, tensor: "Tensor") -> None:
        """A gradient is looked at."""

    def writes_grad(self, tensor: "Tensor") -> None:
        """A gradient is set."""

    def before(self, op: "Op", dys: tuple[Any, ...]) -> None:
        """An op goes backward."""

    def after(self, op: "Op", dys: tuple[Any, ...], results: tuple[Any, ...]) -> None:
        """An op went backward."""


class Draws:
    """The keys of the random numbers that a function draws, noted in their order, to be drawn again."""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.around = state.draws  # of a function that this one is a part of

    @property
    def repeats(self) -> bool:
        """Whether what goes on was done before, and must leave no second trace."""
        return self.around is not None and self.around.repeats

    def key(self, draw: Callable[[], Any]) -> Any:
        """A new key."""
        self.keys.append(draw() if self.around is None else self.around.key(draw))
        return self.keys[-1]


class DrawsAgain:
    """The same keys in the same order."""

    repeats = True

    def __init__(self, draws: Draws) -> None:
        self.keys = iter(draws.keys)

    def key(self, draw: Callable[[], Any]) -> Any:
        """The next key."""
        try:
            return next(self.keys)
        except StopIteration:
            raise RuntimeError(
                "mg.recompute: the function draws more random numbers when it is run again than at first; what it does must "
                "follow from its arguments"
            ) from None


class State(threading.local):
    """What one Python thread has switched on."""

    grad_enabled = True
    anomaly = False  # check every result for NaN
    trace = False  # note the line of user code that made each op
    observe: "Callable[[Op, tuple[Tensor | None, ...], dict[str, Any]], None] | None" = None
    """Set by mg.inspect, with trace: called with each op, its inputs and parameters before it runs."""
    looks: list[str] | None = None  # by which call Python has looked at values, if somebody wants to know
    recording: "Recording | None" = None
    draws: "Draws | DrawsAgain | None" = None  # what notes or repeats random numbers

    def __init__(self) -> None:
        self.before: list[dict[str, Any]] = []  # what each `with` block that is open now has replaced


state = State()


class Switch:
    """Sets attributes of the thread's state, inside a `with` block, a decorated function or a decorated generator."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def __enter__(self) -> None:
        state.before.append({name: getattr(state, name) for name in self.values})
        vars(state).update(self.values)

    def __exit__(self, *exception: object) -> None:
        vars(state).update(state.before.pop())

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As a decorator."""

        @functools.wraps(function)
        def switched(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        @functools.wraps(function)
        def switched_generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            return (yield from Resumed(self, function(*args, **kwargs)))

        return switched_generator if inspect.isgeneratorfunction(function) else switched


class Resumed(Generator[Any, Any, Any]):
    """A generator whose body runs under a switch, while its caller's code between two values does not."""

    def __init__(self, switch: Switch, generator: Generator[Any, Any, Any]) -> None:
        self.switch, self.generator = switch, generator

    def send(self, value: Any) -> Any:
        """Go on to the next value."""
        with self.switch:
            return self.generator.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise inside, and go on to the next value."""
        with self.switch:
            return self.generator.throw(*error)


def no_grad() -> Switch:
    """Inside, nothing goes on the tape: `with mg.no_grad(): ...`, or a decorator."""
    return Switch(grad_enabled=False)


def enable_grad() -> Switch:
    """Inside, the tape is on again, even within no_grad()."""
    return Switch(grad_enabled=True)


def detect_anomaly() -> Switch:
    """Inside, the first op whose result holds a NaN that its inputs did not hold raises AnomalyError.

    The error names the op and the line of user code that called it; a NaN born in backward names the op whose gradient it
    is. A backward that writes into what it was given raises RuntimeError. Every result is searched, so this is slow: for
    finding out, not for training.
    """
    return Switch(anomaly=True, trace=True)


def is_grad_enabled() -> bool:
    """Whether ops go on the tape now."""
    return state.grad_enabled


class CaptureError(RuntimeError):
    """A captured step did something that cannot be recorded and repeated."""


class UncapturedOp(CaptureError):
    """An op of the user's own computes without launches; `op` is its name."""

    def __init__(self, op: str, what: str) -> None:
        super().__init__(what)
        self.op = op

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.op, *self.args)


def drawn_key(draw: Callable[[], Any]) -> Any:
    """A key of random numbers: a new one, or in the second run of mg.recompute that of the first."""
    return draw() if state.draws is None else state.draws.key(draw)


def repeats() -> bool:
    """Whether this is the second run of mg.recompute, after which running statistics must be as the first left them."""
    return state.draws is not None and state.draws.repeats


def at_work(device: "Device") -> "Device":
    """What allocates and launches now: the recording, if there is one, else the device itself."""
    return device if state.recording is None else state.recording  # type: ignore[return-value]  # it stands in for one


def recorded_device() -> "Device | None":
    """The device of the step that is being recorded; None if none is."""
    return None if state.recording is None else state.recording.device


def begin(name: str) -> None:
    """The launches to come belong to an op, or to an optimizer, of this name."""
    if state.recording is not None:
        state.recording.begin(name)


def read(tensor: "Tensor") -> None:
    """An op reads the memory of a tensor that is not among its inputs, or that leaves the tape."""
    if state.recording is not None:
        state.recording.saw_leaf(tensor)


def read_grad(tensor: "Tensor") -> None:
    """The gradient of a tensor is looked at."""
    if state.recording is not None:
        state.recording.reads_grad(tensor)


def read_array(array: Any) -> None:
    """A kernel works on an array that the caller gave as it is, not in a tensor."""
    if state.recording is not None:
        state.recording.saw_array(array)


def takes_part(module: Any) -> None:
    """A module or an optimizer is used, by a call or otherwise."""
    if state.recording is not None:
        state.recording.saw_module(module)


def refuse(what: str) -> None:
    """Raise CaptureError, with these words, if a step is being recorded: replays could not do what comes now."""
    if state.recording is not None:
        raise CaptureError(what)


def looked_at(what: str) -> None:
    """Python looks at a tensor's values; raise CaptureError if a step is being recorded, in which it must not."""
    if state.looks is not None:
        state.looks.append(what)
    if state.recording is not None:
        raise CaptureError(
            f"{what} inside a captured step: its value would be read once, while recording, and never again; "
            "return the tensor from the step and read it outside"
        )


def refuse_arrays(data: Any) -> None:
    """Raise CaptureError if a step is being recorded and `data` is an array, or a list of some: numbers may be constants."""
    if state.recording is None:
        return
    if isinstance(data, list | tuple):
        for part in data:
            refuse_arrays(part)
    elif hasattr(data, "__array__") and not isinstance(data, np.generic):
        refuse_constant(np.shape(data))


def refuse_constant(shape: tuple[int, ...]) -> None:
    """Raise CaptureError if a step is being recorded: it works on a NumPy array, and a later call may mean another."""
    refuse(
        f"a NumPy array (shape {shape}) is used inside a captured step; replays would go on using its present "
        "values: pass it as an argument of the step, or make it a tensor outside"
    )


def user_line() -> str:
    """The nearest caller outside minigrad, as file:line."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OWN_FOLDERS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
