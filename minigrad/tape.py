"""The tape: what was computed, and the walk backwards through it.

`Op.apply` runs an op's `forward` and, when a gradient will be needed, leaves the op instance on the tape: the instance is
the node. It knows its `sources` (the ops its inputs came from, or the leaves themselves) and what it has saved, never the
tensors between, so what backward does not need is freed as soon as the caller lets go of it. An op with several results is one
node too: each of its tensors then comes from a `Result`, which is the op and a number. `backward` visits the ops in the
reverse order of their making, without recursion, and frees each one after use; how gradients are added up on the way is in
minigrad.gradients.
"""

import inspect
import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from minigrad.anomaly import NanSearch, WriteSearch, search_results
from minigrad.devices import Device, is_array
from minigrad.gradients import Gradients
from minigrad.kernels.contract import Kernels
from minigrad.modes import at_work, read, refuse_constant, state, user_line
from minigrad.results import Hook, Result, check_gradients_taken, count_together, op_of

new_order = itertools.count().__next__


class Op:
    """One differentiable operation; an instance is one use of it, and its node on the tape.

    Subclass it to add an op: `forward(self, *arrays, **parameters)` takes the inputs' arrays (None stays None) and
    returns a new array; `backward(self, dy)` returns one gradient per input, in order, None for an input that needs none.
    `self.save(...)` keeps arrays for backward, `self.needs[i]` tells whether input i needs a gradient, `self.kernels` and
    `self.empty` belong to the device of the inputs. `backward` never writes into `dy` or into a saved array. For a captured
    step (`mg.capture`, `mg.train.fit`) an op computes by `self.launch` and `self.kernels`, not by NumPy. An op that is to be
    derived twice also has `backward_on_tape`.

    Where `forward` returns a tuple of arrays, `apply` gives a tuple of tensors, and both backwards get as many gradients, in
    order: zeros for a result that nothing used (with `takes_none` None), always None for one that is not of floats.

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
    passes_on: ClassVar[bool] = (
        True  # backward may return dy, a saved array, or one array twice; False: only new arrays
    )
    adds_to: ClassVar[int | None] = None  # the input whose gradient so far may come in `total`, to be added to
    takes_none: ClassVar[bool] = False  # of several results: None, not zeros, for the gradient of one that nothing used

    device: Device
    kernels: Kernels  # the kernel families of that device
    needs: tuple[bool, ...]
    saved: tuple[Any, ...] | None = ()
    sources: "tuple[Op | Result | tensors.Tensor | None, ...] | None" = ()
    versions: Sequence[tuple[list[int], int, int]] = ()  # of what was saved: (its version, then, input i or result ~i)
    hooks: dict[int, Hook] | None = None
    retained: "weakref.ref[tensors.Tensor] | None" = None
    recorded: Any = None  # what mg.inspect.record kept of the inputs
    line = ""
    total: np.ndarray | None = None
    order = 0
    shape: tuple[int, ...]  # of the result, if it is the only one
    dtype: np.dtype
    _several: "list[tuple[tuple[int, ...], np.dtype, weakref.ref[Result] | None]] | None" = None  # of several results

    def forward(self, *arrays: Any, **parameters: Any) -> Any:
        """Compute the result, or a tuple of several; see the class."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, *dy: Any, **never: Any) -> tuple[Any, ...]:
        """Gradients of the inputs from the gradient of the result, or of each of several; see the class."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def backward_on_tape(self, *dy: Any, **never: Any) -> "tuple[tensors.Tensor | None, ...]":
        """`backward` once more, by ops on tensors, so that the gradients can be derived: for `mg.grad(create_graph=True)`.

        What was saved becomes tensors by `self.as_input` and `self.as_result`. Raises NotImplementedError in ops without it.
        """
        raise NotImplementedError(
            f"mg.grad(..., create_graph=True) came to {self._title()} ({self._shapes()}), whose gradient is computed "
            "but cannot be derived again: it has no backward_on_tape, which second derivatives need. Compute that part by "
            "other ops; give an op of your own a backward_on_tape(self, dy) that does by ops on tensors what its backward "
            "does; or, for first derivatives, leave create_graph out"
        )

    def as_input(self, i: int, array: Any) -> "tensors.Tensor":
        """In backward_on_tape: input i, of which `array` was saved, as the tensor it was, with what made it."""
        source = self.sources[i]  # type: ignore[index]
        if isinstance(source, tensors.Tensor):
            return source
        return self.on_tape(array, source, i)

    def as_result(self, array: Any, i: int = 0) -> "tensors.Tensor":
        """In backward_on_tape: result i, of which `array` was saved, as a tensor that this op made."""
        return self.on_tape(array, self._result(i), ~i)

    def on_tape(self, array: Any, made_by: "Op | Result | None", which: int | None) -> "tensors.Tensor":
        """A tensor around a saved array, which an op made, if one is given; changes in place are counted with the first's."""
        tensor = tensors.Tensor._wrap(array, self.device)
        tensor._device = getattr(self.device, "device", self.device)  # of a recording the device that it records
        tensor._op, tensor.requires_grad = made_by, made_by is not None
        tensor._version = next((version for version, _, i in self.versions if i == which), tensor._version)
        return tensor

    def save(self, *arrays: Any) -> None:
        """Keep arrays for backward; an input or the result that is changed in place before then is an error there."""
        self.saved = arrays

    def take_total(self) -> np.ndarray | None:
        """In backward: what input `adds_to` has of its gradient so far, to be added to in place and returned, or None."""
        total, self.total = self.total, None
        return total

    def launch(self, kernel: Callable[..., Any], *arguments: Any) -> None:
        """Run `kernel(*arguments)`, which a captured step then repeats: how a kernel of your own gets into one.

        The kernel is a function that fills arrays it is given and returns nothing: one compiled by `@numba.njit`, one in
        NumPy that writes by `out=` or `y[...] =`, or on the GPU `kernel[grid, block]`. What it computes follows from its
        arguments alone. In a captured step arrays are inputs of the op, saved ones, `dy`, those made by `self.empty`, views
        of these, and arrays in a global or an attribute that the code names; numbers stay what they were while recording.
        Raises CaptureError there for any other array.
        """
        self.device.launch_own(self, kernel, arguments)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A new array on the device at work, to be filled by a kernel."""
        return self.device.empty(shape, dtype)

    def empty_like(self, array: np.ndarray) -> np.ndarray:
        """A new array of the same shape and dtype."""
        return self.device.empty(array.shape, array.dtype)

    @classmethod
    def apply(cls, *inputs: "tensors.Tensor | None", **parameters: Any) -> "tensors.Tensor":
        """Run the op on tensors (None for an input left out); the result is on the tape if an input needs a gradient.

        It is a tensor, or a tuple of tensors where `forward` returns a tuple. Parameters go by name to `forward` as they are.
        Raises TypeError for an input that is no tensor.
        """
        op = cls()
        home = common_device(cls, inputs)
        recording = state.recording
        op.device = at_work(home)
        op.kernels = op.device.kernels
        if recording is not None:
            recording.sees_op(op, inputs)
        if state.grad_enabled:
            op.needs = tuple([t is not None and t.requires_grad for t in inputs])
        else:
            op.needs = (False,) * len(inputs)
        if state.trace:
            op.line = user_line()
            if state.observe is not None:
                state.observe(op, inputs, parameters)
        arrays = [None if t is None else t._data for t in inputs]
        y = op.forward(*arrays, **parameters)
        result: Any
        if isinstance(y, tuple):
            result = results = tuple([as_tensor(op, array, inputs, home) for array in y])
            count_together(cls.__name__, results)
        else:
            result = as_tensor(op, y, inputs, home)
            results = (result,)
        if recording is not None:
            recording.saw_op(op, inputs, [t._data for t in results])
        if True in op.needs:
            op.record(inputs, results, result is results)
        else:
            op.saved = None
        if state.anomaly:
            search_results(op, arrays, [t._data for t in results])
        return result  # type: ignore[no-any-return]  # a tensor, or of few ops a tuple

    def record(
        self, inputs: "tuple[tensors.Tensor | None, ...]", results: "tuple[tensors.Tensor, ...]", several: bool
    ) -> None:
        """Put this op on the tape as the origin of its results."""
        self.order = new_order()
        self.sources = tuple([(t._op or t) if need else None for t, need in zip(inputs, self.needs)])  # type: ignore[union-attr]  # noqa: B905 - as long by construction, and called for every op
        if several:
            check_gradients_taken(type(self), len(results))  # type: ignore[arg-type]  # a class has a hash
            self._several = [(t.shape, t.dtype, None) for t in results]
            for number, t in enumerate(results):
                if t.dtype in tensors.FLOATS:
                    t._op, t.requires_grad = self._result(number), True
        else:
            result = results[0]
            self.shape, self.dtype = result._data.shape, result._data.dtype
            result._op, result.requires_grad = self, True
        if self.saved:
            y, others = results[0]._data, [t._data for t in results[1:]] if several else ()
            versions: list[tuple[list[int], int, int]] = []
            for array in self.saved:
                if array is None:
                    continue
                if array is y:
                    version, which = results[0]._version, ~0
                elif others and (numbers := [i for i, other in enumerate(others, 1) if other is array]):
                    version, which = results[numbers[0]]._version, ~numbers[0]
                elif (i := source_of(array, inputs)) is not None:
                    version, which = inputs[i]._version, i  # type: ignore[union-attr]
                else:
                    continue
                versions.append((version, version[0], which))
            self.versions = versions

    def _result(self, i: int) -> "Op | Result":
        """What result i comes from on the tape: this op, if it has no other."""
        if not self._several:
            return self
        shape, dtype, ref = self._several[i]
        if ref is None or (found := ref()) is None:  # held by the tensor, and by the ops that use it
            found = Result(self, i, shape, dtype)
            self._several[i] = shape, dtype, weakref.ref(found)
        return found

    def _results(self) -> "list[Op | Result]":
        """What each result comes from."""
        return [self._result(i) for i in range(len(self._several))] if self._several else [self]

    def _shapes(self) -> str:
        """The shapes of the results, for errors."""
        if not self._several:
            return f"result shape {self.shape}"
        return "result shapes " + ", ".join(str(shape) for shape, _, _ in self._several)

    def _title(self) -> str:
        """What mg.inspect calls it: the class, and what else it does on the way."""
        return type(self).__name__

    def check_saved(self) -> None:
        """Raise if what backward needs is gone or changed."""
        if self.sources is None:
            raise RuntimeError(
                f"backward through {type(self).__name__} a second time: its saved arrays were freed by the first; "
                "call the first backward with retain_graph=True, or compute the loss again"
            )
        for version, count, i in self.versions:
            if version[0] != count:
                what = f"its input {i}" if i >= 0 else f"its result {~i}" if self._several else "its result"
                raise RuntimeError(
                    f"{type(self).__name__} saved {what} ({self._shapes()}) for backward, and it was changed in "
                    f"place {version[0] - count} time(s) since; change it after backward, or change a copy"
                    + (f"; the op was called at {self.line}" if self.line else "")
                )

    def free(self) -> None:
        """Let go of everything; the op cannot be passed again."""
        self.saved = None
        self.total = None
        self.sources = None
        self.versions = ()
        self.hooks = None  # which may hold the tensor that holds this op
        for _, _, ref in self._several or ():
            if ref is not None and (result := ref()) is not None:
                result.hooks = None


def as_tensor(op: Op, y: Any, inputs: "Sequence[tensors.Tensor | None]", home: Device) -> "tensors.Tensor":
    """An array that a forward returned, as a tensor; changes in place are counted with those of an input it is a view of."""
    if type(y) is not home.array_type:
        y = home.as_result(type(op).__name__, y)
    if not y.flags.c_contiguous:  # a user's op may return a transposed view, and kernels trust what they get
        y = np.ascontiguousarray(y)
    result = tensors.Tensor._wrap(y, home)
    if (alias := 0 if op.is_view else source_of(y, inputs)) is not None:
        result._version = inputs[alias]._version  # type: ignore[union-attr]
    return result


def source_of(array: np.ndarray, inputs: "Sequence[tensors.Tensor | None]") -> int | None:
    """Which input an array is, or is a view of; None for memory of its own."""
    for i, t in enumerate(inputs):
        if t is not None and array is t._data:
            return i
    if array.base is not None:  # a view, or an array from a pool
        for i, t in enumerate(inputs):
            if t is not None and t._device.share_memory(array, t._data):
                return i
    return None


def common_device(cls: type, inputs: "Sequence[tensors.Tensor | None]") -> Device:
    """The one device all inputs are on."""
    device = None
    try:
        for t in inputs:
            if t is not None and t._device is not device:
                if device is not None:
                    names = ", ".join(repr(t.device) for t in inputs if t is not None)
                    raise RuntimeError(
                        f"{cls.__name__}: its inputs are on different devices ({names}); move them with .to(...)"
                    )
                device = t._device
    except AttributeError:
        raise no_tensor(cls, inputs) from None
    if device is None:
        raise TypeError(f"{cls.__name__}.apply needs at least one tensor")
    return device


def no_tensor(cls: type, inputs: Sequence[Any]) -> TypeError:
    """The error for an input that is neither a tensor nor None."""
    i, value = next((i, v) for i, v in enumerate(inputs) if v is not None and not isinstance(v, tensors.Tensor))
    what = f"{cls.__name__}.apply: input {i} is of type {type(value).__name__}"
    parameters = list(inspect.signature(cls.forward).parameters.values())[1 : i + 2]  # type: ignore[attr-defined]
    named = len(parameters) > i and parameters[i].kind is parameters[i].POSITIONAL_OR_KEYWORD
    name = parameters[i].name if named else "name"
    if tensors.is_number(value):
        mend = f"pass a number by name, {cls.__name__}.apply(..., {name}={float(value):g}), as a parameter of forward"
    elif is_array(value) or isinstance(value, list):
        mend = "make it a tensor, by mg.tensor(...)"
    else:
        mend = f"pass anything else by name, {cls.__name__}.apply(..., {name}=...), as a parameter of forward"
    return TypeError(f"{what}, where a tensor is expected; {mend}")


def backward(
    tensor: "tensors.Tensor",
    grad: "tensors.Tensor | np.ndarray | None" = None,
    retain_graph: bool = False,
    passed: Callable[[Op], None] | None = None,
) -> None:
    """Add d(tensor)/d(leaf), weighted by `grad`, to `.grad` of every leaf that requires a gradient.

    `grad` has the tensor's shape and may be left out for a single element. The tape is freed unless `retain_graph`. `passed`
    is called with each op once it has given its inputs their gradients.
    Raises RuntimeError where there is no tape, no gradient to start from, or a saved tensor was changed in place.
    """
    gradients = Gradients(tensor._device)
    gradients.add(tensor._op or tensor, first_gradient(tensor, grad), ours=False)
    observers = watching()
    while (op := gradients.next_op()) is not None:
        op.check_saved()
        op.device, op.kernels = gradients.device, gradients.device.kernels
        dys = gradients.take(op)
        added_to = None if op.adds_to is None else op.sources[op.adds_to]  # type: ignore[index]
        if added_to is not None:
            gradients.offer_total(op, added_to)
        for observer in observers:
            observer.before(op, dys)
        results = op.backward(*dys)
        check_count(op, results)
        for observer in observers:
            observer.after(op, dys, results)
        gradients.take_back_total(op, added_to)
        sources = op.sources
        if not retain_graph:
            op.free()
        pass_on(op, sources, results, gradients)
        del dys, results  # so that their memory is used again by the next op
        if passed is not None:
            passed(op)
    gradients.finish()


def last_uses(tensor: "tensors.Tensor") -> "dict[Op, list[tensors.Tensor]]":
    """The leaves that `backward` from a tensor comes to, by the op that it visits last of those that use them, in its order."""
    last: dict[tensors.Tensor, Op] = {}
    first = op_of(tensor._op)
    waiting = [] if first is None else [first]
    seen = set(waiting)
    while waiting:
        op = waiting.pop()
        for source in op.sources or ():
            if isinstance(source, tensors.Tensor):
                if source not in last or op.order < last[source].order:
                    last[source] = op
            elif (before := op_of(source)) is not None and before not in seen:
                seen.add(before)
                waiting.append(before)
    found: dict[Op, list[tensors.Tensor]] = {op: [] for op in sorted(set(last.values()), key=lambda op: -op.order)}
    for op, leaves in found.items():
        for source in dict.fromkeys(op.sources or ()):
            if isinstance(source, tensors.Tensor) and last[source] is op:
                leaves.append(source)
    return found


def watching() -> list[Any]:
    """What looks at every op of a backward, before and after: a recording, and in anomaly mode two searches."""
    observers: list[Any] = [] if state.recording is None else [state.recording]
    return [*observers, NanSearch(), WriteSearch()] if state.anomaly else observers


def pass_on(op: Op, sources: Any, results: tuple[Any, ...], gradients: Gradients) -> None:
    """Give each input's gradient to where the input came from."""
    array_type = gradients.home.array_type
    for i, (source, dx) in enumerate(zip(sources, results, strict=True)):
        if source is None or dx is None:
            continue
        if isinstance(dx, np.generic):
            dx = np.asarray(dx)
        like = source._data if isinstance(source, tensors.Tensor) else source
        if type(dx) is not array_type or dx.shape != like.shape or dx.dtype != like.dtype:
            raise wrong_gradient(type(op).__name__, i, source, dx)
        if not dx.flags.c_contiguous:
            dx = np.ascontiguousarray(dx)
        gradients.add(source, dx, not op.passes_on)


