"""Batches brought to the simulated GPU ahead of the steps that use them, and training with them."""

import gc

import numpy as np
import pytest
from small_steps import data, network, one_product

import minigrad as mg
from minigrad.devices.cuda_staging import Stager

FLOAT32 = np.dtype(np.float32)


def test_staged_batches_arrive_whole(gpu):
    stager = Stager(gpu)
    rng = np.random.default_rng(1)
    for _ in range(5):
        x, y = rng.standard_normal((3, 4)).astype(np.float32), rng.integers(0, 9, 3)
        staged = stager.arrived(stager.stage((x, y)))
        np.testing.assert_array_equal(np.asarray(staged[0]), x)
        np.testing.assert_array_equal(np.asarray(staged[1]), y)
    assert len(stager.places) <= 4


def test_staged_memory_is_not_used_again_while_a_batch_lives(gpu):
    stager = Stager(gpu)
    first = stager.stage((np.ones(4, np.float32),))
    second = stager.stage((np.zeros(4, np.float32),))
    assert first[0].pointer != second[0].pointer
    np.testing.assert_array_equal(np.asarray(stager.arrived(first)[0]), 1)


def test_staged_batch_is_there_once_it_was_waited_for(gpu):
    stager = Stager(gpu)
    staged = stager.stage((np.ones(4, np.float32),))
    assert np.asarray(staged[0])[0] != 1
    np.testing.assert_array_equal(np.asarray(stager.arrived(staged)[0]), 1)


def test_stager_gives_all_back(gpu, monkeypatch):
    events, new_event = [], gpu.driver.new_event
    monkeypatch.setattr(gpu.driver, "new_event", lambda: events.append(new_event()) or events[-1])
    monkeypatch.setattr(gpu.driver, "free_event", lambda event: events.pop([e is event for e in events].index(True)))
    before = gpu.driver.free_memory()
    stager = Stager(gpu)
    stager.stage((np.ones(4, np.float32), np.ones(3, np.int64)))
    assert len(events) == 4
    del stager
    gc.collect()
    assert not events
    assert not gpu.driver.pinned
    assert gpu.driver.free_memory() == before


def test_events_are_not_recorded_once_they_are_gone(gpu, monkeypatch):
    used, gone = [], []
    monkeypatch.setattr(gpu.driver, "record", lambda event, stream: used.append(any(event is e for e in gone)))
    monkeypatch.setattr(gpu.driver, "free_event", gone.append)
    stager = Stager(gpu)
    stager.batch = stager.stage((np.ones(4, np.float32),))  # a cycle, in which the collector finds the loan last
    del stager
    gc.collect()
    assert len(gone) == 2
    assert not any(used)


def test_stagers_share_a_stream(gpu):
    assert Stager(gpu).stream == Stager(gpu).stream != gpu.stream


@pytest.mark.parametrize(
    "capture", [pytest.param(True, id="captured"), pytest.param(False, id="eager", marks=pytest.mark.slow)]
)
def test_fit_trains_as_on_the_reference(gpu, capture):
    x, y = data(12)
    histories = {}
    for device in ("cuda", "reference"):
        model = one_product().to(device)
        loader = mg.data.Loader(x, y, batch_size=4, seed=1, prefetch=2)
        histories[device] = mg.train.fit(
            model,
            mg.optim.SGD(model.parameters(), 0.1, momentum=0.9),
            loader,
            epochs=3,
            validation=[(x, y)],
            capture=capture,
        )
        assert loader.stager is None
    for got, want in zip(histories["cuda"].epochs, histories["reference"].epochs, strict=True):
        for name in ("loss", "accuracy", "validation_loss"):
            assert got[name] == pytest.approx(want[name], rel=1e-4)


def test_checkpoint_goes_from_device_to_device(gpu, tmp_path):
    model = network().to("cuda")
    mg.checkpoint.save(tmp_path / "a.safetensors", model=model)
    other = mg.nn.Sequential(*network().layers)
    for p in other.parameters():
        p.data = np.zeros(p.shape, np.float32)
    mg.checkpoint.load(tmp_path / "a.safetensors", model=other)
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)
