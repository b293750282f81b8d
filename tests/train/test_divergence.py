import pickle

import numpy as np
import pytest

import minigrad as mg
from minigrad.data import Loader
from minigrad.train import DivergedError, fit

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the reference kernels are plain NumPy, which warns


class Net(mg.nn.Module):
    """One layer, and a function of its result."""

    def __init__(self, function):
        self.layer = mg.nn.Linear(5, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.layer(x))


def diverge(parts, model, lr=0.1, **options):
    """The error that training ends with."""
    p = parts()
    model.to("reference")
    optimizer = mg.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    with pytest.raises(DivergedError) as error:
        fit(model, optimizer, p.loader, epochs=5, **options)
    return error.value


@pytest.mark.parametrize("capture", [True, False])
def test_op_of_the_forward_is_named(parts, capture):
    error = diverge(parts, Net(lambda x: mg.log(x - x - 1.0)), capture=capture)
    assert error.step == 1
    assert np.isnan(error.loss)
    assert "Log made a NaN" in error.cause
    assert __file__ in error.cause
    assert "layer.weight, layer.bias" in error.cause


def test_op_of_the_backward_is_named_though_the_loss_shows_it_a_step_later(parts):
    error = diverge(parts, Net(lambda x: mg.sqrt(x * 0.0) + x))
    assert error.step == 2
    assert "it began in step 1, where the backward of" in error.cause
    assert "made a NaN" in error.cause


def test_infinite_gradient_is_named(parts):
    p = parts()
    model = Net(lambda x: x * 1e-30 * 1e30 * 1e30).to("reference")  # backward multiplies the other way round
    loader = Loader(abs(p.images), p.labels, batch_size=8)
    with pytest.raises(DivergedError, match="the loss was finite, but not the gradient of layer.weight, layer.bias"):
        fit(model, mg.optim.SGD(model.parameters(), lr=0.1), loader, epochs=1, loss=lambda x, y: x.mean())


def test_overflowing_update_is_named(parts):
    model = mg.nn.Sequential(mg.nn.Linear(5, 3))
    error = diverge(parts, model, lr=3e38, loss=lambda x, y: (x * 100.0).mean())
    assert "the update made 0.weight" in error.cause
    assert np.isfinite(model[0].weight.numpy()).all()


def test_infinite_loss_is_named(parts):
    error = diverge(parts, Net(lambda x: mg.exp(x * 0.0 + 100.0)), loss=lambda x, y: x.mean())
    assert error.loss == np.inf
    assert "Exp, called at" in error.cause
    assert "made an infinity" in error.cause


def test_nan_in_the_batch_is_named(parts):
    p = parts()
    p.images[31, 2] = np.nan
    with pytest.raises(DivergedError, match="the batch's inputs held a NaN"):
        fit(p.model, p.optimizer, p.loader, epochs=1)


def test_learning_rate_too_high(parts):
    error = diverge(parts, mg.models.MLP(5, (6,), 3, batch_norm=False, activation="relu"), lr=1e25)
    assert error.step > 1
    assert "made" in error.cause


def test_step_counts_from_one_across_epochs(parts):
    p = parts()

    def transform(batch, epoch, step):
        images, labels = batch
        return (images * np.float32(np.inf) if step == 9 else images), labels

    loader = Loader(p.images, p.labels, batch_size=8, transform=transform)
    with pytest.raises(DivergedError) as error:
        fit(p.model, p.optimizer, loader, epochs=2)
    assert error.value.step == 10
    assert [row["step"] for row in error.value.history.epochs] == [7]


def test_history_so_far_comes_with_the_error(parts):
    rows = []
    error = diverge(
        parts, mg.nn.Sequential(mg.nn.Linear(5, 3)), lr=1e3, callbacks=[lambda run, row: rows.append(row)],
        loss=lambda x, y: (x * x * x * x).mean(),
    )  # fmt: skip
    assert error.history.epochs == rows


def test_steps_are_repeated_with_the_same_masks_and_learning_rates(parts):
    seen = []

    class Masked(mg.nn.Module):
        def __init__(self):
            self.layer, self.dropout = mg.nn.Linear(5, 3), mg.nn.Dropout(0.5)

        def forward(self, x):
            y = self.dropout(self.layer(x))
            seen.append(y.numpy().copy())
            return y if x.shape[0] == 8 else mg.log(y * 0.0 - 1.0)  # the seventh batch has two rows

    p = parts()
    model = Masked().to("reference")
    optimizer = mg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = mg.optim.ExponentialSchedule(optimizer, 0.5)
    with pytest.raises(DivergedError, match="Log made a NaN"):
        fit(model, optimizer, p.loader, epochs=1, capture=False, schedule=schedule, schedule_by="step")
    assert len(seen) == 14
    for first, again in zip(seen[:7], seen[7:], strict=True):
        np.testing.assert_array_equal(first, again)


def test_what_cannot_be_repeated_is_said(parts):
    p = parts()
    calls = []

    def transform(batch, epoch, step):
        calls.append(step)
        images, labels = batch
        return images * (np.float32(np.nan) if len(calls) == 3 else np.float32(1)), labels

    loader = Loader(p.images, p.labels, batch_size=8, transform=transform)
    with pytest.raises(DivergedError, match="did not show it again"):
        fit(p.model, p.optimizer, loader, epochs=1)


def test_without_diagnosis_only_the_step_is_told(parts):
    error = diverge(parts, Net(lambda x: mg.log(x - x - 1.0)), diagnose=False)
    assert error.step == 1
    assert "not looked for" in str(error)


def test_error_can_be_pickled_for_other_processes(parts):
    error = diverge(parts, Net(lambda x: mg.log(x - x - 1.0)))
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.step == 1


def test_checkpoint_before_stays(parts, tmp_path):
    p = parts()
    p.images[p.loader._rows(0, 0, 50)[45]] = np.nan  # in the sixth step
    with pytest.raises(DivergedError) as error:
        fit(p.model, p.optimizer, p.loader, epochs=2, checkpoint=mg.train.Checkpoints(tmp_path, every_steps=2))
    assert error.value.step == 6
    found = mg.checkpoint.load(tmp_path / "last.safetensors", model=p.model)
    assert found.loader["position"] == 4


def test_sweep_goes_on(parts):
    outcomes = {}
    for lr in (0.1, 1e30, 0.01):
        p = parts()
        optimizer = mg.optim.SGD(p.model.parameters(), lr=lr)
        try:
            fit(p.model, optimizer, p.loader, epochs=1, loss=lambda x, y: (x * x * x * x).mean())
            outcomes[lr] = "trained"
        except DivergedError:
            outcomes[lr] = "diverged"
    assert outcomes == {0.1: "trained", 1e30: "diverged", 0.01: "trained"}
