"""What each op of ONNX is here. A reader looks at a node of the file once; what it gives runs with the node's inputs."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.onnx import numbers
from minigrad.onnx.held import LAST, WEIGHT_LAST, Held
from minigrad.onnx.layout import Axes, plain, without
from minigrad.onnx.library import library
from minigrad.onnx.reading import DTYPES
from minigrad.onnx.source import Source
from minigrad.tensor import Tensor

Run = Callable[
    [list[Any], bool], Any
]  # inputs (Held, numbers, or None) and whether in training, to the result or a list
Reader = Callable[[Source], Run]
Sides = tuple[tuple[int, int], tuple[int, int]]


def elementwise(function: Callable[[Tensor], Tensor]) -> Reader:
    """An op of one input, element by element, in whatever order of axes it is."""

    def reader(node: Source) -> Run:
        node.given()
        return lambda xs, training: Held(function(xs[0].tensor), xs[0].axes)

    return reader


def arithmetic(function: Callable[[Any, Any], Tensor], on_numbers: Callable[..., Any] | None = None) -> Reader:
    """An op of two inputs that are broadcast."""

    def reader(node: Source) -> Run:
        node.given()

        def run(xs: list[Any], training: bool) -> Any:
            if all(isinstance(x, np.ndarray) for x in xs):
                if on_numbers is None:
                    raise node.error("it is computed of numbers alone, which is not supported")
                return numbers.kept(on_numbers(*xs), xs)
            sides, axes = side_by_side(xs)
            return Held(function(*sides), axes)

        return run

    return reader


def side_by_side(xs: Sequence[Any]) -> tuple[list[Any], Axes]:
    """Inputs in one order of axes, and which: that of the first of full rank that is not as in the file."""
    ndim = max(x.ndim for x in xs)
    there = [x.axes for x in xs if isinstance(x, Held) and x.ndim == ndim]
    axes = next((a for a in there if a != plain(ndim)), plain(ndim))
    return [beside(x, axes, ndim) for x in xs], axes


def beside(x: Any, axes: Axes, ndim: int) -> Any:
    """An input as others in an order of axes are broadcast with it: numbers of one element as such."""
    if isinstance(x, np.ndarray):
        if x.size == 1:
            return x.item()
        return x.reshape((1,) * (ndim - x.ndim) + x.shape).transpose(axes)
    if x.ndim == ndim:
        return x.laid(axes)
    if x.ndim == 0 or axes == plain(ndim):
        return x.plain
    return x.reshaped((1,) * (ndim - x.ndim) + x.shape).laid(axes)


def several(function: Callable[[Any, Any], Tensor]) -> Reader:
    """An op of any number of inputs, one after another."""

    def reader(node: Source) -> Run:
        node.given()

        def run(xs: list[Any], training: bool) -> Held:
            sides, axes = side_by_side(xs)
            return Held(functools.reduce(function, sides), axes)

        return run

    return reader


def power(node: Source) -> Run:
    """x^p; for a number p that stands in the file, by the op for that."""
    exponent = node.constants.get(node.inputs[1])
    if exponent is None or exponent.size != 1:
        return arithmetic(ops.pow)(node)
    p = float(exponent.item())
    node.only(1)
    return lambda xs, training: Held(ops.power(xs[0].tensor, p), xs[0].axes)


def clip(node: Source) -> Run:
    """Held between two numbers, either of which may be missing."""
    low, high = (node.number(i).item() if node.has(i) else None for i in (1, 2))
    node.only(1)
    if low is None and high is None:
        return lambda xs, training: xs[0]
    return lambda xs, training: Held(ops.clip(xs[0].tensor, low, high), xs[0].axes)


def scaled(function: Callable[[Tensor, float], Tensor], usual: float) -> Reader:
    """An activation with a number alpha."""

    def reader(node: Source) -> Run:
        alpha = node.attribute("alpha", usual)
        return elementwise(lambda x: function(x, alpha))(node)

    return reader


def selu(node: Source) -> Run:
    """Selu with its own two numbers."""
    numbers_of = node.attribute("alpha", 1.6732632), node.attribute("gamma", 1.050701)
    if not np.allclose(numbers_of, (1.6732632, 1.050701), rtol=1e-5):
        raise node.error(f"alpha and gamma are {numbers_of}, not the numbers that selu was made with")
    return elementwise(ops.selu)(node)


def hard_sigmoid(node: Source) -> Run:
    """alpha x + beta, between 0 and 1."""
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    return elementwise(lambda x: ops.clip(x * alpha + beta, 0, 1))(node)


def gelu(node: Source) -> Run:
    """x times the normal distribution function."""
    how = node.must("approximate", "none", "tanh")
    return elementwise(lambda x: ops.gelu(x, how))(node)


def where(node: Source) -> Run:
    """One of two by a condition."""
    node.given()

    def run(xs: list[Any], training: bool) -> Held:
        sides, axes = side_by_side(xs)
        return Held(ops.where(*sides), axes)

    return run


def cast(node: Source) -> Run:
    """Another dtype."""
    name = library().TensorProto.DataType.Name(node.attribute("to"))
    node.attribute("saturate")
    if name not in DTYPES:
        raise node.error(f"a cast to {name}, which minigrad has not")
    dtype = np.dtype(DTYPES[name][0])
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x = xs[0]
        return x.astype(dtype) if isinstance(x, np.ndarray) else Held(ops.to(x.tensor, dtype), x.axes)

    return run


def window_of(node: Source, size: Sequence[int]) -> tuple[list[int], Sides | str]:
    """(strides, padding as minigrad has it) of a convolution or pool over images."""
    if len(size) != 2:
        raise node.error(f"its window has {len(size)} axes, and minigrad's ops are over images, with two")
    strides = node.attribute("strides", [1, 1])
    pads = node.attribute("pads")
    auto = node.must("auto_pad", "NOTSET", "VALID", "SAME_UPPER")
    top, left, bottom, right = pads if pads is not None and auto == "NOTSET" else (0, 0, 0, 0)
    return strides, "same" if auto == "SAME_UPPER" else ((top, bottom), (left, right))


def conv(node: Source) -> Run:
    """A convolution; its weight is kept as minigrad has it, (kh, kw, in, out)."""
    weight = node.constants.get(node.inputs[1])
    size = node.attribute("kernel_shape", None if weight is None else [*weight.shape[2:]])
    if weight is not None and (weight.ndim != 4 or [*weight.shape[2:]] != [*size]):
        raise node.error(f"its weight has shape {weight.shape}, and (out, in, {size}) over images was expected")
    groups = node.attribute("group", 1)
    if not isinstance(groups, int) or groups < 1 or (weight is not None and weight.shape[0] % groups):
        channels = "" if weight is None else f" the {weight.shape[0]} output channels of its weight {weight.shape}"
        raise node.error(f"group={groups!r} does not divide{channels or ' any number of channels'}")
    strides, padding = window_of(node, size or [1, 1])
    dilations = node.attribute("dilations", [1, 1])
    node.given(None, WEIGHT_LAST)

    def run(xs: list[Any], training: bool) -> Held:
        x, w, *rest = xs
        b = rest[0].plain if rest and rest[0] is not None else None
        image = images(node, x)
        y = ops.conv2d(
            image, w.laid(WEIGHT_LAST), b, stride=strides, padding=padding, dilation=dilations, groups=groups
        )
        return Held(y, LAST)

    return run


def images(node: Source, x: Held) -> Tensor:
    """Images with their channels last."""
    if x.ndim != 4:
        raise node.error(f"it works on images (N, C, H, W), not on an array of shape {x.shape}")
    return x.laid(LAST)


def max_pool(node: Source) -> Run:
    """The largest of each window."""
    size, strides, padding, rounded_up = pool_settings(node)
    node.must("storage_order", 0)
    if len(node.outputs) > 1:
        raise node.error("the places of the largest elements, its second result, are not supported")

    def run(xs: list[Any], training: bool) -> Held:
        x = images(node, xs[0])
        sides = rounded(padding, x.shape[1:3], size, strides) if rounded_up else padding
        return Held(ops.max_pool2d(x, size, stride=strides, padding=sides), LAST)

    return run


def average_pool(node: Source) -> Run:
    """The mean of each window; where padding counts, as zeros, the means of what is there are made smaller by that."""
    size, strides, padding, rounded_up = pool_settings(node)
    counted = bool(node.must("count_include_pad", 0, 1)) and padding != ((0, 0), (0, 0))
    if counted and (rounded_up or padding == "same"):
        raise node.error("padding that counts together with ceil_mode or auto_pad is not supported")

    def run(xs: list[Any], training: bool) -> Held:
        x = images(node, xs[0])
        sides = rounded(padding, x.shape[1:3], size, strides) if rounded_up else padding
        y = ops.avg_pool2d(x, size, stride=strides, padding=sides)
        return Held(y * shares(x, y, size, strides, padding) if counted else y, LAST)

    return run


def pool_settings(node: Source) -> tuple[list[int], list[int], Sides | str, bool]:
    """(size, strides, padding, whether the number of windows is rounded up) of a pool."""
    size = node.attribute("kernel_shape")
    strides, padding = window_of(node, size)
    node.must("dilations", [1, 1])
    rounded_up = bool(node.must("ceil_mode", 0, 1))
    if rounded_up and padding == "same":
        raise node.error("ceil_mode together with auto_pad is not supported")
    node.given()
    return size, strides, padding, rounded_up


def rounded(padding: Any, image: Sequence[int], size: Sequence[int], strides: Sequence[int]) -> Sides:
    """Padding with so much more at the end that a last, incomplete window is one too, if it begins in the image."""
    sides = []
    for (before, after), n, k, step in zip(padding, image, size, strides, strict=True):
        count = math.ceil((n + before + after - k) / step) + 1
        if (count - 1) * step >= n + before:
            count -= 1
        sides.append((before, max(after, (count - 1) * step + k - n - before)))
    return sides[0], sides[1]


def shares(x: Tensor, y: Tensor, size: Sequence[int], strides: Sequence[int], padding: Any) -> Tensor:
    """Which share of each window lies in the image, (OH, OW, 1)."""
    counts = []
    for n, windows, k, step, (before, _) in zip(x.shape[1:3], y.shape[1:3], size, strides, padding, strict=True):
        first = np.arange(windows) * step - before
        counts.append((np.minimum(first + k, n) - np.maximum(first, 0)) / k)
    share = (counts[0][:, None] * counts[1])[:, :, None].astype(x.dtype)
    return Tensor(share, device=x.device)


def over_pixels(function: Callable[..., Tensor]) -> Reader:
    """A reduction of each channel to one pixel."""

    def reader(node: Source) -> Run:
        node.given()
        return lambda xs, training: Held(function(images(node, xs[0]), axis=(1, 2), keepdims=True), LAST)

    return reader


def batch_norm(node: Source) -> Run:
    """Normalization by running statistics, in training by the batch's, with which these are kept up."""
    eps, decay = node.attribute("epsilon", 1e-5), node.attribute("momentum", 0.9)
    node.must("training_mode", 0)
    node.attribute("spatial")
    if len(node.outputs) > 1:
        raise node.error("more than one result, as in training, is not supported")
    node.given(None, None, None, "buffer", "buffer")

    def run(xs: list[Any], training: bool) -> Held:
        x, *vectors = xs
        axes = (0, *range(2, x.ndim), 1)
        gamma, beta, mean, var = (v.plain for v in vectors)
        y = ops.batch_norm(x.laid(axes), gamma, beta, mean, var, training=training, decay=decay, eps=eps)
        return Held(y, axes)

    return run


