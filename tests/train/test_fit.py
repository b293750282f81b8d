import copy
import inspect
import re

import numpy as np
import pytest

import minigrad as mg
from minigrad.data import Loader
from minigrad.train import accuracy, evaluate, fit


def untimed(rows):
    """History rows without what differs from run to run."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


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


def test_accuracy_counts_rows():
    assert accuracy(np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), np.array([1, 1, 1])) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "either epochs or steps"),
        ({"epochs": 1, "steps": 1}, ValueError, "either epochs or steps"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"steps": 1, "log_every": 0}, ValueError, "log_every must be at least 1"),
        ({"steps": 1, "validate_every": 3}, ValueError, "validate_every needs validation"),
        ({"steps": 1, "schedule_by": "batch"}, ValueError, "'epoch' or 'step'"),
        ({"steps": 1, "device": "cpu"}, ValueError, "on 'reference', not 'cpu'"),
        ({"steps": 1, "resume": True}, ValueError, "needs checkpoint="),
        ({"steps": 1, "validation": iter([])}, TypeError, "used up"),
        ({"steps": 1, "metrics": {"loss": accuracy}}, ValueError, "'loss'"),
        ({"steps": 1, "callbacks": [mg.train.Progress]}, TypeError, "make an instance"),
        ({"steps": 1, "callbacks": [3]}, TypeError, "on_epoch_end"),
        ({"steps": 1, "callbacks": [mg.train.Checkpoints("x")]}, TypeError, "checkpoint="),
        ({"steps": 1, "callbacks": 3}, TypeError, "on_epoch_end"),
        ({"steps": 1, "callbacks": mg.train.EarlyStop}, TypeError, "make an instance"),
        (
            {"steps": 1, "callbacks": mg.train.EarlyStop(2)},
            ValueError,
            "'validation_loss'.*pass validation=.*loss, acc",
        ),
        ({"steps": 1, "callbacks": mg.train.EarlyStop(2, "val_acc")}, ValueError, "'val_acc'.*pass validation="),
        (
            {"steps": 1, "callbacks": mg.train.EarlyStop(2, "los")},
            ValueError,
            "'los', which .* not have; there are loss, ",
        ),
        (
            {"steps": 1, "checkpoint": mg.train.Checkpoints("x", best="val_f1")},
            ValueError,
            "Checkpoints watches 'val_f1'",
        ),
        ({"steps": 1, "checkpoint": True}, TypeError, "checkpoint must be a folder"),
        ({"steps": 1, "schedule": 0.1}, TypeError, "schedule must be one of mg.optim, or a function"),
        ({"steps": 1, "schedule": mg.optim.CosineSchedule}, TypeError, "CosineSchedule is a class; make an instance"),
        (
            {"steps": 1, "schedule": lambda n: None},
            TypeError,
            "learning rate that the schedule gives for 0 must be a number",
        ),
        ({"steps": 1, "schedule": lambda n: -1.0}, ValueError, "at least 0"),
        ({"steps": 1, "loss": "mse"}, TypeError, "loss must be a function of .outputs, targets.*'mse'"),
        ({"steps": 1, "loss": mg.nn.Linear}, TypeError, "the class Linear"),
        ({"steps": 1, "metrics": ["f1"]}, ValueError, "no metric 'f1', only 'accuracy'"),
        ({"steps": 1, "metrics": [lambda outputs, targets: 0.0]}, ValueError, "has no name"),
        ({"steps": 1, "metrics": [accuracy, "accuracy"]}, ValueError, "two metrics are called 'accuracy'"),
        ({"steps": 1, "metrics": 3}, TypeError, "must be a function of NumPy arrays"),
        ({"steps": 1, "validation": 3}, TypeError, "validation must be a Loader"),
        ({"steps": 1, "validation": []}, ValueError, "validation is empty"),
        ({"steps": 1, "validation": [np.zeros((2, 5))]}, ValueError, "a batch must be a pair"),
        ({"steps": 1, "validation": (np.zeros((2, 5)), np.zeros(3))}, ValueError, r"lengths \[2, 3\]"),
        ({"steps": 1, "validation": Loader(np.zeros((2, 5)), batch_size=1)}, ValueError, "batches of 1 arrays"),
        ({"steps": 1, "configuration": {"width": {1, 2}}}, TypeError, "configuration must be made of numbers"),
        ({"epoch": 1}, TypeError, r"fit\(\): .*'epoch'; did you mean 'epochs'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_done(parts, same_bits, options, error, message):
    p, before = parts(), parts()
    with pytest.raises(error, match=message):
        fit(p.model, p.optimizer, p.loader, **options)
    assert p.loader.position == 0
    same_bits(p, before)


def test_parameters_are_told_to_help_and_editors():
    """They are listed in Settings alone."""
    parameters = inspect.signature(fit).parameters
    assert list(parameters)[:4] == ["model", "optimizer", "loader", "epochs"]
    assert {p.kind for name, p in parameters.items() if name not in ("model", "optimizer", "loader")} == {
        inspect.Parameter.KEYWORD_ONLY
    }
    assert (parameters["schedule_by"].default, parameters["progress"].default) == ("epoch", True)
    assert parameters["model"].annotation is mg.nn.Module
    assert inspect.signature(fit).return_annotation is mg.train.History
    documented = re.findall(
        r"^ {8}((?:\w+, )*\w+): ", inspect.getdoc(fit).replace("\n    ", "\n        "), re.MULTILINE
    )
    assert [name for names in documented for name in names.split(", ")][: len(parameters)] == list(parameters)


def test_validation_may_be_two_arrays(parts):
    p, twin = parts(), parts()
    history = fit(p.model, p.optimizer, p.loader, epochs=2, validation=(p.images, p.labels))
    listed = fit(twin.model, twin.optimizer, twin.loader, epochs=2, validation=[(p.images, p.labels)])
    assert untimed(history.epochs) == untimed(listed.epochs)


def test_schedule_may_be_a_function(parts, tmp_path):
    rates = {"schedule": lambda n: 0.1 / (n + 1), "checkpoint": tmp_path}
    p = parts()
    history = fit(p.model, p.optimizer, p.loader, epochs=2, **rates)
    assert history.column("lr") == [0.1, 0.05]
    q = parts()
    history = fit(q.model, q.optimizer, q.loader, epochs=3, resume=True, **rates)
    assert history.column("lr") == pytest.approx([0.1, 0.05, 0.1 / 3])


def test_schedule_that_is_a_function_is_forgotten_where_the_checkpoint_is_refused(parts, tmp_path):
    p = parts()
    fit(p.model, p.optimizer, p.loader, epochs=1, checkpoint=tmp_path)
    with pytest.raises(mg.checkpoint.CheckpointError, match="schedule"):
        fit(p.model, p.optimizer, p.loader, epochs=2, schedule=lambda n: 7.0, checkpoint=tmp_path, resume=True)
    assert p.optimizer.lr == 0.1


def top2(outputs, targets):
    return float((np.argsort(outputs, axis=1)[:, -2:] == targets[:, None]).any(axis=1).mean())


@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        ("accuracy", ["accuracy"]),
        (["accuracy"], ["accuracy"]),
        (top2, ["top2"]),
        (("accuracy", top2), ["accuracy", "top2"]),
        ({"hits": "accuracy", "two": top2}, ["hits", "two"]),
        ([], []),
    ],
)
def test_metrics_as_people_write_them(parts, metrics, names):
    p = parts()
    (row,) = fit(p.model, p.optimizer, p.loader, epochs=1, metrics=metrics).epochs
    assert list(row)[3:-3] == names


@pytest.mark.parametrize("several", [False, True])
def test_callbacks_may_be_one(parts, several):
    p = parts()
    rows = []

    def noted(run, row):
        rows.append(row)

    assert fit(p.model, p.optimizer, p.loader, epochs=1, callbacks=[noted] if several else noted).epochs == rows


def test_no_callbacks(parts):
    p = parts()
    assert len(fit(p.model, p.optimizer, p.loader, epochs=1, callbacks=None).epochs) == 1


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("part", ["training", "validation"])
def test_error_for_float64_data_names_the_loader_and_the_mend(parts, part, capture):
    p = parts()
    wrong = Loader(p.images.astype(np.float64), p.labels, batch_size=8)
    options = {"validation": wrong} if part == "validation" else {}
    with pytest.raises(TypeError, match=r"x is float64, w is float32.*pass inputs.astype\(np.float32\), to the Loader"):
        fit(p.model, p.optimizer, p.loader if options else wrong, epochs=1, capture=capture, **options)


def test_error_for_float64_targets_names_them(parts):
    p = parts()
    loader = Loader(p.images, p.labels.astype(np.float64), batch_size=8)
    with pytest.raises(TypeError, match=r"The targets are float64.*pass targets.astype\(np.float32\), to the Loader"):
        fit(p.model, p.optimizer, loader, epochs=1, loss=lambda x, y: (x.mean(axis=1) - y).mean())


def test_error_for_pictures_leads_to_scale(rng):
    model = mg.nn.Sequential(mg.nn.Conv2d(3, 2, 3), mg.nn.GlobalAvgPool()).to("reference")
    loader = Loader(rng.integers(0, 256, (4, 6, 6, 3), dtype=np.uint8), np.zeros(4, int), batch_size=2)
    with pytest.raises(TypeError, match=r"transform=mg.data.Scale\(\)") as caught:
        fit(model, mg.optim.SGD(model.parameters(), 0.1), loader, epochs=1)
    assert "astype" not in str(caught.value)


def test_error_of_another_kind_stays_as_it_is(parts):
    p = parts()

    def wrong(outputs, targets):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="^mine$"):
        fit(p.model, p.optimizer, p.loader, steps=1, loss=wrong)


def test_optimizer_of_another_model_is_refused(parts):
    p, other = parts(), parts()
    with pytest.raises(ValueError, match="not the model's"):
        fit(p.model, other.optimizer, p.loader, steps=1)


def test_schedule_of_another_optimizer_is_refused(parts):
    p, other = parts(), parts()
    with pytest.raises(ValueError, match="another optimizer"):
        fit(p.model, p.optimizer, p.loader, steps=1, schedule=mg.optim.ExponentialSchedule(other.optimizer, 0.5))


def test_list_of_batches_is_no_loader(parts):
    p = parts()
    with pytest.raises(TypeError, match="has no position, batch"):
        fit(p.model, p.optimizer, p.validation, steps=1)


def test_batch_that_is_no_pair_is_refused(parts):
    p = parts()
    with pytest.raises(ValueError, match="pair"):
        fit(p.model, p.optimizer, Loader(p.images, p.labels, p.labels, batch_size=8), steps=1)


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
