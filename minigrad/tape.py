"""The tape: what was computed, and the walk backwards through it.

`Op.apply` runs an op's `forward` and, when a gradient will be needed, leaves the op instance on the tape: the instance is
the node. It knows its `sources` (the ops its inputs came from, or the leaves themselves) and what it has saved, never the
tensors between, so what backward does not need is freed as soon as the caller lets go of it. `backward` visits the ops in
the reverse order of their making, without recursion, and frees each one after use.
"""

import functools
import heapq
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

import minigrad.kernels
import minigrad.tensor as tensors  # each of the two modules uses the other, at call time only
from minigrad.devices import Device, Lease, is_array
from minigrad.kernels.axes import flat_layout

OWN_FOLDERS = tuple(os.path.join(os.path.dirname(file), "") for file in (__file__, minigrad.kernels.__file__))


class State(threading.local):
    """What one Python thread has switched on."""

    grad_enabled = True
    anomaly = False  # check every result for NaN
    trace = False  # note the line of user code that made each op
    observe: Any = None  # set by mg.inspect, with trace: called with each op, its inputs and parameters before it runs
    recording: Any = None  # set by mg.capture: stands in for the device and notes every launch


state = State()
new_order = itertools.count().__next__


class Switch:
    """Sets one attribute of the thread's state, inside a `with` block or a decorated function."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.before: list[dict[str, Any]] = []

    def __enter__(self) -> None:
        self.before.append({name: getattr(state, name) for name in self.values})
        vars(state).update(self.values)

    def __exit__(self, *exception: object) -> None:
        vars(state).update(self.before.pop())

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As a decorator."""

        @functools.wraps(function)
        def switched(*args: Any, **kwargs: Any) -> Any:
            with Switch(**self.values):
                return function(*args, **kwargs)

        return switched


def no_grad() -> Switch:
    """Inside, nothing goes on the tape: `with mg.no_grad(): ...`, or a decorator."""
    return Switch(grad_enabled=False)


def enable_grad() -> Switch:
    """Inside, the tape is on again, even within no_grad()."""
    return Switch(grad_enabled=True)


def detect_anomaly() -> Switch:
    """Inside, the first op whose result holds a NaN that its inputs did not hold raises AnomalyError.

    The error names the op and the line of user code that called it; a NaN born in backward names the op whose gradient it
    is. Every result is searched, so this is slow: for finding out, not for training.
    """
    return Switch(anomaly=True, trace=True)


def is_grad_enabled() -> bool:
    """Whether ops go on the tape now."""
    return state.grad_enabled


class AnomalyError(RuntimeError):
    """An op produced a NaN under `detect_anomaly()`."""


class CaptureError(RuntimeError):
    """A captured step did something that cannot be recorded and repeated."""


