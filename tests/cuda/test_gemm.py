import numpy as np
import pytest

from minigrad.kernels.cuda import gemm
from minigrad.kernels.cuda.parts import plans
from minigrad.kernels.cuda.tools import launch

ORDERS = [(a, b) for a in (False, True) for b in (False, True)]
FLOAT32_TILES = [*plans.FLOAT32_TILES, plans.SMALL]
NO_BIAS = np.empty(0, np.float32)


def factors(rng, m, n, k, trans_a, trans_b, dtype=np.float32, batch=()):
    a = rng.standard_normal((*batch, *((k, m) if trans_a else (m, k)))).astype(dtype)
    b = rng.standard_normal((*batch, *((n, k) if trans_b else (k, n)))).astype(dtype)
    return a, b


def rounded(x):
    """To 10 bits, as tensor cores take it."""
    return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.fixture
def choose(monkeypatch):
    """choose(tile, parts): every product is by that tile, its depth in at most so many parts."""

    def choose(tile, parts=1):
        monkeypatch.setattr(gemm, "best_tiling", lambda _, m, n, k: plans.tiling_by(tile, m, n, k, parts))

    return choose


@pytest.mark.parametrize("tile", FLOAT32_TILES, ids=str)
@pytest.mark.parametrize(("trans_a", "trans_b"), ORDERS[:3])
@pytest.mark.parametrize("past", [0, 1])
def test_tile(check_kernel, choose, rng, tile, trans_a, trans_b, past):
    choose(tile)
    m, n, k = 4 + past, tile.columns + past, tile.depth + 4 + past
    a, b = factors(rng, m, n, k, trans_a, trans_b)
    check_kernel("gemm", "gemm", a, b, NO_BIAS, np.empty((m, n), np.float32), trans_a, trans_b)


@pytest.mark.parametrize("tile", FLOAT32_TILES, ids=str)
def test_second_tile_down(check_kernel, choose, rng, tile):
    choose(tile)
    m, n, k = tile.rows + 3, 5, 4
    a, b = factors(rng, m, n, k, False, False)
    check_kernel("gemm", "gemm", a, b, NO_BIAS, np.empty((m, n), np.float32), False, False)


@pytest.mark.parametrize("tile", plans.TF32_KERNELS, ids=str)
@pytest.mark.parametrize(("trans_a", "trans_b"), ORDERS)
@pytest.mark.parametrize("past", [0, 1])
def test_tile_on_tensor_cores(check_kernel, choose, rng, tile, trans_a, trans_b, past):
    choose(tile)
    m, n, k = 20 + past, 36 + past, 2 * tile.depth + 4 + past
    a, b = factors(rng, m, n, k, trans_a, trans_b)
    bias = rng.standard_normal(n).astype(np.float32)
    check_kernel("gemm", "gemm", rounded(a), rounded(b), bias, np.empty((m, n), np.float32), trans_a, trans_b)


def test_second_tile_on_tensor_cores(check_kernel, choose, rng):
    choose(plans.TF32_TALL)
    a, b = factors(rng, 132, 68, 4, False, False)
    check_kernel("gemm", "gemm_add", rounded(a), rounded(b), np.ones((132, 68), np.float32), False, False)


def test_tensor_cores_round_to_ten_bits(memory, monkeypatch, rng):
    monkeypatch.setattr(launch.context, "matmul_precision", "tf32")
    monkeypatch.setattr(plans, "TENSOR_WORK", 0)
    a, b = factors(rng, 4, 8, 8, False, False)
    c = memory.empty((4, 8), np.float32)
    gemm.gemm(memory.put(a), memory.put(b), memory.put(NO_BIAS), c, False, False)
    want = rounded(a).astype(np.float64) @ rounded(b).astype(np.float64)
    np.testing.assert_allclose(memory.get(c), want, rtol=0, atol=1e-6)
    assert np.abs(want - a.astype(np.float64) @ b).max() > 1e-5


@pytest.mark.parametrize(
    ("kilobytes", "stages"), [(100, (2, 2)), (164, (3, 3)), (228, (3, 3))], ids=["100 KB", "164 KB", "228 KB"]
)
def test_stages_are_as_many_as_leave_room_for_the_blocks(memory, monkeypatch, kilobytes, stages):
    monkeypatch.setattr(memory.driver, "shared_memory", kilobytes * 1024)
    for a_deep, b_deep in ORDERS:
        assert tuple(plans.fitting(tile, 4, a_deep, b_deep).stages for tile in plans.TF32_TILES) == stages
    for tile in FLOAT32_TILES:
        assert plans.fitting(tile, 4, True, True) == tile


