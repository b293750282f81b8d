"""Captured: a function that is recorded at its first call and replayed after."""

import functools
import operator
import os
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any, overload

import numpy as np

import minigrad.random
from minigrad.capture.arguments import as_tensor, check_dtypes, described, device_of, differing, inner, lengths
from minigrad.capture.plan import Plan
from minigrad.capture.recorder import Recorder
from minigrad.capture.results import check_results, each_tensor, returned
from minigrad.capture.watch import Place, elements
from minigrad.changes import CAPTURED_METHODS
from minigrad.devices import get_device
from minigrad.devices.precision import matmul_precision
from minigrad.modes import CaptureError, state
from minigrad.tensor import Tensor
from minigrad.types import DeviceLike

MOST_RECORDINGS = 64  # of one step; of more, those not used for longest are dropped
MOST_REPLACED = 2  # recordings kept, for the same arguments, whose arrays were replaced
TOO_MANY_IN_A_ROW = 128  # calls that recorded, with none between that replayed, until a warning says why

everyone: "weakref.WeakSet[Captured]" = weakref.WeakSet()  # since a fork lets no thread go on that holds a lock


class Captured:
    """A step that is recorded at its first call and replayed after; see `capture`."""

    def __init__(self, step: Callable[..., Any], device: DeviceLike = None) -> None:
        if isinstance(step, types.FunctionType | types.MethodType):
            functools.update_wrapper(self, step)
        self.step = step
        self.device = None if device is None else get_device(device)
        self.plans: dict[object, list[Plan]] = {}
        self.plan: Plan | None = None  # the latest
        self.latest_key: object = None
        self.dtypes: dict[object, np.dtype] = {}
        self.forget_threads()
        everyone.add(self)
        self.clock = 0  # counts how often another recording was taken up
        self.in_a_row = 0  # calls that recorded since one replayed
        self.changed: dict[object, set[str]] = {}  # by key: what the step changed itself while it was recorded

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Replay the step, or record it first."""
        return self.run(args, kwargs)

    def forget_threads(self) -> None:
        """Nobody is at work."""
        self.lock = threading.RLock()
        self.at_work = False  # in the thread that holds the lock

    def __get__(self, instance: object, owner: type | None = None) -> object:
        """As a method: bound to an instance, which has recordings of its own."""
        return self if instance is None else types.MethodType(method_of(instance, self), instance)

    def __reduce__(self) -> Any:
        """A copy has no recordings.

        Of a decorated step the module knows the function only as `name.step`, by which pickle finds it then.
        """
        name = getattr(self, "__qualname__", "")
        try:
            known = operator.attrgetter(name)(sys.modules[self.__module__])
        except (AttributeError, KeyError):
            known = None
        if isinstance(known, Captured) and known.step is self.step:
            self.step.__qualname__ = f"{name}.step"
        return type(self), (self.step, self.device and self.device.name)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replay, or record, a call with these arguments."""
        step = self.step
        if state.recording is not None:
            return step(*args, **kwargs)  # a part of the step being recorded
        if state.trace:  # detect_anomaly and mg.inspect look at every op, and a replay passes none
            return self.run_eagerly(args, kwargs)
        named = [*enumerate(args), *sorted(kwargs.items())] if kwargs else list(enumerate(args))
        arrays: list[np.ndarray] = []
        key = (
            tuple([described(name, value, arrays) for name, value in named]),
            state.grad_enabled,
            matmul_precision.current,
        )
        with self.lock:  # replays of several threads share the recording's memory
            if self.at_work:  # called by what a replay runs, or by a handler of signals meanwhile
                return self.run_eagerly(args, kwargs)
            self.at_work = True
            try:
                plan = self.plan
                if plan is None or key != self.latest_key or not plan.holds():
                    plan = next((p for p in self.plans.get(key, ()) if p.holds()), None)
                    if plan is None:
                        check_dtypes(self.dtypes, named)
                        return self.record(key, args, kwargs)
                    self.take_up(plan, key)
                self.in_a_row = 0
                return plan.replay(arrays)
            finally:
                self.at_work = False

    def run_eagerly(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the step as it stands, on the arguments as tensors."""
        device = self.device or device_of([*args, *kwargs.values()])
        given = [as_tensor(value, device) for value in args]
        return self.step(*given, **{name: as_tensor(value, device) for name, value in kwargs.items()})

    def take_up(self, plan: Plan, key: object) -> None:
        """This recording is the latest used."""
        self.clock += 1
        plan.used = self.clock
        self.plan, self.latest_key = plan, key

    def record(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the step while noting its launches."""
        self.make_room(key)
        recorder = Recorder(self.device or device_of([*args, *kwargs.values()]))
        step = self.step
        recorder.finder.begin(step, args, kwargs)
        streams = minigrad.random.streams_drawn()
        inner_args = [inner(recorder, a) for a in args]
        inner_kwargs = {name: inner(recorder, kwargs[name]) for name in sorted(kwargs)}
        state.recording = recorder
        try:
            try:
                outputs = step(*inner_args, **inner_kwargs)
            except Exception:  # but for Ctrl-C, which does not wait for compilers
                recorder.deferred.make()
                raise
            recorder.deferred.make()
        except BaseException:
            recorder.put_back_gradients()
            raise
        finally:
            state.recording = None
            recorder.kernels = recorder.device.kernels  # without a cycle, which would keep its memory until collected
        plan = self.planned(recorder, key, outputs, lengths([*args, *kwargs.values()]), streams)
        self.plans.setdefault(key, []).append(plan)
        self.take_up(plan, key)
        return returned(plan.outputs)

    def planned(self, recorder: Recorder, key: Any, outputs: Any, known: list[Any], streams: Any) -> Plan:
        """The plan of what was recorded; CaptureError if it could not be repeated."""
        finder, conditions = recorder.finder, recorder.finder.conditions
        gradients = [(leaf, found, recorder.gradient_left(leaf)) for leaf, found in recorder.gradients.items()]
        recorder.put_back_gradients()
        drawn = "minigrad's own streams" if minigrad.random.streams_drawn() != streams else finder.drawn()
        if drawn:
            raise CaptureError(
                f"a captured step drew random numbers from {drawn}, which replays would not: draw them outside and pass them "
                "as an argument, or make the layers outside that need them; mg.nn.Dropout draws anew in every replay"
            )
        finder.finish()
        for label, container in finder.written.values():
            if any(isinstance(value, Tensor) and recorder.owns(value._data) for value in elements(container)):
                raise CaptureError(
                    f"a captured step puts a tensor into {label}, which replays would not: return the tensor from the step"
                )
        known += finder.constants
        known += [place.found for place in conditions.places()]
        check_results(outputs, known)
        recorder.forget_numbers()
        return Plan(
            launches=recorder.launches,
            checks=recorder.checks,
            inputs=recorder.inputs,
            outputs=each_tensor(outputs, Tensor.detach),
            leaves=list(recorder.leaves.items()),
            changed=[tensor._version for tensor, leaf in recorder.leaves.items() if tensor._version[0] != leaf.version],
            conditions=conditions,
            gradients=gradients,
            places=self.settled(recorder, key),
            mirrors=recorder.mirrors,
            device=recorder.device,
            pool=recorder.pool,
        )

    def settled(self, recorder: Recorder, key: Any) -> list[tuple[Place, Tensor]]:
        """The places where the step left a tensor of its own; CaptureError for anything else that it changes every time."""
        left = []
        changed = set()
        conditions = recorder.finder.conditions
        for place in conditions.changed():
            now: Any = place.now()
            made_here = isinstance(now, Tensor) and recorder.owns(now._data)
            if made_here:
                left.append((place, now.detach()))
            if made_here and isinstance(place.found, Tensor) and place.found not in recorder.leaves:
                conditions.forget(place)  # what was there before is not read
            else:
                changed.add(place.label)
        again = changed & self.changed.get(key, set())
        if again:
            raise CaptureError(
                f"a captured step changes {min(again)} itself at every call, which replays would not: change a tensor in "
                "place instead (`t += 1.0`), pass the value as an argument, or keep it out of the step"
            )
        self.changed[key] = changed
        conditions.freeze()
        return left

    def make_room(self, key: object) -> None:
        """Drop recordings that are not needed, before another one is made; warn if that happens at every call."""
        self.in_a_row += 1
        alike = self.plans.get(key, [])
        if self.in_a_row == TOO_MANY_IN_A_ROW and self.plan is not None:
            why = differing(self.latest_key, key) or self.plan.difference().text
            warnings.warn(
                f"a captured step was recorded {self.in_a_row} times in a row and never replayed, which is slower than not to "
                f"capture it. What differs at every call: {why}",
                RuntimeWarning,
                stacklevel=4,
            )
        replaced = sorted((p for p in alike if p.difference().for_good), key=lambda p: p.used)
        for plan in replaced[: max(0, len(replaced) - MOST_REPLACED)]:
            alike.remove(plan)
        everything = [(plan.used, k, plan) for k, plans in self.plans.items() for plan in plans]
        for _, k, plan in sorted(everything, key=lambda e: e[0])[: max(0, len(everything) + 1 - MOST_RECORDINGS)]:
            self.plans[k].remove(plan)
            if not self.plans[k]:
                del self.plans[k]
                self.changed.pop(k, None)

    def clear(self) -> None:
        """Forget all recordings and their memory."""
        with self.lock:
            self.plans.clear()
            self.plan = None
            self.dtypes.clear()
            self.changed.clear()
            self.in_a_row = 0


def forget_threads() -> None:
    """After a fork: only the thread that forked is there."""
    for captured in list(everyone):
        captured.forget_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_threads)


