"""Calls of captured functions: their arguments, their results, and what they find in the tensors around them."""

import gc
import weakref
from collections import namedtuple

import numpy as np
import pytest

import minigrad as mg

Pair = namedtuple("Pair", "total parts")


def recordings(captured):
    return sum(map(len, captured.plans.values()))


def test_results_are_not_overwritten_by_later_calls():
    step = mg.capture(lambda x: x * 2.0)
    results = [step(np.full(3, float(i), np.float32)) for i in range(5)]
    assert [r.numpy()[0] for r in results] == [0, 2, 4, 6, 8]


def test_results_may_be_written():
    step = mg.capture(lambda x: x * 2.0)
    for i in range(3):
        result = step(np.full(3, float(i), np.float32))
        np.testing.assert_array_equal(result.numpy(), np.full(3, 2 * i))
        result.numpy()[:] = -1


def test_inputs_are_not_written_and_not_kept():
    @mg.capture
    def step(x):
        x += 1.0
        return x * 2.0

    array = np.zeros(3, np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(step(array).numpy(), [2, 2, 2])
    np.testing.assert_array_equal(array, [0, 0, 0])
    reference = weakref.ref(array)
    del array
    assert reference() is None


def test_nested_results_keep_their_structure():
    @mg.capture
    def step(x):
        return {"pair": Pair(x.sum(), [x * 2.0, (x * 3.0,)]), "name": "text", "none": None}

    for value in (1.0, 2.0):
        result = step(np.full(2, value, np.float32))
        assert result["pair"].total.item() == 2 * value
        assert result["pair"].parts[0].numpy()[0] == 2 * value
        assert result["pair"].parts[1][0].numpy()[0] == 3 * value
        assert (result["name"], result["none"]) == ("text", None)


def test_step_without_result():
    w = mg.tensor([1.0])

    @mg.capture
    def step():
        w.__iadd__(1.0)

    assert [step() for _ in range(3)] == [None] * 3
    assert w.item() == 4


def test_arguments_by_name_and_by_place():
    step = mg.capture(lambda x, y=None: x * 2.0 if y is None else x * y)
    a, b = np.float32([3.0]), np.float32([5.0])
    for _ in range(2):
        assert step(a, b).item() == 15
        assert step(a, y=b).item() == 15
        assert step(y=a, x=b).item() == 15
        assert step(a).item() == 6
    assert recordings(step) == 4


def test_tensors_are_taken_like_arrays(device):
    step = mg.capture(lambda x: x * 2.0)
    for value in (1.0, 2.0, 3.0):
        result = step(mg.tensor([value], device=device))
        assert result.item() == 2 * value
        assert result.device == device
    assert recordings(step) == 1


@pytest.mark.parametrize("layout", [lambda a: a[::-1], lambda a: a.T, lambda a: a[:, :1], lambda a: a.astype(">f4")])
def test_arrays_of_any_layout(layout):
    step = mg.capture(lambda x: x * 2.0)
    for i in range(3):
        array = layout(np.arange(9, dtype=np.float32).reshape(3, 3) + i)
        np.testing.assert_array_equal(step(array).numpy(), array * 2)
    assert recordings(step) == 1


def test_integers_stay_integers():
    seen = []

    @mg.capture
    def step(labels):
        seen.append(labels.dtype)
        return labels.to("float32") * 2.0

    for labels in ([1, 2], [3, 4]):
        np.testing.assert_array_equal(step(np.array(labels, np.uint8)).numpy(), np.array(labels) * 2)
    assert seen == [np.dtype(np.uint8)]


def test_python_values_select_the_recording():
    step = mg.capture(lambda x, factor, mode: x * factor if mode == "times" else x + factor)
    x = np.float32([3.0])
    for _ in range(2):
        assert step(x, 2.0, "times").item() == 6
        assert step(x, 4.0, "times").item() == 12
        assert step(x, 4.0, "plus").item() == 7
    assert recordings(step) == 3


def test_values_of_different_type_are_different():
    step = mg.capture(lambda x, flag: x * 10.0 if flag is True else x)
    x = np.float32([1.0])
    assert [step(x, flag).item() for flag in (True, 1, 1.0, True)] == [10, 1, 1, 10]


def test_no_grad_selects_the_recording():
    w = mg.tensor([2.0], requires_grad=True)
    enabled = []

    @mg.capture
    def step(x):
        enabled.append(mg.is_grad_enabled())
        return x * w

    x = np.float32([1.0])
    for _ in range(2):
        step(x)
        with mg.no_grad():
            step(x)
    assert enabled == [True, False]


def test_dropout_masks_differ_from_step_to_step(device):
    layer = mg.nn.Dropout(0.5).to(device)
    step = mg.capture(layer, device=device)
    x = np.ones(64, np.float32)
    masks = {step(x).numpy().tobytes() for _ in range(10)}
    assert len(masks) == 10


def test_dropout_counter_replaced_between_calls():
    layer = mg.nn.Dropout(0.5)
    step = mg.capture(layer)
    x = np.ones(64, np.float32)
    start = layer.counter.copy()
    first = [step(x).numpy().tobytes() for _ in range(3)]
    layer.counter.data = start
    assert [step(x).numpy().tobytes() for _ in range(3)] == first


def test_running_statistics_move(rng):
    norm = mg.nn.BatchNorm(3, decay=0.5)
    step = mg.capture(norm)
    expected = np.zeros(3)
    for i in range(5):
        x = rng.standard_normal((50, 3)).astype(np.float32) + i
        step(x)
        expected = 0.5 * expected + 0.5 * x.mean(axis=0)
    np.testing.assert_allclose(norm.running_mean.numpy(), expected, rtol=1e-5)


def test_hook_added_between_calls_is_respected():
    w = mg.tensor([1.0], requires_grad=True)

    @mg.capture
    def step(x):
        w.zero_grad()
        (w * x).backward()

    x, gradients = np.float32([3.0]), []
    step(x)
    handle = w.register_hook(lambda grad: grad * 10.0)
    for _ in range(2):
        step(x)
        gradients.append(w.grad.item())
    handle.remove()
    step(x)
    assert [*gradients, w.grad.item()] == [30, 30, 3]
    assert recordings(step) == 2


def test_detached_parameter_replaced_between_calls():
    w = mg.tensor([2.0], requires_grad=True)
    step = mg.capture(lambda x: x * w.detach())
    x = np.float32([3.0])
    assert step(x).item() == 6
    w.data = [5.0]
    assert step(x).item() == 15


def test_parameter_updated_inside_without_an_optimizer():
    w = mg.tensor([8.0], requires_grad=True)

    @mg.capture
    def step(x):
        w.zero_grad()
        (w * x).backward()
        with mg.no_grad():
            w.__isub__(w.grad * 0.5)

    for expected in (7, 6, 5, 4):
        step(np.float32([2.0]))
        assert w.item() == expected


def test_gradient_to_start_from_may_be_an_argument():
    w = mg.tensor([1.0, 2.0], requires_grad=True)

    @mg.capture
    def step(grad):
        w.zero_grad()
        (w * 3.0).backward(grad)

    for grad in ([1, 1], [5, 7], [0, 2]):
        step(np.array(grad, np.float32))
        np.testing.assert_array_equal(w.grad.numpy(), 3 * np.array(grad))


def test_gradient_of_one_is_made_anew_in_every_replay():
    x = mg.tensor(5.0, requires_grad=True)
    step = mg.capture(lambda: (x + 0.0).backward())
    found = []
    for _ in range(3):
        x.zero_grad()
        for _ in range(3):
            step()
            found.append(x.grad.item())
    assert found == [1, 2, 3] * 3


def test_gradients_are_left_as_by_the_step():
    w = mg.tensor([1.0], requires_grad=True)

    @mg.capture
    def step(x):
        w.zero_grad()
        (w * x).backward()

    for value in (1.0, 2.0, 3.0):
        step(np.float32([value]))
        assert w.grad.item() == value
    w.zero_grad()
    (w * 10.0).backward()
    assert w.grad.item() == 10


def test_decorator_keeps_name_and_docstring():
    @mg.capture
    def step(x):
        """Twice x."""
        return x * 2.0

    assert (step.__name__, step.__doc__) == ("step", "Twice x.")


def test_decorator_with_a_device():
    devices = []

    @mg.capture(device="reference")
    def step(x):
        devices.append(x.device)
        return x * 2.0

    assert step(np.float32([1.0])).device == "reference"
    assert devices == ["reference"]


def test_captured_step_inside_a_captured_step():
    inner = mg.capture(lambda x: x * 2.0)
    outer = mg.capture(lambda x: inner(x) + inner(x * 10.0))
    for value in (1.0, 2.0, 3.0):
        assert outer(np.float32([value])).item() == 22 * value
    assert recordings(inner) == 0
    assert inner(np.float32([1.0])).item() == 2


def test_clear_forgets_recordings_and_their_memory():
    step = mg.capture(lambda x: (x * 2.0) * 3.0)
    x = np.ones(100_000, np.float32)
    step(x)
    pool = weakref.ref(step.plan.pool)
    step.clear()
    gc.collect()
    assert pool() is None
    assert step.plan is None
    assert step(np.ones(2)).numpy().dtype == np.float64  # a new start, also for dtypes


def pool_of_a_finished_training():
    model = mg.nn.Linear(100, 50)
    optimizer = mg.optim.SGD(model.parameters(), lr=0.1)

    @mg.capture
    def step(x):
        optimizer.zero_grad()
        loss = mg.relu(model(x)).sum()
        loss.backward()
        optimizer.step()
        return loss

    step(np.ones((20, 100), np.float32))
    return weakref.ref(step.plan.pool)


def test_memory_of_a_finished_training_is_given_back_without_the_garbage_collector():
    pool_of_a_finished_training()  # compiling leaves cycles of its own
    gc.disable()
    try:
        assert pool_of_a_finished_training()() is None
    finally:
        gc.enable()


def test_memory_is_used_again():
    def step(x):
        for _ in range(50):
            x = x * 1.5
        return x.sum()

    captured = mg.capture(step)
    x = np.ones(10_000, np.float32)
    with mg.no_grad():
        captured(x)
    all_results = 50 * x.nbytes
    assert x.nbytes < captured.plan.nbytes < all_results / 10