def user_line() -> str:
    """The nearest caller outside minigrad, as file:line."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OWN_FOLDERS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def has_nan(array: np.ndarray) -> bool:
    """Whether a float array, of any device, holds a NaN."""
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


class Op:
    """One differentiable operation; an instance is one use of it, and its node on the tape.

    Subclass it to add an op: `forward(self, *arrays, **parameters)` takes the inputs' arrays (None stays None) and
    returns a new array; `backward(self, dy)` returns one gradient per input, in order, None for an input that needs none.
    `self.save(...)` keeps arrays for backward, `self.needs[i]` tells whether input i needs a gradient, `self.kernels` and
    `self.empty` belong to the device of the inputs. `backward` never writes into `dy` or into a saved array.

        class Square(mg.Op):
            def forward(self, x):
                self.save(x)
                return x * x

            def backward(self, dy):
                (x,) = self.saved
                return (2 * x * dy,)

        y = Square.apply(x)
    """

    formula: ClassVar[str] = ""  # how mg.inspect shows it
    is_view: ClassVar[bool] = False  # the result shares memory with input 0

    device: Device
    kernels: Any  # the kernel families of that device
    needs: tuple[bool, ...]
    saved: tuple[Any, ...] | None = ()
    sources: "tuple[Op | tensors.Tensor | None, ...] | None" = ()
    versions: Sequence[tuple[list[int], int, int | None]] = ()  # of what was saved: (its version, then, which input)
    hooks: "dict[int, Callable[[tensors.Tensor], tensors.Tensor | None]] | None" = None
    retained: "weakref.ref[tensors.Tensor] | None" = None
    recorded: Any = None  # what mg.inspect.record kept of the inputs
    line = ""
    adds_to: ClassVar[int | None] = None  # the input whose gradient so far may come in `total`, to be added to
    total: np.ndarray | None = None
    order = 0
    shape: tuple[int, ...]
    dtype: np.dtype

    def forward(self, *arrays: Any, **parameters: Any) -> np.ndarray:
        """Compute the result; see the class."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, dy: np.ndarray) -> tuple[Any, ...]:
        """Gradients of the inputs from the gradient of the result; see the class."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def save(self, *arrays: Any) -> None:
        """Keep arrays for backward; an input or the result that is changed in place before then is an error there."""
        self.saved = arrays

    def take_total(self) -> np.ndarray | None:
        """In backward: what input `adds_to` has of its gradient so far, to be added to in place and returned, or None."""
        total, self.total = self.total, None
        return total

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A new array on the device at work, to be filled by a kernel."""
        return self.device.empty(shape, dtype)

    def empty_like(self, array: np.ndarray) -> np.ndarray:
        """A new array of the same shape and dtype."""
        return self.device.empty(array.shape, array.dtype)

    @classmethod
    def apply(cls, *inputs: "tensors.Tensor | None", **parameters: Any) -> "tensors.Tensor":
        """Run the op on tensors (None for an input left out); the result is on the tape if an input needs a gradient."""
        op = cls()
        home = common_device(cls, inputs)
        recording = state.recording
        if recording is None:
            op.device = home
        else:
            op.device = recording
            recording.begin(cls.__name__)
        op.kernels = op.device.kernels
        if state.grad_enabled:
            op.needs = tuple([t is not None and t.requires_grad for t in inputs])
        else:
            op.needs = (False,) * len(inputs)
        trace = state.trace
        if trace:
            op.line = user_line()
            if state.observe is not None:
                state.observe(op, inputs, parameters)
        arrays = [None if t is None else t._data for t in inputs]
        y = op.forward(*arrays, **parameters)
        if type(y) is not home.array_type:
            y = home.as_result(cls.__name__, y)
        if not y.flags.c_contiguous:  # a user's op may return a transposed view, and kernels trust what they get
            y = np.ascontiguousarray(y)
        if recording is not None:
            recording.saw_op(op, inputs, y)
        result = tensors.Tensor._wrap(y, home)
        if cls.is_view:
            result._version = inputs[0]._version  # type: ignore[union-attr]
        if True in op.needs:
            op.record(inputs, result)
        else:
            op.saved = None
        if trace and state.anomaly and has_nan(y) and not any(has_nan(a) for a in arrays if a is not None):
            raise AnomalyError(f"{cls.__name__} made a NaN out of inputs without one; it was called at {op.line}")
        return result

    def record(self, inputs: "tuple[tensors.Tensor | None, ...]", result: "tensors.Tensor") -> None:
        """Put this op on the tape as the origin of `result`."""
        y = result._data
        self.order = new_order()
        self.shape, self.dtype = y.shape, y.dtype
        self.sources = tuple([(t._op or t) if need else None for t, need in zip(inputs, self.needs)])  # type: ignore[union-attr]  # noqa: B905 - as long by construction, and called for every op
        if self.saved:
            versions: list[tuple[list[int], int, int | None]] = []
            for array in self.saved:
                if array is None:
                    continue
                if array is y:
                    versions.append((result._version, result._version[0], None))
                    continue
                for i, t in enumerate(inputs):
                    if t is not None and array is t._data:
                        versions.append((t._version, t._version[0], i))
                        break
            self.versions = versions
        result._op = self
        result.requires_grad = True

    def check_saved(self) -> None:
        """Raise if what backward needs is gone or changed."""
        if self.sources is None:
            raise RuntimeError(
                f"backward through {type(self).__name__} a second time: its saved arrays were freed by the first; "
                "call the first backward with retain_graph=True, or compute the loss again"
            )
        for version, count, i in self.versions:
            if version[0] != count:
                what = "its result" if i is None else f"its input {i}"
                raise RuntimeError(
                    f"{type(self).__name__} saved {what} (result shape {self.shape}) for backward, and it was changed in "
                    f"place {version[0] - count} time(s) since; change it after backward, or change a copy"
                    + (f"; the op was called at {self.line}" if self.line else "")
                )

    def free(self) -> None:
        """Let go of everything; the op cannot be passed again."""
        self.saved = None
        self.total = None
        self.sources = None
        self.versions = ()


def common_device(cls: type, inputs: "Sequence[tensors.Tensor | None]") -> Device:
    """The one device all inputs are on."""
    device = None
    for t in inputs:
        if t is not None and t._device is not device:
            if device is not None:
                names = ", ".join(repr(t.device) for t in inputs if t is not None)
                raise RuntimeError(
                    f"{cls.__name__}: its inputs are on different devices ({names}); move them with .to(...)"
                )
            device = t._device
    if device is None:
        raise TypeError(f"{cls.__name__}.apply needs at least one tensor")
    return device


