"""Runs of fit that go on from a checkpoint have the bits of one that was not interrupted; which files are kept."""

import copy

import numpy as np
import pytest
from rows import untimed

import minigrad as mg
from minigrad.train import fit


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("stop", range(1, 17))
def test_resumed_at_any_step_gives_the_same_bits(parts, same_bits, tmp_path, stop, capture):
    check_resumed(parts, same_bits, tmp_path, stop, "reference", capture=capture)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_resumed_with_another_number_of_threads_gives_the_same_bits(parts, same_bits, tmp_path, before, after):
    if mg.get_num_threads() < 2:
        pytest.skip("one thread only")
    threads = mg.get_num_threads()
    try:
        sizes = {"features": 900, "hidden": 700, "batch_size": 50}  # large enough for more than one thread
        check_resumed(parts, same_bits, tmp_path, 9, "cpu", threads=(before, after), **sizes)
    finally:
        mg.set_num_threads(threads)


def check_resumed(parts, same_bits, tmp_path, stop, device, threads=None, capture=True, **sizes):
    def run(p, **options):
        schedule = mg.optim.CosineSchedule(p.optimizer, 17)
        return fit(
            p.model, p.optimizer, p.loader, steps=17, validation=p.validation, log_every=3, schedule=schedule,
            schedule_by="step", capture=capture, **options,
        )  # fmt: skip

    class Stop:
        def on_step(self, run):
            if run.step == stop:
                raise StopIteration(run.save(tmp_path / "here.safetensors"))

    whole, first, second = (parts(device, **sizes) for _ in range(3))
    expected = run(whole)
    if threads:
        mg.set_num_threads(threads[0])
    with pytest.raises(StopIteration):
        run(first, callbacks=[Stop()])
    mg.manual_seed(77)
    for p in second.model.parameters():
        p.data[...] = 7
    if threads:
        mg.set_num_threads(threads[1])
    history = run(second, resume=tmp_path / "here.safetensors")
    same_bits(whole, second)
    assert untimed(history.epochs) == untimed(expected.epochs)
    assert untimed(history.steps) == untimed(expected.steps)
    assert second.loader.position == 17
    assert mg.random.state_dict()["seed"] == 3


def test_finished_run_is_not_trained_again(parts, tmp_path, arrays):
    p = parts()
    first = fit(p.model, p.optimizer, p.loader, epochs=2, checkpoint=tmp_path)
    before, written = copy.deepcopy(arrays(p)), (tmp_path / "last.safetensors").stat().st_mtime_ns
    q = parts()
    second = fit(q.model, q.optimizer, q.loader, epochs=2, checkpoint=tmp_path, resume=True)
    assert second == first
    for name, array in arrays(q).items():
        np.testing.assert_array_equal(array, before[name])
    assert (tmp_path / "last.safetensors").stat().st_mtime_ns == written


def test_resumed_for_longer_equals_one_long_run(parts, same_bits, tmp_path):
    short, longer, whole = parts(), parts(), parts()
    fit(short.model, short.optimizer, short.loader, epochs=1, checkpoint=tmp_path)
    fit(longer.model, longer.optimizer, longer.loader, epochs=3, checkpoint=tmp_path, resume=True)
    fit(whole.model, whole.optimizer, whole.loader, epochs=3)
    same_bits(longer, whole)


def test_folder_with_a_checkpoint_is_not_overwritten(parts, tmp_path):
    p = parts()
    fit(p.model, p.optimizer, p.loader, steps=1, checkpoint=tmp_path)
    with pytest.raises(FileExistsError, match="resume=True"):
        fit(p.model, p.optimizer, p.loader, steps=1, checkpoint=tmp_path)


def test_resume_with_another_configuration_lists_the_differences(parts, tmp_path, arrays):
    p = parts()
    fit(p.model, p.optimizer, p.loader, steps=3, checkpoint=tmp_path, configuration={"width": 0.25, "name": "a"})
    q = parts(batch_size=10, lr=0.2, dropout=0.5)
    before = copy.deepcopy(arrays(q))
    with pytest.raises(mg.checkpoint.CheckpointError) as error:
        fit(
            q.model, q.optimizer, q.loader, steps=6, checkpoint=tmp_path, resume=True,
            configuration={"width": 0.5, "name": "a"}, schedule=mg.optim.ExponentialSchedule(q.optimizer, 0.9),
        )  # fmt: skip
    text = str(error.value)
    for line in (
        "configuration.configuration.width: 0.25 in the checkpoint, 0.5 now",
        'configuration.model.3: "Dropout(0.2)" in the checkpoint, "Dropout(0.5)" now',
        "configuration.optimizer.lr: 0.1 in the checkpoint, not there now",
        "configuration.schedule.factor: not there in the checkpoint, 0.9 now",
        "batch_size 8 against 10",
    ):
        assert line in text
    assert "name" not in text
    for name, array in arrays(q).items():
        np.testing.assert_array_equal(array, before[name])


def test_best_and_last_are_kept(parts, tmp_path):
    p = parts()
    worth = iter([0.5, 0.9, 0.7])  # of the three validations, whose batch has 50 rows
    fit(
        p.model, p.optimizer, p.loader, epochs=3, validation=[(p.images, p.labels)],
        metrics={"accuracy": lambda outputs, targets: next(worth) if len(targets) == 50 else 0.0},
        checkpoint=mg.train.Checkpoints(tmp_path, best="validation_accuracy"),
    )  # fmt: skip
    best = mg.checkpoint.load(tmp_path / "best.safetensors")
    last = mg.checkpoint.load(tmp_path / "last.safetensors")
    assert (best.loader["position"], last.loader["position"]) == (14, 21)


def test_checkpoints_every_so_many_epochs_and_at_the_end(parts, tmp_path):
    p = parts()
    positions = []

    class Look:
        def on_epoch_end(self, run, row):
            path = tmp_path / "last.safetensors"
            positions.append(mg.checkpoint.load(path).loader["position"] if path.exists() else None)

    checkpoints = mg.train.Checkpoints(tmp_path, every_epochs=2)
    fit(p.model, p.optimizer, p.loader, epochs=5, checkpoint=checkpoints, callbacks=[Look()])
    assert positions == [None, None, 14, 14, 28]
    assert mg.checkpoint.load(tmp_path / "last.safetensors").loader["position"] == 35


def test_leftovers_are_removed_at_the_start(parts, tmp_path):
    p = parts()
    (tmp_path / "last.safetensors.part").write_bytes(b"half")
    fit(p.model, p.optimizer, p.loader, steps=1, checkpoint=tmp_path, callbacks=[lambda run, row: None])
    assert [path.name for path in tmp_path.iterdir()] == ["last.safetensors"]


def test_missing_safetensors_is_noticed_at_the_start(parts, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    p = parts()
    with pytest.raises(ImportError, match=r"minigrad-bn\[checkpoint\]"):
        fit(p.model, p.optimizer, p.loader, steps=1, checkpoint=tmp_path)
    assert p.loader.position == 0
