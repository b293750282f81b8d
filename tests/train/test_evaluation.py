import numpy as np
import pytest

import minigrad as mg
from minigrad.data import Loader
from minigrad.train import evaluate


def whole(p):
    """Loss and accuracy in one batch."""
    p.model.eval()
    with mg.no_grad():
        logits = p.model(mg.tensor(p.images, device="reference"))
        return {
            "loss": mg.cross_entropy(logits, p.labels).item(),
            "accuracy": float((logits.numpy().argmax(axis=1) == p.labels).mean()),
        }


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("size", [50, 20, 7])
def test_smaller_last_batch_counts_by_its_rows(net, size, capture):
    batches = [(net.images[i : i + size], net.labels[i : i + size]) for i in range(0, 50, size)]
    assert evaluate(net.model, batches, capture=capture) == pytest.approx(whole(net), rel=1e-6)


def test_loader_is_gone_through_once_and_stays_where_it_is(net):
    loader = Loader(net.images, net.labels, batch_size=20)
    loader.seek(2)
    assert evaluate(net.model, loader) == pytest.approx(whole(net), rel=1e-6)
    assert loader.position == 2


def test_training_flags_and_buffers_are_left_alone(net, arrays):
    net.model.layers[1].eval()
    net.model.layers[3].train()
    flags, before = [m.training for _, m in net.model.modules()], arrays(net)
    evaluate(net.model, net.validation)
    assert [m.training for _, m in net.model.modules()] == flags
    for name, array in arrays(net).items():
        np.testing.assert_array_equal(array, before[name])


def test_training_flags_are_put_back_after_an_error(net):
    with pytest.raises(ValueError, match="out of range"):
        evaluate(net.model, [(net.images, net.labels + 5)])
    assert all(m.training for _, m in net.model.modules())


def test_nothing_goes_on_the_tape(net):
    seen = []

    def loss(outputs, targets):
        seen.append(outputs.requires_grad)
        return mg.cross_entropy(outputs, targets)

    evaluate(net.model, net.validation, loss=loss, metrics={}, capture=False)
    assert seen == [False, False]


def test_no_batches_are_an_error(net):
    with pytest.raises(ValueError, match="no batches"):
        evaluate(net.model, [])


def test_batch_must_be_a_pair(net):
    with pytest.raises(ValueError, match="pair"):
        evaluate(net.model, [net.images])


def test_metrics_by_name(net):
    found = evaluate(net.model, net.validation, metrics={"rows": lambda outputs, targets: len(targets)})
    assert found["rows"] == pytest.approx((30 * 30 + 20 * 20) / 50)
    assert set(found) == {"loss", "rows"}


def test_nan_in_a_batch_is_seen(net):
    net.images[45] = np.nan
    assert np.isnan(evaluate(net.model, net.validation)["loss"])
