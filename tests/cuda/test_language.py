import numpy as np
import pytest

from minigrad.kernels.cuda.tools import launch, machine_code
from minigrad.kernels.cuda.tools.async_copies import copy16, copy_commit, copy_wait_all, copy_wait_but_one
from minigrad.kernels.cuda.tools.language import (
    Choice,
    at,
    cuda,
    device_function,
    float32,
    load4,
    next_ticket,
    real,
    store2,
    store4,
    uint32,
)
from minigrad.kernels.cuda.tools.launch import FLOAT32, FLOAT64, CudaKernel, Floats, Reals, UInt, UInts
from minigrad.kernels.cuda.tools.mma import bf16_pair, ldmatrix4, ldmatrix4_trans, mma_bf16, mma_tf32, to_tf32
from minigrad.kernels.precision import rounded_to_bfloat16

GROUP, TWO_GROUPS = 32, 64
AMOUNT = Choice("AMOUNT", 1)
WAIT = Choice("WAIT", copy_wait_all)
SPACE = 16
SIXTEEN_ROWS = 192  # words of 16 x 16 and 16 x 8 numbers in pairs


def small_kernel(function, **options):
    """A kernel that no table lists."""
    return CudaKernel(function, 32, 1, {}, **options)


@small_kernel
def reversed_fours(x: Floats, y: Floats):
    i = uint32(uint32(cuda.threadIdx.x) * uint32(4))
    a, b, c, d = load4(x, i)
    store4(y, i, d, c, b, a)


@small_kernel
def shared_fours(x: Floats, y: Floats):
    shared = cuda.shared.array(GROUP, float32, SPACE)
    i = uint32(cuda.threadIdx.x)
    shared[i] = x[i]
    cuda.syncthreads()
    if i % uint32(4) == uint32(0):
        a, b, c, d = load4(shared, i)
        store4(y, i, a, b, c, d)


@small_kernel
def first_four_of_part(x: Floats, y: Floats, start: UInt):
    a, b, c, d = load4(at(x, start), uint32(0))
    store4(at(y, uint32(4)), uint32(0), a, b, c, d)


@small_kernel
def four_of(x: Floats, y: Floats, start: UInt, target: UInt):
    a, b, c, d = load4(x, start)
    store4(y, target, a, b, c, d)


@small_kernel
def through_shared(x: Floats, y: Floats, size: UInt):
    shared = cuda.shared.array(TWO_GROUPS, float32, 16)
    i = uint32(uint32(cuda.threadIdx.x) * uint32(4))
    copy16(shared, i, x, i, uint32(16))
    copy_commit()
    copy16(shared, uint32(i + uint32(GROUP)), x, uint32(i + uint32(GROUP)), size)
    copy_commit()
    WAIT()
    for k in range(4):
        y[uint32(i + uint32(k))] = shared[uint32(i + uint32(k))]
        y[uint32(i + uint32(k + GROUP))] = shared[uint32(i + uint32(k + GROUP))]


@small_kernel
def copy_of(x: Floats, target: UInt, source: UInt, size: UInt):
    shared = cuda.shared.array(GROUP, float32, 16)
    copy16(shared, target, x, source, size)


@small_kernel
def numbered(tickets: UInts, y: UInts):
    y[uint32(cuda.blockIdx.x)] = next_ticket(tickets, uint32(1), uint32(2))


@device_function
def no_wait():
    return


@small_kernel
def rounded(x: Floats, bits: UInts):
    i = uint32(cuda.threadIdx.x)
    bits[i] = to_tf32(x[i])


@small_kernel
def products(a: Floats, b: Floats, c: Floats, y: Floats):
    lane = uint32(cuda.threadIdx.x)
    g, t = uint32(lane >> uint32(2)), uint32(lane & uint32(3))
    left = (
        to_tf32(a[uint32(g * uint32(8) + t)]),
        to_tf32(a[uint32(g * uint32(8) + t + uint32(64))]),
        to_tf32(a[uint32(g * uint32(8) + t + uint32(4))]),
        to_tf32(a[uint32(g * uint32(8) + t + uint32(68))]),
    )
    right = to_tf32(b[uint32(t * uint32(8) + g)]), to_tf32(b[uint32(t * uint32(8) + g + uint32(32))])
    i = uint32(g * uint32(8) + t * uint32(2))
    sums = c[i], c[uint32(i + uint32(1))], c[uint32(i + uint32(64))], c[uint32(i + uint32(65))]
    p, q, r, s = mma_tf32(sums, left, right)
    y[i], y[uint32(i + uint32(1))], y[uint32(i + uint32(64))], y[uint32(i + uint32(65))] = p, q, r, s


