"""Hooks see a tensor's whole gradient and may replace it; retain_grad keeps it."""

import gc

import numpy as np
import pytest

import minigrad as mg


def leaf(values):
    return mg.tensor(np.array(values, np.float32), requires_grad=True)


def test_hook_on_a_leaf_sees_the_sum_over_all_uses():
    x = leaf([1.0])
    seen = []
    x.register_hook(lambda grad: seen.append(grad.item()))
    (x * 2.0 + x * 3.0 + x).backward()
    assert seen == [6]
    assert x.grad.item() == 6


def test_hook_on_a_leaf_sees_each_backward_by_itself():
    x = leaf([1.0])
    seen = []
    x.register_hook(lambda grad: seen.append(grad.item()))
    (x * 2.0).backward()
    (x * 3.0).backward()
    assert seen == [2, 3]
    assert x.grad.item() == 5


def test_hook_on_a_result_sees_the_sum_over_all_uses():
    x = leaf([1.0])
    y = x * 2.0
    seen = []
    y.register_hook(lambda grad: seen.append(grad.item()))
    (y * 2.0 + y * 3.0).backward()
    assert seen == [5]
    assert x.grad.item() == 10


def test_hook_on_the_tensor_backward_starts_from():
    x = leaf([1.0])
    y = x * 2.0
    y.register_hook(lambda grad: grad * 10.0)
    y.backward()
    assert x.grad.item() == 20


@pytest.mark.parametrize("on_leaf", [True, False])
def test_hook_replaces_the_gradient(on_leaf):
    x = leaf([1.0, 2.0])
    y = x * 2.0
    (x if on_leaf else y).register_hook(lambda grad: grad * 100.0)
    (y * 3.0).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [600, 600])


def test_hooks_run_in_order_each_on_the_result_of_the_last():
    x = leaf([1.0])
    x.register_hook(lambda grad: grad + 1.0)
    x.register_hook(lambda grad: None)
    x.register_hook(lambda grad: grad * 10.0)
    (x * 2.0).backward()
    assert x.grad.item() == 30


def test_hook_belongs_to_one_leaf():
    a, b = leaf([1.0]), leaf([1.0])
    a.register_hook(lambda grad: grad * 0.0)
    (a + b).backward()
    assert a.grad.item() == 0
    assert b.grad.item() == 1


def test_tensor_returned_by_a_hook_is_not_written():
    x, replacement = leaf([1.0]), mg.tensor([5.0])
    x.register_hook(lambda grad: replacement)
    for _ in range(3):
        (x * 2.0).backward()
    assert x.grad.item() == 15
    assert replacement.item() == 5


def test_removed_hook_is_not_called():
    x = leaf([1.0])
    y = x * 2.0
    called = []
    for tensor in (x, y):
        tensor.register_hook(lambda grad: called.append(grad)).remove()
    y.backward()
    assert called == []
    assert x.grad.item() == 2


def test_removing_leaves_other_hooks():
    x = leaf([1.0])
    called = []
    handles = [x.register_hook(lambda grad, name=name: called.append(name)) for name in "abc"]
    handles[1].remove()
    (x * 2.0).backward()
    assert called == ["a", "c"]


def test_removing_twice_removes_no_later_hook():
    x = leaf([1.0])
    called = []
    handle = x.register_hook(lambda grad: None)
    handle.remove()
    x.register_hook(lambda grad: called.append("later"))
    handle.remove()
    (x * 2.0).backward()
    assert called == ["later"]


def test_hook_may_remove_itself():
    x = leaf([1.0])
    called = []
    handle = x.register_hook(lambda grad: (called.append(1), handle.remove())[0])
    (x * 2.0).backward()
    (x * 2.0).backward()
    assert called == [1]


def test_hook_on_a_tensor_without_gradient_is_refused():
    with pytest.raises(RuntimeError, match="requires no gradient, so none will ever come"):
        mg.tensor([1.0]).register_hook(print)


@pytest.mark.parametrize("on_leaf", [True, False])
@pytest.mark.parametrize(
    ("returned", "error"),
    [
        (mg.tensor([1.0]), ValueError),
        (mg.tensor([1.0, 2.0], dtype="float64"), ValueError),
        (np.ones(2, np.float32), TypeError),
        (2.0, TypeError),
    ],
    ids=["shape", "dtype", "array", "number"],
)
def test_hook_that_returns_something_else_is_refused(on_leaf, returned, error):
    x = leaf([1.0, 2.0])
    y = x * 2.0
    (x if on_leaf else y).register_hook(lambda grad: returned)
    with pytest.raises(error, match="a hook returned a"):
        y.sum().backward()
    assert x.grad is None


def test_error_in_a_hook_comes_out():
    def fail(grad):
        raise ZeroDivisionError

    x = leaf([1.0])
    x.register_hook(fail)
    with pytest.raises(ZeroDivisionError):
        (x * 2.0).backward()


def test_retain_grad_keeps_the_gradient_of_a_result():
    x = leaf([1.0])
    y = x * 2.0
    y.retain_grad()
    (y * y).backward()
    assert y.grad.item() == 4
    assert x.grad.item() == 8


def test_results_keep_no_gradient_by_default():
    x = leaf([1.0])
    y = x * 2.0
    (y * y).backward()
    assert y.grad is None


def test_retained_gradient_is_an_array_of_its_own():
    x = leaf([1.0])
    y = x * 1.0
    z = y + x
    y.retain_grad()
    z.retain_grad()
    z.backward()
    y.grad.numpy()[:] = 50
    assert z.grad.item() == 1
    assert x.grad.item() == 2


def test_retain_grad_does_not_keep_the_tensor_alive():
    x = leaf([1.0])
    y = x * 2.0
    z = y * 3.0
    y.retain_grad()
    del y
    z.backward()
    assert x.grad.item() == 6


def test_retain_grad_on_a_leaf_changes_nothing():
    x = leaf([1.0])
    x.retain_grad()
    (x * 2.0).backward()
    assert x.grad.item() == 2


def test_retain_grad_without_gradient_is_refused():
    with pytest.raises(RuntimeError, match="requires no gradient"):
        mg.tensor([1.0]).retain_grad()


def count_of_objects_a_step_leaves(step):
    """How many objects more there are after 50 steps, with the collector off."""
    step()
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(50):
            step()
        return len(gc.get_objects()) - before
    finally:
        gc.enable()


def test_a_hook_that_knows_its_tensor_keeps_nothing_after_backward():
    x = leaf([1.0, 2.0])

    def step():
        y = x * 2.0
        y.register_hook(lambda grad: grad * y.detach())
        (y * 3.0).sum().backward()
        x.zero_grad()

    assert count_of_objects_a_step_leaves(step) < 50


def test_a_hook_stays_for_a_second_backward():
    x = leaf([1.0])
    y = x * 2.0
    seen = []
    y.register_hook(lambda grad: seen.append(grad.item()))
    y.backward(retain_graph=True)
    y.backward()
    assert seen == [1, 1]
