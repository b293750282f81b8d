"""The comparison of convolutions: its reference, its count of operations, its contenders, its ratios."""

import numpy as np
import pytest

import minigrad as mg
from benchmarks.comparison import conv

SHAPES = [(3, 5, 7, 9, 3), (2, 6, 5, 4, 5), (2, 16, 4, 8, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=conv.name_of)
def test_by_hand_is_the_convolution_of_minigrads_reference(shape):
    arrays = [a.astype(float) for a in conv.arrays(shape)]
    x, w, dy = (mg.tensor(a, device="reference", requires_grad=True) for a in arrays)
    y = mg.conv2d(x, w, padding="same")
    y.backward(dy.detach())
    by_hand = conv.by_hand(*arrays, images=1)
    for got, expected in zip(by_hand, (y.numpy()[:1], x.grad.numpy()[:1], w.grad.numpy()), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_operations_are_those_of_the_matrix_product_a_convolution_is():
    assert conv.floating_point_operations((50, 96, 32, 128, 3), "forward") == 2 * (50 * 32 * 32) * (9 * 96) * 128
    assert conv.floating_point_operations((2, 3, 4, 5, 1), "forward + backward") == 3 * 2 * (2 * 4 * 4) * 3 * 5


@pytest.mark.parametrize("contender", conv.CONTENDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=conv.name_of)
def test_contenders_compute_the_convolution_and_its_gradients(contender, shape):
    pytest.importorskip({"minigrad": "minigrad", "PyTorch": "torch", "JAX": "jax"}[contender.split()[0]])
    x, w, dy = conv.arrays(shape)
    calls, found = conv.CONTENDERS[contender](x, w, dy, mg.get_num_threads())
    assert calls.keys() == conv.PASSES.keys()
    assert conv.largest_error(found, x, w, dy) <= conv.TOLERANCE


@pytest.mark.parametrize("part", range(3), ids=["y", "dx", "dw"])
def test_a_wrong_result_is_noticed(part):
    x, w, dy = conv.arrays(SHAPES[0])
    found = list(conv.by_hand(x, w, dy, images=3))
    assert conv.largest_error(found, x, w, dy) == 0
    found[part] = found[part][:, ::-1]  # of the weights: the taps of a row in reverse
    assert conv.largest_error(found, x, w, dy) > 100 * conv.TOLERANCE
    found[part] = np.full_like(found[part], np.nan)
    assert conv.largest_error(found, x, w, dy) == np.inf


def test_recorded_launches_compute_again_what_they_are_said_to():
    x, w, dy = conv.arrays(SHAPES[0])
    forward, backward, (_, dx, dw) = conv.recorded(x, w, dy)
    expected = dx.copy(), dw.copy()
    dx[:], dw[:] = 0, 0
    conv.launcher(forward)()
    assert not dx.any()
    conv.launcher(backward)()
    np.testing.assert_array_equal(dx, expected[0])
    np.testing.assert_array_equal(dw, expected[1])


def test_only_the_gradient_that_is_wanted_is_recorded():
    x, w, dy = conv.arrays(SHAPES[0])
    _, both, _ = conv.recorded(x, w, dy)
    _, of_x, (_, dx, no_dw) = conv.recorded(x, w, dy, (True, False))
    _, of_w, (_, no_dx, dw) = conv.recorded(x, w, dy, (False, True))
    assert no_dx is None
    assert no_dw is None
    assert (dx.shape, dw.shape) == (x.shape, w.shape)
    assert len(of_x) + len(of_w) == len(both)


def seconds(ours, theirs):
    return {"forward": {"minigrad": ours, "PyTorch channels_last": theirs}}


def test_ratios_say_how_many_times_faster_minigrad_is():
    samples = {"a": seconds([1.0, 2.0, 1.0], [2.0, 4.0, 2.0]), "b": seconds([4.0, 4.0, 4.0], [2.0, None, 2.0])}
    found = conv.ratios(samples, "forward", "PyTorch channels_last")
    assert found == {"shapes": {"a": 2.0, "b": 0.5}, "geometric_mean": pytest.approx(1.0), "lowest": 0.5}
    mean, lowest = conv.targets({"threads": 2, "ratios": {"forward": {conv.THEIRS: found}}})
    assert mean["measured"] == pytest.approx(1.0)
    assert (lowest["measured"], lowest["target"], lowest["reached"]) == (0.5, 0.85, False)


def test_report_shows_rates_in_gflops():
    shape = (50, 96, 32, 128, 3)
    name, operations = conv.name_of(shape), conv.floating_point_operations(shape, "forward")
    times = {p: {"minigrad": [k * operations / 5e11], "JAX": [k * operations / 1e11]} for p, k in conv.PASSES.items()}
    result = {
        "threads": 2,
        "left_out": {},
        "operations": {name: {p: conv.floating_point_operations(shape, p) for p in conv.PASSES}},
        "seconds": {name: times},
        "ratios": {p: {"JAX": conv.ratios({name: times}, p, "JAX")} for p in conv.PASSES},
    }
    rows = [line.split() for line in conv.report(result).splitlines() if line.startswith(name)]
    assert [row[-3:] for row in rows] == [["500", "100", "5.00"]] * 2
