import csv
import json
import math

import pytest

import minigrad as mg
from minigrad.train import Checkpoints, EarlyStop, History, HistoryFile, fit


class FakeRun:
    """What EarlyStop needs of a run."""

    stopped = None

    def stop(self, reason):
        self.stopped = reason


def epochs_until_stop(callback, values, name="validation_loss"):
    run = FakeRun()
    for count, value in enumerate(values, 1):
        callback.on_epoch_end(run, {name: value})
        if run.stopped:
            return count
    return None


@pytest.mark.parametrize(
    ("values", "stops"),
    [
        ([5, 4, 3, 2, 1], None),
        ([5, 5, 5, 1], 3),
        ([5, 6, 4, 6, 6], 5),
        ([5, math.nan, math.nan, 1], 3),
        ([math.nan, math.nan, 1], 2),
    ],
)
def test_early_stop_counts_epochs_without_improvement(values, stops):
    assert epochs_until_stop(EarlyStop(2), values) == stops


def test_early_stop_asks_for_more_than_min_delta():
    assert epochs_until_stop(EarlyStop(2, min_delta=0.5), [5, 4.6, 4.5, 4.4]) == 3


def test_early_stop_takes_accuracies_as_better_when_larger():
    callback = EarlyStop(1, "validation_accuracy")
    assert epochs_until_stop(callback, [0.1, 0.2, 0.3, 0.3], "validation_accuracy") == 4


def test_early_stop_goes_the_way_it_is_told():
    assert epochs_until_stop(EarlyStop(1, "gain", mode="max"), [1, 2, 2], "gain") == 3


def test_early_stop_without_the_entry_says_what_there_is():
    with pytest.raises(ValueError, match="no entry 'validation_loss'.*there are loss"):
        EarlyStop(1).on_epoch_end(FakeRun(), {"loss": 1.0})


@pytest.mark.parametrize("options", [{"patience": 0}, {"patience": 1, "min_delta": -1}, {"patience": 1, "mode": "up"}])
def test_early_stop_refuses_settings_that_make_no_sense(options):
    with pytest.raises(ValueError, match="patience|min_delta|mode"):
        EarlyStop(**options)


@pytest.mark.parametrize(
    ("typed", "meant", "best"),
    [("val_loss", "validation_loss", min), ("val_acc", "validation_accuracy", max), ("acc", "accuracy", max)],
)
def test_entries_may_be_called_as_elsewhere(parts, tmp_path, typed, meant, best):
    p = parts()
    stop, checkpoints = EarlyStop(9, typed), Checkpoints(tmp_path, best=typed)
    history = fit(
        p.model, p.optimizer, p.loader, epochs=3, validation=p.validation, callbacks=stop, checkpoint=checkpoints
    )
    assert history.column(typed) == history.column(meant)
    assert len(history.column(meant)) == 3
    assert stop.best.value == checkpoints.best.value == history.best(typed)[meant] == best(history.column(meant))


def test_entry_that_a_callback_before_adds_may_be_watched(parts):
    p = parts()

    def adds(run, row):
        row["gain"] = 1.0

    history = fit(p.model, p.optimizer, p.loader, epochs=9, callbacks=[adds, EarlyStop(2, "gain")])
    assert "gain has not improved" in history.stopped


def test_early_stop_ends_the_training_and_says_why(parts):
    p = parts()
    history = fit(
        p.model, p.optimizer, p.loader, epochs=9, metrics={"still": lambda outputs, targets: 1.0},
        callbacks=[EarlyStop(2, "still")],
    )  # fmt: skip
    assert len(history.epochs) == 3
    assert "still has not improved on 1.0 for 2 epochs" in history.stopped


def test_early_stop_goes_on_counting_after_a_resume(parts, tmp_path):
    def run(epochs, **options):
        p = parts()
        return fit(
            p.model, p.optimizer, p.loader, epochs=epochs, metrics={"still": lambda outputs, targets: 1.0},
            callbacks=[EarlyStop(4, "still")], checkpoint=tmp_path, **options,
        )  # fmt: skip

    assert run(3).stopped is None
    assert len(run(9, resume=True).epochs) == 5
    assert len(run(9, resume=True).epochs) == 5  # stopped is stopped


def test_hooks_are_called_in_order(parts):
    p = parts()
    calls = []

    class Noted:
        def __getattr__(self, name):
            if not name.startswith("on_"):
                raise AttributeError(name)
            return lambda run, row=None: calls.append((name, run.step))

    fit(p.model, p.optimizer, p.loader, steps=8, callbacks=[Noted()], log_every=4)
    steps = [("on_step", n) for n in range(1, 9)]
    assert calls == [
        ("on_start", 0), *steps[:4], ("on_log", 4), *steps[4:7], ("on_epoch_end", 7), steps[7],
        ("on_log", 8), ("on_epoch_end", 8), ("on_end", 8),
    ]  # fmt: skip


def test_on_end_is_called_after_an_error(parts):
    p = parts()
    ended = []

    class Fails:
        def on_step(self, run):
            raise KeyError("mine")

        def on_end(self, run):
            ended.append(run.step)

    with pytest.raises(KeyError, match="mine"):
        fit(p.model, p.optimizer, p.loader, steps=8, callbacks=[Fails()])
    assert ended == [1]


