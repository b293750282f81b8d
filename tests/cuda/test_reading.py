"""What fit reads of a step on a GPU, while the next one is at work."""

import gc

import numpy as np
import pytest
from small_steps import data, one_product
from targets import first_only

import minigrad as mg
from minigrad.devices.cuda_staging import Reading


def trained(device, x, y, **options):
    model = one_product().to(device)
    loader = mg.data.Loader(x, y, batch_size=2, seed=1, shuffle=False)
    history = mg.train.fit(model, mg.optim.SGD(model.parameters(), 0.1), loader, epochs=1, progress=False, **options)
    return model, history


@pytest.fixture
def order(gpu, monkeypatch):
    """ "step" for each update, "read" for each loss that is waited for."""
    done, call, update = [], Reading.__call__, mg.optim.SGD.step
    monkeypatch.setattr(Reading, "__call__", lambda self: done.extend(["read"] * (self.shape == ())) or call(self))
    monkeypatch.setattr(mg.optim.SGD, "step", lambda self: done.append("step") or update(self))
    return done


def test_a_reading_is_of_what_was_there(gpu):
    array = gpu.from_host(np.arange(3.0))
    read = gpu.read_later(array)
    gpu.write(array, np.zeros(3))
    np.testing.assert_array_equal(read(), np.arange(3.0))
    np.testing.assert_array_equal(np.asarray(array), np.zeros(3))


def test_pinned_memory_is_used_again_by_readings_that_are_done(gpu):
    array = gpu.from_host(np.arange(3.0))
    for _ in range(3):
        gpu.read_later(array)()
    assert len(gpu.driver.pinned) == 1
    gpu.read_later(array)  # which nobody waits for
    gc.collect()
    assert not gpu.driver.pinned


def test_a_loss_is_read_when_the_next_step_was_launched(order):
    trained("cuda", *data(8), capture=False, diagnose=False)
    assert order == ["step", "step", "read", "step", "read", "step", "read", "read"]


def test_who_asks_for_the_loss_of_each_step_gets_it(order):
    class Losses:
        def __init__(self):
            self.found = []

        def on_step(self, run):
            self.found.append((run.step, run.loss))

    found = {}
    for device in ("cuda", "reference"):
        losses = Losses()
        trained(device, *data(8), capture=False, diagnose=False, callbacks=[losses])
        found[device] = losses.found
    assert order[:8] == ["step", "read"] * 4
    np.testing.assert_allclose(found["cuda"], found["reference"], rtol=1e-5)


@pytest.mark.parametrize("capture", [True, False], ids=["captured", "eager"])
@pytest.mark.parametrize("bad", first_only(5, 0, 7), ids=["third", "first", "last"])
def test_a_loss_that_is_not_finite_is_told_of_its_own_step(gpu, capture, bad):
    x, y = data(8)
    x[bad] = np.nan
    errors = {}
    for device in ("cuda", "reference"):
        with pytest.raises(mg.train.DivergedError) as caught:
            trained(device, x, y, capture=capture)
        errors[device] = caught.value
    assert errors["cuda"].step == errors["reference"].step == bad // 2 + 1
    assert str(errors["cuda"]) == str(errors["reference"])


@pytest.mark.parametrize(("bad", "said"), [(0, "those after the step and one more"), (7, "those after the step. ")])
def test_parameters_of_a_step_more_are_not_kept_secret(gpu, bad, said):
    x, y = data(8)
    x[bad] = np.nan
    with pytest.raises(mg.train.DivergedError, match=said):
        trained("cuda", x, y, capture=False, diagnose=False)