@small_kernel
def pairs(x: Floats, bits: UInts):
    i = uint32(cuda.threadIdx.x)
    bits[i] = bf16_pair(x[uint32(i * uint32(2))], x[uint32(i * uint32(2) + uint32(1))])


@small_kernel
def products_bf16(a: Floats, b: Floats, c: Floats, y: Floats):
    """A (16, 16) and B (16, 8) go through shared memory, a row in 8 and 4 words."""
    shared = cuda.shared.array(SIXTEEN_ROWS, uint32, SPACE)
    lane = uint32(cuda.threadIdx.x)
    g, t = uint32(lane >> uint32(2)), uint32(lane & uint32(3))
    for q in range(2):
        i = uint32(lane * uint32(4) + uint32(128 * q))
        v = load4(a, i)
        store2(shared, uint32(i >> uint32(1)), bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3]))
    v = load4(b, uint32(lane * uint32(4)))
    store2(shared, uint32(lane * uint32(2) + uint32(128)), bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3]))
    cuda.syncwarp()
    left = ldmatrix4(shared, uint32((lane & uint32(15)) * uint32(8) + (lane >> uint32(4)) * uint32(4)))
    right = ldmatrix4_trans(shared, uint32((lane & uint32(15)) * uint32(4) + uint32(128)))
    i = uint32(g * uint32(8) + t * uint32(2))
    sums = c[i], c[uint32(i + uint32(1))], c[uint32(i + uint32(64))], c[uint32(i + uint32(65))]
    p, q, r, s = mma_bf16(sums, left, (right[0], right[1]))
    y[i], y[uint32(i + uint32(1))], y[uint32(i + uint32(64))], y[uint32(i + uint32(65))] = p, q, r, s


@device_function
def increased(x):
    return x + real(AMOUNT)


@device_function
def doubled(x):
    return x + x


CHANGE = Choice("CHANGE", increased)


@small_kernel
def changed(x: Reals, y: Reals):
    y[0] = CHANGE(x[0])


def tf32(x):
    """x rounded to 10 bits of significand, halves away from zero, by arithmetic."""
    significand, exponent = np.frexp(np.asarray(x, np.float64))
    scaled = significand * 2**11
    return np.ldexp(np.copysign(np.floor(np.abs(scaled) + 0.5), scaled) / 2**11, exponent)


def run(memory, kernel, inputs, shape, dtype=np.float32, *, threads=32, more=()):
    """What a kernel of one block makes of its inputs."""
    y = memory.put(np.zeros(shape, dtype))
    kernel[1, threads](*[memory.put(x) for x in inputs], y, *more)
    return memory.get(y)


def ptx_of(kernel, real=FLOAT32):
    ptx, _ = launch.compile_ptx(kernel, real, (8, 0))
    return ptx


def test_fours_are_read_and_written(memory, rng):
    x = rng.standard_normal(128).astype(np.float32)
    y = run(memory, reversed_fours, [x], 128)
    np.testing.assert_array_equal(y, x.reshape(32, 4)[:, ::-1].ravel())


def test_fours_of_shared_memory(memory, rng):
    x = rng.standard_normal(32).astype(np.float32)
    np.testing.assert_array_equal(run(memory, shared_fours, [x], 32), x)


def test_fours_are_one_instruction():
    ptx = ptx_of(reversed_fours)
    assert ptx.count("ld.global.v4.f32") == 1
    assert ptx.count("st.global.v4.f32") == 1


def test_fours_of_aligned_shared_memory_are_one_instruction():
    assert "ld.shared.v4.f32" in ptx_of(shared_fours)


def test_fours_of_shared_memory_that_is_not_aligned_are_refused(memory, monkeypatch):
    monkeypatch.setitem(globals(), "SPACE", None)
    with pytest.raises(IndexError, match=r"load4 at \d+, which is not aligned to 16 bytes"):
        run(memory, shared_fours, [np.zeros(32, np.float32)], 32)


def test_at_is_a_pointer_to_an_element(memory):
    y = run(memory, first_four_of_part, [np.arange(12, dtype=np.float32)], 8, threads=1, more=[8])
    np.testing.assert_array_equal(y, [0, 0, 0, 0, 8, 9, 10, 11])


def test_at_beyond_the_memory_is_refused(memory):
    with pytest.raises(IndexError, match="at 13 of 12 elements"):
        run(memory, first_four_of_part, [np.zeros(12, np.float32)], 8, threads=1, more=[13])


