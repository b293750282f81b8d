import numpy as np
import pytest

import minigrad as mg
from minigrad import random


def test_streams_are_numpys_philox_keyed_by_seed_and_number():
    mg.manual_seed(42)
    for number in range(3):
        expected = np.random.Generator(np.random.Philox(key=np.array([42, number], np.uint64)))
        np.testing.assert_array_equal(random.stream().standard_normal(5), expected.standard_normal(5))


def test_a_dropout_counter_starts_at_zero_with_a_seed_of_its_own():
    mg.manual_seed(0)
    first, second = random.counter_state(), random.counter_state()
    assert first.dtype == np.uint64
    assert first[1] == second[1] == 0
    assert first[0] != second[0]


@pytest.mark.parametrize("seed", [0, 2**64 - 1, -1, 2**70 + 3, np.int32(5), np.uint64(2**63)])
def test_any_integer_is_a_seed(seed):
    mg.manual_seed(seed)
    first = random.stream().integers(1 << 60)
    mg.manual_seed(int(seed))
    assert random.stream().integers(1 << 60) == first


@pytest.mark.parametrize("seed", [1.0, "1", None, True])
def test_what_is_no_integer_is_refused(seed):
    with pytest.raises(TypeError, match="the seed must be an integer"):
        mg.manual_seed(seed)


# Tensors of random numbers


def test_draws_follow_the_seed_and_differ_from_call_to_call(device):
    mg.manual_seed(3)
    first = [mg.random.normal((2, 3), device=device).numpy() for _ in range(2)]
    mg.manual_seed(3)
    again = [mg.random.normal((2, 3), device=device).numpy() for _ in range(2)]
    mg.manual_seed(4)
    other = mg.random.normal((2, 3), device=device).numpy()
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).all()
    assert (first[0] != other).all()


def test_devices_draw_the_same_numbers():
    drawn = []
    for name in ("cpu", "reference"):
        mg.manual_seed(3)
        drawn.append([mg.random.normal(101, device=name).numpy(), mg.random.uniform(7, device=name).numpy()])
    for ours, plain in zip(*drawn, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_distributions(device):
    mg.manual_seed(0)
    x = mg.random.normal(20_000, 3.0, 2.0, device=device).numpy()
    assert abs(x.mean() - 3) < 0.06
    assert abs(x.std() - 2) < 0.05
    u = mg.random.uniform(20_000, -1.0, 3.0, dtype="float64", device=device)
    assert u.dtype == np.float64
    assert -1 <= u.numpy().min() < -0.99
    assert 2.99 < u.numpy().max() < 3
    b = mg.random.bernoulli((20_000,), 0.3, device=device)
    assert b.dtype == np.bool_
    assert abs(b.numpy().mean() - 0.3) < 0.02
    assert not mg.random.bernoulli(100, 0.0).numpy().any()
    assert mg.random.bernoulli(100, 1.0).numpy().all()
    p = mg.random.permutation(50, device=device)
    assert p.dtype == np.int64
    assert sorted(p.tolist()) == list(range(50))
    assert p.tolist() != list(range(50))


def test_uniform_numbers_stay_below_high(device):
    x = mg.random.uniform(200, 1e8, 1e8 + 16, device=device).numpy()
    assert sorted(set(x.tolist())) == [1e8, 1e8 + 8]
    assert mg.random.uniform(10, -3e38, 3e38, dtype="float64", device=device).numpy().min() < 0


def test_captured_steps_draw_what_eager_ones_would():
    def step(x):
        return x + mg.random.normal(x.shape) * mg.random.bernoulli(x.shape).to("float32")

    x = np.zeros(5, np.float32)
    mg.manual_seed(1)
    expected = [step(mg.tensor(x)).numpy() for _ in range(5)]
    mg.manual_seed(1)
    captured = mg.capture(step)
    results = [captured(x).numpy().copy() for _ in range(5)]
    np.testing.assert_array_equal(results, expected)
    mg.manual_seed(1)  # recordings go on with the same memory
    np.testing.assert_array_equal([captured(x).numpy().copy() for _ in range(5)], expected)


def test_the_first_draw_of_a_device_may_be_inside_a_captured_step(device, monkeypatch):
    monkeypatch.setattr(random, "_draws", {})
    mg.manual_seed(1)
    step = mg.capture(lambda x: x + mg.random.normal(x.shape), device=device)
    results = [step(np.zeros(5, np.float32)).numpy().copy() for _ in range(4)]
    mg.manual_seed(1)
    expected = [mg.random.normal(5, device=device).numpy() for _ in range(4)]
    np.testing.assert_array_equal(results, expected)


def test_states_have_the_number_of_draws():
    mg.manual_seed(2)
    mg.random.normal(3)
    state = random.state_dict()
    assert state["draws"]["cpu"] == 1
    expected = mg.random.normal(3).numpy()
    mg.manual_seed(9)
    random.load_state_dict(state)
    np.testing.assert_array_equal(mg.random.normal(3).numpy(), expected)
    random.load_state_dict({"seed": 2, "streams": 0})  # of before there were draws
    assert random.state_dict()["draws"]["cpu"] == 0
    before = random.state_dict()
    for bad, error in (({"seed": 1}, ValueError), ({"seed": 1, "streams": 0, "draws": [1]}, TypeError)):
        with pytest.raises(error):
            random.load_state_dict(bad)
    with pytest.raises(ValueError, match="draws of cpu"):
        random.load_state_dict({"seed": 1, "streams": 0, "draws": {"cpu": -1}})
    assert random.state_dict() == before


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mg.random.normal(3, std=-1), ValueError, "std must be 0 or more, not -1"),
        (lambda: mg.random.uniform(3, 1, 0), ValueError, "low must be at most high, not 1 and 0"),
        (
            lambda: mg.random.uniform(3, -3e38, 3e38),
            ValueError,
            "uniform: -3e.38 and 3e.38 are more than float32 holds",
        ),
        (lambda: mg.random.uniform(3, 0, np.inf), ValueError, "uniform: 0.0 and inf are more than float32 holds"),
        (lambda: mg.random.uniform(3, "a", "b"), TypeError, "uniform: low must be a number, not 'a'"),
        (lambda: mg.random.normal(3, np.nan), ValueError, "normal: nan and 1.0 are more than float32 holds"),
        (lambda: mg.random.normal(3, 0, 10**400), ValueError, "normal: 0.0 and inf are more than"),
        (lambda: mg.random.normal(3, None), TypeError, "normal: mean must be a number, not None"),
        (lambda: mg.random.bernoulli(3, 1.5), ValueError, "p must be from 0 to 1, not 1.5"),
        (lambda: mg.random.bernoulli(3, "x"), TypeError, "p must be a number, not 'x'"),
        (lambda: mg.random.normal((2, -1)), ValueError, "lengths of a shape are 0 or more"),
        (lambda: mg.random.normal(3, dtype="int64"), TypeError, "random numbers are float32 or float64, not int64"),
        (lambda: mg.capture(lambda x: mg.random.permutation(3))(np.ones(2)), mg.CaptureError, "permutation inside"),
    ],
)
def test_draws_that_make_no_sense_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_leaves_are_drawn():
    w = mg.random.normal((2, 2), requires_grad=True)
    (w * w).sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), 2 * w.numpy())