class CapturedMethod(Captured):
    """A captured method of one instance, which comes as the first argument of a call and is not kept."""

    def __init__(self, function: Callable[..., Any], device: DeviceLike, instance: Any) -> None:
        self.instance = weakref.ref(instance)
        self.function = function
        super().__init__(types.MethodType(function, instance), device)
        del vars(self)["__wrapped__"]  # which would keep the instance

    @property
    def step(self) -> Callable[..., Any]:
        """The method of the instance, which lives as long as it is called."""
        return types.MethodType(self.function, self.instance())

    @step.setter
    def step(self, step: Callable[..., Any]) -> None:
        """It is always that of the instance."""

    def __call__(self, instance: Any, *args: Any, **kwargs: Any) -> Any:
        """Replay the method, or record it first."""
        return self.run(args, kwargs)


class Methods(dict[Captured, CapturedMethod]):
    """The captured methods of one instance, kept among its attributes; a copy of the instance makes its own."""

    def __init__(self, instance: object) -> None:
        self.owner = weakref.ref(instance, lambda _: self.clear())

    def __reduce__(self) -> Any:
        return dict, ()


def method_of(instance: object, captured: Captured) -> CapturedMethod:
    """What a captured method of a class is for one instance."""
    if not hasattr(instance, "__dict__"):
        raise TypeError(
            f"a captured method needs a place for its recordings; let {type(instance).__name__} have a __dict__"
        )
    methods = vars(instance).get(CAPTURED_METHODS)
    if not isinstance(methods, Methods) or methods.owner() is not instance:
        methods = Methods(instance)
        if isinstance(instance, type):
            setattr(instance, CAPTURED_METHODS, methods)
        else:
            vars(instance)[CAPTURED_METHODS] = methods
    if captured not in methods:
        methods.setdefault(captured, CapturedMethod(captured.step, captured.device, instance))
    return methods[captured]


