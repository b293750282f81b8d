"""What stands in for a device while a step is recorded: it allocates from a pool of its own and notes every launch."""

import functools
from typing import Any, NamedTuple

import numpy as np

from minigrad.capture.finder import Finder, is_library
from minigrad.capture.launches import DeferredLaunches, Launch
from minigrad.capture.watch import Numbers
from minigrad.devices import Call, Device, Lease, arrays_among, is_array
from minigrad.modes import CaptureError, UncapturedOp, refuse_constant, state
from minigrad.results import op_of
from minigrad.tape import Op, new_order
from minigrad.tensor import LentGradient, Tensor

ANY = object()  # a gradient that the step replaces without looking at it


class Leaf(NamedTuple):
    """What a recording found of a tensor from outside, when it first saw it."""

    array: np.ndarray
    requires_grad: bool
    hooks: dict[int, Any] | None
    version: int


class Gradient(NamedTuple):
    """What a recording found in the `.grad` of a leaf: nothing, or a tensor, or it did not look."""

    before: Any  # None, ANY, or the tensor whose memory the step reads
    original: Tensor | None  # what was in `.grad`
    was_ours: bool
    version: int

    def is_added_to(self) -> bool:
        """Whether the step has changed what it found, in place."""
        return isinstance(self.before, Tensor) and self.before._version[0] != self.version


def lease_of(array: Any) -> Lease | None:
    """The lease an array's memory is held by, if it is from a pool."""
    while is_array(array):
        array = array.base
    return array if isinstance(array, Lease) else None


def name_of(kernel: Any) -> str:
    """What a kernel of the user's own is called."""
    while isinstance(kernel, functools.partial):  # kernel[grid, block]
        kernel = getattr(kernel.func, "__self__", kernel.func)
    return getattr(kernel, "__name__", type(kernel).__name__)


