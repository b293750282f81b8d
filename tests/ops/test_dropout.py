import numpy as np
import pytest

import minigrad as mg
from minigrad.devices import get_device
from minigrad.testing import check_grads


def drop(x, p, seed=7):
    return mg.dropout(x, p, training=True, seed=seed)


def mask(p, seed, n=4097, device="cpu"):
    return drop(mg.tensor(np.ones(n), device=device), p, seed).numpy() != 0


@pytest.mark.parametrize("shape", [(), (1,), (17,), (33,), (4097,), (3, 5, 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elements_are_zero_or_scaled(shape, dtype, device, rng):
    x = (rng.standard_normal(shape) + 10).astype(dtype)
    y = drop(mg.tensor(x, device=device), 0.25).numpy()
    assert y.dtype == dtype
    assert y.shape == shape
    np.testing.assert_allclose(y, np.where(y == 0, 0, x / 0.75), rtol=3e-7 if dtype == np.float32 else 1e-15)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_the_share_dropped_is_p(p, device):
    n = 40_000
    dropped = n - mask(p, 11, n, device).sum()
    assert abs(dropped - n * p) < 5 * np.sqrt(n * p * (1 - p))


def test_neighbours_are_dropped_independently(device):
    kept = mask(0.5, 3, 40_000, device)
    for lag in (1, 2, 4, 8, 16):
        agreement = np.mean(kept[lag:] == kept[:-lag])
        assert abs(agreement - 0.5) < 5 * 0.5 / np.sqrt(40_000)


def test_devices_draw_the_same_mask():
    for seed in (0, 1, 2**63, np.array([5, 9], np.uint64)):
        a, b = (mask(0.5, seed.copy() if isinstance(seed, np.ndarray) else seed, 1000, d) for d in ("cpu", "reference"))
        np.testing.assert_array_equal(a, b)


def test_a_seed_names_its_mask(device):
    np.testing.assert_array_equal(mask(0.5, 3, device=device), mask(0.5, 3, device=device))
    assert np.mean(mask(0.5, 3, device=device) == mask(0.5, 4, device=device)) < 0.6


def test_the_mask_does_not_depend_on_the_shape(device):
    x = np.ones((17, 9))
    y = drop(mg.tensor(x, device=device), 0.5).numpy()
    np.testing.assert_array_equal(y.reshape(-1), drop(mg.tensor(x.reshape(-1), device=device), 0.5).numpy())


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_counter_goes_on_with_each_use(as_tensor, device):
    state = np.array([5, 0], np.uint64)
    given = mg.tensor(state, device=device) if as_tensor else get_device(device).from_host(state)
    masks = [mask(0.5, given, device=device) for _ in range(3)]
    np.testing.assert_array_equal(np.asarray(given), np.array([5, 3], np.uint64))
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert np.mean(masks[a] == masks[b]) < 0.6


def test_a_counter_set_back_repeats_the_mask(device):
    state = mg.tensor(np.array([5, 2], np.uint64), device=device)
    first = mask(0.5, state, device=device)
    state[1] = 2
    np.testing.assert_array_equal(mask(0.5, state, device=device), first)


def test_the_gradient_has_the_mask_of_the_forward_pass(device):
    state = mg.tensor(np.array([5, 0], np.uint64), device=device)
    x = mg.tensor(np.ones(1000), device=device, requires_grad=True)
    y = drop(x, 0.3, state)
    drop(x, 0.3, state)  # the counter has moved on before backward
    y.backward(np.full(1000, 2.0))
    np.testing.assert_array_equal(x.grad.numpy(), 2 * y.numpy())


@pytest.mark.parametrize("shape", [(1,), (17,), (33,), (3, 5), (4097,)])
def test_gradients(shape, device, rng):
    check_grads(lambda x: drop(x, 0.4), rng.standard_normal(shape), device=device)


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True), (0.0, False)])
def test_nothing_to_drop_gives_the_tensor_itself(p, training):
    x = mg.tensor([1.0, 2.0])
    state = np.array([5, 0], np.uint64)
    assert mg.dropout(x, p, training=training, seed=state) is x
    assert state[1] == 0


def test_nan_is_not_dropped(device):
    y = drop(mg.tensor(np.full(100, np.nan, np.float32), device=device), 0.5)
    assert np.isnan(y.numpy()).all()


def test_zero_sized(device):
    x = mg.tensor(np.zeros((0, 3)), device=device, requires_grad=True)
    y = drop(x, 0.5)
    assert y.shape == (0, 3)
    y.sum().backward()
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize("p", [1.0, -0.1, 1.5, np.nan])
def test_a_probability_out_of_range_is_refused(p):
    with pytest.raises(ValueError, match=f"dropout: p must be from 0 to below 1, not {p}"):
        drop(mg.tensor([1.0]), p)


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (1.5, "not float"),
        (None, "not NoneType"),
        (np.array([1, 2], np.int64), "must be uint64, not int64"),
        (np.array([1, 2, 3], np.uint64), "not ndarray"),
    ],
)
def test_a_seed_of_the_wrong_kind_is_refused(seed, message):
    with pytest.raises(TypeError, match=message):
        drop(mg.tensor([1.0]), 0.5, seed)


def test_what_is_no_float_tensor_is_refused():
    with pytest.raises(TypeError, match="dropout needs a float32 or float64 tensor, not int64"):
        drop(mg.tensor([1]), 0.5)
    with pytest.raises(TypeError, match="dropout needs a Tensor, not ndarray"):
        drop(np.ones(3), 0.5)
