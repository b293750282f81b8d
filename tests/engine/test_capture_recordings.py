"""How many recordings a captured step keeps, which are dropped, and what is said of a step that records at every call."""

import gc
import warnings
import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad.capture import MOST_RECORDINGS

ONE = np.ones(1, np.float32)


def recordings(captured):
    return sum(map(len, captured.plans.values()))


def test_those_not_used_for_longest_are_dropped():
    ran = []

    @mg.capture
    def step(x, i):
        ran.append(i)
        return x * float(i)

    for i in range(MOST_RECORDINGS):
        step(ONE, i)
    assert step(ONE, 0).item() == 0  # used again, so that 1 is the oldest now
    assert step(ONE, MOST_RECORDINGS).item() == MOST_RECORDINGS
    assert recordings(step) == MOST_RECORDINGS
    ran.clear()
    assert [step(ONE, i).item() for i in (0, 2, 1)] == [0, 2, 1]
    assert ran == [1]


def test_memory_of_what_was_dropped_is_given_back():
    step = mg.capture(lambda x, i: (x * float(i)).sum())
    step(np.ones(1000, np.float32), -1)
    pool = weakref.ref(step.plan.pool)
    for i in range(MOST_RECORDINGS):
        step(np.ones(1000, np.float32), i)
    gc.collect()
    assert pool() is None


def test_evaluation_over_more_shapes_than_are_kept():
    model = mg.nn.Linear(3, 2)
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 2, n)) for n in range(1, 71)]
    came = mg.train.evaluate(model, batches)
    assert came == mg.train.evaluate(model, batches, capture=False)


def often(step, arguments):
    """Call it 150 times, with warnings as they come."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for i in range(150):
            step(*arguments(i))
    return [str(w.message) for w in found]


W = mg.tensor([2.0])


def test_python_value_that_differs_at_every_call_is_named():
    step = mg.capture(lambda x, i: x * float(i))
    (text,) = often(step, lambda i: (ONE, i))
    assert "recorded 128 times in a row and never replayed" in text
    assert "argument 1, a Python value: 126 before, 127 now; pass changing numbers as arrays" in text


def test_shapes_that_differ_at_every_call_are_named():
    step = mg.capture(lambda x: x * 2.0)
    (text,) = often(step, lambda i: (np.ones(1 + i, np.float32),))
    assert "the shape or dtype of argument 0: (127,) before, (128,) now" in text


def test_array_that_is_replaced_at_every_call_is_named():
    layer = mg.nn.Linear(1, 1)
    step = mg.capture(layer)

    def replace(i):
        layer.weight.data = np.full((1, 1), i)
        return (ONE,)

    (text,) = often(step, replace)
    assert text.endswith("What differs at every call: the array of Linear.weight")


def test_attribute_that_is_set_at_every_call_is_named():
    layer = mg.nn.Dropout(0.5)
    step = mg.capture(layer)

    def change(i):
        layer.p = 0.5 + i / 1000
        return (ONE,)

    (text,) = often(step, change)
    assert text.endswith("Dropout.p, which was 0.626 and is 0.627")


def test_variable_that_is_set_at_every_call_is_named():
    scale = 0

    def step(x):
        return x * float(scale)

    def change(i):
        nonlocal scale
        scale = i
        return (ONE,)

    (text,) = often(mg.capture(step), change)
    assert text.endswith("the variable 'scale' around step, which was 126 and is 127")


def test_step_that_is_replayed_now_and_then_is_not_warned_of():
    step = mg.capture(lambda x, i: x * float(i))
    assert often(step, lambda i: (ONE, 7 if i % 10 == 0 else i)) == []


def test_arrays_swapped_in_and_out_keep_few_recordings():
    p = mg.nn.Parameter(np.ones((64, 64), np.float32))
    optimizer = mg.optim.SGD([p], 0.01)

    @mg.capture
    def step(x):
        optimizer.zero_grad()
        loss = mg.relu(x @ p).mean()
        loss.backward()
        optimizer.step()
        return loss

    x = np.ones((32, 64), np.float32)
    for _ in range(70):
        step(x)
        step(x)
        mine = p.numpy().copy()
        p.data = mine * 0.5
        p.data = mine
    assert recordings(step) <= 3


def test_two_sets_of_arrays_that_take_turns_are_recorded_once_each():
    layer = mg.nn.Linear(2, 2)
    step = mg.capture(layer)
    sets = [mg.tensor(np.full((2, 2), float(i), np.float32)) for i in range(2)]
    plans = set()
    for i in range(8):
        layer.weight.data = sets[i % 2]
        assert step(np.ones((1, 2), np.float32)).numpy()[0, 0] == 2 * (i % 2)
        plans.add(id(step.plan))
    assert recordings(step) == len(plans) == 2


def test_layer_replaced_every_epoch_keeps_few_recordings():
    model = mg.nn.Sequential(mg.nn.Linear(3, 3), mg.nn.ReLU())
    step = mg.capture(model)
    for _ in range(20):
        model[0].weight = mg.nn.Parameter(np.ones((3, 3), np.float32))
        step(np.ones((2, 3), np.float32))
    assert recordings(step) <= 3


def test_error_does_not_count_a_recording():
    step = mg.capture(lambda x, i: x.item())
    for i in range(3):
        with pytest.raises(mg.CaptureError):
            step(ONE, i)
    assert recordings(step) == 0
