import itertools

import numpy as np
import pytest
from convolutions import PASSES, PROBLEMS, aligned_and_off, arguments

from minigrad.kernels.cuda import conv
from minigrad.kernels.cuda.parts import plans
from minigrad.kernels.cuda.tools import launch
from minigrad.ops.window import resolve


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
    given = arguments(rng, name, PROBLEMS["3x3, groups of four"], np.float32, bias=False)
    np.testing.assert_array_equal(*aligned_and_off(memory, name, *given))


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
