import pytest

from minigrad.kernels.cuda import lrn


@pytest.mark.parametrize("c", [1, 3, 64, 255, 256, 257, 511, 512, 513, 1023, 1024])
def test_rows_of_a_block_fit_into_shared_memory(c):
    grid, (across, down) = lrn.tile(1000, c)
    assert down * c <= lrn.WIDEST
    assert across * down <= lrn.THREADS
    assert grid * down >= 1000