def first_gradient(tensor: "tensors.Tensor", grad: Any) -> np.ndarray:
    """The gradient that backward starts from, checked."""
    if not tensor.requires_grad:
        raise RuntimeError(
            "backward from a tensor that is not on the tape: no input required a gradient, or it was made under no_grad() or "
            "in the first run of a function that mg.recompute was given"
        )
    if grad is None:
        if tensor._data.size != 1:
            raise RuntimeError(
                f"backward from a tensor of shape {tensor.shape} needs a gradient of that shape: pass `grad`, "
                "or reduce the tensor to one number first"
            )
        return tensor._device.shared_constant(1.0, tensor.shape, tensor.dtype)
    if not isinstance(grad, tensors.Tensor):
        grad = tensors.Tensor(grad, tensor.dtype, tensor._device)
        refuse_constant(grad.shape)
    if grad.shape != tensor.shape:
        raise ValueError(f"grad has shape {grad.shape}, the tensor {tensor.shape}")
    if grad._device is not tensor._device:
        raise RuntimeError(f"grad is on {grad.device!r}, the tensor on {tensor.device!r}; move one with .to(...)")
    if grad.dtype != tensor.dtype:
        if grad.dtype.kind not in "iu":
            raise TypeError(f"grad is {grad.dtype}, the tensor {tensor.dtype}; convert it with .to(...)")
        grad = grad.to(tensor.dtype)
    read(grad)
    return grad._data


def check_count(op: Op, results: Any) -> None:
    """Raise TypeError unless a backward returned one gradient per input."""
    if type(results) is tuple and len(results) == len(op.needs):
        return
    came = f"{len(results)} of them" if isinstance(results, tuple) else type(results).__name__
    raise TypeError(f"{type(op).__name__}.backward must return a tuple of {len(op.needs)} gradients, not {came}")


def wrong_gradient(name: str, i: int, source: "Op | Result | tensors.Tensor", dx: Any) -> TypeError:
    """The error for a gradient that does not look like its input."""
    came = f"{dx.dtype}{list(dx.shape)}" if is_array(dx) else type(dx).__name__
    return TypeError(
        f"{name}.backward gave {came} as the gradient of input {i}, which is {source.dtype}{list(source.shape)}"
    )


import minigrad.tensor as tensors  # noqa: E402 - at the end, since tensors are made by ops, and their operators are ops
