"""mg.capture: run a training step once, note every kernel it launched, and from then on launch just those.

The first call with given shapes runs the step as usual, on a device that notes each launch: the compiled function and the
very arrays it worked on. Those arrays come from a pool of the recording's own, where memory is used again as soon as
the step has let go of it, so the plan of the memory is that of the recorded run. Later calls copy their inputs into the
recorded input arrays and launch the list again: no Tensor, no tape, no Python but a loop. After a few replays, machine code
takes over from the loop where it can (minigrad.kernels.cpu.tools.replay).

What may change from call to call must therefore live in arrays: the inputs, the parameters, running statistics, the
optimizer's state and learning rate, the counter of dropout. What Python decided while recording stays decided. A call
selects its recording by the shapes and dtypes of its inputs and by its Python values; a recording is good only while the
tensors it found (parameters, buffers) still have the same arrays, the modules it passed the same training flag, and the
parameters a gradient, or none, as they had. Otherwise the step is recorded anew.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from minigrad.devices import Call, Device, Lease, get_device, is_array
from minigrad.modes import CaptureError, state
from minigrad.tape import Op, new_order
from minigrad.tensor import Tensor, as_array

MOST_RECORDINGS = 64  # of one step; more means that something changes with every call
TIMED_REPLAYS = 5  # the first replays measure every launch, for printing the plan
ANY = object()  # a gradient that the step replaces without looking at it


class Leaf(NamedTuple):
    """What a recording found of a tensor from outside, when it first saw it."""

    array: np.ndarray
    requires_grad: bool
    hooks: dict[int, Any] | None
    version: int


@dataclass
class Launch:
    """One kernel launch of a plan."""

    op: str
    kernel: str
    given: tuple[Any, ...]  # what the op called the kernel with: the arguments of kernels/reference
    function: Callable[..., None]
    arguments: tuple[Any, ...]  # what the function takes
    shapes: str
    nbytes: int
    times: list[float] = field(default_factory=list)


def lease_of(array: Any) -> Lease | None:
    """The lease an array's memory is held by, if it is from a pool."""
    while is_array(array):
        array = array.base
    return array if isinstance(array, Lease) else None


