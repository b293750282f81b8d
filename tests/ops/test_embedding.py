import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import check_grads


@pytest.mark.parametrize("shape", [(5,), (2, 3), (), (0,), (2, 0)])
def test_rows_by_their_numbers(shape, device, rng):
    weight, index = rng.standard_normal((4, 3)), rng.integers(0, 4, shape)
    for given in (index, mg.tensor(index, device=device), index.astype(np.uint8), index.tolist()):
        if index.size or not isinstance(given, list):
            y = mg.embedding(given, mg.tensor(weight, device=device))
            np.testing.assert_array_equal(y.numpy(), weight[index])
    check_grads(lambda w: mg.embedding(index, w), weight, device=device)


def test_gradients_of_a_row_are_added_up(device):
    w = mg.tensor(np.ones((3, 2)), device=device, requires_grad=True)
    mg.embedding([2, 0, 2, 2], w).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), [[1, 1], [0, 0], [3, 3]])


def test_captured_gives_the_bits_of_eager(rng):
    weight, results = rng.standard_normal((5, 3)).astype(np.float32), []
    for captured in (False, True):
        w = mg.tensor(weight, requires_grad=True)

        def step(index, w=w):
            w.grad = None
            loss = (mg.embedding(index, w) * w[:1]).sum()
            loss.backward()
            return loss

        step = mg.capture(step) if captured else step
        for first in range(3):
            index = np.array([first, 1, 4, 1])
            loss = step(index if captured else mg.tensor(index))
            results.append((captured, loss.item(), w.grad.numpy().tobytes()))
    assert [r[1:] for r in results if r[0]] == [r[1:] for r in results if not r[0]]


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        ([0, 4], IndexError, "there is no row 4; the table has rows 0 to 3"),
        ([-1], IndexError, "there is no row -1"),
        ([0.0], TypeError, "must be integers, not float64"),
        ([True], TypeError, "must be integers, not bool"),
    ],
)
def test_what_is_no_row_is_refused(index, error, message, device):
    with pytest.raises(error, match=message):
        mg.embedding(index, mg.tensor(np.ones((4, 3)), device=device))


def test_a_table_has_two_axes():
    with pytest.raises(ValueError, match=r"the table must be \(rows, features\), not \(3,\)"):
        mg.embedding([0], mg.tensor(np.ones(3)))


def test_layer():
    mg.manual_seed(0)
    layer = mg.nn.Embedding(1000, 8)
    assert layer(np.array([[1, 2], [3, 1]])).shape == (2, 2, 8)
    assert abs(layer.weight.numpy().std() - 1) < 0.05
    assert repr(layer) == "Embedding(1000, 8)"
