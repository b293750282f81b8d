"""Products and convolutions of factors rounded to bfloat16, held to the reference, which rounds and adds up in float64.

Those of factors in two parts, high and low, go the same ways, held to the reference without rounding; how exact they are is
tested in test_bfloat16_split.py.
"""

import contextlib

import numpy as np
import pytest
from convolutions import PASSES, PROBLEMS, aligned_and_off, arguments
from small_steps import step_of
from targets import slow, target_named

import minigrad as mg
from minigrad.cli.verification import with_gradients
from minigrad.kernels.cuda import conv, gemm, recurrent
from minigrad.kernels.cuda.parts import plans
from minigrad.kernels.cuda.tools import launch
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.precision import Products, round_factors, rounded_to_bfloat16

ORDERS = [(False, False), (False, True), (True, False), (True, True)]
ALL_TILES = pytest.mark.parametrize(
    "tile", [*plans.BF16_TILES[::-1], plans.BF16_3X_TILES[-1], *slow(*plans.BF16_3X_TILES[-2::-1])], ids=str
)
NARROW = pytest.mark.parametrize("tile", [plans.BF16_NARROW, plans.BF16_3X_TILES[-1]], ids=str)
NO_BIAS = np.empty(0, np.float32)
HOST = pytest.param("cuda, host", marks=pytest.mark.slow)  # the compiler takes seconds for a tile


@pytest.fixture(params=["cuda", HOST])
def memory(request, monkeypatch):
    """A GPU in Python, or on the host with checks; it and the reference multiply in bfloat16."""
    memory = target_named(request.param, monkeypatch)
    monkeypatch.setattr(context, "matmul_precision", "bf16")
    monkeypatch.setattr(Products, "in_bfloat16", True)
    return memory


@pytest.fixture
def choose(monkeypatch):
    """choose(tile, parts): every product is by that tile, its depth in at most so many parts.

    The reference rounds factors for a tile that does. Gives the roundings that a result may be off.
    """

    def choose(tile, parts=1):
        monkeypatch.setattr(Products, "in_bfloat16", tile.parts == 1)
        for family in gemm, conv:
            monkeypatch.setattr(family, "best_tiling", lambda _, m, n, k: plans.tiling_by(tile, m, n, k, parts))
        return 4 if tile.parts == 1 else 256  # 2^-15 of the largest; without one of the parts it were 2^-8

    return choose