def test_function_is_called_at_the_end_of_each_epoch(parts):
    p = parts()
    steps = []
    fit(p.model, p.optimizer, p.loader, epochs=3, callbacks=[lambda run, row: steps.append((run.step, row["step"]))])
    assert steps == [(7, 7), (14, 14), (21, 21)]


def test_callback_stops_in_the_middle_of_an_epoch(parts):
    p = parts()

    class Stop:
        def on_step(self, run):
            if run.step == 10:
                run.stop("enough")

    history = fit(p.model, p.optimizer, p.loader, epochs=5, callbacks=[Stop()])
    assert [row["step"] for row in history.epochs] == [7, 10]
    assert history.stopped == "enough"


def test_run_tells_callbacks_where_it_is(parts):
    p = parts()
    seen = []

    class Look:
        def on_step(self, run):
            seen.append((run.step, run.epoch, run.target, run.loss > 0, run.validate()["loss"] > 0))

    fit(p.model, p.optimizer, p.loader, steps=8, callbacks=[Look()], validation=p.validation)
    assert seen[0] == (1, 1, 8, True, True)
    assert seen[6][1] == 1
    assert seen[7] == (8, 2, 8, True, True)


def read_csv(path):
    with open(path, newline="") as file:
        return [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]


def filled(rows):
    """The rows without entries that are empty, which a CSV file has in every column."""
    return [{k: v for k, v in row.items() if v is not None} for row in rows]


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("name", "read"), [("h.csv", read_csv), ("h.jsonl", read_jsonl)])
@pytest.mark.parametrize("rows", ["epochs", "steps"])
def test_history_file_has_the_rows(parts, tmp_path, name, read, rows):
    p = parts()
    path = tmp_path / "runs" / name
    history = fit(
        p.model, p.optimizer, p.loader, epochs=2, validation=p.validation, validate_every=4, log_every=2,
        callbacks=[HistoryFile(path, rows)],
    )  # fmt: skip
    assert filled(read(path)) == filled(history.rows(rows))


@pytest.mark.parametrize(("name", "read"), [("h.csv", read_csv), ("h.jsonl", read_jsonl)])
@pytest.mark.parametrize("crash", [3, 7, 8, 13])
def test_resumed_history_file_has_each_row_once(parts, tmp_path, name, read, crash):
    path = tmp_path / name

    class Crash:
        def on_step(self, run):
            if run.step == crash:
                raise KeyError

    def run(callbacks, **options):
        p = parts()
        checkpoints = Checkpoints(tmp_path, every_steps=3)
        return fit(
            p.model, p.optimizer, p.loader, epochs=3, log_every=1, checkpoint=checkpoints,
            callbacks=[HistoryFile(path, "steps"), *callbacks], **options,
        )  # fmt: skip

    with pytest.raises(KeyError):
        run([Crash()])
    with open(path, "a") as file:
        file.write('{"torn')  # as a crash of the machine may leave it
    history = run([], resume=True)
    assert [row["step"] for row in read(path)] == list(range(1, 22))
    assert filled(read(path)) == filled(history.steps)


def test_history_file_is_begun_anew_by_another_run(parts, tmp_path):
    for _ in range(2):
        p = parts()
        fit(p.model, p.optimizer, p.loader, epochs=1, callbacks=[HistoryFile(tmp_path / "h.csv")])
    assert len(read_csv(tmp_path / "h.csv")) == 1


def test_jsonl_has_null_for_nan(parts, tmp_path):
    p = parts()
    callbacks = [HistoryFile(tmp_path / "h.jsonl")]
    fit(p.model, p.optimizer, p.loader, steps=1, metrics={"x": lambda *_: math.nan}, callbacks=callbacks)
    (row,) = read_jsonl(tmp_path / "h.jsonl")
    assert row["x"] is None


@pytest.mark.parametrize("arguments", [("h.txt",), ("h.csv", "rows")])
def test_history_file_refuses_other_names(arguments):
    with pytest.raises(ValueError, match=r"\.csv or \.jsonl|'epochs' or 'steps'"):
        HistoryFile(*arguments)


@pytest.mark.parametrize("options", [{"every_epochs": 0}, {"every_steps": 0}, {"mode": "up"}])
def test_checkpoints_refuse_settings_that_make_no_sense(tmp_path, options):
    with pytest.raises(ValueError, match="every_epochs|mode"):
        Checkpoints(tmp_path, **options)


def test_best_row_of_a_history():
    rows = [{"loss": 3.0, "accuracy": 0.1}, {"loss": math.nan, "accuracy": 0.3}, {"loss": 2.0, "accuracy": 0.2}]
    history = History(epochs=rows)
    assert history.best("accuracy") is rows[1]
    assert history.best("loss") is rows[2]
    assert history.best("loss", mode="max") is rows[0]
    assert history.column("accuracy") == [0.1, 0.3, 0.2]
    with pytest.raises(ValueError, match="there are loss, accuracy"):
        history.best("validation_loss")


def test_training_modules_are_imported_when_first_used():
    assert mg.train.EarlyStop is EarlyStop
