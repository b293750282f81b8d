import numpy as np
import pytest

import minigrad as mg
from minigrad.train import History


def made(seed=0):
    mg.manual_seed(seed)
    rng = np.random.default_rng(0)
    model = mg.nn.Sequential(
        mg.nn.Linear(6, 8), mg.nn.BatchNorm(8), mg.nn.Tanh(), mg.nn.Dropout(0.2), mg.nn.Linear(8, 3)
    )
    model.to("reference")
    optimizer = mg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    labels = rng.integers(0, 3, 64)
    x = rng.standard_normal((64, 6)).astype("f4") + 2 * np.eye(3, 6, dtype="f4")[labels]
    return model, optimizer, mg.data.Loader(x, labels, batch_size=16)


def trained(model, optimizer, loader):
    mg.train.fit(model, optimizer, loader, epochs=2, progress=False)
    return {name: t.numpy().copy() for name, t in model.state_dict().items()}


def test_learning_rate_is_found_where_the_loss_falls():
    model, optimizer, loader = made()
    found = mg.train.find_learning_rate(model, optimizer, loader, steps=40)
    assert 1e-4 < found.suggestion < 10
    assert len(found.rates) == len(found.losses) <= 40
    assert found.rates == sorted(found.rates)


def test_search_leaves_no_trace():
    untouched = trained(*made())
    model, optimizer, loader = made()
    model[0].eval()
    model[0].weight.grad = gradient = mg.tensor(np.ones((6, 8), "f4"), device="reference")
    mg.train.find_learning_rate(model, optimizer, loader, steps=20)
    assert model[0].weight.grad is gradient
    assert not model[0].training
    assert model[1].training
    assert (optimizer.lr, loader.position) == (pytest.approx(0.1), 0)
    model[0].weight.grad = None
    model.train()
    after = trained(model, optimizer, loader)
    assert all(np.array_equal(untouched[name], after[name]) for name in untouched)


def test_search_puts_all_back_after_an_error():
    model, optimizer, loader = made()
    before = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("mine")
        return mg.cross_entropy(outputs, targets)

    with pytest.raises(RuntimeError, match="mine"):
        mg.train.find_learning_rate(model, optimizer, loader, loss=loss)
    assert all(np.array_equal(t.numpy(), before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_search_needs_a_range(low, high):
    with pytest.raises(ValueError, match="0 < low < high"):
        mg.train.find_learning_rate(*made(), low=low, high=high)


def test_tensorboard_has_all_rows(tmp_path):
    events = pytest.importorskip("tensorboardX")
    model, optimizer, loader = made()
    watcher = mg.train.TensorBoard(tmp_path / "board")
    history = mg.train.fit(model, optimizer, loader, epochs=2, log_every=2, callbacks=watcher, progress=False)
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  # the format: length, crc, event, crc

    (file,) = (tmp_path / "board").iterdir()
    data, at, found = file.read_bytes(), 0, {}
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        at += 16 + length
    assert events
    for row in history.epochs:
        assert found["epochs/loss", row["step"]] == pytest.approx(row["loss"])
    assert len([1 for tag, _ in found if tag == "steps/accuracy"]) == len(history.steps) == 4


def test_plot_has_a_panel_for_each_entry():
    pytest.importorskip("matplotlib")
    rows = [{"epoch": i, "step": 4 * i, "loss": 1 / i, "accuracy": 0.5, "validation_loss": 2 / i} for i in (1, 2, 3)]
    figure = mg.train.plot(History(epochs=rows))
    loss, accuracy = figure.axes
    assert [line.get_label() for line in loss.lines] == ["loss", "validation loss"]
    assert list(loss.lines[0].get_xdata()) == [4, 8, 12]
    assert len(accuracy.lines) == 1


@pytest.mark.parametrize("history", [History(), History(epochs=[{"epoch": 1, "step": 1, "loss": 1.0}])])
def test_plot_says_what_there_is(history):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="there are"):
        mg.train.plot(history, ["none"])


def test_confusion_matrix_counts_every_sample():
    pytest.importorskip("sklearn")
    model, optimizer, loader = made()
    mg.train.fit(model, optimizer, loader, epochs=10, progress=False)
    x, labels = loader.arrays
    matrix = mg.train.confusion_matrix(model, (x, labels))
    predicted = mg.train.predict(model, x).argmax(axis=1)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (labels, predicted), 1)
    assert np.array_equal(matrix, expected)
    assert matrix.sum() == 64
    assert np.array_equal(mg.train.confusion_matrix(model, loader), expected)