def numbers(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def factors(rng, m, n, k, trans_a, trans_b, batch=()):
    a, b = (
        numbers(rng, *batch, *((k, m) if trans_a else (m, k))),
        numbers(rng, *batch, *((n, k) if trans_b else (k, n))),
    )
    return a, b


@ALL_TILES
@pytest.mark.parametrize(("trans_a", "trans_b"), ORDERS)
@pytest.mark.parametrize("past", [0, 1])
def test_tile(check_kernel, choose, rng, tile, trans_a, trans_b, past):
    ulps = choose(tile)
    m, n, k = 20 + past, 28 + past, 100 + past  # seven steps: each buffer is filled again
    a, b = factors(rng, m, n, k, trans_a, trans_b)
    check_kernel("gemm", "gemm", a, b, numbers(rng, n), np.empty((m, n), np.float32), trans_a, trans_b, ulps=ulps)


@pytest.mark.slow
@ALL_TILES
@pytest.mark.parametrize("past", [0, 1, 3])
@pytest.mark.parametrize("k", [1, 15, 16, 17, 32, 33, 48])
def test_second_tiles_and_few_steps(check_kernel, choose, rng, tile, past, k):
    ulps = choose(tile)
    m, n = 2 * tile.rows + past, tile.columns + 4 + past
    a, b = factors(rng, m, n, k, False, False)
    check_kernel("gemm", "gemm_add", a, b, numbers(rng, m, n), False, False, ulps=ulps)


@pytest.mark.parametrize(("trans_a", "trans_b"), ORDERS)
def test_batches(check_kernel, rng, trans_a, trans_b):
    a, b = factors(rng, 3, 5, 7, trans_a, trans_b, batch=(3,))
    check_kernel("gemm", "gemm_batched", a, b, np.empty((3, 3, 5), np.float32), trans_a, trans_b)


@NARROW
def test_depth_in_parts(check_kernel, choose, rng, memory, tile):
    ulps = choose(tile, parts=3)
    a, b = factors(rng, 6, 9, 67, False, False)
    check_kernel("gemm", "gemm", a, b, numbers(rng, 9), np.empty((6, 9), np.float32), False, False, ulps=ulps)
    assert [name.partition(",")[0] for name in memory.driver.launches] == ["gemm.multiply", "plans.sum_parts"]


@NARROW
def test_memory_off_the_16_bytes(memory, choose, rng, tile):
    choose(tile)
    a, b = factors(rng, 4, 8, 12, False, False)
    shifted = [memory.put(np.append(np.float32(0), x)).part(1, 1 + x.size).reshape(x.shape) for x in (a, b)]
    c = memory.put(np.zeros(33, np.float32)).part(1, 33).reshape(4, 8)
    gemm.gemm(*shifted, memory.put(NO_BIAS), c, False, False)
    left, right = round_factors(a, b)
    np.testing.assert_allclose(memory.get(c), left @ right, atol=1e-5 if tile.parts == 1 else 1e-4)


def test_rounding_is_to_the_nearest_even_and_what_is_not_finite_stays(memory, choose):
    choose(plans.BF16_NARROW)
    special = np.float32([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 0.0, -0.0, 1e-40])
    halves = np.float32(1) + np.arange(-12, 12, dtype=np.float32) * np.float32(2**-9)
    x = np.concatenate([special, halves])
    c = memory.empty((32, 32), np.float32)
    gemm.gemm(memory.put(x[:, None]), memory.put(np.ones((1, 32), np.float32)), memory.put(NO_BIAS), c, False, False)
    np.testing.assert_array_equal(memory.get(c), np.repeat(rounded_to_bfloat16(x)[:, None], 32, axis=1))


@pytest.mark.parametrize("name", PASSES)
@ALL_TILES
@pytest.mark.parametrize("problem", ["3x3, groups of four", "3x3, odd channels", "strides", "dilations", "pixels"])
def test_pass_of_a_convolution(check_kernel, choose, rng, name, tile, problem):
    ulps = choose(tile)
    check_kernel("conv", name, *arguments(rng, name, PROBLEMS[problem]), ulps=ulps)


@pytest.mark.parametrize("name", PASSES)
def test_convolution_of_memory_off_the_16_bytes(memory, rng, name):
    given = arguments(rng, name, PROBLEMS["3x3, groups of four"])
    np.testing.assert_array_equal(*aligned_and_off(memory, name, *given))


def test_tiles_are_chosen_by_precision_and_columns(memory, monkeypatch):
    float32, float64 = np.dtype(np.float32), np.dtype(np.float64)
    assert gemm.tiles_for(float32, 1) == plans.BF16_TILES
    assert gemm.tiles_for(float64, 1) == [plans.DOUBLE]
    taken = [plans.best_tiling(plans.BF16_TILES, 4096, n, 512).tile for n in (16, 32, 33, 64, 96, 128, 512)]
    assert [tile.columns for tile in taken] == [32, 32, 64, 64, 128, 128, 128]
    monkeypatch.setattr(context, "matmul_precision", "float32")
    assert gemm.tiles_for(float32, 1) == [plans.SMALL]


@pytest.mark.parametrize("kilobytes", [100, 164, 228])
def test_buffers_fit_into_every_gpu(memory, monkeypatch, kilobytes):
    monkeypatch.setattr(memory.driver, "shared_memory", kilobytes * 1024)
    for tiles in plans.BF16_TILES, plans.BF16_3X_TILES:
        assert tuple(plans.fitting(tile, 4, True, True) for tile in tiles) == tiles


def test_recurrent_layers_stay_in_float32(memory, rng):
    t, n, units = 2, 3, 20
    y, w_hh, y0 = numbers(rng, t, n, units), numbers(rng, units, units), numbers(rng, n, units)
    found = memory.put(y)
    recurrent.rnn_forward(memory.put(y0), memory.put(w_hh), False, False, found)
    states = [y0]
    for before in y:
        states.append(np.tanh(before + states[-1].astype(np.float64) @ w_hh))
    np.testing.assert_allclose(memory.get(found), states[1:], atol=1e-5)


@contextlib.contextmanager
def in_bfloat16():
    """Products in bfloat16 on a GPU, and on the reference whatever the processor has."""
    with mg.matmul_precision("bf16"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Products, "in_bfloat16", True)
        yield


OPS = {
    "linear": (mg.linear, [(21, 35), (35, 13)]),
    "matmul of vectors": (lambda x, w: x @ w, [(75,), (75,)]),
    "matmul of stacks": (lambda x, w: x @ w, [(3, 9, 17), (3, 17, 5)]),
    "conv2d": (lambda x, w: mg.conv2d(x, w, padding=1), [(2, 9, 8, 5), (3, 3, 5, 7)]),
    "conv2d with strides": (lambda x, w: mg.conv2d(x, w, stride=2, dilation=2), [(2, 9, 8, 6), (3, 2, 6, 7)]),
    "conv2d in groups": (lambda x, w: mg.conv2d(x, w, groups=2), [(2, 6, 5, 6), (3, 3, 3, 4)]),
    "conv_transpose2d": (lambda x, w: mg.conv_transpose2d(x, w, stride=2), [(2, 5, 4, 6), (3, 3, 6, 7)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_results_and_gradients_are_those_of_the_reference(host_gpu, rng, name):
    f, shapes = OPS[name]
    x, w = (numbers(rng, *shape) for shape in shapes)
    dy = numbers(rng, *f(mg.tensor(x), mg.tensor(w)).shape)

    exact = with_gradients(f, "reference", np.float32, x, w, dy)
    with in_bfloat16():
        for found, wanted, unlike in zip(
            with_gradients(f, "cuda", np.float32, x, w, dy),
            with_gradients(f, "reference", np.float32, x, w, dy),
            exact,
            strict=True,
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
            assert np.abs(wanted - unlike).max() > 1e-4  # what rounding changes


@pytest.mark.slow
def test_a_captured_step_trains_in_bfloat16(host_gpu, rng):
    images, labels = numbers(rng, 4, 6, 6, 3), rng.integers(0, 5, 4)

    def trained(device, precision, wrap=lambda step: step):
        mg.manual_seed(1)
        model = mg.nn.Sequential(
            mg.nn.Conv2d(3, 8, 3, padding=1), mg.nn.ReLU(), mg.nn.Flatten(), mg.nn.Linear(288, 5)
        ).to(device)
        step = wrap(step_of(model, mg.optim.SGD(model.parameters(), 0.1)))
        with precision():
            losses = [step(mg.tensor(images, device=device), mg.tensor(labels, device=device)).item() for _ in range(5)]
        return losses, [p.numpy() for p in model.parameters()]

    eager, captured = trained("cuda", in_bfloat16), trained("cuda", in_bfloat16, mg.capture)
    assert eager[0] == captured[0]
    for one, other in zip(eager[1], captured[1], strict=True):
        np.testing.assert_array_equal(one, other)
    wanted, exact = (trained("reference", precision)[0] for precision in (in_bfloat16, contextlib.nullcontext))
    np.testing.assert_allclose(captured[0], wanted, rtol=1e-4)
    assert np.abs(np.subtract(captured[0], exact)).max() > 1e-4


@pytest.mark.parametrize(
    "tile",
    [
        plans.BF16_NARROW,
        *plans.BF16_TILES[:2],
        *plans.BF16_3X_TILES,
    ],
    ids=str,
)
@pytest.mark.slow  # the compiler takes seconds for each
def test_instructions_of_a_step(tile):
    ptx, _ = launch.compile_ptx(gemm.KERNELS[tile, True, False], launch.FLOAT32, (8, 0))
    products = 1 if tile.parts == 1 else 3
    small = tile.height // 16 * (tile.width // 8)
    assert ptx.count("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32") == products * small
    assert ptx.count("ldmatrix.sync.aligned.m8n8.x4.shared.b16") == tile.parts * tile.height // 16
    assert ptx.count("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16") == products * tile.width // 16
    loads = (tile.rows + tile.columns) * tile.depth // 4 // tile.threads
    assert (
        ptx.count("ld.global.v4.f32") == loads + (4 if tile.height == 64 else 2) * tile.width // 8
    )  # and of C, if it adds
    assert ptx.count("st.shared.v2") == tile.parts * loads
    assert ptx.count("cvt.rn.bf16x2.f32") == tile.parts * 2 * loads
    assert ptx.count("bar.sync") == 1