def layer_norm(node: Source) -> Run:
    """Normalization over the axes from one on."""
    axis, eps = node.attribute("axis", -1), node.attribute("epsilon", 1e-5)
    node.must("stash_type", 1)
    if len(node.outputs) > 1:
        raise node.error("mean and deviation, its other results, are not supported")
    node.given()

    def run(xs: list[Any], training: bool) -> Held:
        x, gamma, *beta = xs
        shift = beta[0].plain if beta and beta[0] is not None else None
        return Held(ops.layer_norm(x.plain, gamma.plain, shift, axes=x.ndim - axis % x.ndim, eps=eps))

    return run


def local_response_norm(node: Source) -> Run:
    """The same, but that alpha is divided by the size; even sizes reach further up in ONNX, and down here."""
    size = node.attribute("size")
    if size % 2 == 0:
        raise node.error(f"size={size}: windows of even size lie otherwise in minigrad; only odd ones are supported")
    alpha, beta, k = node.attribute("alpha", 1e-4) / size, node.attribute("beta", 0.75), node.attribute("bias", 1.0)
    node.given()

    def run(xs: list[Any], training: bool) -> Held:
        axes = (0, *range(2, xs[0].ndim), 1)
        return Held(ops.local_response_norm(xs[0].laid(axes), size, alpha, beta, k), axes)

    return run