class Recorder:
    """Stands in for a device while a step is recorded: allocates from a private pool and notes every launch."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.pool = device.new_pool()
        self.op_name = ""
        self.start = new_order()  # ops on the tape from before have a lower order
        self.launches_before = 0
        self.launches: list[Launch] = []
        self.checks: list[Call] = []
        self.inputs: list[np.ndarray] = []
        self.leaves: dict[Tensor, Leaf] = {}
        self.modules: dict[Any, bool] = {}
        self.gradients: dict[Tensor, Any] = {}  # what the step found in `.grad`: a Tensor, None, or ANY
        self.mirrors: list[Any] = []
        self.kernels = RecordingKernels(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)

    def begin(self, name: str) -> None:
        """The launches to come are those of an op."""
        self.op_name = name
        self.launches_before = len(self.launches)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """An array from the private pool, however small."""
        return self.pool.empty(tuple(shape), np.dtype(dtype))

    def copy(self, array: Any) -> Any:
        """A copy, made anew by every replay."""
        y = self.empty(array.shape, array.dtype)
        self.kernels.movement.copy(array.reshape(-1), y.reshape(-1))
        return y

    def input(self, data: Any) -> Tensor:
        """An input of the step: a tensor whose array is filled anew before every replay."""
        array = self.empty(data.shape, data.dtype)
        self.device.write(array, data)
        self.inputs.append(array)
        return Tensor._wrap(array, self.device)

    def launch(self, family: str, name: str, kernel: Any, arguments: tuple[Any, ...]) -> None:
        """Run a kernel and note it."""
        aliases = tuple([list(map(self.alias, a)) if isinstance(a, list) else self.alias(a) for a in arguments])
        function, prepared = self.device.resolve(kernel, aliases)
        function(*prepared)
        arrays = [a for given in aliases for a in (given if isinstance(given, list) else [given])]
        self.note(f"{family}.{name}", aliases, (function, prepared), list(filter(is_array, arrays)))

    def note(self, name: str, given: tuple[Any, ...], call: Call, arrays: list[np.ndarray]) -> None:
        """Put a call on the list."""
        shapes = " ".join("x".join(map(str, a.shape)) or "()" for a in arrays[:6]) + (" ..." if len(arrays) > 6 else "")
        nbytes = sum(a.nbytes for a in arrays)
        self.launches.append(Launch(self.op_name, name, given, *call, shapes, nbytes))

    def check(self, function: Any, *arguments: Any) -> None:
        """Run a check of values; in a replay it comes first if it looks at inputs only."""
        self.device.check(function, *arguments)
        blocks = [lease.block for lease in map(lease_of, self.inputs) if lease]
        arrays = list(filter(is_array, arguments))
        aliases = tuple(map(self.alias, arguments))
        if all((lease := lease_of(a)) and any(lease.block is block for block in blocks) for a in arrays):
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

    def saw_op(self, op: Op, inputs: tuple[Tensor | None, ...], y: np.ndarray) -> None:
        """An op ran: its result must have come from kernels, or replaying would not compute it."""
        given = [t for t in inputs if t is not None]
        for t in given:
            if t._device is not self.device:
                raise CaptureError(
                    f"{type(op).__name__} works on {t.device!r} inside a step captured on {self.name!r}; "
                    "pass device=... to mg.capture"
                )
            self.saw_leaf(t)
        self.check_computed(f"{type(op).__name__}.forward", y, [t._data for t in given])

    def before(self, op: Op, dy: np.ndarray) -> None:
        """The launches to come are those of an op's backward."""
        self.begin(type(op).__name__ + " backward")

    def after(self, op: Op, dy: np.ndarray, results: tuple[Any, ...]) -> None:
        """An op went backward: the gradients that are wanted must have come from kernels as well."""
        given = [a for a in (dy, *(op.saved or ())) if is_array(a)]
        for source, dx in zip(op.sources or (), results, strict=True):
            if source is not None and is_array(dx):
                self.check_computed(f"{type(op).__name__}.backward", dx, given)

    def check_computed(self, what: str, y: np.ndarray, given: list[np.ndarray]) -> None:
        """Raise unless `y` is memory of `given`, or ours and there was a launch that can have filled it."""
        computed = self.owns(y) and (len(self.launches) > self.launches_before or not y.size)
        if not computed and not any(self.device.share_memory(array, y) for array in given):
            raise CaptureError(
                f"{what} computed its result without minigrad's kernels, so it cannot be repeated; "
                "allocate with self.empty and compute with self.kernels, or leave this op out of the captured step"
            )

    def saw_leaf(self, tensor: Tensor) -> None:
        """A tensor from outside takes part: the recording holds while it keeps its array."""
        if tensor._op is not None:
            if tensor._op.order < self.start:
                raise CaptureError(
                    f"a tensor that {type(tensor._op).__name__} made outside (shape {tensor.shape}) is used inside a captured "
                    "step, which would go on using that very one: make it inside, or pass it as an argument, detached"
                )
        elif tensor not in self.leaves and not self.owns(tensor._data):
            hooks = dict(tensor._hooks) if tensor._hooks else None
            self.leaves[tensor] = Leaf(tensor._data, tensor.requires_grad, hooks, tensor._version[0])

    def saw_module(self, module: Any) -> None:
        """A module was called: the recording holds while its training flag stays."""
        self.modules.setdefault(module, module.training)

    def reads_grad(self, tensor: Tensor) -> None:
        """The step looks at a gradient: what it finds first is a condition of the recording."""
        if tensor._op is None and tensor not in self.gradients and not self.owns(tensor._data):
            self.gradients[tensor] = tensor._grad

    def writes_grad(self, tensor: Tensor) -> None:
        """The step sets a gradient."""
        if tensor._op is None and tensor not in self.gradients and not self.owns(tensor._data):
            self.gradients[tensor] = ANY


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

    def __init__(self, recorder: Recorder, family: str, module: Any) -> None:
        self.recorder, self.family, self.module = recorder, family, module

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self.module, name)
        recorder, family = self.recorder, self.family  # without self, or this would be a cycle

        def launch(*arguments: Any) -> None:
            recorder.launch(family, name, kernel, arguments)

        setattr(self, name, launch)
        return launch


