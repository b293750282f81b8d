"""Batch Normalization with ReLU on both sides: what `gpu_kernels` times.

What counts as moved is the fewest bytes there can be. The statistics need all of x before the first y can be written, and
the sums of the gradients all of dy and x: where no cache holds them, they are read twice.
"""

from typing import Any

import numpy as np

from benchmarks.comparison.gpu_sides import OURS, THEIRS, Case, Ours, Theirs, Work, normal
from minigrad.kernels import reference
from minigrad.kernels.activations import RELU

EPS = 1e-5


def norm_forward(batch: int, length: int, c: int, cache: int) -> Case:
    """Batch Normalization and ReLU, with the statistics of the batch."""
    m = batch * length * length
    x, gamma, beta = normal(m, c), np.abs(normal(c)) + np.float32(0.5), normal(c, seed=1)
    part = slice(None, None, max(1, c // 8))
    few = len(range(c)[part])
    y, mean, var = np.empty((m, few)), np.empty(few), np.empty(few)
    wide = x[:, part].astype(float)
    reference.norm.batch_norm_forward(
        wide, gamma[part].astype(float), beta[part].astype(float), EPS, RELU, y, 0, mean, var
    )

    def ours(side: Ours) -> Work:
        found = side.room(m, c), side.room(c, dtype=np.float64), side.room(c, dtype=np.float64)
        given = [*map(side.put, (x, gamma, beta)), EPS, RELU, found[0], 0, *found[1:]]
        kernel = side.device.kernels.norm.batch_norm_forward
        return Work(lambda: kernel(*given), lambda _: [side.get(a)[..., part] for a in found])

    def theirs(side: Theirs) -> Work:
        image, weight, bias = side.images(x.reshape(batch, length, length, c)), side.put(gamma), side.put(beta)
        functions = side.torch.nn.functional

        def call() -> Any:
            with side.torch.no_grad():
                return functions.batch_norm(image, None, None, weight, bias, training=True, eps=EPS).relu_()

        return Work(call, lambda out: [side.get_images(out).reshape(m, c)[:, part], mean, var])

    passes = 2 if x.nbytes <= cache else 3
    return Case(
        f"{norm_name(batch, length, c)}, forward", passes * x.nbytes, 0, [y, mean, var], {OURS: ours, THEIRS: theirs}
    )


def norm_backward(batch: int, length: int, c: int, cache: int) -> Case:
    """The gradients of it."""
    m = batch * length * length
    x, dy, gamma, beta = normal(m, c), normal(m, c, seed=2), np.abs(normal(c)) + np.float32(0.5), normal(c, seed=1)
    mean, var = x.mean(axis=0, dtype=float), x.var(axis=0, dtype=float)
    part = slice(None, None, max(1, c // 8))
    few = len(range(c)[part])
    expected = [np.empty((m, few)), np.empty(few), np.empty(few)]
    wide = [a[..., part].astype(float) for a in (dy, x, gamma, beta)]
    reference.norm.batch_norm_backward(
        wide[0], wide[1], wide[1], 0, wide[2], wide[3], mean[part], var[part], EPS, RELU, *expected
    )

    def ours(side: Ours) -> Work:
        found = side.room(m, c), side.room(c), side.room(c)
        on_gpu = [side.put(a) for a in (dy, x)]
        given = [*on_gpu, on_gpu[1], 0, *map(side.put, (gamma, beta, mean, var)), EPS, RELU, *found]
        kernel = side.device.kernels.norm.batch_norm_backward
        return Work(lambda: kernel(*given), lambda _: [side.get(a)[..., part] for a in found])

    def theirs(side: Theirs) -> Work:
        aten = side.torch.ops.aten
        image, gradient = (side.images(a.reshape(batch, length, length, c)) for a in (x, dy))
        weight, bias = side.put(gamma), side.put(beta)
        out, kept_mean, kept_scale = aten.native_batch_norm(image, weight, bias, None, None, True, 0.1, EPS)
        out.relu_()

        def call() -> Any:
            dz = aten.threshold_backward(gradient, out, 0)
            return aten.native_batch_norm_backward(
                dz, image, weight, None, None, kept_mean, kept_scale, True, EPS, [True, True, True]
            )

        return Work(
            call, lambda got: [side.get_images(got[0]).reshape(m, c)[:, part], *(side.get(a)[part] for a in got[1:])]
        )

    passes = 3 if 2 * x.nbytes <= cache else 5
    return Case(
        f"{norm_name(batch, length, c)}, backward", passes * x.nbytes, 0, expected, {OURS: ours, THEIRS: theirs}
    )


def norm_name(batch: int, length: int, c: int) -> str:
    """As in tables."""
    return f"BN + ReLU {batch} x {length}x{length}x{c}"
