"""The comparison of convolutions: its reference, its launches, its ratios."""

import numpy as np
import pytest

import minigrad as mg
from benchmarks.sections import conv

SHAPE = (3, 5, 7, 9, 3)


@pytest.mark.parametrize("shape", [SHAPE, (2, 6, 5, 4, 5), (2, 16, 4, 8, 1)], ids=conv.name_of)
def test_what_is_expected_is_the_convolution_by_minigrads_reference(shape):
    arrays = [a.astype(float) for a in conv.arrays(shape)]
    x, w, dy = (mg.tensor(a, device="reference", requires_grad=True) for a in arrays)
    y = mg.conv2d(x, w, padding="same")
    y.backward(dy.detach())
    found = conv.expected_of(*arrays, images=1, channels=3)
    for got, expected in zip(found, (y.numpy()[:1], x.grad.numpy()[:1], w.grad.numpy()[..., :3]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_operations_are_those_of_the_matrix_product_a_convolution_is():
    assert conv.operations((50, 96, 32, 128, 3)) == 2 * (50 * 32 * 32) * (9 * 96) * 128


@pytest.mark.parametrize("part", range(3), ids=["y", "dx", "dw"])
def test_a_wrong_result_is_noticed(part):
    x, w, dy = conv.arrays(SHAPE)
    found = list(conv.expected_of(x, w, dy, images=3))
    assert conv.largest_error(found, x, w, dy) == 0
    found[part] = found[part][:, ::-1]  # of the weights: the taps of a row in reverse
    assert conv.largest_error(found, x, w, dy) > 100 * conv.TOLERANCE["cpu"]
    found[part] = np.full_like(found[part], np.nan)
    assert conv.largest_error(found, x, w, dy) == np.inf


def test_recorded_launches_compute_again_what_they_are_said_to():
    x, w, dy = conv.arrays(SHAPE)
    forward, backward, (_, dx, dw) = conv.recorded(x, w, dy)
    expected = dx.copy(), dw.copy()
    dx[:], dw[:] = 0, 0
    conv.launcher(forward)()
    assert not dx.any()
    conv.launcher(backward)()
    np.testing.assert_array_equal(dx, expected[0])
    np.testing.assert_array_equal(dw, expected[1])


def test_only_the_gradient_that_is_wanted_is_recorded():
    x, w, dy = conv.arrays(SHAPE)
    _, both, _ = conv.recorded(x, w, dy)
    _, of_x, (_, dx, no_dw) = conv.recorded(x, w, dy, (True, False))
    _, of_w, (_, no_dx, dw) = conv.recorded(x, w, dy, (False, True))
    assert no_dx is None
    assert no_dw is None
    assert (dx.shape, dw.shape) == (x.shape, w.shape)
    assert len(of_x) + len(of_w) == len(both)


def test_ratios_say_how_many_times_faster_minigrad_is():
    def seconds(ours, theirs):
        return {"minigrad": ours, conv.THEIRS: theirs}

    samples = {"a": seconds([1.0, 2.0, 1.0], [2.0, 4.0, 2.0]), "b": seconds([4.0, 4.0, 4.0], [2.0, None, 2.0])}
    found = conv.ratios(samples)[conv.THEIRS]
    assert found == {"shapes": {"a": 2.0, "b": 0.5}, "geometric_mean": pytest.approx(1.0), "lowest": 0.5}
    mean, lowest = conv.targets({"threads": 2, "device": "cpu", "ratios": {"forward": {conv.THEIRS: found}}})
    assert mean["measured"] == pytest.approx(1.0)
    assert (lowest["measured"], lowest["target"], lowest["reached"]) == (0.5, 0.85, False)
