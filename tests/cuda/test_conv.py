import itertools

import numpy as np
import pytest

from minigrad.kernels.cuda import conv
from minigrad.kernels.cuda.parts import plans
from minigrad.kernels.cuda.tools import launch
from minigrad.ops.window import resolve

PROBLEMS = {  # x (n, h, w, c), (kh, kw, k), stride, padding, dilation
    "one pixel": ((1, 1, 1, 1), (1, 1, 1), 1, 0, 1),
    "3x3, odd channels": ((2, 5, 4, 3), (3, 3, 5), 1, 1, 1),
    "3x3, groups of four": ((2, 4, 5, 8), (3, 3, 12), 1, 1, 1),
    "strides": ((2, 7, 6, 4), (3, 2, 8), (2, 3), ((1, 0), (0, 2)), 1),
    "dilations": ((1, 8, 7, 5), (2, 3, 4), 1, ((1, 0), (0, 1)), 2),
    "unequal padding": ((1, 4, 4, 4), (4, 4, 4), 1, ((3, 1), (2, 3)), 1),
}
PASSES = ["conv_forward", "conv_backward_x", "conv_backward_w"]


def arguments(rng, name, problem, dtype, bias=True):
    x_shape, (kh, kw, k), *how = problem
    window = resolve("conv", x_shape[1:3], (kh, kw), *how)
    x = rng.standard_normal(x_shape).astype(dtype)
    w = rng.standard_normal((kh, kw, x_shape[3], k)).astype(dtype)
    y = rng.standard_normal((x_shape[0], window.oh, window.ow, k)).astype(dtype)
    if name == "conv_forward":
        return x, w, rng.standard_normal(k if bias else 0).astype(dtype), window, np.empty_like(y)
    if name == "conv_backward_x":
        return y, w, window, np.empty_like(x)
    return x, y, window, np.empty_like(w)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_pass(check_kernel, rng, dtype, name, problem):
    check_kernel("conv", name, *arguments(rng, name, problem, dtype))


def rounded(x):
    """To 10 bits, as tensor cores take it."""
    return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.fixture
def choose(monkeypatch):
    """choose(tile, parts): every product is by that tile, its depth in at most so many parts."""

    def choose(tile, parts=1):
        monkeypatch.setattr(conv, "best_tiling", lambda _, m, n, k: plans.tiling_by(tile, m, n, k, parts))

    return choose


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("tile", [plans.LARGE, plans.TALL], ids=str)
@pytest.mark.parametrize("problem", ["strides", "3x3, odd channels"])
def test_tile(check_kernel, choose, rng, name, tile, problem):
    choose(tile)
    check_kernel("conv", name, *arguments(rng, name, PROBLEMS[problem], np.float32))


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("tile", plans.TF32_TILES, ids=str)
@pytest.mark.parametrize("problem", ["strides", "3x3, odd channels"])
def test_tile_on_tensor_cores(check_kernel, choose, rng, name, tile, problem):
    choose(tile)
    first, second, *rest = arguments(rng, name, PROBLEMS[problem], np.float32)
    check_kernel("conv", name, rounded(first), rounded(second), *rest)


@pytest.mark.parametrize("name", PASSES)
def test_depth_in_parts(check_kernel, choose, rng, memory, name):
    choose(plans.NARROW, parts=3)
    check_kernel("conv", name, *arguments(rng, name, PROBLEMS["3x3, groups of four"], np.float32))
    assert [name.partition(",")[0] for name in memory.driver.launches][1] == "plans.sum_parts"


@pytest.mark.parametrize("name", PASSES)
def test_second_tile_down(check_kernel, rng, name):
    problem = {
        "conv_forward": ((3, 7, 7, 1), (1, 2, 33), 1, ((0, 0), (0, 1)), 1),
        "conv_backward_x": ((3, 7, 7, 33), (2, 1, 1), 1, 0, 1),
        "conv_backward_w": ((1, 2, 2, 33), (2, 2, 3), 1, ((1, 0), (0, 1)), 1),
    }[name]
    check_kernel("conv", name, *arguments(rng, name, problem, np.float32))


def test_without_bias(check_kernel, rng, dtype):
    check_kernel("conv", "conv_forward", *arguments(rng, "conv_forward", PROBLEMS["strides"], dtype, bias=False))


@pytest.mark.parametrize("name", PASSES)
def test_memory_off_the_16_bytes(memory, rng, name):
    first, second, *rest = arguments(rng, name, PROBLEMS["3x3, groups of four"], np.float32, bias=False)
    shifted = [memory.put(np.append(np.float32(0), x)).part(1, 1 + x.size).reshape(x.shape) for x in (first, second)]
    bias = [memory.put(rest[0])] if name == "conv_forward" else []
    results = []
    for pair in ([memory.put(first), memory.put(second)], shifted):
        out = memory.empty(rest[-1].shape, np.float32)
        getattr(conv, name)(*pair, *bias, rest[-2], out)
        results.append(memory.get(out))
    np.testing.assert_array_equal(*results)


def test_no_images_leave_no_gradient(check_kernel, dtype):
    x, dy = np.empty((0, 4, 4, 2), dtype), np.empty((0, 4, 4, 3), dtype)
    check_kernel("conv", "conv_backward_w", x, dy, resolve("conv", (4, 4), 3, 1, 1), np.empty((3, 3, 2, 3), dtype))


ON_WIDE_LOADS = list(itertools.product(conv.DEEP, [plans.LARGE, plans.TF32_LARGE]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "tile"),
    ON_WIDE_LOADS,
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_wide_loads_in_the_machine_code(function, tile):
    ptx, _ = launch.compile_ptx(conv.KERNELS[function, tile], launch.FLOAT32, (8, 0))
    if tile in plans.TF32_TILES:
        per_step = tile.depth // 8 * (tile.height // 16) * (tile.width // 8)
        assert ptx.count("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32") == per_step
        assert "cp.async.cg.shared.global" in ptx
    else:
        assert ptx.count("ld.global.v4.f32") >= 2
        assert ptx.count("fma.rn.f32") == 8 * tile.height * tile.width