def test_tensor_cores_only_when_asked_for(memory, monkeypatch):
    monkeypatch.setattr(plans, "TENSOR_WORK", 0)
    assert gemm.tiles_for(np.dtype(np.float32), 1) == [plans.SMALL]
    monkeypatch.setattr(launch.context, "matmul_precision", "tf32")
    assert gemm.tiles_for(np.dtype(np.float32), 1) == plans.TF32_TILES
    assert gemm.tiles_for(np.dtype(np.float64), 1) == [plans.DOUBLE]


@pytest.mark.parametrize("tile", [*FLOAT32_TILES, plans.TF32_LARGE], ids=str)
@pytest.mark.parametrize("n", [8, 7])
def test_gemm_add(check_kernel, choose, rng, tile, n):
    choose(tile)
    a, b = factors(rng, 9, n, 5, False, False)
    c = rng.standard_normal((9, n)).astype(np.float32)
    check_kernel("gemm", "gemm_add", rounded(a), rounded(b), c, False, False)


@pytest.mark.parametrize(("trans_a", "trans_b"), ORDERS)
def test_gemm_batched(check_kernel, monkeypatch, rng, dtype, trans_a, trans_b):
    monkeypatch.setattr(gemm, "MOST_PRODUCTS", 2)
    a, b = factors(rng, 3, 5, 7, trans_a, trans_b, dtype, batch=(3,))
    check_kernel("gemm", "gemm_batched", a, b, np.empty((3, 3, 5), dtype), trans_a, trans_b)


@pytest.mark.parametrize("tile", [plans.SMALL, plans.TF32_TALL], ids=str)
@pytest.mark.parametrize("name", ["gemm", "gemm_add"])
@pytest.mark.parametrize(("trans_a", "trans_b"), ORDERS[:3])
def test_depth_in_parts(check_kernel, choose, rng, memory, tile, name, trans_a, trans_b):
    choose(tile, parts=3)
    m, n, k = 6, 9, 2 * tile.depth + 3
    a, b = (rounded(x) for x in factors(rng, m, n, k, trans_a, trans_b))
    c = rng.standard_normal((m, n)).astype(np.float32)
    bias = [rng.standard_normal(n).astype(np.float32)] if name == "gemm" else []
    check_kernel("gemm", name, a, b, *bias, c, trans_a, trans_b)
    assert [name.partition(",")[0] for name in memory.driver.launches] == ["gemm.multiply", "plans.sum_parts"]


@pytest.mark.parametrize("tile", [plans.SMALL, plans.TF32_LARGE], ids=str)
def test_memory_off_the_16_bytes(memory, choose, rng, tile):
    choose(tile)
    a, b = (rounded(x) for x in factors(rng, 4, 8, 12, False, False))
    shifted = [memory.put(np.append(np.float32(0), x)).part(1, 1 + x.size).reshape(x.shape) for x in (a, b)]
    c = memory.put(np.zeros(33, np.float32)).part(1, 33).reshape(4, 8)
    gemm.gemm(*shifted, memory.put(NO_BIAS), c, False, False)
    np.testing.assert_allclose(memory.get(c), a @ b, atol=1e-5)


def test_empty_result_launches_nothing(memory, dtype):
    a, b, c = (memory.empty(shape, dtype) for shape in ((0, 4), (4, 2), (0, 2)))
    gemm.gemm(a, b, memory.empty((0,), dtype), c, False, False)
    gemm.gemm_batched(*(x.reshape(0, 1, -1) for x in (a, memory.empty((0, 4, 2), dtype), c)), False, False)
    assert not memory.driver.launches


@pytest.mark.parametrize(
    ("m", "n", "k"), [(60, 100, 784), (784, 100, 60), (192, 96, 256000), (1, 1, 1), (4096, 4096, 4096)]
)
def test_parts_cover_the_depth(m, n, k):
    how = plans.best_tiling(gemm.tiles_for(np.dtype(np.float32), m * n * k), m, n, k)
    assert (how.parts - 1) * how.part < k <= how.parts * how.part
    assert how.part % how.tile.depth == 0
    assert how.parts == 1 or how.tiles * how.parts <= plans.WAVE


COMPILED = [*FLOAT32_TILES, *plans.TF32_TILES]


@pytest.mark.slow  # the compiler takes seconds for each
@pytest.mark.parametrize("tile", COMPILED, ids=str)
def test_wide_loads_in_the_machine_code(tile):
    kernel = gemm.KERNELS[tile, True, False]
    ptx, _ = launch.compile_ptx(kernel, launch.FLOAT32, (8, 0))
    if tile in plans.TF32_TILES:
        per_step = tile.depth // 8 * (tile.height // 16) * (tile.width // 8)
        assert ptx.count("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32") == per_step
        assert "cp.async.cg.shared.global" in ptx
    else:
        assert ptx.count("ld.global.v4.f32") >= 2
        assert ptx.count("ld.shared.v4.f32") == 8 * (tile.height + tile.width) // 4
        assert ptx.count("fma.rn.f32") == 8 * tile.height * tile.width