def gemm(node: Source) -> Run:
    """alpha A' B' + beta C; with a weight (out, in), as PyTorch writes it, that is kept as (in, out)."""
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    first = (1, 0) if node.must("transA", 0, 1) else (0, 1)
    second = (1, 0) if node.must("transB", 0, 1) else (0, 1)
    node.given(None, second)

    def run(xs: list[Any], training: bool) -> Held:
        a, b = xs[0].laid(first), xs[1].laid(second)
        c = xs[2].plain if len(xs) > 2 and xs[2] is not None else None
        if alpha == beta == 1 and (c is None or c.shape == b.shape[1:]):
            return Held(ops.linear(a, b, c))
        y = a @ b if alpha == 1 else (a @ b) * alpha
        return Held(y if c is None else y + (c if beta == 1 else c * beta))

    return run


def matmul(node: Source) -> Run:
    """A product of matrices, or of stacks of them."""
    node.given()

    def run(xs: list[Any], training: bool) -> Held:
        a, b = (x.plain for x in xs)
        return Held(ops.linear(a, b) if b.ndim == 2 and a.ndim > 1 else ops.matmul(a, b))

    return run


def along(function: Callable[[Tensor, int], Tensor]) -> Reader:
    """A softmax along one axis."""

    def reader(node: Source) -> Run:
        axis = node.attribute("axis", -1 if node.opset >= 13 else 1)
        node.given()

        def run(xs: list[Any], training: bool) -> Held:
            x = xs[0]
            here = axis % x.ndim
            if node.opset < 13 and here != x.ndim - 1:
                raise node.error(
                    f"axis {axis} of {x.ndim}, before opset 13, means all axes from there on; not supported"
                )
            return Held(function(x.tensor, x.axes.index(here)), x.axes)

        return run

    return reader


