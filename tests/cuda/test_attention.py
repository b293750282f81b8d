import numpy as np
import pytest

pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)

from minigrad.kernels.cuda import attention


@pytest.mark.parametrize(
    ("rows", "matrices", "columns", "grid", "tiles"),
    [(1, 1, 1, (1, 1), 1), (32, 3, 64, (3, 1), 1), (33, 3, 65, (6, 2), 2), (4096, 8, 128, (1024, 2), 128)],
)
def test_blocks_cover_the_rows_of_all_matrices_and_their_columns(rows, matrices, columns, grid, tiles):
    assert attention.grid_for(rows, matrices, columns) == (grid, tiles)


def test_a_mask_is_told_by_its_kind():
    for mask, kind in (
        (np.empty((0, 0, 0), "f4"), (1, 1, 1, attention.NO_MASK)),
        (np.ones((2, 1, 5), bool), (2, 3, 1, attention.BOOLEAN)),
        (np.ones((2, 4, 5), "f8"), (2, 3, 4, attention.ADDED)),
    ):
        assert attention.scores_of(mask, 3, 1.0, False).masks == kind
