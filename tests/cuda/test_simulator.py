import numpy as np
import pytest

from minigrad.kernels.cuda.tools import launch, simulator
from minigrad.kernels.cuda.tools.language import Choice, cuda, device_function, float32, uint32, uint64
from minigrad.kernels.cuda.tools.launch import CudaKernel, Double, Floats, UInt, UInts, ULongs
from minigrad.kernels.cuda.tools.simulated_driver import MOST_SHARED

ALL = 0xFFFFFFFF
N = 64
BARRIER = Choice("BARRIER", True)


def small_kernel(function, **options):
    """A kernel that no table lists, for blocks of up to 64 threads."""
    return CudaKernel(function, N, 1, {}, **options)


@small_kernel
def turned_round(x: Floats, y: Floats):
    shared = cuda.shared.array(N, float32)
    i = uint32(cuda.threadIdx.x)
    shared[i] = x[i]
    if BARRIER:
        cuda.syncthreads()
    y[i] = shared[uint32(uint32(N - 1) - i)]


@small_kernel
def turned_round_dynamic(x: Floats, y: Floats):
    shared = cuda.shared.array(0, float32, 16)
    i = uint32(cuda.threadIdx.x)
    shared[i] = x[i]
    cuda.syncthreads()
    y[i] = shared[uint32(uint32(cuda.blockDim.x) - uint32(1) - i)]


@small_kernel
def barrier_for_some(y: Floats, most: UInt):
    if uint32(cuda.threadIdx.x) < most:
        cuda.syncthreads()
    y[0] = float32(1)


@small_kernel
def two_barriers(y: Floats):
    if uint32(cuda.threadIdx.x) < uint32(32):
        cuda.syncthreads()
    else:
        cuda.syncthreads()
    y[0] = float32(1)


@small_kernel
def shuffles_apart(y: Floats):
    if uint32(cuda.threadIdx.x) < uint32(16):
        y[0] = cuda.shfl_xor_sync(ALL, float32(1), 1)
    else:
        y[1] = cuda.shfl_xor_sync(ALL, float32(1), 1)


@small_kernel
def copied(x: Floats, y: Floats, at: UInt):
    y[at] = x[at]


@small_kernel
def shuffled(y: UInts):
    i = uint32(cuda.threadIdx.x)
    at = uint32(i * uint32(4))
    y[at] = cuda.shfl_sync(ALL, i, 5)
    y[uint32(at + uint32(1))] = cuda.shfl_xor_sync(ALL, i, 6)
    y[uint32(at + uint32(2))] = cuda.shfl_down_sync(ALL, i, 3)
    y[uint32(at + uint32(3))] = cuda.shfl_up_sync(ALL, i, 2)


@small_kernel
def places(y: ULongs):
    b, t, size, count = cuda.blockIdx, cuda.threadIdx, cuda.blockDim, cuda.gridDim
    x = uint64(b.x) * uint64(size.x) + uint64(t.x)
    row = uint64(b.y) * uint64(size.y) + uint64(t.y)
    plane = uint64(b.z) * uint64(size.z) + uint64(t.z)
    at = (plane * uint64(count.y) * uint64(size.y) + row) * uint64(count.x) * uint64(size.x) + x
    y[at] = x + uint64(100) * row + uint64(10000) * plane


