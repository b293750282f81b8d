"""What fit does with a run: its loop, its rows, validation, schedules, metrics."""

import numpy as np
import pytest
from rows import untimed

import minigrad as mg
from minigrad.data import Loader
from minigrad.train import evaluate, fit


@pytest.mark.parametrize("capture", [True, False])
def test_fit_equals_a_handwritten_loop_to_the_bit(parts, same_bits, device, capture):
    ours, plain = parts(device), parts(device)
    fit(ours.model, ours.optimizer, ours.loader, epochs=3, validation=ours.validation, capture=capture)
    for images, labels in plain.loader.steps(21):
        plain.optimizer.zero_grad()
        mg.cross_entropy(plain.model(mg.tensor(images, device=device)), labels).backward()
        plain.optimizer.step()
    same_bits(ours, plain)


def test_history_holds_means_over_rows(parts):
    p, twin = parts(), parts()
    history = fit(p.model, p.optimizer, p.loader, epochs=1)
    losses, hits = [], []
    for images, labels in twin.loader:
        twin.optimizer.zero_grad()
        logits = twin.model(mg.tensor(images, device="reference"))
        loss = mg.cross_entropy(logits, labels)
        loss.backward()
        twin.optimizer.step()
        losses += [loss.item()] * len(labels)
        hits += list(logits.numpy().argmax(axis=1) == labels)
    (row,) = history.epochs
    assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert row["accuracy"] == pytest.approx(np.mean(hits), rel=1e-12)
    assert (row["epoch"], row["step"], row["lr"]) == (1, 7, 0.1)
    assert row["seconds"] > 0
    assert row["images_per_second"] > 0


def test_row_after_every_epoch_and_after_the_last_step(parts):
    p = parts()
    history = fit(p.model, p.optimizer, p.loader, steps=17)
    assert [(row["epoch"], row["step"]) for row in history.epochs] == [(1, 7), (2, 14), (3, 17)]


def test_rows_of_steps(parts):
    p = parts()
    history = fit(p.model, p.optimizer, p.loader, steps=12, log_every=4)
    assert [row["step"] for row in history.steps] == [4, 8, 12]
    whole, rest = history.epochs
    first, second, third = history.steps
    total = whole["loss"] * 50 + rest["loss"] * 5 * 8
    assert first["loss"] * 32 + second["loss"] * 26 + third["loss"] * 32 == pytest.approx(total, rel=1e-12)


def test_validation_after_each_epoch_is_evaluate(parts):
    p = parts()
    history = fit(p.model, p.optimizer, p.loader, epochs=2, validation=p.validation)
    expected = evaluate(p.model, p.validation)
    assert len(history.column("validation_loss")) == 2
    assert history.epochs[-1]["validation_loss"] == expected["loss"]
    assert history.epochs[-1]["validation_accuracy"] == expected["accuracy"]


def test_validate_every_puts_validation_into_rows_of_steps(parts):
    p = parts()
    history = fit(p.model, p.optimizer, p.loader, steps=9, validation=p.validation, validate_every=3, log_every=1)
    assert [row["step"] for row in history.steps if "validation_loss" in row] == [3, 6, 9]
    assert history.steps[-1]["validation_loss"] == history.epochs[-1]["validation_loss"]


def test_validation_does_not_change_the_training(parts, same_bits):
    one, other = parts(), parts()
    fit(one.model, one.optimizer, one.loader, epochs=2, validation=one.validation, validate_every=2)
    fit(other.model, other.optimizer, other.loader, epochs=2)
    same_bits(one, other)


@pytest.mark.parametrize(
    ("by", "expected"),
    [("epoch", [0.1, 0.05, 0.025]), ("step", [0.1 * 0.5**6, 0.1 * 0.5**13, 0.1 * 0.5**20])],
)
def test_schedule_by_epoch_or_by_step(parts, by, expected):
    p = parts()
    schedule = mg.optim.ExponentialSchedule(p.optimizer, 0.5)
    history = fit(p.model, p.optimizer, p.loader, epochs=3, schedule=schedule, schedule_by=by)
    assert history.column("lr") == pytest.approx(expected)
    assert schedule.count == (3 if by == "epoch" else 21)


def test_second_fit_goes_on_at_the_loaders_position(parts, same_bits):
    twice, once = parts(), parts()
    fit(twice.model, twice.optimizer, twice.loader, steps=5)
    history = fit(twice.model, twice.optimizer, twice.loader, steps=9)
    fit(once.model, once.optimizer, once.loader, steps=14)
    same_bits(twice, once)
    assert [row["step"] for row in history.epochs] == [7, 14]


def test_last_smaller_batch_compiles_nothing(parts):
    fine, odd = parts("cpu"), parts("cpu")
    whole = Loader(fine.images[:48], fine.labels[:48], batch_size=8)
    fit(fine.model, fine.optimizer, whole, epochs=2, validation=[(fine.images[:30], fine.labels[:30])])
    with mg.no_compile():
        fit(odd.model, odd.optimizer, odd.loader, epochs=2, validation=odd.validation)


def test_own_loss_and_metrics(parts):
    p = parts()

    def squares(outputs, targets):
        difference = outputs.sum(axis=1) - targets.to("float32")
        return (difference * difference).mean()

    def worst(outputs, targets):
        return np.abs(outputs.sum(axis=1) - targets).mean()

    history = fit(
        p.model, p.optimizer, p.loader, epochs=1, loss=squares, metrics={"off": worst}, validation=p.validation
    )
    assert {"loss", "off", "validation_off"} <= set(history.epochs[0])
    assert "accuracy" not in history.epochs[0]


def test_other_losses_have_no_accuracy_by_themselves(parts):
    p = parts()
    history = fit(p.model, p.optimizer, p.loader, steps=1, loss=lambda x, y: mg.cross_entropy(x, y) * 2.0)
    assert "accuracy" not in history.epochs[0]


def test_model_is_left_in_training_mode(parts):
    p = parts()
    p.model.eval()
    fit(p.model, p.optimizer, p.loader, epochs=1, validation=p.validation)
    assert all(module.training for _, module in p.model.modules())


def test_loader_that_prepares_ahead_gives_the_same_bits(parts, same_bits):
    ahead, plain = parts(), parts()
    loader = Loader(ahead.images, ahead.labels, batch_size=8, seed=1, prefetch=2)
    one = fit(ahead.model, ahead.optimizer, loader, epochs=2, validation=loader)
    other = fit(plain.model, plain.optimizer, plain.loader, epochs=2, validation=plain.loader)
    same_bits(ahead, plain)
    assert untimed(one.epochs) == untimed(other.epochs)


def test_step_is_recorded_once_for_each_shape(parts, monkeypatch):
    p = parts()
    recorded = []
    captured = type(mg.capture(lambda x: x))
    record = captured.record

    def noted(self, key, args, kwargs):
        recorded.append(args[0].shape)
        return record(self, key, args, kwargs)

    monkeypatch.setattr(captured, "record", noted)
    fit(p.model, p.optimizer, p.loader, epochs=4)
    assert recorded == [(8, 5), (2, 5)]


def test_images_per_second_leaves_the_recording_out(parts):
    p = parts()
    history = fit(p.model, p.optimizer, p.loader, steps=1)
    assert history.epochs[0]["images_per_second"] is None