@dataclass
class Plan:
    """A recorded step: its launches in order, and what must hold for it. Printing it lists the launches."""

    launches: list[Launch]
    checks: list[Call]
    inputs: list[np.ndarray]
    outputs: Any
    leaves: list[tuple[Tensor, Leaf]]
    changed: list[list[int]]
    modules: list[tuple[Any, bool]]
    gradients: list[tuple[Tensor, Any, Tensor | None]]  # (leaf, its gradient before, its gradient after)
    mirrors: list[Any]
    device: Device
    pool: Any
    replays: int = 0

    def __post_init__(self) -> None:
        self.program = self.device.program([(launch.function, launch.arguments) for launch in self.launches])
        self.found = [(tensor, leaf.array, leaf.requires_grad, leaf.hooks) for tensor, leaf in self.leaves]
        self.awaited = [(leaf, before) for leaf, before, _ in self.gradients if before is not ANY]

    def holds(self) -> bool:
        """Whether everything the step found while recording is still so. Short, since it runs before every replay."""
        for tensor, array, requires_grad, hooks in self.found:
            if tensor._data is not array or tensor.requires_grad is not requires_grad:
                return False
            if (tensor._hooks or None) != hooks:
                return False
        for module, training in self.modules:
            if module.training is not training:
                return False
        return all(leaf._grad is before for leaf, before in self.awaited)

    def replay(self, arrays: list[np.ndarray]) -> Any:
        """Run it on new inputs."""
        device = self.device
        for target, array in zip(self.inputs, arrays, strict=True):
            device.write(target, array)
        for mirror in self.mirrors:
            mirror.refresh()
        for check, arguments in self.checks:
            device.check(check, *arguments)
        if self.replays < TIMED_REPLAYS:
            self.timed()
        else:
            self.program()
        for leaf, _, after in self.gradients:
            leaf._grad = after
            leaf._grad_is_ours = True
        for version in self.changed:
            version[0] += 1
        return returned(self.outputs)

    def timed(self) -> None:
        """Run all launches, measuring each."""
        self.replays += 1
        for launch in self.launches:
            launch.times.append(self.program.timed(launch.function, launch.arguments))

    @property
    def nbytes(self) -> int:
        """Bytes of memory the recording works in, besides parameters and state."""
        return self.pool.allocated

    def __str__(self) -> str:
        rows = [("op", "kernel", "shapes", "bytes", "us")]
        total = 0.0
        for launch in self.launches:
            seconds = float(np.median(launch.times)) if launch.times else None
            total += seconds or 0
            micros = "-" if seconds is None else f"{seconds * 1e6:.1f}"
            rows.append((launch.op, launch.kernel, launch.shapes, f"{launch.nbytes:,}", micros))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = []
        for row in rows:
            cells = zip(row, widths, strict=True)
            lines.append("  ".join(c.rjust(w) if i > 2 else c.ljust(w) for i, (c, w) in enumerate(cells)).rstrip())
        measured = f", {total * 1e6:.0f} us" if total else " (times come with the first replays)"
        lines.append(f"{len(self.launches)} launches{measured}; {self.nbytes:,} bytes of planned memory")
        return "\n".join(lines)


class Captured:
    """A step that is recorded at its first call and replayed after; see `capture`."""

    def __init__(self, step: Callable[..., Any], device: Any = None) -> None:
        functools.update_wrapper(self, step)
        self.step = step
        self.device = None if device is None else get_device(device)
        self.plans: dict[Any, list[Plan]] = {}
        self.plan: Plan | None = None  # the latest
        self.latest_key: Any = None
        self.dtypes: dict[Any, np.dtype] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Replay the step, or record it first."""
        if state.recording is not None:
            return self.step(*args, **kwargs)  # a part of the step being recorded
        if state.trace:  # detect_anomaly and mg.inspect look at every op, and a replay passes none
            device = self.device or device_of([*args, *kwargs.values()])
            given = [as_tensor(value, device) for value in args]
            return self.step(*given, **{name: as_tensor(value, device) for name, value in kwargs.items()})
        named = [*enumerate(args), *sorted(kwargs.items())] if kwargs else list(enumerate(args))
        arrays: list[np.ndarray] = []
        key = tuple([described(name, value, arrays) for name, value in named]), state.grad_enabled
        plan = self.plan
        if plan is None or key != self.latest_key or not plan.holds():
            plan = next((p for p in self.plans.get(key, ()) if p.holds()), None)
            if plan is None:
                self.check_dtypes(named)
                return self.record(key, args, kwargs)
            self.plan, self.latest_key = plan, key
        return plan.replay(arrays)

    def check_dtypes(self, named: list[tuple[Any, Any]]) -> None:
        """An argument keeps its dtype: a change is nearly always a mistake, and would double the work in silence."""
        for name, value in named:
            if is_array(value) or isinstance(value, Tensor):
                dtype = self.dtypes.setdefault(name, value.dtype)
                if value.dtype != dtype:
                    which = f"argument {name}" if isinstance(name, int) else f"argument {name!r}"
                    raise CaptureError(
                        f"{which} of the captured step was {dtype} when recorded and is {value.dtype} now; "
                        "convert it, or capture the function a second time"
                    )

    def record(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the step while noting its launches."""
        count = sum(map(len, self.plans.values()))
        if count >= MOST_RECORDINGS:
            raise CaptureError(
                f"this step has been recorded {count} times; a Python value among its arguments, or the array of a "
                "parameter, seems to change with every call: pass changing numbers as arrays, or clear() the recordings"
            )
        recorder = Recorder(self.device or device_of([*args, *kwargs.values()]))
        inner_args = [inner(recorder, a) for a in args]
        inner_kwargs = {name: inner(recorder, kwargs[name]) for name in sorted(kwargs)}
        state.recording = recorder
        try:
            outputs = self.step(*inner_args, **inner_kwargs)
        finally:
            state.recording = None
            recorder.kernels = recorder.device.kernels  # without a cycle, which would keep its memory until collected
        plan = Plan(
            launches=recorder.launches,
            checks=recorder.checks,
            inputs=recorder.inputs,
            outputs=each_tensor(outputs, Tensor.detach),
            leaves=list(recorder.leaves.items()),
            changed=[tensor._version for tensor, leaf in recorder.leaves.items() if tensor._version[0] != leaf.version],
            modules=list(recorder.modules.items()),
            gradients=[(leaf, before, leaf._grad) for leaf, before in recorder.gradients.items()],
            mirrors=recorder.mirrors,
            device=recorder.device,
            pool=recorder.pool,
        )
        self.plans.setdefault(key, []).append(plan)
        self.plan, self.latest_key = plan, key
        return returned(plan.outputs)

    def clear(self) -> None:
        """Forget all recordings and their memory."""
        self.plans.clear()
        self.plan = None
        self.dtypes.clear()


