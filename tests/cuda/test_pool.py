import re

import numpy as np
import pytest
from targets import first_only

from minigrad.kernels.cuda import pool
from minigrad.kernels.cuda.tools import launch
from minigrad.ops.window import resolve


def test_arrays_that_start_between_two_vectors_are_pooled_by_ones(memory, rng):
    x, y = rng.standard_normal((1, 2, 2, 4)).astype(np.float32), np.zeros((1, 1, 1, 4), np.float32)
    whole = memory.put(np.concatenate([[0], x.ravel()]).astype(np.float32))
    shifted = whole.part(1, 17).reshape(x.shape)
    result = memory.put(y)
    pool.avg_pool_forward(shifted, resolve("pool", (2, 2), 2, 1, 0), result)
    np.testing.assert_allclose(memory.get(result)[0, 0, 0], x.mean(axis=(0, 1, 2)), rtol=1e-6)
    assert dict(memory.driver.launches) == {"pool.mean_forward,WIDTH=1": 1}


def test_fours_take_the_kernels_for_fours(memory):
    x, y = memory.put(np.ones((1, 2, 2, 4), np.float32)), memory.put(np.zeros((1, 2, 2, 4), np.float32))
    winner = memory.put(np.zeros((1, 2, 2, 4), np.uint8))
    window = resolve("pool", (2, 2), 1, 1, 0)
    pool.max_pool_forward(x, window, y, winner)
    pool.max_pool_backward(y, winner, window, x)
    pool.avg_pool_forward(x, window, y)
    pool.avg_pool_backward(y, window, x)
    assert len(memory.driver.launches) == 4
    assert all(name.endswith("WIDTH=4") for name in memory.driver.launches)


def test_no_images_are_no_launch(memory):
    x, winner = memory.put(np.zeros((0, 2, 2, 4), np.float32)), memory.put(np.zeros((0, 2, 2, 4), np.uint8))
    window = resolve("pool", (2, 2), 1, 1, 0)
    pool.max_pool_forward(x, window, x, winner)
    pool.max_pool_backward(x, winner, window, x)
    pool.avg_pool_forward(x, window, x)
    pool.avg_pool_backward(x, window, x)
    assert not memory.driver.launches


@pytest.mark.parametrize(
    "kernel",
    first_only(
        pool.MAX_BACKWARD[4, 1, True],
        pool.MAX_BACKWARD[4, 1, False],
        pool.MAX_FORWARD[4, 1],
        pool.MEAN_FORWARD[4],
        pool.MEAN_BACKWARD[4, False],
        pool.MEAN_BACKWARD[4, True],
    ),
    ids=lambda kernel: kernel.name,
)
def test_fours_are_read_and_written_in_one_instruction(kernel):
    ptx, _ = launch.compile_ptx(kernel, launch.FLOAT32, (9, 0))
    floats = set(re.findall(r"\b(?:ld|st)\.global\S*f32", ptx))
    assert floats == {"ld.global.v4.f32", "st.global.v4.f32"}
