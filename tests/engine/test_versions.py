"""A tensor that was saved for backward and then changed in place is an error, however it was changed."""

import numpy as np
import pytest

import minigrad as mg


def leaf(values):
    return mg.tensor(np.array(values, np.float32), requires_grad=True)


def item_assignment(t):
    with mg.no_grad():
        t[0] = 7.0


def add_in_place(t):
    with mg.no_grad():
        t += 1.0


def subtract_in_place(t):
    with mg.no_grad():
        t -= 1.0


def multiply_in_place(t):
    with mg.no_grad():
        t *= 2.0


def divide_in_place(t):
    with mg.no_grad():
        t /= 2.0


def new_data(t):
    t.data = t.data + 1


def data_in_place(t):
    t.data += 1


def through_detach(t):
    other = t.detach()
    other += 1.0


def through_reshape(t):
    with mg.no_grad():
        other = t.reshape(2, 1)
        other += 1.0


def through_two_views(t):
    with mg.no_grad():
        other = t.detach().reshape(1, 2).reshape(2)
        other[1] = 7.0


CHANGES = [
    item_assignment,
    add_in_place,
    subtract_in_place,
    multiply_in_place,
    divide_in_place,
    new_data,
    data_in_place,
    through_detach,
    through_reshape,
    through_two_views,
]
each_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


@each_change
def test_changed_input_is_refused(change):
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = (x * w).sum()
    change(w)
    with pytest.raises(RuntimeError, match=r"Mul saved its input 1 .* changed in place 1 time\(s\) since"):
        y.backward()
    assert x.grad is None


@each_change
def test_changed_result_is_refused(change):
    x = leaf([1.0, 2.0])
    y = x.exp()
    total = y.sum()
    change(y)
    with pytest.raises(RuntimeError, match=r"Exp saved its result \(result shape \(2,\)\)"):
        total.backward()


@each_change
def test_change_before_use_is_fine(change):
    x = leaf([1.0, 2.0])
    change(x)
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * x.numpy())


@each_change
def test_change_after_backward_is_fine(change):
    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    change(x)
    np.testing.assert_array_equal(x.grad.numpy(), [2, 4])


@each_change
def test_change_of_what_was_not_saved_is_fine(change):
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = (x + w).sum()
    change(w)
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1, 1])


def test_factor_of_a_frozen_tensor_is_not_saved():
    x, w = mg.tensor([1.0, 2.0]), leaf([3.0, 4.0])
    y = (x * w).sum()
    add_in_place(w)  # only x is needed for dw
    y.backward()
    np.testing.assert_array_equal(w.grad.numpy(), [1, 2])


def test_view_saved_by_a_later_op_is_watched():
    x = leaf([1.0, 2.0])
    y = (x.reshape(2, 1) * 3.0 * x.reshape(2, 1)).sum()
    add_in_place(x)
    with pytest.raises(RuntimeError, match="Mul saved its input"):
        y.backward()


def test_optimizer_step_before_backward_is_refused():
    x = leaf([1.0, 2.0])
    optimizer = mg.optim.SGD([x], lr=0.1)
    first, second = (x * x).sum(), (x * x).sum()
    first.backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="Mul saved its input"):
        second.backward()


def test_loading_parameters_before_backward_is_refused():
    layer = mg.nn.Linear(3, 2)
    x = leaf(np.ones((4, 3)))
    y = layer(x).sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="Linear saved its input 1"):
        y.backward()


def test_captured_step_before_backward_is_refused():
    x = leaf([1.0, 2.0])
    optimizer = mg.optim.SGD([x], lr=0.1)

    @mg.capture
    def step():
        optimizer.zero_grad()
        (x * x).sum().backward()
        optimizer.step()

    for _ in range(2):  # recorded, replayed
        y = (x * x).sum()
        step()
        with pytest.raises(RuntimeError, match="Mul saved its input"):
            y.backward()


def test_running_statistics_moved_before_backward_are_refused():
    norm = mg.nn.BatchNorm(2)
    x = leaf([[1.0, 2.0], [3.0, 5.0]])
    norm(x)
    y = norm.eval()(x).sum()
    norm.train()(x)
    with pytest.raises(RuntimeError, match="BatchNormInference saved its input 3"):
        y.backward()


def test_error_says_how_often_and_what_to_do():
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    for _ in range(3):
        add_in_place(x)
    with pytest.raises(RuntimeError, match=r"3 time\(s\) since; change it after backward, or change a copy"):
        y.backward()


def test_error_names_the_line_when_it_is_known():
    x = leaf([1.0, 2.0])
    with mg.detect_anomaly():
        y = (x * x).sum()
    add_in_place(x)
    with pytest.raises(RuntimeError, match=r"the op was called at .*test_versions\.py:\d+"):
        y.backward()


def test_change_in_place_on_the_tape_is_refused():
    x = leaf([1.0, 2.0])
    for change in (lambda t: t.__setitem__(0, 7.0), lambda t: t.__iadd__(1.0)):
        with pytest.raises(RuntimeError, match=r"requires a gradient would falsify the tape"):
            change(x)
    np.testing.assert_array_equal(x.numpy(), [1, 2])


def test_change_of_what_an_op_saved_a_view_of_is_refused():
    a, b = (mg.tensor(np.ones((2, 3, 3), np.float32), requires_grad=True) for _ in range(2))
    y = (a @ b).sum()
    with mg.no_grad():
        a *= 10.0
    with pytest.raises(RuntimeError, match="BatchedMatMul saved its input 0"):
        y.backward()


@pytest.mark.parametrize(
    "view", [lambda x: x, lambda x: x[:], lambda x: x.reshape(2, 1)], ids=["it", "slice", "reshape"]
)
def test_result_that_is_its_input_shares_its_version(view):
    class Passes(mg.Op):
        def forward(self, x):
            return view(x)

        def backward(self, dy):
            return (dy.reshape(2),)

    x = leaf([1.0, 2.0])
    y = Passes.apply(x)
    loss = (y * y).sum()
    with mg.no_grad():
        x *= 10.0
    with pytest.raises(RuntimeError, match="Mul saved its input 0"):
        loss.backward()