def test_at_counts_for_alignment(memory):
    with pytest.raises(IndexError, match="not aligned to 16 bytes"):
        run(memory, first_four_of_part, [np.zeros(12, np.float32)], 8, threads=1, more=[2])


@pytest.mark.parametrize(
    ("start", "target", "message"),
    [
        (2, 0, "load4 at 2, which is not aligned"),
        (0, 6, "store4 at 6, which is not aligned"),
        (12, 0, "load4 at 12 to 15 of 12"),
        (0, 8, "store4 at 8 to 11 of 10"),
    ],
)
def test_fours_that_the_gpu_would_refuse_are_errors(memory, start, target, message):
    with pytest.raises(IndexError, match=message):
        run(memory, four_of, [np.zeros(12, np.float32)], 10, threads=1, more=[start, target])


def test_copies_arrive_when_waited_for(memory, rng):
    x = rng.standard_normal(64).astype(np.float32)
    np.testing.assert_array_equal(run(memory, through_shared, [x], 64, threads=8, more=[16]), x)


def test_copy_of_size_0_is_zeros_and_reads_nothing(memory):
    y = run(memory, through_shared, [np.ones(32, np.float32)], 64, threads=8, more=[0])
    np.testing.assert_array_equal(y, np.repeat([1, 0], 32))


def test_copies_without_a_wait_have_not_arrived(memory):
    y = run(memory, through_shared.variant(WAIT=no_wait), [np.ones(64, np.float32)], 64, threads=8, more=[16])
    assert (y < -1e7).all()  # as fresh memory is


def test_wait_but_one_leaves_the_latest_group(memory):
    y = run(memory, through_shared.variant(WAIT=copy_wait_but_one), [np.ones(64, np.float32)], 64, threads=8, more=[16])
    assert (y[:32] == 1).all()
    assert (y[32:] < -1e7).all()


@pytest.mark.parametrize(
    ("target", "source", "size", "error"),
    [(2, 0, 16, IndexError), (0, 2, 16, IndexError), (32, 0, 16, IndexError), (0, 32, 16, IndexError),
     (0, 0, 8, ValueError)],
)  # fmt: skip
def test_copies_that_the_gpu_would_refuse_are_errors(memory, target, source, size, error):
    with pytest.raises(error, match="copy16"):
        copy_of[1, 1](memory.put(np.zeros(32, np.float32)), target, source, size)


def test_copies_are_asynchronous_instructions():
    ptx = ptx_of(through_shared)
    assert ptx.count("cp.async.cg.shared.global") == 2
    assert ptx.count("cp.async.commit_group") == 2
    assert "cp.async.wait_group 0" in ptx
    assert "cp.async.wait_group 1" in ptx_of(through_shared.variant(WAIT=copy_wait_but_one))


