"""Tensor: an array on a device, its gradient, and where it came from."""

import itertools
import operator
import weakref
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike

from minigrad.arrays import as_array, check_held, held_number, is_number, plain
from minigrad.devices import Device, get_device
from minigrad.kernels.axes import Shape
from minigrad.modes import looked_at, read, refuse, refuse_arrays, state
from minigrad.notebook import preformatted
from minigrad.types import Axis, DeviceLike, Dtype, Index, Operand, TensorLike

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
NewHook = Callable[["Tensor"], "Tensor | None"]
new_key = itertools.count().__next__


class Tensor:
    """An array of numbers on a device, which remembers the op that made it.

    Made by `mg.tensor`. `data` is the array itself, `grad` the gradient that `backward` left (a Tensor or None).
    Arithmetic broadcasts like NumPy's; both sides must share dtype and device, Python numbers take the tensor's dtype.
    Comparisons, `==` too, go element by element and give bool tensors; in dicts and sets a tensor is only itself.
    """

    __slots__ = (
        "__weakref__",
        "_data",
        "_device",
        "_grad",
        "_grad_is_ours",
        "_hooks",
        "_op",
        "_version",
        "requires_grad",
    )

    _data: np.ndarray
    _device: Device
    _grad: "Tensor | None"
    _hooks: dict[int, NewHook] | None
    _op: "tape.Op | results.Result | None"  # what made it: an op, or one of several results of an op
    _version: list[int]  # how often the memory was changed in place; the list is shared by views
    requires_grad: bool

    def __init__(
        self, data: TensorLike, dtype: Dtype = None, device: DeviceLike = None, requires_grad: bool = False
    ) -> None:
        self._device = get_device(device)
        if isinstance(data, Tensor):
            looked_at("mg.tensor(t)")
            data = data._device.to_host(data._data)
        else:
            refuse_arrays(data)
        self._data = self._device.from_host(as_array(data, dtype))
        self._grad = None
        self._grad_is_ours = False
        self._op = None
        self._hooks = None
        self._version = [0]
        if requires_grad and self._data.dtype not in FLOATS:
            raise TypeError(f"only float32 and float64 tensors can require a gradient, not {self._data.dtype}")
        self.requires_grad = bool(requires_grad)

    @classmethod
    def _wrap(cls, array: np.ndarray, device: Device) -> "Tensor":
        """A tensor around an array that is known to be right."""
        self = Tensor.__new__(cls)
        self._data = array
        self._device = device
        self._grad = None
        self._grad_is_ours = False
        self._op = None
        self._hooks = None
        self._version = [0]
        self.requires_grad = False
        return self

    # What it is

    @property
    def data(self) -> np.ndarray:
        """The array, of the device. Writing into it is not noticed by the tape; assigning (also `t.data -= x`) is."""
        looked_at("data")
        return self._data

    @data.setter
    def data(self, value: "np.ndarray | Tensor") -> None:
        refuse("assigning data inside a captured step cannot be repeated; change tensors by `+=`")
        if value is self._data:  # the end of `t.data -= x`
            self._version[0] += 1
            return
        home = value._device if isinstance(value, Tensor) else self._device
        array = value._data if isinstance(value, Tensor) else self._device.from_host(as_array(value, self.dtype))
        if home is self._device and not array.flags.writeable:  # another library's, which an optimizer must not change
            array = self._device.copy(array)
        if type(array) is not self._device.array_type:
            raise RuntimeError(f"data must stay on {self.device!r}, not come from {home.name!r}; use .to(...)")
        if array.shape != self._data.shape or array.dtype != self._data.dtype:
            raise ValueError(
                f"data must stay {self._data.dtype}{list(self._data.shape)}, not {array.dtype}{list(array.shape)}"
            )
        self._data = array
        self._version[0] += 1

    @property
    def grad(self) -> "Tensor | None":
        """The gradient `backward` left here, or None."""
        if state.recording is not None:
            state.recording.reads_grad(self)
        elif type(self._grad) is LentGradient:
            self._grad = Tensor._wrap(self._device.copy(self._grad._data), self._device)
        return self._grad

    @grad.setter
    def grad(self, value: "Tensor | np.ndarray | None") -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                value = Tensor(value, self.dtype, self._device)
            if value.shape != self.shape or value.dtype != self.dtype:
                raise ValueError(
                    f"the gradient must be {self.dtype}{list(self.shape)}, not {value.dtype}{list(value.shape)}"
                )
            if value._device is not self._device:
                raise RuntimeError(f"the gradient is on {value.device!r}, the tensor on {self.device!r}; use .to(...)")
        if state.recording is not None:
            state.recording.writes_grad(self)
        self._grad = value
        self._grad_is_ours = False

    @property
    def shape(self) -> Shape:
        """Lengths of the axes."""
        return self._data.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._data.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._data.size

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements, a NumPy dtype."""
        return self._data.dtype

    @property
    def device(self) -> str:
        """Name of the device the array lives on."""
        return self._device.name

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op made it."""
        return self._op is None

    @property
    def T(self) -> "Tensor":
        """The tensor with its axes in reverse order."""
        return self.transpose()

    @property
    def mT(self) -> "Tensor":
        """The tensor with its last two axes exchanged. Raises ValueError for fewer."""
        if self.ndim < 2:
            raise ValueError(f"a matrix has two axes, and the tensor has the shape {self.shape}")
        return self.swapaxes(-1, -2)

    def __len__(self) -> int:
        if not self._data.ndim:
            raise TypeError("a tensor without axes has no length")
        return len(self._data)

    def __iter__(self) -> "Iterator[Tensor]":
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        looked_at("repr() of a tensor")
        body = np.array2string(self._device.to_host(self._data), separator=", ", prefix="tensor(", threshold=100)
        op = results.op_of(self._op)
        origin = f", op={type(op).__name__}" if op else ", requires_grad=True" if self.requires_grad else ""
        home = "" if self.device == "cpu" else f", device={self.device!r}"
        return f"tensor({body}, dtype={self.dtype}{home}{origin})"

    def _repr_html_(self) -> str:
        """For notebooks."""
        return preformatted(f"Tensor {self.shape} {self.dtype} on {self.device}", repr(self))

    def __bool__(self) -> bool:
        if self._data.size != 1:
            raise ValueError(
                f"a tensor of shape {self.shape} is not true or false as a whole, as one of one element is; "
                "look at its elements, `t.numpy().all()` or `t.numpy().any()`, or ask for identity by `is`"
            )
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        looked_at(f"formatting a tensor as {spec!r}")
        if self._data.size != 1:
            raise TypeError(
                f"{spec!r} formats one number, and this tensor has shape {self.shape}; reduce it, or format t.numpy() by "
                "np.array2string"
            )
        return format(self.item(), spec)

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.item(), digits)

    # Out of the tape

    def numpy(self) -> np.ndarray:
        """The array as NumPy's, sharing memory on the CPU, a copy from elsewhere. Not inside a captured step."""
        looked_at("numpy()")
        return self._device.to_host(self._data)

    def item(self) -> Any:
        """The only element as a Python number; ValueError if there are more or none."""
        looked_at("item()")
        if self._data.size != 1:
            raise ValueError(f"item() needs a tensor of one element, this one has shape {self.shape}")
        return self._device.to_host(self._data).item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        return self.numpy().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        looked_at("np.asarray()")
        if dtype is not None and np.dtype(dtype) != self.dtype:
            if copy is False:
                raise ValueError(f"a tensor of {self.dtype} cannot become {np.dtype(dtype)} without a copy")
            return self._device.to_host(self._data).astype(dtype)
        array = self._device.to_host(self._data)
        return array.copy() if copy and array is self._data else array

    def __array_function__(self, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """NumPy's functions get the arrays of tensors, unless they would take off the tape what needs a gradient."""
        return numpy_functions.on_arrays(function, function.__name__, args, kwargs)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """NumPy's ufuncs, of which its arrays' operators are made: ours where we have it, else as NumPy's functions."""
        return numpy_functions.of_elements(ufunc, method, inputs, options)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule of DLPack, by which other libraries share the memory; see `mg.from_dlpack` for the way back.

        The arguments are those of the Python array API. What others write is not noticed by the tape. Raises BufferError for
        a tensor that requires a gradient, which would be lost, and where the array cannot be had as it is asked for.
        """
        looked_at("__dlpack__()")
        if self.requires_grad:
            raise BufferError("other libraries would lose the gradient that this tensor requires; pass its detach()")
        return self._device.lend(self._data, stream, max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device.dlpack_device

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        """The namespace of the Python array API standard, as far as it is there: minigrad.array_api."""
        from importlib import import_module

        namespace = import_module("minigrad.array_api")
        if api_version not in (None, *namespace.VERSIONS):
            raise ValueError(f"api_version may be {' or '.join(namespace.VERSIONS)}, not {api_version!r}")
        return namespace

    def detach(self) -> "Tensor":
        """The same memory, off the tape."""
        read(self)
        other = Tensor._wrap(self._data, self._device)
        other._version = self._version
        return other

    def copy(self) -> "Tensor":
        """A copy off the tape."""
        return movement.copied(self)

    def to(self, device_or_dtype: "str | Device | DTypeLike") -> "Tensor":
        """On another device, or of another dtype; differentiable, and the tensor itself if nothing changes."""
        return movement.to(self, device_or_dtype)

    def to_device(self, device: str | Device, /, *, stream: None = None) -> "Tensor":
        """`to`, as the Python array API calls it; it uses its own stream. Raises ValueError for one that is given."""
        if stream is not None:
            raise ValueError(f"tensors move on a stream of minigrad's own, not on {stream!r}; leave it out")
        return self.to(get_device(device).name)

    def __reduce__(self) -> tuple[Any, ...]:
        """For copy.deepcopy and pickle: the values, whether it requires a gradient, and the gradient; no hooks."""
        looked_at("copying a tensor")
        if self._op is not None:
            raise TypeError("a tensor on the tape cannot be pickled or deep-copied; copy its detach()")
        values = np.array(self._device.to_host(self._data))
        return rebuilt, (type(self), values, self._device, self.requires_grad, self.grad)

    # Gradients

    def backward(self, grad: "Tensor | np.ndarray | None" = None, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf), weighted by `grad`, to `.grad` of every leaf; see minigrad.tape.backward."""
        tape.backward(self, grad, retain_graph)

    def zero_grad(self) -> None:
        """Forget the gradient: `.grad` is None after."""
        self.grad = None

    def retain_grad(self) -> None:
        """Also keep the gradient of this tensor in `.grad`, though it is no leaf."""
        if not self.requires_grad:
            raise RuntimeError("retain_grad: this tensor requires no gradient")
        if self._op is not None:
            self._op.retained = weakref.ref(self)

    def register_hook(self, hook: NewHook) -> "HookHandle":
        """Call `hook(grad)` with this tensor's whole gradient in backward; what it returns, if anything, replaces it."""
        if not self.requires_grad:
            raise RuntimeError("register_hook: this tensor requires no gradient, so none will ever come")
        owner: Any = self._op
        if owner is None:
            self._hooks = hooks = {} if self._hooks is None else self._hooks
        else:
            owner.hooks = hooks = {} if owner.hooks is None else owner.hooks
        key = new_key()
        hooks[key] = hook
        return HookHandle(hooks, key)

    # In place

    def __setitem__(self, index: Index, value: Operand) -> None:
        self._change_in_place("item assignment")
        refuse("item assignment inside a captured step cannot be repeated; compute a new tensor")
        if state.grad_enabled and isinstance(value, Tensor) and value.requires_grad:
            raise RuntimeError(
                "item assignment of a tensor that requires a gradient would lose it: the tape does not see the assignment; "
                "assign value.detach(), or build the result with concat"
            )
        array = value._device.to_host(value._data) if isinstance(value, Tensor) else value
        if is_number(array):
            array = held_number("the number to be assigned", array, self.dtype)
        elif isinstance(array, np.ndarray) and array.dtype.kind in "fiub":
            check_held(array, self.dtype)
        parts = (
            index if isinstance(index, tuple) else (index,)
        )  # of which NumPy takes tensors of one element for numbers
        host = self._device.to_host(self._data)
        host[tuple([part.numpy() if isinstance(part, Tensor) else part for part in parts])] = array
        if host is not self._data:
            self._device.write(self._data, host)
        self._version[0] += 1

    def _change_in_place(self, what: str) -> None:
        if state.grad_enabled and self.requires_grad:
            raise RuntimeError(
                f"{what} on a tensor that requires a gradient would falsify the tape; do it inside `with mg.no_grad():`"
            )
        if not self._data.flags.writeable:
            raise ValueError(f"{what}: the array is read-only")

    def _update(self, name: str, op: "Callable[[Any, Any], Tensor]", other: Operand) -> "Tensor":
        """`self op= other`: in place where the tape is not concerned, else a new tensor."""
        on_tape = state.grad_enabled and (self.requires_grad or (isinstance(other, Tensor) and other.requires_grad))
        if on_tape and self._op is None and self.requires_grad:
            self._change_in_place(f"{name}=")
        result = op(self, other)
        if on_tape:
            return result
        if result.shape != self.shape:
            raise ValueError(f"in-place {name}: shapes {self.shape} and {np.shape(other)} broadcast to {result.shape}")
        self._change_in_place(f"{name}=")
        arithmetic.assign(self, result)
        return self

    def __iadd__(self, other: Operand) -> "Tensor":
        return self._update("add", arithmetic.add, other)

    def __isub__(self, other: Operand) -> "Tensor":
        return self._update("sub", arithmetic.sub, other)

    def __imul__(self, other: Operand) -> "Tensor":
        return self._update("mul", arithmetic.mul, other)

    def __itruediv__(self, other: Operand) -> "Tensor":
        return self._update("div", arithmetic.div, other)

    # Arithmetic

    def __add__(self, other: Operand) -> "Tensor":
        return arithmetic.add(self, other)

    def __radd__(self, other: Operand) -> "Tensor":
        return arithmetic.add(other, self)

    def __sub__(self, other: Operand) -> "Tensor":
        return arithmetic.sub(self, other)

    def __rsub__(self, other: Operand) -> "Tensor":
        return arithmetic.sub(other, self)

    def __mul__(self, other: Operand) -> "Tensor":
        return arithmetic.mul(self, other)

    def __rmul__(self, other: Operand) -> "Tensor":
        return arithmetic.mul(other, self)

    def __truediv__(self, other: Operand) -> "Tensor":
        return arithmetic.div(self, other)

    def __rtruediv__(self, other: Operand) -> "Tensor":
        return arithmetic.div(other, self)

    def __pow__(self, exponent: Operand) -> "Tensor":
        return table.pow(self, exponent)

    def __rpow__(self, base: Operand) -> "Tensor":
        return table.pow(base, self)

    def __abs__(self) -> "Tensor":
        return table.abs(self)

    # Of bool tensors

    def __and__(self, other: Operand) -> "Tensor":
        return table.logical_and(self, other)

    def __rand__(self, other: Operand) -> "Tensor":
        return table.logical_and(other, self)

    def __or__(self, other: Operand) -> "Tensor":
        return table.logical_or(self, other)

    def __ror__(self, other: Operand) -> "Tensor":
        return table.logical_or(other, self)

    def __invert__(self) -> "Tensor":
        return table.logical_not(self)

    def __neg__(self) -> "Tensor":
        return arithmetic.mul(self, -1.0)

    def __pos__(self) -> "Tensor":
        return self

    # Comparisons: of what is neither tensor, number, array nor list, Python asks the other side

    def __eq__(self, other: Operand) -> "Tensor":  # type: ignore[override]  # as of NumPy's arrays
        return comparison.equal(self, other) if is_comparable(other) else NotImplemented

    def __ne__(self, other: Operand) -> "Tensor":  # type: ignore[override]  # as of NumPy's arrays
        return comparison.not_equal(self, other) if is_comparable(other) else NotImplemented

    def __lt__(self, other: Operand) -> "Tensor":
        return comparison.less(self, other) if is_comparable(other) else NotImplemented

    def __le__(self, other: Operand) -> "Tensor":
        return comparison.less_equal(self, other) if is_comparable(other) else NotImplemented

    def __gt__(self, other: Operand) -> "Tensor":
        return comparison.greater(self, other) if is_comparable(other) else NotImplemented

    def __ge__(self, other: Operand) -> "Tensor":
        return comparison.greater_equal(self, other) if is_comparable(other) else NotImplemented

    __hash__ = object.__hash__  # a tensor is itself in dicts and sets, whatever is in it

    def __matmul__(self, other: Operand) -> "Tensor":
        return gemm.matmul(self, other)

    def __rmatmul__(self, other: Operand) -> "Tensor":
        return gemm.matmul(other, self)

    def __getitem__(self, index: Index) -> "Tensor":
        return movement.getitem(self, index)

    def reshape(self, *shape: Any) -> "Tensor":
        """The same elements in another shape; one length may be -1."""
        return movement.reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def transpose(self, *axes: Any) -> "Tensor":
        """Axes in another order, all of them named, by default reversed; two axes are exchanged by `swapaxes`.

        As NumPy has it, not PyTorch: of a matrix `t.transpose(0, 1)` is the matrix itself, and `t.T` its transpose.
        """
        return movement.transpose(self, axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None)

    def swapaxes(self, axis1: int, axis2: int) -> "Tensor":
        """Two axes exchanged, which PyTorch calls transpose(axis1, axis2). Raises ValueError for an axis that is not there."""
        return movement.swapaxes(self, axis1, axis2)

    def sum(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Sum over all axes, or some."""
        return reduce.sum(self, axis, keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Mean over all axes, or some."""
        return reduce.mean(self, axis, keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Maximum over all axes, or some; the gradient goes to the first of equals."""
        return reduce.max(self, axis, keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Minimum over all axes, or some; the gradient goes to the first of equals."""
        return statistics.min(self, axis, keepdims)

    def argmax(self, axis: SupportsIndex | None = None, keepdims: bool = False) -> "Tensor":
        """Where the maximum stands along an axis, or in the flat tensor."""
        return statistics.argmax(self, axis, keepdims)

    def argmin(self, axis: SupportsIndex | None = None, keepdims: bool = False) -> "Tensor":
        """Where the minimum stands along an axis, or in the flat tensor."""
        return statistics.argmin(self, axis, keepdims)

    def var(self, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> "Tensor":
        """Variance over all axes, or some; PyTorch's has correction 1."""
        return statistics.var(self, axis, correction, keepdims)

    def std(self, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> "Tensor":
        """Standard deviation over all axes, or some; PyTorch's has correction 1."""
        return statistics.std(self, axis, correction, keepdims)

    def prod(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Product over all axes, or some."""
        return statistics.prod(self, axis, keepdims)

    def cumsum(self, axis: SupportsIndex | None = None) -> "Tensor":
        """Running sums along an axis, or over the flat tensor."""
        return statistics.cumsum(self, axis)

    def all(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Whether all elements of a bool tensor hold, over all axes, or some."""
        return statistics.all(self, axis, keepdims)

    def any(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Whether an element of a bool tensor holds, over all axes, or some."""
        return statistics.any(self, axis, keepdims)

    def squeeze(self, axis: Axis = None) -> "Tensor":
        """Without axes of length 1, all or those named."""
        return shape_functions.squeeze(self, axis)

    def unsqueeze(self, axis: int) -> "Tensor":
        """With an axis of length 1 more: PyTorch's name of `mg.expand_dims`."""
        return shape_functions.expand_dims(self, axis)

    def flatten(self, start_axis: int = 0, end_axis: int = -1) -> "Tensor":
        """With all axes, or those from one to another, as one."""
        return shape_functions.flatten(self, start_axis, end_axis)

    def repeat(self, repeats: int, axis: int | None = None) -> "Tensor":
        """Each element so many times in a row, as NumPy has it; PyTorch's repeat is `mg.tile`."""
        return shape_functions.repeat(self, repeats, axis)

    def take(self, indices: TensorLike, axis: int | None = None) -> "Tensor":
        """Elements by their numbers along an axis, or in the flat tensor."""
        return indexing.take(self, indices, axis)

    @property
    def at(self) -> "indexing.At":
        """`t.at[index].set(value)` and `.add(value)`: a copy with other elements there, on the tape."""
        return indexing.At(self)

    def exp(self) -> "Tensor":
        """e to the power of every element."""
        return elementwise.exp(self)

    def log(self) -> "Tensor":
        """Natural logarithm of every element."""
        return elementwise.log(self)

    def sqrt(self) -> "Tensor":
        """Square root of every element."""
        return elementwise.sqrt(self)

    def tanh(self) -> "Tensor":
        """Hyperbolic tangent of every element."""
        return elementwise.tanh(self)

    def relu(self) -> "Tensor":
        """max(x, 0) of every element."""
        return elementwise.relu(self)

    def sigmoid(self) -> "Tensor":
        """1 / (1 + exp(-x)) of every element."""
        return elementwise.sigmoid(self)

    def abs(self) -> "Tensor":
        """|x| of every element."""
        return table.abs(self)

    def clip(self, min: "Operand | None" = None, max: "Operand | None" = None) -> "Tensor":
        """Every element, but `min` where it is less and `max` where it is more."""
        return table.clip(self, min, max)


class LentGradient(Tensor):
    """A gradient in the memory of a recorded step, whose next replay writes over it: who looks at it gets a copy."""

    __slots__ = ()


class HookHandle:
    """Removes a hook: `handle.remove()`."""

    def __init__(self, hooks: dict[int, NewHook], key: int) -> None:
        self._hooks = hooks
        self._key = key

    def remove(self) -> None:
        """The hook is not called any more."""
        self._hooks.pop(self._key, None)


def rebuilt(
    kind: "type[Tensor]", values: np.ndarray, device: Device, requires_grad: bool, grad: "Tensor | None"
) -> "Tensor":
    """What `Tensor.__reduce__` took apart; `values` may be kept, unless joblib made them a file mapped into memory."""
    copied = Tensor._wrap(device.from_host(plain(values)), device)
    copied.__class__ = kind
    copied.requires_grad = requires_grad
    copied._grad = grad
    return copied


def tensor(data: TensorLike, dtype: Dtype = None, device: DeviceLike = None, requires_grad: bool = False) -> Tensor:
    """A tensor holding a copy of `data`: numbers, nested lists, a NumPy array of any layout or byte order, a Tensor.

    Python floats become float32 and Python ints int64; arrays keep their dtype unless `dtype` is given. `device` is
    "cpu" (the default), "cuda", "reference", or "auto": the GPU if there is one. Raises TypeError for a dtype that is not
    supported, RuntimeError if the device does not work here.
    """
    return Tensor(data, dtype, device, requires_grad)


def is_comparable(value: Any) -> bool:
    """Whether comparing a tensor with it is a matter of elements; a list is, to be refused as in arithmetic."""
    return isinstance(value, Tensor | np.ndarray | list | tuple) or is_number(value)


# A tensor's operators are ops, and ops make tensors: the one circle, closed here, where all of this file is defined.
from minigrad import results, tape  # noqa: E402
from minigrad.ops import (  # noqa: E402
    arithmetic,
    comparison,
    elementwise,
    gemm,
    indexing,
    movement,
    numpy_functions,
    reduce,
    shape_functions,
    statistics,
    table,
)
