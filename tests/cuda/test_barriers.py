"""Each barrier of kernels that sum over a block, and of a product in bfloat16, is needed: without it the host's checks say so.

A barrier is taken out of a kernel's PTX, and the kernel run at a size where all of its ways are gone.
"""

import functools
import re

import numpy as np
import pytest

pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)

from targets import Cuda

from minigrad.kernels.activations import IDENTITY
from minigrad.kernels.cuda import gemm, layer_norm, loss, norm
from minigrad.kernels.cuda.host import driver as host
from minigrad.kernels.cuda.parts import plans
from minigrad.kernels.cuda.tools import launch
from minigrad.kernels.cuda.tools.launch import FLOAT32, cached_ptx

pytestmark = pytest.mark.slow


def barriers(text):
    """The lines at which a block waits."""
    return [i for i, line in enumerate(text.splitlines()) if re.match(r"\s*(bar|barrier)\.(cta\.)?(sync|red)", line)]


def without(text, i):
    """The same without that barrier; a thread takes for the block's what is its own."""
    lines = text.splitlines()
    asked = re.fullmatch(r"\s*\S+\.(?:or|and)\.pred\s+(%p\d+), 0, (!?)(%p\d+);\s*", lines[i])
    assert asked or re.search(r"\.sync", lines[i]), lines[i]
    if asked:
        result, inverse, own = asked.groups()
        lines[i] = f"not.pred {result}, {own};" if inverse else f"and.pred {result}, {own}, {own};"
    else:
        lines[i] = ""
    return "\n".join(lines)


def batch_norm(memory, rng):
    """Up to 1,024 rows in one launch; of some channels float32 does not hold the squares."""
    x = rng.standard_normal((300, 96)) * rng.choice([1, 1e25], 96)
    x = x.astype(np.float32)
    one, c = np.ones(96, np.float32), np.zeros(96)
    memory.run("norm", "batch_norm_forward", x, one, one, 1e-5, IDENTITY, np.zeros_like(x), 0, c, c, 0.9, one, one)


def statistics(memory, rng):
    """More rows, in chunks, of which there are more than two."""
    x = rng.standard_normal((2400, 12)) * rng.choice([1, 1e25], 12)
    memory.run("norm", "batch_norm_statistics", x.astype(np.float32), np.zeros(12), np.zeros(12))


def gradient(memory, rng):
    x, dy = rng.standard_normal((2, 300, 96)).astype(np.float32)
    one = np.ones(96, np.float32)
    memory.run(
        "norm", "batch_norm_backward", dy, x, x, 0, one, one, np.zeros(96), np.ones(96), 1e-5, IDENTITY,
        np.zeros_like(x), one, one,
    )  # fmt: skip


def sums(memory, rng):
    """The gradient's sums, in chunks."""
    x, dy = rng.standard_normal((2, 2400, 12)).astype(np.float32)
    one = np.ones(12, np.float32)
    memory.run(
        "norm", "batch_norm_sums", dy, x, x, 0, one, one, np.zeros(12), np.ones(12), 1e-5, IDENTITY, one, one
    )  # fmt: skip


def losses(memory, rng):
    """Rows of as many threads as a block has, three of them one after another; and a row to each thread."""
    for m, n in ((3, 1100), (300, 4)):
        x, labels = rng.standard_normal((m, n)).astype(np.float32), rng.integers(0, n, m)
        memory.run("loss", "cross_entropy_forward", x, labels, np.zeros_like(x), np.zeros(1, np.float32))


def layers(memory, rng):
    x, dy = rng.standard_normal((2, 2, 1100)).astype(np.float32)
    one = np.ones(1100, np.float32)
    memory.run("layer_norm", "layer_norm_backward", dy, x, one, np.zeros(2), np.ones(2), True, x, one, one)


def product(memory, rng, precision="bf16"):
    """Seven steps of the four or two buffers."""
    a, b = rng.standard_normal((20, 100)).astype(np.float32), rng.standard_normal((100, 28)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch.context, "matmul_precision", precision)
        patch.setattr(plans, "TENSOR_WORK", 0)
        memory.run("gemm", "gemm", a, b, np.empty(0, np.float32), np.empty((20, 28), np.float32), False, False)


CASES = {
    "batch norm": (norm.in_one_kernels[True][0], batch_norm),
    "statistics of a chunk": (norm.statistics_kernels[True][0], statistics),
    "statistics, merged": (norm.merge_statistics_kernels[0], statistics),
    "batch norm's gradient": (norm.gradient_in_one_kernels[True][0], gradient),
    "sums of a chunk": (norm.sums_kernels[True, IDENTITY][0], sums),
    "sums, merged": (norm.merge_gradients_kernels[0], sums),
    "cross entropy": (loss.cross_entropy_kernels[True], losses),
    "layer norm's gradient": (layer_norm.backward_kernels[True], layers),
    "product in bfloat16": (gemm.KERNELS[plans.BF16_NARROW, True, False], product),
    "product of two parts": (
        gemm.KERNELS[plans.BF16_3X_TILES[-1], True, False],
        functools.partial(product, precision="bf16_3x"),
    ),
}


class OneLess(Cuda):
    """The host as a GPU, with one kernel's text in place of its own."""

    def __init__(self, monkeypatch, kernel, text):
        super().__init__(monkeypatch, on_host=True)
        self.driver = host.HostDriver(1 << 24, order=np.random.default_rng(1), checks=True)
        self.stream = self.driver.new_stream()
        monkeypatch.setattr(launch.context, "driver", self.driver)
        monkeypatch.setattr(launch.context, "stream", self.stream)
        monkeypatch.setattr(
            host, "cached_ptx", lambda other, real: (text, None) if other is kernel else cached_ptx(other, real)
        )


@pytest.mark.parametrize(("kernel", "run"), CASES.values(), ids=CASES)
def test_each_barrier_is_needed(kernel, run, monkeypatch):
    text, _ = cached_ptx(kernel, FLOAT32)
    run(OneLess(monkeypatch, kernel, text), np.random.default_rng(7))
    found = barriers(text)
    assert found
    missed = [i for i in found if not is_noticed(monkeypatch, kernel, run, without(text, i))]
    assert not missed, f"of {len(found)} barriers in the PTX those in these lines, from 0, may go"


def is_noticed(monkeypatch, kernel, run, text):
    """Whether the checks find something, with this as the kernel's text."""
    try:
        run(OneLess(monkeypatch, kernel, text), np.random.default_rng(7))
    except RuntimeError as error:
        return re.search("a race|that nobody has written|wait at different places|never comes", str(error)) is not None
    return False