@small_kernel
def sums_by_warp(x: Floats, y: Floats):
    part = cuda.shared.array(2, float32)
    i = uint32(cuda.threadIdx.x)
    total = x[i]
    lanes = uint32(16)
    while lanes:
        total += cuda.shfl_xor_sync(ALL, total, lanes)
        lanes = uint32(lanes >> uint32(1))
    if i % uint32(32) == uint32(0):
        part[uint32(i // uint32(32))] = total
    cuda.syncthreads()
    if i == uint32(0):
        y[0] = part[0] + part[1]


@small_kernel
def any_above(x: Floats, y: Floats, least: UInt):
    i = uint32(cuda.threadIdx.x)
    y[i] = float32(cuda.syncthreads_or(x[i] > float32(least)))
    y[i] += float32(2 * cuda.syncthreads_or(i == uint32(0)))


@device_function
def next_of(shared, i):
    cuda.syncwarp()
    value = shared[uint32((i + uint32(1)) % uint32(32))]
    cuda.syncwarp()
    return value


@small_kernel
def passed_on(y: UInts, times: UInt):
    shared = cuda.shared.array(32, uint32)
    i = uint32(cuda.threadIdx.x)
    shared[i] = i
    k = uint32(0)
    while k < times:
        shared[i] = next_of(shared, i)
        k = uint32(k + uint32(1))
    y[i] = shared[i]


@small_kernel
def two_on_a_line(y: Floats):
    a, b = cuda.shared.array(1, float32), cuda.shared.array(1, float32)
    a[0], b[0] = float32(1), float32(2)
    y[0] = a[0] + b[0]


@small_kernel
def overflowing(y: Floats, huge: Double):
    y[0] = float32(huge)
    y[1] = y[0] - y[0]


def test_a_missing_barrier_gives_another_result(memory):
    x = np.arange(N, dtype=np.float32)
    y, faulty = memory.put(np.zeros_like(x)), memory.put(np.zeros_like(x))
    turned_round[1, N](memory.put(x), y)
    turned_round.variant(BARRIER=False)[1, N](memory.put(x), faulty)
    np.testing.assert_array_equal(memory.get(y), x[::-1])
    assert (memory.get(faulty) != x[::-1]).any()


def test_shuffled_threads_run_in_the_same_order_every_time():
    results = []
    for _ in range(2):
        y = np.zeros(N, np.float32)
        kernel, x = turned_round.variant(BARRIER=False), np.arange(N, dtype=np.float32)
        simulator.simulate(kernel, launch.FLOAT32, (1, 1, 1), (N, 1, 1), [x, y], order=np.random.default_rng(3))
        results.append(y)
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("kernel", [two_barriers, shuffles_apart], ids=lambda kernel: kernel.__name__)
def test_threads_that_wait_at_different_places_are_an_error(memory, kernel):
    with pytest.raises(RuntimeError, match="wait for one another for ever"):
        kernel[1, N](memory.put(np.zeros(2, np.float32)))


@pytest.mark.parametrize("most", [1, 32, 63])
def test_a_barrier_that_some_threads_end_without_is_an_error(memory, most):
    with pytest.raises(RuntimeError, match="wait for one another for ever: block at barrier_for_some"):
        barrier_for_some[1, N](memory.put(np.zeros(1, np.float32)), most)


def test_a_barrier_that_all_or_none_reach_is_none(memory):
    for most in (0, N):
        barrier_for_some[1, N](memory.put(np.zeros(1, np.float32)), most)


@pytest.mark.parametrize(("x_size", "y_size"), [(3, 4), (4, 3)])
def test_access_outside_of_an_array_is_an_error(memory, x_size, y_size):
    x, y = memory.put(np.zeros(x_size, np.float32)), memory.put(np.zeros(y_size, np.float32))
    with pytest.raises(IndexError):
        copied[1, 1](x, y, 3)


def test_a_step_back_from_zero_is_outside(memory):
    x = memory.put(np.zeros(4, np.float32))
    with pytest.raises(IndexError):
        copied[1, 1](x, x, 2**32 - 1)


def test_an_error_in_one_launch_leaves_the_next_alone(memory):
    x, y = memory.put(np.ones(4, np.float32)), memory.put(np.zeros(4, np.float32))
    with pytest.raises(IndexError):
        copied[1, N](x, y, 4)
    copied[1, N](x, y, 3)
    np.testing.assert_array_equal(memory.get(y), [0, 0, 0, 1])


def test_shuffles_exchange_within_a_warp(memory):
    y = memory.put(np.zeros((N, 4), np.uint32))
    shuffled[1, N](y)
    i = np.arange(N)
    warp, lane = i - i % 32, i % 32
    expected = [
        warp + 5,
        warp + (lane ^ 6),
        np.where(lane + 3 < 32, i + 3, i),
        np.where(lane >= 2, i - 2, i),
    ]
    np.testing.assert_array_equal(memory.get(y), np.stack(expected, axis=1))


def test_dynamic_shared_memory_is_as_large_as_the_launch_says(memory):
    x, y = memory.put(np.arange(8, dtype=np.float32)), memory.put(np.zeros(8, np.float32))
    turned_round_dynamic[1, 8, 32](x, y)
    np.testing.assert_array_equal(memory.get(y), np.arange(8)[::-1])
    with pytest.raises(IndexError):
        turned_round_dynamic[1, 8, 28](x, y)


def test_shared_arrays_of_one_line_are_apart(memory):
    y = memory.put(np.zeros(1, np.float32))
    two_on_a_line[1, 1](y)
    assert memory.get(y) == 3


def test_warps_meet_at_a_barrier(memory, rng):
    x = rng.integers(-9, 9, N).astype(np.float32)
    y = memory.put(np.zeros(1, np.float32))
    sums_by_warp[1, N](memory.put(x), y)
    assert memory.get(y) == x.sum()


@pytest.mark.parametrize(("least", "expected"), [(N - 2, 3), (N - 1, 2)])
def test_a_barrier_tells_all_threads_what_one_found(memory, least, expected):
    y = memory.put(np.zeros(N, np.float32))
    any_above[1, N](memory.put(np.arange(N, dtype=np.float32)), y, least)
    np.testing.assert_array_equal(memory.get(y), np.full(N, expected, np.float32))


def test_a_warp_meets_again_and_again(memory):
    y = memory.put(np.zeros(32, np.uint32))
    passed_on[1, 32](y, 3)
    np.testing.assert_array_equal(memory.get(y), (np.arange(32) + 3) % 32)


@pytest.mark.parametrize(("grid", "block"), [((2, 3, 4), (4, 2, 3)), ((5, 1, 1), (7, 1, 1)), ((1, 1, 3), (1, 5, 1))])
def test_blocks_and_grids_have_three_axes(memory, grid, block):
    shape = tuple(g * b for g, b in zip(reversed(grid), reversed(block), strict=True))
    y = memory.put(np.zeros(shape, np.uint64))
    places[grid, block](y)
    plane, row, x = np.indices(shape)
    np.testing.assert_array_equal(memory.get(y), x + 100 * row + 10000 * plane)


def test_a_size_along_fewer_axes_is_1_along_the_others(memory):
    y = memory.put(np.zeros(6, np.uint64))
    places[(1, 2), 3](y)
    np.testing.assert_array_equal(memory.get(y), [0, 1, 2, 100, 101, 102])


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "message"),
    [
        (1, 65, 0, "at most 64 threads, not 65"),
        (1, 0, 0, "at most 64 threads, not 0"),
        (0, 1, 0, "a grid is at least 1"),
        ((1, 65536), 1, 0, "a grid is at least 1 and at most .2147483647, 65535, 65535."),
        ((1, 1, 65536), 1, 0, "a grid is"),
        (1, 1, MOST_SHARED + 1, "bytes of shared memory"),
    ],
)
def test_launches_that_the_gpu_would_refuse_are_errors(memory, grid, block, shared_bytes, message):
    x = memory.put(np.zeros(4, np.float32))
    with pytest.raises(RuntimeError, match=message):
        copied[grid, block, shared_bytes](x, x, 0)


def test_a_block_is_at_most_64_deep(memory):
    deep = CudaKernel(copied.function, 1024, 1, {})
    x = memory.put(np.zeros(4, np.float32))
    deep[1, (1, 1, 64)](x, x, 0)
    with pytest.raises(RuntimeError, match="a block is"):
        deep[1, (1, 1, 65)](x, x, 0)


def test_overflow_is_infinity_and_no_warning(memory):
    y = memory.put(np.zeros(2, np.float32))
    overflowing[1, 1](y, 1e300)
    np.testing.assert_array_equal(memory.get(y), [np.inf, np.nan])


def test_fresh_memory_is_garbage(memory):
    assert (memory.get(memory.empty((4,), np.float32)) < -1e7).all()
