import numpy as np
import pytest


@pytest.mark.parametrize("n", [1, 255, 257])
def test_exp_matches_reference(check_kernel, rng, dtype, n):
    x = rng.standard_normal(n).astype(dtype)
    check_kernel("elementwise", "exp_forward", x, np.empty_like(x), ulps=2)