def described(name: Any, value: Any, arrays: list[np.ndarray]) -> Any:
    """What selects a recording, of one argument; its array goes to `arrays`."""
    if is_array(value):
        arrays.append(value)
        return name, value.shape, value.dtype
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise CaptureError(
                f"argument {name!r} of a captured step requires a gradient, which would stay on its copy inside; "
                "let the step find the tensor in an enclosing scope instead"
            )
        arrays.append(value._data)
        return name, value.shape, value.dtype, value.device
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"argument {name!r} of a captured step is a {type(value).__name__}; pass NumPy arrays, Tensors, "
            "or hashable Python values"
        ) from None
    return name, type(value), value


def inner(recorder: Recorder, value: Any) -> Any:
    """What the step gets for an argument."""
    if isinstance(value, Tensor):
        return recorder.input(value._data)
    if is_array(value):
        return recorder.input(as_array(value) if isinstance(value, np.ndarray) else value)
    return value


def as_tensor(value: Any, device: Device) -> Any:
    """What the step gets for an argument when it is not recorded."""
    if isinstance(value, np.ndarray):
        return Tensor(value, device=device)
    return Tensor._wrap(device.copy(value), device) if is_array(value) else value


def device_of(values: list[Any]) -> Device:
    """The device of the tensors among the arguments; the CPU if there is none."""
    for value in values:
        if isinstance(value, Tensor):
            return value._device
    return get_device(None)


def each_tensor(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same nest of tuples, lists and dicts with the function applied to each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[each_tensor(v, function) for v in value])
    if isinstance(value, tuple | list):
        return type(value)(each_tensor(v, function) for v in value)
    if isinstance(value, dict):
        return {name: each_tensor(v, function) for name, v in value.items()}
    return value


def returned(outputs: Any) -> Any:
    """The outputs as the caller gets them: copies, which the next replay does not write over."""
    if isinstance(outputs, Tensor):
        return Tensor._wrap(outputs._device.copy(outputs._data), outputs._device)
    return each_tensor(outputs, returned)


def capture(step: Callable[..., Any] | None = None, *, device: Any = None) -> Any:
    """Record a training step at its first call and replay its kernel launches at later ones, without Python's graph work.

    `step` takes NumPy arrays or Tensors, which it receives as Tensors of the same dtype, and hashable Python values; it
    returns tensors (or tuples, lists, dicts of them), to be read outside. Shapes, dtypes and Python values select the
    recording. Captured and eager runs give the same bits. Also a decorator. `print(step.plan)` lists the launches.

    Raises CaptureError for `.item()`, `.numpy()` or a NumPy array inside the step, for an op computed without kernels, and
    for an argument whose dtype changes. `device` is needed only if no argument is a Tensor and the model is not on the CPU.
    """
    if step is None:
        return functools.partial(capture, device=device)
    return Captured(step, device)