def reduction(function: Callable[..., Tensor], since: int) -> Reader:
    """A sum, mean or maximum over axes, which are an input `since` an opset, and an attribute before."""

    def reader(node: Source) -> Run:
        keepdims, empty_is_none = bool(node.attribute("keepdims", 1)), bool(node.attribute("noop_with_empty_axes", 0))
        axes = node.attribute("axes")
        if axes is None and node.opset >= since:
            axes = node.number(1, np.zeros(0, np.int64)).tolist()
        node.only(1)

        def run(xs: list[Any], training: bool) -> Held:
            x = xs[0]
            if not axes and empty_is_none:
                return x
            gone = sorted(a % x.ndim for a in axes) if axes else list(range(x.ndim))
            y = function(x.tensor, axis=tuple(sorted(x.axes.index(a) for a in gone)), keepdims=keepdims)
            return Held(y, x.axes if keepdims else without(x.axes, gone))

        return run

    return reader


def cross_entropy(node: Source) -> Run:
    """The mean of -log softmax at the labels."""
    node.must("reduction", "mean")
    node.attribute("ignore_index")
    if node.has(2) or "ignore_index" in node.attributes or len(node.outputs) > 1:
        raise node.error("weights of classes, an index that is ignored and a second result are not supported")
    node.given()

    def run(xs: list[Any], training: bool) -> Held:
        scores, labels = xs
        return Held(ops.cross_entropy(scores.laid((0, *range(2, scores.ndim), 1)), labels.plain))

    return run


def concat(node: Source) -> Run:
    """Arrays, or numbers, one after another."""
    axis = node.attribute("axis")
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        if all(isinstance(x, np.ndarray) for x in xs):
            return np.concatenate(xs, axis)
        ndim, device = xs[0].ndim, next(x.tensor.device for x in xs if isinstance(x, Held))
        held = [Held(Tensor(x, device=device)) if isinstance(x, np.ndarray) else x for x in xs]
        axes = next((x.axes for x in held if x.axes != plain(ndim)), plain(ndim))
        return Held(ops.concat([x.laid(axes) for x in held], axis=axes.index(axis % ndim)), axes)

    return run


def reshape(node: Source) -> Run:
    """Another shape, where 0 copies a length and -1 follows from the others."""
    copies = not node.attribute("allowzero", 0)
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x, want = xs
        if not isinstance(want, np.ndarray):
            raise node.error("its shape must be computed from numbers, not from the model's values")
        shape = [x.shape[i] if n == 0 and copies and i < x.ndim else int(n) for i, n in enumerate(want.tolist())]
        return x.reshape(shape) if isinstance(x, np.ndarray) else x.reshaped(shape)

    return run


def flatten(node: Source) -> Run:
    """A matrix: the axes before one, and those from it on."""
    axis = node.attribute("axis", 1)
    node.given()

    def run(xs: list[Any], training: bool) -> Held:
        shape = xs[0].shape
        at = axis + len(shape) if axis < 0 else axis
        return xs[0].reshaped((math.prod(shape[:at]), math.prod(shape[at:])))

    return run


