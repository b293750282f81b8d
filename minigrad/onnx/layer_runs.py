"""Normalization and products of matrices of ONNX here."""

from typing import Any

from minigrad import ops
from minigrad.onnx.held import Held
from minigrad.onnx.source import Run, Source


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
        return Held(ops.layer_norm(x.plain, gamma.plain, shift, axes=x.ndim - node.axis(axis, x.ndim), eps=eps))

    return run


def instance_norm(node: Source) -> Run:
    """Normalization of each channel of each image by its own pixels."""
    eps = node.attribute("epsilon", 1e-5)
    node.given()
    return grouped(None, eps)


def group_norm(node: Source) -> Run:
    """Normalization of groups of channels of each image."""
    eps, groups = node.attribute("epsilon", 1e-5), node.attribute("num_groups")
    node.must("stash_type", 1)
    node.given()

    def run(xs: list[Any], training: bool) -> Held:
        if node.opset < 21 and xs[1].shape != (xs[0].shape[1],):
            raise node.error(
                "before opset 21 its scale and bias are of groups, not of channels, which is not supported"
            )
        return grouped(groups, eps)(xs, training)

    return run


def grouped(groups: int | None, eps: float) -> Run:
    """Normalization by groups, of one channel each if None."""

    def run(xs: list[Any], training: bool) -> Held:
        x, gamma, beta = xs
        axes = (0, *range(2, x.ndim), 1)
        y = ops.group_norm(x.laid(axes), groups or x.shape[1], gamma.plain, beta.plain, eps=eps)
        return Held(y, axes)

    return run


def einsum(node: Source) -> Run:
    """Products and sums by the letters of the axes."""
    equation = node.attribute("equation")
    node.given()
    return lambda xs, training: Held(ops.einsum(equation, *[x.plain for x in xs]))


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
