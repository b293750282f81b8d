"""detect_anomaly names the op, and the line of user code, that first made a NaN."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg


def leaf(values):
    return mg.tensor(np.array(values, np.float32), requires_grad=True)


def line_below():
    """A pattern for "the op was called at the next line", with this file."""
    return rf"called at {re.escape(__file__)}:{inspect.currentframe().f_back.f_lineno + 1}"


def test_forward_names_op_and_line():
    x = leaf([1.0, -1.0])
    with mg.detect_anomaly(), pytest.raises(mg.AnomalyError, match="Log made a NaN") as error:
        where = line_below()
        mg.log(x)
    assert re.search(where, str(error.value))


def test_method_names_op_and_line():
    x = leaf([1.0, -1.0])
    with mg.detect_anomaly(), pytest.raises(mg.AnomalyError, match="Sqrt made a NaN") as error:
        where = line_below()
        x.sqrt()
    assert re.search(where, str(error.value))


def test_module_names_the_line_that_calls_it():
    model = mg.nn.Sequential(mg.nn.Linear(2, 2), mg.nn.Sigmoid())
    x = mg.tensor(np.full((1, 2), np.inf, np.float32))
    model.layers[0].weight.data[...] = [[1, 1], [-1, -1]]  # inf - inf
    with mg.detect_anomaly(), pytest.raises(mg.AnomalyError, match="Linear made a NaN") as error:
        where = line_below()
        model(x)
    assert re.search(where, str(error.value))


def test_backward_names_op_and_line_of_its_forward():
    x = leaf([0.0, 1.0])
    with mg.detect_anomaly():
        where = line_below()
        y = x.sqrt()
        with pytest.raises(
            mg.AnomalyError, match=r"the backward of Sqrt made a NaN in the gradient of input 0"
        ) as error:
            (y * 0.0).sum().backward()  # 0 / (2 sqrt 0)
    assert re.search(where, str(error.value))
    assert x.grad is None


def test_nan_that_came_in_is_nobodys_fault():
    x = leaf([np.nan, 1.0])
    with mg.detect_anomaly():
        (x * 2.0).exp().sum().backward()
    assert np.isnan(x.grad.numpy()[0])


@pytest.mark.parametrize("size", [1, 3])
def test_nan_in_the_total_that_a_product_adds_to_is_nobodys_fault(size):
    x = leaf(np.ones((1, 2, 2, 3)))
    w = leaf(np.ones((size, size, 3, 3)))
    with mg.detect_anomaly():
        h = x * 2.0
        y = mg.conv2d(h, w, padding="same")
        other = h * 3.0
        other.register_hook(lambda grad: grad * np.nan)
        (y + other).sum().backward()
    assert np.isnan(x.grad.numpy()).all()
    assert np.isfinite(w.grad.numpy()).all()


def test_nan_that_a_product_adds_to_a_total_is_its_own():
    x, w = leaf(np.ones((1, 2, 2, 3))), leaf(np.ones((1, 1, 3, 3)))
    with mg.detect_anomaly():
        h = x * 2.0
        y = mg.conv2d(h, w)
        w.data[...] = [np.inf, -np.inf, 0]
        with pytest.raises(mg.AnomalyError, match="the backward of Conv2d made a NaN in the gradient of input 0"):
            (y + h * 3.0).sum().backward()


def test_infinity_is_no_anomaly():
    with mg.detect_anomaly():
        y = mg.log(leaf([0.0])) * 2.0
    assert y.item() == -np.inf


def test_results_off_the_tape_are_checked():
    with mg.detect_anomaly(), mg.no_grad(), pytest.raises(mg.AnomalyError, match="Log"):
        mg.log(mg.tensor([-1.0]))


def test_decorator():
    @mg.detect_anomaly()
    def logarithm(x):
        return mg.log(x)

    with pytest.raises(mg.AnomalyError, match="Log"):
        logarithm(leaf([-1.0]))


def test_nothing_is_checked_outside():
    assert np.isnan(mg.log(leaf([-1.0])).item())


def test_integer_results_are_no_anomaly():
    with mg.detect_anomaly():
        assert mg.tensor([1.5]).to("int64").item() == 1


def test_captured_step_is_checked_at_every_call():
    step = mg.capture(lambda x: mg.log(x) * 2.0)
    good, bad = np.ones(3, np.float32), -np.ones(3, np.float32)
    expected = step(good).numpy()
    with mg.detect_anomaly():
        np.testing.assert_array_equal(step(good).numpy(), expected)
        with pytest.raises(mg.AnomalyError, match="Log"):
            step(bad)
    assert np.isnan(step(bad).numpy()).all()


def test_folder_with_a_name_like_ours_is_user_code():
    file = str(Path(mg.__file__).parent) + "_of_mine/train.py"
    code = compile("def run(x):\n    mg.log(x)\n", file, "exec")
    scope = {"mg": mg}
    exec(code, scope)
    with mg.detect_anomaly(), pytest.raises(mg.AnomalyError, match=f"called at {re.escape(file)}:2"):
        scope["run"](mg.tensor([-1.0]))
