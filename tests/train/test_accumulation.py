"""Steps of several batches, clipped gradients, averages and plateaus in `fit`."""

import os
import signal

import numpy as np
import pytest
from rows import untimed

import minigrad as mg
from minigrad.checkpoint import CheckpointError
from minigrad.train import Checkpoints, DivergedError, TrainingInterrupted, fit
from minigrad.train.divergence import Rewind


def by_hand(p, epochs, size, device="reference", clip=None):
    """Epochs of 7 batches in steps of `size`, the last of an epoch with what is left."""
    for epoch in range(epochs):
        for first in range(0, 7, size):
            batches = [p.loader.batch(7 * epoch + i) for i in range(first, min(first + size, 7))]
            rows = sum(len(images) for images, _ in batches)
            p.optimizer.zero_grad()
            for images, labels in batches:
                loss = mg.cross_entropy(p.model(mg.tensor(images, device=device)), labels)
                (loss * (len(images) / rows) if len(batches) > 1 else loss).backward()
            if clip is not None:
                mg.optim.clip_grad_norm(p.optimizer.params, clip)
            p.optimizer.step()


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("size", [2, 3, 7, 9])
def test_steps_of_several_batches_equal_a_handwritten_loop_to_the_bit(parts, same_bits, device, capture, size):
    ours, plain = parts(device), parts(device)
    history = fit(ours.model, ours.optimizer, ours.loader, epochs=2, accumulate=size, capture=capture)
    by_hand(plain, 2, size, device)
    same_bits(ours, plain)
    steps = -(-7 // size)
    assert [(row["epoch"], row["step"]) for row in history.epochs] == [(1, steps), (2, 2 * steps)]
    assert ours.loader.position == 14


SCHEDULES = {
    "warmup": lambda o: mg.optim.WarmupSchedule(o, 3, mg.optim.CosineSchedule(o, 6)),
    "one cycle": lambda o: mg.optim.OneCycleSchedule(o, 6),
    "function": lambda o: mg.optim.FunctionSchedule(o, lambda n: 0.1 / (1 + n)),
    "plateau": lambda o: mg.optim.PlateauSchedule(o, "loss", patience=0),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_average_accumulation_and_schedule_have_the_bits_of_eager_when_captured(parts, schedule):
    found = []
    for capture in (True, False):
        p = parts("cpu")
        optimizer = mg.optim.AdamW(p.model.parameters(), lr=0.01, ema=0.9)
        by = "epoch" if schedule == "plateau" else "step"
        rates = SCHEDULES[schedule](optimizer)
        fit(p.model, optimizer, p.loader, epochs=2, accumulate=3, schedule=rates, schedule_by=by, capture=capture)
        with optimizer.averaged():
            averages = [t.numpy().tobytes() for t in p.model.parameters()]
        found.append((averages, [t.numpy().tobytes() for t in p.model.parameters()], optimizer.rates))
    assert found[0] == found[1]


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_clipped_steps_equal_a_handwritten_loop_to_the_bit(parts, same_bits, device, capture, size):
    ours, plain, without = parts(device), parts(device), parts(device)
    fit(ours.model, ours.optimizer, ours.loader, epochs=2, accumulate=size, clip_norm=0.2, capture=capture)
    by_hand(plain, 2, size, device, clip=0.2)
    same_bits(ours, plain)
    by_hand(without, 2, size, device)
    assert not np.array_equal(without.model[0].weight.numpy(), ours.model[0].weight.numpy())


@pytest.mark.parametrize(("batch_size", "size"), [(10, 5), (8, 7), (49, 2)])
def test_without_batch_norm_accumulated_batches_are_as_good_as_one(parts, batch_size, size):
    """Of whatever length: in steps of seven batches of 8 the last has 2 samples."""
    weights = []
    for length, count in ((batch_size, size), (50, 1)):
        p = parts(batch_size=length, dropout=0.0)
        p.model = mg.nn.Sequential(p.model[0], p.model[2], p.model[4])
        p.optimizer = mg.optim.SGD(p.model.parameters(), lr=0.1)
        p.loader.shuffle = False
        history = fit(p.model, p.optimizer, p.loader, epochs=3, accumulate=count)
        weights.append((p.model[0].weight.numpy(), history.column("loss"), history.column("accuracy")))
    for small, large in zip(*weights, strict=True):
        np.testing.assert_allclose(small, large, rtol=1e-5)


def test_rows_and_schedules_count_steps(parts):
    p = parts()
    schedule = mg.optim.StepSchedule(p.optimizer, every=2, factor=0.5)
    history = fit(
        p.model, p.optimizer, p.loader, steps=5, accumulate=3, log_every=2, schedule=schedule, schedule_by="step"
    )
    assert [(row["step"], row["epoch"], row["lr"]) for row in history.steps] == [(2, 1, 0.1), (4, 2, 0.05)]
    assert [(row["step"], row["epoch"]) for row in history.epochs] == [(3, 1), (5, 2)]
    assert p.loader.position == 7 + 6


def test_a_loader_in_the_middle_of_a_step_begins_with_the_rest_of_it(parts):
    p = parts()
    p.loader.seek(4)
    history = fit(p.model, p.optimizer, p.loader, steps=2, accumulate=3)
    assert [row["step"] for row in history.epochs] == [3]
    assert p.loader.position == 7


@pytest.mark.parametrize("steps", [1, 2, 4, 5])
def test_resumed_run_gives_the_same_bits(parts, same_bits, tmp_path, steps):
    options = {"accumulate": 3, "clip_norm": 0.5, "checkpoint": tmp_path}
    whole, first, second = (parts() for _ in range(3))
    for p in (whole, first, second):
        p.optimizer = mg.optim.AdamW(p.model.parameters(), lr=0.05, ema=0.8)
    history = fit(whole.model, whole.optimizer, whole.loader, epochs=2, accumulate=3, clip_norm=0.5)
    fit(first.model, first.optimizer, first.loader, steps=steps, **options)
    resumed = fit(second.model, second.optimizer, second.loader, epochs=2, resume=True, **options)
    same_bits(whole, second)
    if steps in (3, 6):
        assert untimed(resumed.epochs) == untimed(history.epochs)


def test_resuming_with_another_accumulation_or_clipping_is_refused(parts, tmp_path):
    p, other = parts(), parts()
    fit(p.model, p.optimizer, p.loader, steps=2, accumulate=3, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="configuration.accumulate: 3 in the checkpoint, 2 now"):
        fit(other.model, other.optimizer, other.loader, steps=3, accumulate=2, checkpoint=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"configuration.clip_norm: not there in the checkpoint, 1.0 now"):
        fit(
            other.model, other.optimizer, other.loader, steps=3, accumulate=3, clip_norm=1, checkpoint=tmp_path,
            resume=True,
        )  # fmt: skip
    assert other.loader.position == 0


class Ends:
    """Sends a signal while the second batch of the second step is prepared."""

    def __call__(self, batch, epoch, step):
        if step == 4 and self.armed:
            self.armed = False
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    armed = True


def test_a_signal_within_a_step_leaves_none_half_done(parts, same_bits, tmp_path):
    whole, first, second = (parts() for _ in range(3))
    fit(whole.model, whole.optimizer, whole.loader, epochs=2, accumulate=3)
    first.loader.transform = Ends()
    with pytest.raises(TrainingInterrupted) as caught:
        fit(first.model, first.optimizer, first.loader, epochs=2, accumulate=3, checkpoint=tmp_path)
    assert caught.value.step == 1
    assert first.loader.position == 3
    fit(second.model, second.optimizer, second.loader, epochs=2, accumulate=3, checkpoint=tmp_path, resume=True)
    same_bits(whole, second)


@pytest.mark.parametrize("capture", [True, False])
def test_divergence_in_one_of_the_batches_is_traced(parts, capture):
    p = parts()
    p.loader.arrays[0][p.loader._rows(0, 0, 50)[4 * 8]] = np.nan
    with pytest.raises(DivergedError, match="in step 2: the batch's inputs held a NaN") as caught:
        fit(p.model, p.optimizer, p.loader, epochs=2, accumulate=3, clip_norm=1.0, capture=capture)
    assert caught.value.step == 2
    assert np.isfinite(p.model[0].weight.numpy()).all()


def test_a_step_that_is_repeated_in_search_of_a_divergence_has_the_bits_of_the_step(parts, same_bits):
    ours, other = parts(), parts()
    fit(ours.model, ours.optimizer, ours.loader, steps=1, accumulate=7)
    rewind = Rewind(other.model, other.optimizer, mg.cross_entropy)
    assert rewind.repeat([other.loader.batch(i) for i in range(7)]) is None
    same_bits(ours, other)


def test_clipping_is_repeated_when_a_divergence_is_searched(parts):
    p = parts()
    p.loader.arrays[0][p.loader._rows(0, 0, 50)[6 * 8]] = np.nan
    expected = parts()
    with pytest.raises(DivergedError):
        fit(p.model, p.optimizer, p.loader, epochs=2, clip_norm=0.01)
    fit(expected.model, expected.optimizer, expected.loader, steps=6, clip_norm=0.01)
    np.testing.assert_array_equal(p.model[0].weight.numpy(), expected.model[0].weight.numpy())


# Averages


def test_averages_are_what_is_validated(parts):
    p = parts()
    p.optimizer = mg.optim.SGD(p.model.parameters(), lr=0.3, ema=0.9)
    history = fit(p.model, p.optimizer, p.loader, epochs=2, validation=p.validation)
    with p.optimizer.averaged():
        expected = mg.train.evaluate(p.model, p.validation)
    now = mg.train.evaluate(p.model, p.validation)
    assert history.epochs[-1]["validation_loss"] == expected["loss"] != now["loss"]
    assert all(module.training for _, module in p.model.modules())


def test_another_share_is_another_run(parts, tmp_path):
    p, other = parts(), parts()
    for parts_, ema in ((p, 0.9), (other, 0.8)):
        parts_.optimizer = mg.optim.SGD(parts_.model.parameters(), lr=0.3, ema=ema)
    fit(p.model, p.optimizer, p.loader, epochs=1, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="configuration.optimizer.ema: 0.9 in the checkpoint, 0.8 now"):
        fit(other.model, other.optimizer, other.loader, epochs=2, checkpoint=tmp_path, resume=True)


# Plateaus


def plateau(p, **options):
    return mg.optim.PlateauSchedule(p.optimizer, **{"patience": 0, "factor": 0.5, "threshold": 0.5, **options})


def test_plateau_goes_by_the_rows_of_epochs(parts):
    p = parts()
    history = fit(
        p.model, p.optimizer, p.loader, epochs=5, schedule=plateau(p, monitor="val_loss"), validation=p.validation
    )
    best, expected, rate = None, [], 0.1
    for row in history.epochs:
        expected.append(rate)
        if best is None or row["validation_loss"] < best * 0.5:
            best = row["validation_loss"]
        else:
            rate *= 0.5
    np.testing.assert_allclose(history.column("lr"), expected)
    assert p.optimizer.lr == pytest.approx(rate)
    assert rate < 0.1


@pytest.mark.parametrize("every", [None, 5])
def test_plateau_resumes_with_the_same_bits(parts, same_bits, tmp_path, every):
    whole, first, second = (parts() for _ in range(3))
    options = {"validation": whole.validation}
    fit(whole.model, whole.optimizer, whole.loader, epochs=5, schedule=plateau(whole), **options)
    options["checkpoint"] = Checkpoints(tmp_path, every_steps=every)
    fit(first.model, first.optimizer, first.loader, epochs=3, schedule=plateau(first), **options)
    options["checkpoint"] = Checkpoints(tmp_path, every_steps=every)
    fit(second.model, second.optimizer, second.loader, epochs=5, schedule=plateau(second), resume=True, **options)
    same_bits(whole, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate must be at least 1, not 0"),
        ({"clip_norm": -1.0}, "clip_norm must be at least 0"),
        ({"schedule": plateau}, "watches 'validation_loss', which the epochs will not have; pass validation="),
        ({"schedule": lambda p: plateau(p, monitor="losss")}, "watches 'losss'"),
        ({"schedule": lambda p: plateau(p, monitor="loss"), "schedule_by": "step"}, "goes by the rows of epochs"),
    ],
)
def test_what_makes_no_sense_is_refused(parts, options, message):
    p = parts()
    if callable(options.get("schedule")):
        options = {**options, "schedule": options["schedule"](p)}
    with pytest.raises(ValueError, match=message):
        fit(p.model, p.optimizer, p.loader, epochs=1, **options)
    assert p.loader.position == 0


def test_groups_of_parameters_in_fit(parts, same_bits, tmp_path):
    def grouped(p):
        first, *rest = p.model.parameters()
        p.optimizer = mg.optim.SGD([{"params": [first], "lr": 0.01}, {"params": rest}], lr=0.1)
        return p

    whole, first, second, other = grouped(parts()), grouped(parts()), grouped(parts()), parts()
    options = {"schedule": mg.optim.CosineSchedule(whole.optimizer, 3)}
    history = fit(whole.model, whole.optimizer, whole.loader, epochs=3, **options)
    np.testing.assert_allclose(history.column("lr"), [0.01, 0.0075, 0.0025])
    for p, epochs, resume in ((first, 2, False), (second, 3, True)):
        options = {"schedule": mg.optim.CosineSchedule(p.optimizer, 3), "checkpoint": tmp_path, "resume": resume}
        fit(p.model, p.optimizer, p.loader, epochs=epochs, **options)
    same_bits(whole, second)
    other.optimizer = mg.optim.SGD(other.model.parameters(), lr=0.1)
    options["schedule"] = mg.optim.CosineSchedule(other.optimizer, 3)
    with pytest.raises(CheckpointError, match="unknown: optimizer.groups"):
        fit(other.model, other.optimizer, other.loader, epochs=4, **options)