@overload
def capture(step: Callable[..., Any], *, device: DeviceLike = None) -> Captured: ...
@overload
def capture(step: None = None, *, device: DeviceLike = None) -> Callable[[Callable[..., Any]], Captured]: ...
def capture(step: Callable[..., Any] | None = None, *, device: DeviceLike = None) -> Any:
    """Record a training step at its first call and replay its kernel launches at later ones, without Python's graph work.

    `step` takes NumPy arrays or Tensors, which it receives as Tensors of the same dtype, and hashable Python values; it
    returns tensors (or tuples, lists, dicts of them), to be read outside. Shapes, dtypes and Python values select the
    recording; so does what the step finds: attributes of modules and optimizers, globals, closed-over variables. Captured and
    eager runs give the same bits. Also a decorator, of methods too. `print(step.plan)` lists the launches. Threads that call
    one captured step take turns. What Python does beside (`print`, a file, a list that grows) happens while recording, no more.

    Raises CaptureError for `.item()`, `.numpy()` or a NumPy array inside the step, for an op computed without kernels, for
    random numbers drawn in Python, for results that are neither tensors nor constants, for Python values that the step itself
    changes at every call, and for an argument whose dtype changes. Warns where nearly every call records anew. `device` is
    needed only if no argument is a Tensor and the model is not on the CPU.
    """
    if step is None:
        return functools.partial(capture, device=device)
    if not callable(step):
        raise TypeError(f"capture takes a function, the step, not {type(step).__name__}")
    return Captured(step, device)
