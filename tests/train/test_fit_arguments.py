"""What fit takes, in the forms that people write it, and what it refuses before anything is done."""

import inspect
import re

import numpy as np
import pytest
from rows import untimed

import minigrad as mg
from minigrad.data import Loader
from minigrad.train import accuracy, fit


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
