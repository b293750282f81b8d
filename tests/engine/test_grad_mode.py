"""no_grad and enable_grad, as blocks and as decorators, in one thread and in two."""

import threading

import numpy as np
import pytest

import minigrad as mg


def leaf(values):
    return mg.tensor(np.array(values, np.float32), requires_grad=True)


def test_no_grad_and_enable_grad_nest():
    states = [mg.is_grad_enabled()]
    with mg.no_grad():
        states.append(mg.is_grad_enabled())
        with mg.enable_grad():
            states.append(mg.is_grad_enabled())
            with mg.no_grad():
                states.append(mg.is_grad_enabled())
            states.append(mg.is_grad_enabled())
        states.append(mg.is_grad_enabled())
    states.append(mg.is_grad_enabled())
    assert states == [True, False, True, False, True, False, True]


def test_enable_grad_records_within_no_grad():
    x = leaf([2.0])
    with mg.no_grad(), mg.enable_grad():
        y = x * x
    y.backward()
    assert x.grad.item() == 4


def test_one_switch_may_be_entered_again():
    switch = mg.no_grad()
    with switch:
        with mg.enable_grad(), switch:
            assert not mg.is_grad_enabled()
        assert not mg.is_grad_enabled()
    assert mg.is_grad_enabled()


def test_an_exception_ends_no_grad():
    with pytest.raises(ZeroDivisionError), mg.no_grad():
        raise ZeroDivisionError
    assert mg.is_grad_enabled()


def test_no_grad_as_a_decorator():
    @mg.no_grad()
    def double(x):
        """Twice x."""
        return x * 2.0

    assert not double(leaf([1.0])).requires_grad
    assert mg.is_grad_enabled()
    assert double.__name__ == "double"
    assert double.__doc__ == "Twice x."


def test_decorated_function_may_call_itself():
    @mg.no_grad()
    def states(depth):
        below = states(depth - 1) if depth else []
        return [*below, mg.is_grad_enabled()]

    assert states(3) == [False] * 4
    assert mg.is_grad_enabled()


def test_no_grad_is_for_its_own_thread():
    x = leaf([2.0])
    inside, done = threading.Event(), threading.Event()

    def other():
        with mg.no_grad():
            inside.set()
            done.wait(100)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(100)
    y = x * x
    done.set()
    thread.join()
    y.backward()
    assert x.grad.item() == 4


def test_generator_runs_under_its_switch_and_its_caller_does_not():
    @mg.no_grad()
    def states(n):
        for _ in range(n):
            sent = yield mg.is_grad_enabled()
            assert sent == "go"
        return mg.is_grad_enabled()

    generator = states(2)
    found = [next(generator), mg.is_grad_enabled(), generator.send("go"), mg.is_grad_enabled()]
    assert found == [False, True, False, True]
    with pytest.raises(StopIteration) as end:
        generator.send("go")
    assert end.value.value is False
    assert mg.is_grad_enabled()


def test_generator_may_be_closed_or_thrown_into():
    seen = []

    @mg.no_grad()
    def states():
        try:
            yield 1
        except KeyError:
            seen.append(mg.is_grad_enabled())
            yield 2
        finally:
            seen.append(mg.is_grad_enabled())

    generator = states()
    next(generator)
    assert generator.throw(KeyError()) == 2
    generator.close()
    assert seen == [False, False]
    assert mg.is_grad_enabled()


def test_one_switch_object_serves_two_threads():
    switch = mg.no_grad()
    entered, left = threading.Event(), threading.Event()
    states = []

    def other():
        with mg.enable_grad():
            with switch:
                entered.set()
                left.wait(100)
            states.append(mg.is_grad_enabled())

    thread = threading.Thread(target=other)
    with mg.no_grad():
        thread.start()
        assert entered.wait(100)
        with switch:
            states.append(mg.is_grad_enabled())
        states.append(mg.is_grad_enabled())
        left.set()
        thread.join()
    assert states == [False, False, True]
    assert mg.is_grad_enabled()