class Recorder:
    """Stands in for a device while a step is recorded: allocates from a private pool and notes every launch."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.pool = device.new_pool()
        self.op_name = ""
        self.op: Op | None = None  # that is at work, if it is one of the user's own
        self.start = new_order()  # ops on the tape from before have a lower order
        self.launches_before = 0
        self.launches: list[Launch] = []
        self.deferred = DeferredLaunches(device)
        self.checks: list[Call] = []
        self.inputs: list[np.ndarray] = []
        self.leaves: dict[Tensor, Leaf] = {}
        self.gradients: dict[Tensor, Gradient] = {}
        self.finder = Finder()
        self.mirrors: list[Any] = []
        self.kernels = RecordingKernels(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)

    def begin(self, name: str, op: Op | None = None) -> None:
        """The launches to come are those of an op."""
        self.op_name = name
        self.op = None if op is None or is_library(type(op).__module__) else op
        self.launches_before = len(self.launches)
        if self.looks_at_values():
            self.deferred.make()

    def looks_at_values(self) -> bool:
        """Whether what is at work may look at values: an op of the user's own, or a search for NaN."""
        return self.op is not None or state.trace

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """An array from the private pool, however small."""
        return self.pool.empty(tuple(shape), np.dtype(dtype))

    def copy(self, array: Any) -> Any:
        """A copy, made anew by every replay."""
        y = self.empty(array.shape, array.dtype)
        self.kernels.movement.copy(array.reshape(-1), y.reshape(-1))
        return y

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """An array of zeros, made anew by every replay."""
        y = self.empty(shape, dtype)
        if y.size:
            self.kernels.movement.fill(0.0, y.reshape(-1))
        return y

    def input(self, data: Any) -> Tensor:
        """An input of the step: a tensor whose array is filled anew before every replay."""
        array = self.empty(data.shape, data.dtype)
        self.device.write(array, data)
        self.inputs.append(array)
        return Tensor._wrap(array, self.device)

    def launch(self, family: str, name: str, kernel: Any, arguments: tuple[object, ...]) -> None:
        """Run a kernel and note it; or only note it, to be run when what is missing has been compiled."""
        if self.op is not None:
            self.check_lasting(self.op, name, arguments)
        aliases = tuple([list(map(self.alias, a)) if isinstance(a, list) else self.alias(a) for a in arguments])
        launch = self.note(f"{family}.{name}", aliases, (kernel, aliases), arrays_among(aliases))
        self.deferred.launch(launch, kernel, at_once=self.looks_at_values())

    def launch_own(self, op: Op, kernel: object, arguments: tuple[object, ...]) -> None:
        """Run a kernel of the user's own and note it."""
        self.finder.op(op)
        self.finder.visit("a kernel", kernel)
        self.launch("own", name_of(kernel), self.device.own_kernel(kernel), arguments)

    def check_lasting(self, op: Op, kernel: str, arguments: tuple[Any, ...]) -> None:
        """Raise if an op of the user's own gives a kernel an array that Python computed: replays would find it as it is."""
        self.finder.op(op)
        known = [*self.device.constants.values(), *[leaf.array for leaf in self.leaves.values()]]
        for array in arrays_among(arguments):
            if self.owns(array) or {id(array), id(array.base)} & self.finder.seen.keys():
                continue
            if not any(self.device.share_memory(array, other) for other in known):
                name = type(op).__name__
                raise UncapturedOp(
                    name,
                    f"{name} gives {kernel} an array (shape {array.shape}) that Python computed, which replays would not "
                    "compute again: allocate it with self.empty and fill it by self.launch(kernel, ...) or self.kernels",
                )

    def note(self, name: str, given: tuple[object, ...], call: Call, arrays: list[np.ndarray]) -> Launch:
        """Put a call on the list."""
        shapes = " ".join("x".join(map(str, a.shape)) or "()" for a in arrays[:6]) + (" ..." if len(arrays) > 6 else "")
        nbytes = sum(a.nbytes for a in arrays)
        self.launches.append(Launch(self.op_name, name, given, *call, shapes, nbytes))
        return self.launches[-1]

    def check(self, function: Any, *arguments: Any) -> None:
        """Run a check of values; in a replay it comes first if it looks at inputs only."""
        blocks = [lease.block for lease in map(lease_of, self.inputs) if lease]
        arrays = list(filter(is_array, arguments))
        aliases = tuple(map(self.alias, arguments))
        of_inputs = all((lease := lease_of(a)) and any(lease.block is block for block in blocks) for a in arrays)
        if not of_inputs:  # what is checked are integers, and no launch changes those of an input
            self.deferred.make()
        self.device.check(function, *arguments)
        if of_inputs:
            self.checks.append((function, aliases))
        elif not self.device.replays_python:
            raise CaptureError(
                f"{self.op_name or 'an op'} inside a step captured on {self.name!r} checks values that the step computes, "
                "which a replay cannot do there; pass them as arguments of the step"
            )
        else:
            self.note(function.__name__, aliases, (function, aliases), arrays)

    def alias(self, argument: Any) -> Any:
        """The same memory without the lease, so that the recording does not keep the pool from using it again."""
        lease = lease_of(argument)
        if lease is None or lease.pool is not self.pool:
            return argument
        return self.device.alias(argument, lease)

    def mirror(self, array: np.ndarray) -> Any:
        """What kernels read of an array that Python writes: every replay brings it up to date."""
        return self.device.mirror_for(self, array)

    def owns(self, array: np.ndarray) -> bool:
        """Whether an array lies in the private pool."""
        lease = lease_of(array)
        return lease is not None and lease.pool is self.pool

    def sees_op(self, op: Op, inputs: tuple[Tensor | None, ...]) -> None:
        """An op is about to run on tensors, which may come from outside."""
        self.begin(type(op).__name__, op)
        for t in inputs:
            if t is None:
                continue
            if t._device is not self.device:
                raise CaptureError(
                    f"{type(op).__name__} works on {t.device!r} inside a step captured on {self.name!r}; "
                    "pass device=... to mg.capture"
                )
            self.saw_leaf(t)

    def saw_op(self, op: Op, inputs: tuple[Tensor | None, ...], ys: list[np.ndarray]) -> None:
        """An op ran: its results must have come from kernels, or replaying would not compute them."""
        for y in ys:
            self.check_computed(op, "forward", y, [t._data for t in inputs if t is not None])
        self.finder.op(op)
        self.op = None

    def before(self, op: Op, dys: tuple[Any, ...]) -> None:
        """The launches to come are those of an op's backward."""
        self.begin(type(op).__name__ + " backward", op)

    def after(self, op: Op, dys: tuple[Any, ...], results: tuple[Any, ...]) -> None:
        """An op went backward: the gradients that are wanted must have come from kernels as well."""
        given = [a for a in (*dys, *(op.saved or ())) if is_array(a)]
        for source, dx in zip(op.sources or (), results, strict=True):
            if source is not None and is_array(dx):
                self.check_computed(op, "backward", dx, given)
        self.op = None

    def check_computed(self, op: Op, what: str, y: np.ndarray, given: list[np.ndarray]) -> None:
        """Raise unless `y` is memory of `given`, or ours and there was a launch that can have filled it."""
        computed = self.owns(y) and (len(self.launches) > self.launches_before or not y.size)
        if not computed and not any(self.device.share_memory(array, y) for array in given):
            name = type(op).__name__
            raise UncapturedOp(
                name,
                f"{name}.{what} computed its result without minigrad's kernels, so it cannot be repeated: allocate with "
                "self.empty and compute by self.launch(kernel, ...), a function that fills the arrays it is given, or by "
                "self.kernels; or leave this op out of the captured step",
            )

    def saw_leaf(self, tensor: Tensor) -> None:
        """A tensor from outside takes part: the recording holds while it keeps its array."""
        if (op := op_of(tensor._op)) is not None:
            if op.order < self.start:
                raise CaptureError(
                    f"a tensor that {type(op).__name__} made outside (shape {tensor.shape}) is used inside a captured "
                    "step, which would go on using that very one: make it inside, or pass it as an argument, detached"
                )
        elif tensor not in self.leaves and not self.owns(tensor._data):
            hooks = dict(tensor._hooks) if tensor._hooks else None
            for hook in (hooks or {}).values():
                self.finder.visit("a hook", hook)
            self.leaves[tensor] = Leaf(tensor._data, tensor.requires_grad, hooks, tensor._version[0])

    def saw_array(self, array: Any) -> None:
        """An array from outside: it must be one that the names in the step's code lead to, so that another is noticed."""
        if not self.owns(array) and not {id(array), id(array.base)} & self.finder.seen.keys():
            refuse_constant(array.shape)

    def saw_module(self, module: object) -> None:
        """A module takes part, or an optimizer: the recording holds while their attributes stay."""
        self.finder.module(module)

    def reads_grad(self, tensor: Tensor) -> None:
        """The step looks at a gradient: what it finds first is read by every replay, wherever it is then.

        The step gets it in memory of the recording's own, unless it is another recording's, which stays where it is.
        """
        if tensor._op is not None or tensor in self.gradients or self.owns(tensor._data):
            return
        found = tensor._grad
        ours = tensor._grad_is_ours
        if found is None or isinstance(found, LentGradient):
            self.gradients[tensor] = Gradient(found, found, ours, 0 if found is None else found._version[0])
            return
        self.deferred.make()
        # Replays put it there before they launch anything, also what comes before this look.
        array = self.pool.empty(found.shape, found.dtype, fresh=True)
        self.device.write(array, found._data)
        tensor._grad = Tensor._wrap(array, self.device)
        self.gradients[tensor] = Gradient(tensor._grad, found, ours, 0)

    def writes_grad(self, tensor: Tensor) -> None:
        """The step sets a gradient."""
        if tensor._op is None and tensor not in self.gradients and not self.owns(tensor._data):
            self.gradients[tensor] = Gradient(ANY, tensor._grad, tensor._grad_is_ours, 0)

    def gradient_left(self, leaf: Tensor) -> Tensor | None:
        """The gradient that the step leaves at a leaf, to be left there by each replay as well."""
        grad = leaf._grad
        if grad is None or grad is self.gradients[leaf].before or not self.owns(grad._data):
            return grad
        return LentGradient._wrap(grad._data, grad._device)

    def forget_numbers(self) -> None:
        """Arrays that kernels work on may change: their numbers are no condition."""
        given = [a for launch in self.launches for a in launch.arguments]
        used = {id(array) for a in given for array in (a if isinstance(a, list) else [a])}
        for place in self.finder.conditions.others.values():
            if isinstance(place, Numbers) and id(place.array) in used:
                self.finder.conditions.forget(place)

    def put_back_gradients(self) -> None:
        """Leave gradients that the step has only read as they were; and all, if it was left before they were computed."""
        for leaf, gradient in self.gradients.items():
            if self.deferred.lost:
                leaf._grad, leaf._grad_is_ours = gradient.original, gradient.was_ours
            elif gradient.original is not None and leaf._grad is gradient.before:
                if gradient.is_added_to() and leaf._grad is not gradient.original:
                    self.device.write(gradient.original._data, leaf._grad._data)
                    gradient.original._version[0] += 1
                leaf._grad, leaf._grad_is_ours = gradient.original, gradient.was_ours


class RecordingKernels:
    """A device's kernel families, each launch noted."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __getattr__(self, family: str) -> Any:
        module = getattr(self.recorder.device.kernels, family)
        proxy = RecordingFamily(self.recorder, family, module)
        setattr(self, family, proxy)
        return proxy


class RecordingFamily:
    """One family of kernels, each launch noted."""

    def __init__(self, recorder: Recorder, family: str, module: object) -> None:
        self.recorder, self.family, self.module = recorder, family, module

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self.module, name)
        recorder, family = self.recorder, self.family  # without self, or this would be a cycle

        def launch(*arguments: object) -> None:
            recorder.launch(family, name, kernel, arguments)

        setattr(self, name, launch)
        return launch