def transpose(node: Source) -> Run:
    """Axes in another order: only what order they are in is another."""
    perm = node.attribute("perm")
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x = xs[0]
        order = tuple(perm) if perm is not None else plain(x.ndim)[::-1]
        if isinstance(x, np.ndarray):
            return x.transpose(order)
        return Held(x.tensor, tuple(order.index(a) for a in x.axes))

    return run


def squeeze(node: Source) -> Run:
    """Without axes of length 1."""
    axes = axes_of(node)

    def run(xs: list[Any], training: bool) -> Any:
        x = xs[0]
        gone = [i for i, n in enumerate(x.shape) if n == 1] if axes is None else [a % x.ndim for a in axes]
        if any(x.shape[a] != 1 for a in gone):
            raise node.error(f"it drops the axes {gone} of an array of shape {x.shape}, which must be of length 1")
        return reshaped(x, [n for i, n in enumerate(x.shape) if i not in gone])

    return run


def unsqueeze(node: Source) -> Run:
    """With new axes of length 1."""
    axes = axes_of(node)
    if axes is None:
        raise node.error("its axes are missing")

    def run(xs: list[Any], training: bool) -> Any:
        shape = list(xs[0].shape)
        for a in sorted(a % (len(shape) + len(axes)) for a in axes):
            shape.insert(a, 1)
        return reshaped(xs[0], shape)

    return run


def axes_of(node: Source) -> list[int] | None:
    """The axes of squeeze and unsqueeze: an input since opset 13, an attribute before."""
    axes = node.attribute("axes")
    if axes is None and node.has(1):
        axes = node.number(1).reshape(-1).tolist()
    node.only(1)
    return axes


def reshaped(x: Any, shape: Sequence[int]) -> Any:
    """Numbers or a tensor in another shape."""
    return x.reshape(shape) if isinstance(x, np.ndarray) else x.reshaped(shape)


def slice_(node: Source) -> Run:
    """Parts of some axes."""
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x, starts, ends, *rest = xs
        ints = [starts, ends, *[part for part in rest if part is not None]]
        if not all(isinstance(part, np.ndarray) for part in ints):
            raise node.error("its bounds must be computed from numbers, not from the model's values")
        axes = range(len(starts)) if not rest or rest[0] is None else [int(a) % x.ndim for a in rest[0]]
        steps = [1] * len(starts) if len(rest) < 2 or rest[1] is None else rest[1].tolist()
        cut = {a: slice(int(s), int(e), int(t)) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)}
        cut = {a: bounded(part, x.shape[a]) for a, part in cut.items()}
        order = plain(x.ndim) if isinstance(x, np.ndarray) else x.axes
        index = tuple(cut.get(a, slice(None)) for a in order)
        return x[index] if isinstance(x, np.ndarray) else Held(x.tensor[index], x.axes)

    return run


def bounded(part: slice, length: int) -> slice:
    """A slice in numbers that are not far beyond the axis."""
    start, stop, step = part.indices(length)
    return slice(start, None if stop < 0 else stop, step)


