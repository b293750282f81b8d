"""One captured step called from several Python threads: they take turns, and every result is right."""

import threading

import numpy as np
import pytest

import minigrad as mg


def in_threads(work, count=4):
    """Run work(i) in threads; their results, or the first error."""
    results, errors = [None] * count, []

    def run(i):
        try:
            results[i] = work(i)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded before", "recorded by all"])
def test_results_are_those_of_each_threads_own_input(recorded):
    model = mg.nn.Sequential(mg.nn.Linear(64, 64), mg.nn.ReLU(), mg.nn.Linear(64, 64))
    step = mg.capture(lambda x: model(x))
    inputs = [np.full((64, 64), i, np.float32) for i in range(4)]
    expected = [model(mg.tensor(x)).numpy() for x in inputs]
    if recorded:
        step(inputs[0])

    def work(i):
        return [np.array_equal(step(inputs[i]).numpy(), expected[i]) for _ in range(100)]

    assert all(map(all, in_threads(work)))
    assert sum(map(len, step.plans.values())) == 1


def test_training_steps_from_threads_are_done_one_after_another():
    w = mg.nn.Parameter(np.zeros(1000, np.float32))
    optimizer = mg.optim.SGD([w], lr=1.0)

    @mg.capture
    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()

    in_threads(lambda i: [step(np.full(1000, -1.0, np.float32)) for _ in range(50)])
    np.testing.assert_array_equal(w.numpy(), np.full(1000, 200.0))


def test_error_in_one_thread_lets_the_others_go_on():
    step = mg.capture(lambda x, labels: mg.cross_entropy(x, labels))
    x = np.zeros((2, 3), np.float32)

    def work(i):
        for _ in range(20):
            if i:
                assert step(x, np.array([0, 1])).item() == pytest.approx(np.log(3))
            else:
                with pytest.raises(ValueError, match="out of range"):
                    step(x, np.array([0, 7]))
        return True

    assert all(in_threads(work, 2))