def backward(
    tensor: "tensors.Tensor", grad: "tensors.Tensor | np.ndarray | None" = None, retain_graph: bool = False
) -> None:
    """Add d(tensor)/d(leaf), weighted by `grad`, to `.grad` of every leaf that requires a gradient.

    `grad` has the tensor's shape and may be left out for a single element. The tape is freed unless `retain_graph`.
    Raises RuntimeError where there is no tape, no gradient to start from, or a saved tensor was changed in place.
    """
    dy = first_gradient(tensor, grad)
    home = tensor._device
    recording = state.recording is not None
    device: Any = home if state.recording is None else state.recording
    array_type = home.array_type
    anomaly = state.anomaly
    hooked: dict[tensors.Tensor, np.ndarray] = {}  # leaves with hooks, which see the sum over all their uses
    gradients: dict[Op, np.ndarray] = {}
    waiting: list[tuple[int, Op]] = []
    if tensor._op is None:
        hooked[tensor] = dy
    else:
        gradients[tensor._op] = dy
        waiting.append((-tensor._op.order, tensor._op))
    del dy
    while waiting:
        op = heapq.heappop(waiting)[1]
        op.check_saved()
        dy = gradients.pop(op)
        if op.hooks:
            dy = run_hooks(op.hooks, dy, home)
        retained = op.retained() if op.retained is not None else None
        if retained is not None:
            give_to_leaf(retained, dy, device, False)
        op.device = device
        op.kernels = device.kernels
        if recording:
            device.begin(type(op).__name__ + " backward")
        sources = op.sources
        added_to = spoiled = None
        if op.adds_to is not None:
            op.total = None  # a backward that an error ended may have left one
            if sources[op.adds_to] in gradients:  # type: ignore[index, operator]
                added_to = offer_total(op, gradients)
                if anomaly and op.total is not None and has_nan(op.total):
                    spoiled = op.adds_to
        results = op.backward(dy)
        if added_to is not None and op.total is not None:  # not taken
            gradients[added_to] = op.total
            op.total = added_to = spoiled = None
        if type(results) is not tuple or len(results) != len(sources):  # type: ignore[arg-type]
            raise wrong_count(op, results)
        if recording:
            device.saw_gradients(op, results, dy)
        if anomaly:
            find_nan(op, results, dy, spoiled)
        if not retain_graph:
            op.free()
        del dy
        given = list(results)  # emptied one by one, so that nothing here refers to a gradient that is passed on
        del results
        for i, source in enumerate(sources):  # type: ignore[arg-type]
            dx, given[i] = given[i], None
            if source is None or dx is None:
                continue
            like = source if isinstance(source, Op) else source._data
            if isinstance(dx, np.generic):
                dx = np.asarray(dx)
            if type(dx) is not array_type or dx.shape != like.shape or dx.dtype != like.dtype:
                raise wrong_gradient(type(op).__name__, i, source, dx)
            if not dx.flags.c_contiguous:
                dx = np.ascontiguousarray(dx)
            if isinstance(source, Op):
                if source in gradients:
                    gradients[source] = accumulated(gradients.pop(source), dx, device)
                else:
                    gradients[source] = dx
                    if source is not added_to:  # which is waiting already
                        heapq.heappush(waiting, (-source.order, source))
            elif source._hooks:
                hooked[source] = accumulated(hooked.pop(source), dx, device) if source in hooked else dx
            else:
                ours = is_ours(dx)
                give_to_leaf(source, dx, device, ours)
            del dx
    for leaf, dy in hooked.items():
        give_to_leaf(leaf, run_hooks(leaf._hooks, dy, home), device, False)


def offer_total(op: Op, gradients: dict[Op, np.ndarray]) -> Op | None:
    """Move the gradient that an input has so far to `op.total`, if nothing else refers to it; the op it belongs to."""
    source: Op = op.sources[op.adds_to]  # type: ignore[index, assignment]
    total = gradients.pop(source)
    if not is_ours(total):
        gradients[source] = total
        return None
    op.total = total
    return source


def is_ours(array: np.ndarray) -> bool:
    """Whether the caller's variable is all that refers to this array's memory: then we may keep it and write into it."""
    return (array.base is None or isinstance(array.base, Lease)) and sys.getrefcount(array) <= EXCLUSIVE


def exclusive_count() -> int:
    """What getrefcount says, inside is_ours, of an array that only the caller's variable refers to."""

    def count(array: np.ndarray) -> int:
        return sys.getrefcount(array)

    array = np.empty(1)
    return count(array)


EXCLUSIVE = exclusive_count()


def accumulated(total: np.ndarray, dx: np.ndarray, device: Device) -> np.ndarray:
    """total + dx, written into `total` if nothing else refers to it."""
    y = total if is_ours(total) else device.empty(total.shape, total.dtype)
    add_arrays(device, total, dx, y)
    return y