def split(node: Source) -> Run:
    """Several parts of one axis."""
    axis = node.attribute("axis", 0)
    lengths = node.attribute("split")
    if lengths is None and node.has(1):
        lengths = node.number(1).tolist()
    node.attribute("num_outputs")
    count = len(node.outputs)
    node.only(1)

    def run(xs: list[Any], training: bool) -> list[Any]:
        x = xs[0]
        here = axis % x.ndim
        most = -(-x.shape[here] // count)
        parts = lengths or [most] * (count - 1) + [x.shape[here] - most * (count - 1)]
        ends = np.cumsum(parts).tolist()
        at = x.axes.index(here)
        before = (slice(None),) * at
        return [Held(x.tensor[(*before, slice(e - n, e))], x.axes) for n, e in zip(parts, ends, strict=True)]

    return run


def gather(node: Source) -> Run:
    """Places of an axis by number."""
    axis = node.attribute("axis", 0)
    node.given()

    def run(xs: list[Any], training: bool) -> Any:
        x, index = xs
        here = axis % max(x.ndim, 1)
        if isinstance(index, Held):
            if not isinstance(x, Held) or here:
                raise node.error("numbers that the model computes or is given can only index tensors, on axis 0")
            return Held(x.plain[index.plain])
        if isinstance(x, np.ndarray):
            return np.take(x, index, axis=here)
        if index.ndim == 0:
            part = (slice(None),) * x.axes.index(here) + (int(index),)
            return Held(x.tensor[part], without(x.axes, [here]))
        return Held(x.plain[(slice(None),) * here + (index,)])

    return run


def shape(node: Source) -> Run:
    """The lengths of the axes, as numbers."""
    start, end = node.attribute("start", 0), node.attribute("end")
    node.given()
    return lambda xs, training: np.array(xs[0].shape, np.int64)[start:end]


def constant(node: Source) -> Run:
    """Numbers that stand in the file."""
    names = [
        name for name in ("value", "value_int", "value_float", "value_ints", "value_floats") if name in node.attributes
    ]
    if len(names) != 1:
        raise node.error("it holds no numbers")
    value = node.attribute(names[0])
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    array = value if names[0] == "value" else np.array(value, kinds[names[0]])
    node.constants.setdefault(node.outputs[0], array)
    return lambda xs, training: array


def same(node: Source) -> Run:
    """What came in."""
    node.given()
    return lambda xs, training: xs[0]


def dropout(node: Source) -> Run:
    """What came in, as in evaluation."""
    node.attribute("ratio")
    node.attribute("seed")
    if node.has(2) and node.number(2).any():
        raise node.error("it drops elements, as in training; export the model in evaluation mode")
    if len(node.outputs) > 1:
        raise node.error("its mask, the second result, is not supported")
    node.only(1)
    return lambda xs, training: xs[0]


READERS: dict[str, Reader] = {
    **{"Relu": elementwise(ops.relu), "Sigmoid": elementwise(ops.sigmoid), "Tanh": elementwise(ops.tanh)},
    **{"Exp": elementwise(ops.exp), "Log": elementwise(ops.log), "Sqrt": elementwise(ops.sqrt)},
    **{"Neg": elementwise(lambda x: -x), "Reciprocal": elementwise(lambda x: 1 / x)},
    **{"Not": elementwise(ops.logical_not), "Cast": cast, "Pow": power},
    **{"Add": arithmetic(ops.add, np.add), "Sub": arithmetic(ops.sub, np.subtract)},
    **{"Mul": arithmetic(ops.mul, np.multiply), "Div": arithmetic(ops.div, numbers.divided), "Sum": several(ops.add)},
    **{
        "Abs": elementwise(ops.abs),
        "Sign": elementwise(ops.sign),
        "Erf": elementwise(ops.erf),
        "Sin": elementwise(ops.sin),
    },
    **{"Cos": elementwise(ops.cos), "Tan": elementwise(ops.tan), "Softplus": elementwise(ops.softplus)},
    **{"Mish": elementwise(ops.mish), "HardSwish": elementwise(lambda x: x * ops.hard_sigmoid(x)), "Gelu": gelu},
    **{
        "LeakyRelu": scaled(ops.leaky_relu, 0.01),
        "Elu": scaled(ops.elu, 1.0),
        "Selu": selu,
        "HardSigmoid": hard_sigmoid,
    },
    **{"Min": several(ops.minimum), "Max": several(ops.maximum), "Where": where, "Clip": clip},
    **{"And": arithmetic(ops.logical_and), "Or": arithmetic(ops.logical_or)},
    **{"Equal": arithmetic(ops.equal), "Less": arithmetic(ops.less), "Greater": arithmetic(ops.greater)},
    **{"LessOrEqual": arithmetic(ops.less_equal), "GreaterOrEqual": arithmetic(ops.greater_equal)},
    **{"Conv": conv, "MaxPool": max_pool, "AveragePool": average_pool},
    **{"GlobalAveragePool": over_pixels(ops.mean), "GlobalMaxPool": over_pixels(ops.max)},
    **{
        "BatchNormalization": batch_norm,
        "LRN": local_response_norm,
        "LayerNormalization": layer_norm,
        "Gemm": gemm,
        "MatMul": matmul,
    },
    **{"Softmax": along(ops.softmax), "LogSoftmax": along(ops.log_softmax), "SoftmaxCrossEntropyLoss": cross_entropy},
    **{"ReduceMean": reduction(ops.mean, 18), "ReduceSum": reduction(ops.sum, 13), "ReduceMax": reduction(ops.max, 18)},
    **{"Concat": concat, "Reshape": reshape, "Flatten": flatten, "Transpose": transpose, "Slice": slice_},
    **{"Squeeze": squeeze, "Unsqueeze": unsqueeze, "Split": split, "Gather": gather, "Shape": shape},
    **{"Constant": constant, "Identity": same, "Dropout": dropout},
}