def test_tickets_count_up_to_the_last_and_begin_again(memory):
    tickets, y = memory.put(np.zeros(2, np.uint32)), memory.put(np.zeros(5, np.uint32))
    numbered[5, 1](tickets, y)
    np.testing.assert_array_equal(memory.get(y), [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(memory.get(tickets), [0, 2])


def test_a_ticket_is_one_atomic_instruction():
    assert ptx_of(numbered).count("atom.global.inc.u32") == 1


def test_tf32_is_rounded_to_the_nearest(memory, rng):
    halves = np.float32(1) + np.arange(-32, 33, dtype=np.float32) * np.float32(2**-12)
    x = np.concatenate([rng.standard_normal(31) * 10.0 ** rng.integers(-30, 30, 31), halves, -halves])
    x = np.append(x[:159], 0).astype(np.float32)
    for part in x.reshape(-1, 32):
        bits = run(memory, rounded, [part], 32, np.uint32)
        np.testing.assert_array_equal(bits.view(np.float32), tf32(part))
        assert not (bits & 0x1FFF).any()


def test_tf32_of_what_is_not_finite(memory):
    nan = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    x = np.concatenate([[np.inf, -np.inf, -0.0], nan]).astype(np.float32)
    y = run(memory, rounded, [x], 6, np.uint32, threads=6).view(np.float32)
    np.testing.assert_array_equal(y, x)
    assert np.signbit(y[2])


def test_tensor_core_multiplies_tf32_and_adds_float32(memory, rng):
    a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in [(16, 8), (8, 8), (16, 8)])
    y = run(memory, products, [a, b, c], (16, 8))
    np.testing.assert_allclose(y, tf32(a) @ tf32(b) + c, rtol=0, atol=3e-6)
    assert np.abs(y - (a @ b + c)).max() > 1e-4  # float32 would be this close


def test_tensor_core_knows_every_place(memory):
    """Products of whole numbers are exact, so a swapped place would show."""
    a, b = np.arange(128, dtype=np.float32).reshape(16, 8), np.arange(64, dtype=np.float32).reshape(8, 8)
    y = run(memory, products, [a, b, np.zeros((16, 8), np.float32)], (16, 8))
    np.testing.assert_array_equal(y, a @ b)


def test_tensor_core_is_one_instruction():
    ptx = ptx_of(products)
    assert ptx.count("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32") == 1
    assert ptx.count("cvt.rna.tf32.f32") == 6


NOT_FINITE = [np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e-40, 0.0, -0.0]


def test_pairs_of_bfloat16_are_rounded_to_the_nearest_even(memory, rng):
    halves = np.float32(1) + np.arange(-8, 8, dtype=np.float32) * np.float32(2**-9)
    x = np.concatenate([halves, -halves, NOT_FINITE, 10.0 ** rng.integers(-30, 30, 24)]).astype(np.float32)
    bits = run(memory, pairs, [x], 32, np.uint32)
    np.testing.assert_array_equal(bits.view(np.uint16) << np.uint32(16), bf16(x).view(np.uint32) & 0xFFFF0000)


def bf16(x):
    """x rounded to bfloat16, with the one NaN of PTX."""
    return np.where(np.isnan(x), np.uint32(0x7FFF0000).view(np.float32), rounded_to_bfloat16(x))


def test_tensor_core_multiplies_bfloat16_and_adds_float32(memory, rng):
    a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in [(16, 16), (16, 8), (16, 8)])
    y = run(memory, products_bf16, [a, b, c], (16, 8))
    np.testing.assert_allclose(y, bf16(a) @ bf16(b) + c, rtol=0, atol=6e-6)
    assert np.abs(y - (a @ b + c)).max() > 1e-3


def test_tensor_core_knows_every_place_of_bfloat16(memory):
    a, b = np.arange(256, dtype=np.float32).reshape(16, 16), np.arange(128, dtype=np.float32).reshape(16, 8)
    y = run(memory, products_bf16, [a, b, np.zeros((16, 8), np.float32)], (16, 8))
    np.testing.assert_array_equal(y, a @ b)


def test_matrices_that_are_not_aligned_are_refused(memory, monkeypatch):
    monkeypatch.setitem(globals(), "SPACE", 8)
    with pytest.raises(IndexError, match=r"ldmatrix at \d+, which is not aligned to 16 bytes"):
        run(memory, products_bf16, [np.zeros(256, np.float32)] * 3, (16, 8))


def test_products_of_bfloat16_are_one_instruction_for_each_part():
    ptx = ptx_of(products_bf16)
    assert ptx.count("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32") == 1
    assert ptx.count("ldmatrix.sync.aligned.m8n8.x4.shared.b16") == 1
    assert ptx.count("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16") == 1
    assert ptx.count("cvt.rn.bf16x2.f32") == 6
    assert ptx.count("st.shared.v2") == 3


def test_constants_and_real_reach_device_functions(memory, dtype):
    changed_by = {
        "as it stands": (changed, 4),
        "a number": (changed.variant(AMOUNT=5), 8),
        "a function": (changed.variant(CHANGE=doubled), 6),
    }
    for name, (kernel, expected) in changed_by.items():
        y = run(memory, kernel, [np.array([3], dtype)], 1, dtype, threads=1)
        np.testing.assert_array_equal(y, [expected], err_msg=name)


def test_constants_are_compiled_into_device_functions():
    assert "add.f64" in ptx_of(changed, FLOAT64)
    assert "0f40A00000" in ptx_of(changed.variant(AMOUNT=5))  # 5 as PTX writes it
    assert "0f3F800000" in ptx_of(changed)  # 1
    assert "0f3F800000" not in ptx_of(changed.variant(CHANGE=doubled))


@pytest.mark.skipif(machine_code.find_ptxas() is None, reason="ptxas is not installed")
@pytest.mark.parametrize(
    "kernel", [reversed_fours, through_shared, products, products_bf16], ids=lambda kernel: kernel.__name__
)
def test_intrinsics_assemble(kernel, own_cache):
    _, code = machine_code.measure(kernel, FLOAT32)
    assert [(found["spills"], found["stack"]) for found in code.values()] == [(0, 0)] * len(machine_code.ARCHITECTURES)