def add_arrays(device: Device, a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    """y = a + b, all of one shape."""
    shape, strides = flat_layout(y.size)
    device.kernels.elementwise.add_forward(a.reshape(-1), b.reshape(-1), y.reshape(-1), shape, strides, strides)


def first_gradient(tensor: "tensors.Tensor", grad: Any) -> np.ndarray:
    """The gradient that backward starts from, checked."""
    if not tensor.requires_grad:
        raise RuntimeError(
            "backward from a tensor that is not on the tape: no input required a gradient, or it was made under no_grad()"
        )
    if grad is None:
        if tensor._data.size != 1:
            raise RuntimeError(
                f"backward from a tensor of shape {tensor.shape} needs a gradient of that shape: pass `grad`, "
                "or reduce the tensor to one number first"
            )
        return tensor._device.filled(1.0, tensor.shape, tensor.dtype)  # shared, so that nobody writes into it
    if not isinstance(grad, tensors.Tensor):
        grad = tensors.Tensor(grad, tensor.dtype, tensor._device)
        if state.recording is not None:
            state.recording.constant(grad)
    if grad.shape != tensor.shape:
        raise ValueError(f"grad has shape {grad.shape}, the tensor {tensor.shape}")
    if grad._device is not tensor._device:
        raise RuntimeError(f"grad is on {grad.device!r}, the tensor on {tensor.device!r}; move one with .to(...)")
    if grad.dtype != tensor.dtype:
        if grad.dtype.kind not in "iu":
            raise TypeError(f"grad is {grad.dtype}, the tensor {tensor.dtype}; convert it with .to(...)")
        grad = grad.to(tensor.dtype)
    if state.recording is not None:
        state.recording.saw_leaf(grad)
    return grad._data


def wrong_count(op: Op, results: Any) -> TypeError:
    """The error for a backward that returned something else than one gradient per input."""
    came = f"{len(results)} of them" if isinstance(results, tuple) else type(results).__name__
    return TypeError(f"{type(op).__name__}.backward must return a tuple of {len(op.needs)} gradients, not {came}")


def wrong_gradient(name: str, i: int, source: "Op | tensors.Tensor", dx: Any) -> TypeError:
    """The error for a gradient that does not look like its input."""
    came = f"{dx.dtype}{list(dx.shape)}" if is_array(dx) else type(dx).__name__
    return TypeError(
        f"{name}.backward gave {came} as the gradient of input {i}, which is {source.dtype}{list(source.shape)}"
    )


def find_nan(op: Op, results: tuple[Any, ...], dy: np.ndarray, spoiled: int | None) -> None:
    """Raise AnomalyError if a backward made a NaN out of a gradient and saved arrays without one.

    Input `spoiled` is passed over: other ops had left a NaN in the total that its gradient was added to.
    """
    given = [a for a in (dy, *(op.saved or ())) if is_array(a)]
    for i, (source, dx) in enumerate(zip(op.sources, results, strict=True)):  # type: ignore[arg-type]
        if i == spoiled or source is None or not is_array(dx):
            continue
        if has_nan(dx) and not any(map(has_nan, given)):
            where = f"; the op was called at {op.line}" if op.line else ""
            raise AnomalyError(f"the backward of {type(op).__name__} made a NaN in the gradient of input {i}{where}")


def run_hooks(hooks: Any, dy: np.ndarray, device: Device) -> np.ndarray:
    """Pass a gradient through the hooks of its tensor; a hook may return another."""
    for hook in list((hooks or {}).values()):
        replaced = hook(tensors.Tensor._wrap(dy, device))
        if replaced is not None:
            if not isinstance(replaced, tensors.Tensor):
                raise TypeError(f"a hook returned a {type(replaced).__name__}; it must return a Tensor or None")
            if replaced.shape != dy.shape or replaced.dtype != dy.dtype:
                raise ValueError(
                    f"a hook returned a gradient {replaced.dtype}{list(replaced.shape)}, expected {dy.dtype}{list(dy.shape)}"
                )
            dy = replaced._data
    return dy


def give_to_leaf(leaf: "tensors.Tensor", dx: np.ndarray, device: Device, ours: bool) -> None:
    """leaf.grad += dx. An array that others may refer to is copied, never kept and never written into."""
    if state.recording is not None:
        state.recording.reads_grad(leaf)
    if leaf._grad is None:
        if not ours:
            kept = device.empty(dx.shape, dx.dtype)
            device.kernels.movement.copy(dx.reshape(-1), kept.reshape(-1))
            dx = kept
        leaf._grad = tensors.Tensor._wrap(dx, leaf._device)
        leaf._grad_is_ours = True
        return
    total = leaf._grad._data
    if leaf._grad_is_ours:
        add_arrays(device, total, dx, total)
        leaf._grad._version[0] += 1
    else:
        y = device.empty(total.shape, total.dtype)
        add_arrays(device, total, dx, y)
        leaf._grad = tensors.Tensor._wrap(y, leaf._device)
        leaf._grad_is_ours = True
