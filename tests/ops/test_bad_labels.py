"""Numbers of classes and rows that there are not: refused before any kernel runs and before anything is written."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.devices.base import Device

USES = {
    "cross_entropy": lambda x, labels: mg.cross_entropy(x, labels),
    "weights of the classes": lambda x, labels: mg.cross_entropy(x, labels, weight=np.ones(3, np.float32)),
    "smoothed labels": lambda x, labels: mg.cross_entropy(x, labels, label_smoothing=0.1),
    "labels that are ignored": lambda x, labels: mg.cross_entropy(x, labels, ignore_index=-100),
    "a loss for each": lambda x, labels: mg.cross_entropy(x, labels, reduction="none"),
    "nll_loss": lambda x, labels: mg.nll_loss(x, labels),
    "one_hot": lambda x, labels: mg.one_hot(labels, 3, device=x.device),
    "embedding": lambda x, labels: mg.embedding(labels, x),
    "take_along_axis": lambda x, labels: mg.take_along_axis(x, labels, 1),
    "rows": lambda x, labels: x[labels if isinstance(labels, mg.Tensor) else mg.tensor(labels, device=x.device)],
}
LABELS = {
    "one too many": np.array([0, 3]),
    "below 0": np.array([-1, 0]),
    "int8 below 0": np.array([0, -128], np.int8),
    "uint8": np.array([255, 0], np.uint8),
    "the largest": np.array([2, 2**63 - 1]),
    "the largest of all": np.array([2**64 - 1, 2], np.uint64),
}


@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("use", USES)
def test_what_is_out_of_range_is_refused_before_any_kernel_runs(use, labels, kind, device, monkeypatch):
    x = mg.tensor(np.zeros((3 if use in ("embedding", "rows") else 2, 3), np.float32), device=device)
    x.requires_grad = True
    shape = (2, 1) if use == "take_along_axis" else (2,)
    given = LABELS[labels].reshape(shape).copy()
    if kind == "tensor":
        given = mg.tensor(given, device=device)

    def refused(device):
        raise AssertionError("a kernel was asked for")

    monkeypatch.setattr(Device, "kernels", property(refused))
    with pytest.raises((ValueError, IndexError), match="out of range|there is no row|numbers must be 0 to"):
        USES[use](x, given)
    monkeypatch.undo()
    assert x.grad is None
    np.testing.assert_array_equal(np.asarray(given), LABELS[labels].reshape(shape))


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("loss", ["cross_entropy", "nll_loss"])
def test_a_step_with_a_bad_label_leaves_model_and_optimizer_as_they_are(loss, capture, device):
    """Running statistics, the counters of Dropout and the optimizer's state among them, where the batch shows it."""
    model = mg.nn.Sequential(mg.nn.Linear(4, 5), mg.nn.BatchNorm(5), mg.nn.Dropout(0.5), mg.nn.Linear(5, 3)).to(device)
    optimizer = mg.optim.Adam(model.parameters(), lr=0.1)
    function = mg.cross_entropy if loss == "cross_entropy" else lambda y, labels: mg.nll_loss(mg.log_softmax(y), labels)

    def step(x, labels):
        optimizer.zero_grad()
        value = function(model(x), labels)
        value.backward()
        optimizer.step()
        return value

    run = mg.capture(step, device=device) if capture else step
    x = np.ones((6, 4), np.float32)
    for _ in range(3):
        run(x if capture else mg.tensor(x, device=device), np.arange(6) % 3)
    names = [name for name in model.state_dict() if capture or ("running" not in name and "counter" not in name)]
    before = {name: model.state_dict()[name].numpy().copy() for name in names} | optimizer.state_dict()
    with pytest.raises(ValueError, match="label 7 in row 4 is out of range"):
        run(x if capture else mg.tensor(x, device=device), np.array([0, 1, 2, 0, 7, 1]))
    after = {name: model.state_dict()[name].numpy() for name in names} | optimizer.state_dict()
    for name, expected in before.items():
        np.testing.assert_array_equal(after[name], expected, err_msg=name)
