import numpy as np

from minigrad.kernels.cuda import layer_norm


def launched(memory):
    """How often each kernel was launched, by its name without constants."""
    return sorted(name.partition(",")[0] for name, count in memory.driver.launches.items() for _ in range(count))


def test_one_launch_forward_and_sums_over_rows_only_for_gamma_and_beta(memory, rng):
    x = memory.put(rng.standard_normal((5, 8)).astype(np.float32))
    y, mean, scale = memory.empty((5, 8), np.float32), memory.put(np.zeros(5)), memory.put(np.ones(5))
    for affine in (False, True):
        gamma, dgamma, dbeta = (memory.put(np.ones(8 * affine, np.float32)) for _ in range(3))
        memory.driver.launches.clear()
        layer_norm.layer_norm_forward(x, gamma, gamma, 1e-5, True, y, mean, scale)
        assert launched(memory) == ["layer_norm.forward"]
        layer_norm.layer_norm_backward(y, x, gamma, mean, scale, True, memory.empty((5, 8), np.float32), dgamma, dbeta)
        sums = [name for name in launched(memory) if name.startswith("reduce.")]
        assert bool(sums) == affine


def test_rows_that_do_not_begin_at_16_bytes(memory, rng):
    values = rng.standard_normal(9).astype(np.float32)
    x, y = memory.put(values).part(1, 9).reshape(1, 8), memory.empty((1, 8), np.float32)
    none = memory.put(np.empty(0, np.float32))
    layer_norm.layer_norm_forward(x, none, none, 0.0, True, y, memory.put(np.zeros(1)), memory.put(np.zeros(1)))
    row = values[1:].astype(np.float64)
    np.testing.assert_allclose(memory.get(y)[0], (row - row.mean()) / row.std(), rtol=1e-5, atol=1e-6)
