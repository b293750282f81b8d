"""Shapes, places and parts, against NumPy: values, gradients, captured steps, what is refused."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import check_forward, check_grads

ROWS = np.array([2, 0, 2])
MATRIX = np.array([[1, 0, 2], [0, 3, 1]])
CASES = {  # name: (ours, NumPy's, shapes)
    "expand_dims": (lambda x: mg.expand_dims(x, 1), lambda x: np.expand_dims(x, 1), [(3, 4)]),
    "expand_dims at both ends": (lambda x: mg.expand_dims(x, (0, -1)), lambda x: np.expand_dims(x, (0, -1)), [(3, 4)]),
    "squeeze": (mg.squeeze, np.squeeze, [(1, 3, 1)]),
    "squeeze one": (lambda x: x.squeeze(-1), lambda x: x.squeeze(-1), [(1, 3, 1)]),
    "flatten": (lambda x: x.flatten(), lambda x: x.flatten(), [(2, 3, 4)]),
    "flatten from one": (lambda x: mg.flatten(x, 1), lambda x: x.reshape(2, 12), [(2, 3, 4)]),
    "permute_dims": (lambda x: mg.permute_dims(x, (2, 0, 1)), lambda x: x.transpose(2, 0, 1), [(2, 3, 4)]),
    "moveaxis": (lambda x: mg.moveaxis(x, 0, -1), lambda x: np.moveaxis(x, 0, -1), [(2, 3, 4)]),
    "moveaxis of two": (lambda x: mg.moveaxis(x, (0, 1), (2, 0)), lambda x: np.moveaxis(x, (0, 1), (2, 0)), [(2, 3, 4)]),
    "broadcast_to": (lambda x: mg.broadcast_to(x, (2, 3, 4)), lambda x: np.broadcast_to(x, (2, 3, 4)), [(3, 1)]),
    "stack": (lambda *xs: mg.stack(xs), lambda *xs: np.stack(xs), [(3, 4)] * 3),
    "stack last": (lambda *xs: mg.stack(xs, -1), lambda *xs: np.stack(xs, -1), [(3, 4)] * 3),
    "split": (lambda x: mg.split(x, 2, 1)[1], lambda x: np.split(x, 2, 1)[1], [(3, 4)]),
    "split at": (lambda x: mg.split(x, [1, 3], 1)[1], lambda x: np.split(x, [1, 3], 1)[1], [(3, 4)]),
    "unstack": (lambda x: mg.unstack(x, 1)[2], lambda x: x[:, 2], [(3, 4)]),
    "flip": (mg.flip, np.flip, [(3, 4)]),
    "flip one": (lambda x: mg.flip(x, -1), lambda x: np.flip(x, -1), [(3, 4)]),
    "roll": (lambda x: mg.roll(x, 5), lambda x: np.roll(x, 5), [(3, 4)]),
    "roll one": (lambda x: mg.roll(x, -1, 1), lambda x: np.roll(x, -1, 1), [(3, 4)]),
    "roll two": (lambda x: mg.roll(x, (1, 2), (0, 1)), lambda x: np.roll(x, (1, 2), (0, 1)), [(3, 4)]),
    "pad": (lambda x: mg.pad(x, 2), lambda x: np.pad(x, 2), [(3, 4)]),
    "pad each": (
        lambda x: mg.pad(x, [(0, 1), (2, 0)], value=3.5),
        lambda x: np.pad(x, [(0, 1), (2, 0)], constant_values=3.5),
        [(3, 4)],
    ),
    "repeat": (lambda x: x.repeat(3, 1), lambda x: x.repeat(3, 1), [(3, 4)]),
    "repeat flat": (lambda x: x.repeat(2), lambda x: x.repeat(2), [(3, 4)]),
    "tile": (lambda x: mg.tile(x, (2, 3)), lambda x: np.tile(x, (2, 3)), [(3, 4)]),
    "tile further": (lambda x: mg.tile(x, (2, 1, 3)), lambda x: np.tile(x, (2, 1, 3)), [(3, 4)]),
    "tile many axes": (
        lambda x: mg.tile(x, (2, 1, 3, 2, 2)), lambda x: np.tile(x, (2, 1, 3, 2, 2)), [(1, 2, 1, 2, 2)],
    ),
    "split by a NumPy number": (
        lambda x: mg.split(x, np.int64(2), 1)[1], lambda x: np.split(x, np.int64(2), 1)[1], [(3, 4)],
    ),
    "split at NumPy's places": (
        lambda x: mg.split(x, np.array([1, 3]), 1)[1], lambda x: np.split(x, [1, 3], 1)[1], [(3, 4)],
    ),
    "tril": (mg.tril, np.tril, [(3, 4)]),
    "triu": (lambda x: mg.triu(x, 1), lambda x: np.triu(x, 1), [(2, 4, 3)]),
    "take": (lambda x: mg.take(x, ROWS, 0), lambda x: np.take(x, ROWS, 0), [(3, 4)]),
    "take columns": (lambda x: x.take(MATRIX, 1), lambda x: x.take(MATRIX, 1), [(2, 4, 3)]),
    "take from the end": (lambda x: mg.take(x, [-1, 0], -1), lambda x: np.take(x, [-1, 0], -1), [(3, 4)]),
    "take flat": (lambda x: x.take([5, 5, 1]), lambda x: x.take([5, 5, 1]), [(3, 4)]),
    "take_along_axis": (
        lambda x: mg.take_along_axis(x, MATRIX, 1), lambda x: np.take_along_axis(x, MATRIX, 1), [(2, 4)],
    ),
    "take_along_axis first": (
        lambda x: mg.take_along_axis(x, MATRIX, 0), lambda x: np.take_along_axis(x, MATRIX, 0), [(4, 3)],
    ),
    "at set": (lambda x, v: x.at[1:, ::2].set(v), lambda x, v: changed(x, np.s_[1:, ::2], v), [(3, 4), (2, 1)]),
    "at set one": (lambda x, v: x.at[1].set(v), lambda x, v: changed(x, 1, v), [(3, 4), (4,)]),
    "at add": (lambda x, v: x.at[:, -1].add(v), lambda x, v: changed(x, np.s_[:, -1], v, True), [(3, 4), (3,)]),
    "at add rows": (lambda x, v: x.at[ROWS].add(v), lambda x, v: changed(x, ROWS, v, True), [(3, 4), (4,)]),
    "at set rows": (lambda x, v: x.at[[2, 0]].set(v), lambda x, v: changed(x, [2, 0], v), [(3, 4), (2, 4)]),
    "at set mask": (
        lambda x, v: x.at[MATRIX > 0].set(v), lambda x, v: changed(x, MATRIX > 0, v), [(2, 3), ()],
    ),
}  # fmt: skip
BY_ARRAYS = {
    name for name in CASES if name in ("take", "take columns", "at add rows", "at set mask") or "along" in name
}
every_case = pytest.mark.parametrize("name", CASES)


def changed(x, index, v, added=False):
    y = x.copy()
    if added:
        np.add.at(y, index, v)
    else:
        y[index] = v
    return y


def inputs(name, rng):
    return [rng.standard_normal(shape) for shape in CASES[name][2]]


@every_case
def test_values(name, device, rng):
    ours, numpys, _ = CASES[name]
    sums = 1e-15 if name == "at add rows" else 0  # added up before they come to x
    check_forward(ours, numpys, *inputs(name, rng), device=device, rtol=sums, atol=sums)


@every_case
def test_gradients(name, device, rng):
    check_grads(CASES[name][0], *inputs(name, rng), device=device)


@every_case
def test_captured_steps(name, rng):
    ours, numpys, _ = CASES[name]
    step = mg.capture(lambda *tensors: ours(*tensors))
    if name in BY_ARRAYS:
        with pytest.raises(mg.CaptureError, match="a NumPy array .* is used inside a captured step"):
            step(*[x.astype(np.float32) for x in inputs(name, rng)])
        return
    for _ in range(3):
        arrays = [x.astype(np.float32) for x in inputs(name, rng)]
        np.testing.assert_array_equal(step(*arrays).numpy(), numpys(*arrays))


@every_case
def test_integers_stay_integers(name, device):
    ours, numpys, shapes = CASES[name]
    if "pad each" in name or name in ("at add", "at add rows"):
        return  # a fraction, and sums, of which integers have none here
    arrays = [np.arange(np.prod(shape, dtype=int)).reshape(shape) for shape in shapes]
    y = ours(*[mg.tensor(x, device=device) for x in arrays])
    np.testing.assert_array_equal(y.numpy(), numpys(*arrays), strict=True)


def test_names_of_pytorch():
    x = mg.tensor(np.arange(6.0).reshape(2, 3))
    assert mg.cat([x, x], 0).shape == (4, 3)
    assert mg.unsqueeze(x, 0).shape == x.unsqueeze(0).shape == (1, 2, 3)
    assert mg.permute(x, (1, 0)).shape == (3, 2)
    assert mg.clamp(x, 1, 2).numpy().max() == 2


def test_all_parts_are_one_op_on_the_tape():
    x = mg.tensor(np.arange(6.0), requires_grad=True)
    y = sum(mg.unstack(x * 1.0) + mg.split(x * 1.0, [2, 3])[1:2])
    assert [row.op for row in mg.inspect.table(y).rows].count("Split") == 2


@pytest.mark.parametrize("places", [[4, 2], [-2], [9], [-9, 3], [2, 2]], ids=str)
def test_places_are_numpys(places, device):
    x = np.arange(6.0)
    t = mg.tensor(x, device=device, requires_grad=True)
    parts = mg.split(t, places)
    for part, expected in zip(parts, np.split(x, places), strict=True):
        np.testing.assert_array_equal(part.numpy(), expected)
    sum(part.sum() for part in parts).backward()
    expected = sum(np.isin(x, part) * 1.0 for part in np.split(x, places))
    np.testing.assert_array_equal(t.grad.numpy(), expected)


def test_parts_of_a_split_share_the_gradient(device):
    x = mg.tensor(np.arange(6.0), device=device, requires_grad=True)
    a, _, c = mg.split(x, 3)
    (a * 1.0 + c * 3.0).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1, 1, 0, 0, 3, 3])
    assert len(mg.split(mg.tensor(np.ones((0, 2))), 3)) == 3


def test_tensors_choose_in_captured_steps(rng):
    def step(x, rows):
        return mg.take(x, rows, 1), mg.take_along_axis(x, mg.expand_dims(rows, 0), 1), mg.one_hot(rows, 4)

    captured = mg.capture(step)
    for _ in range(3):
        x, rows = rng.standard_normal((1, 4)).astype(np.float32), rng.integers(0, 4, 5)
        taken, along, ones = captured(x, rows)
        np.testing.assert_array_equal(taken.numpy(), x[:, rows])
        np.testing.assert_array_equal(along.numpy(), x[:, rows])
        np.testing.assert_array_equal(ones.numpy(), np.eye(4, dtype=np.float32)[rows])
    with pytest.raises(IndexError, match="0 to 3; they go from"):
        captured(x, np.full(5, 4))


def test_one_hot(device):
    labels = np.array([[0, 2], [1, 1]])
    y = mg.one_hot(mg.tensor(labels, device=device), 3)
    np.testing.assert_array_equal(y.numpy(), np.eye(3, dtype=np.float32)[labels], strict=True)
    np.testing.assert_array_equal(mg.one_hot([1], 2, dtype="int64").numpy(), np.array([[0, 1]]), strict=True)
    for bad in ([3], [-1]):
        with pytest.raises(IndexError, match="numbers must be 0 to 2; they go from"):
            mg.one_hot(bad, 3)
    with pytest.raises(IndexError, match="one_hot: indices must be integers, not float32"):
        mg.one_hot([0.5], 3)


def test_triangles_leave_no_nan_behind(device):
    x = mg.tensor([[1.0, np.nan], [np.inf, 2.0]], device=device, requires_grad=True)
    y = mg.tril(x)
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), [[1, 0], [np.inf, 2]])
    np.testing.assert_array_equal(x.grad.numpy(), [[1, 0], [1, 1]])


def test_numpy_does_not_lose_the_gradient_of_a_stack():
    y = mg.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match="use mg.stack, which is on the tape"):
        np.stack([y, y])
    mg.stack([y, y]).sum().backward()
    np.testing.assert_array_equal(y.grad.numpy(), [2, 2])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: mg.expand_dims(x, 4), ValueError, "axis 4 is out of range for 3"),
        (lambda x: mg.squeeze(x, 0), ValueError, r"axis 0 of shape \(2, 3\) has length 2, not 1"),
        (lambda x: mg.flatten(x, 1, 0), ValueError, "axis 1 comes after axis 0"),
        (lambda x: mg.moveaxis(x, (0, 1), 0), ValueError, "must be as many axes"),
        (lambda x: mg.broadcast_to(x, (2, 4)), ValueError, "do not broadcast"),
        (lambda x: mg.broadcast_to(x, (3,)), ValueError, r"shape \(2, 3\) cannot be repeated to \(3,\)"),
        (lambda x: mg.broadcast_to(x, (-1, 3)), ValueError, "lengths of a shape are 0 or more"),
        (lambda x: mg.stack([]), ValueError, "at least one tensor"),
        (lambda x: mg.stack([x, x[0]]), ValueError, r"tensor 1 has shape \(3,\), tensor 0 has \(2, 3\)"),
        (lambda x: mg.stack([x, np.ones(3)]), TypeError, "stack needs a Tensor, not ndarray"),
        (lambda x: mg.split(x, 2, 1), ValueError, r"axis 1 of shape \(2, 3\) cannot be cut into 2 equal parts"),
        (lambda x: mg.pad(x, -1), ValueError, "widths are 0 or more"),
        (lambda x: mg.pad(x, [(1, 1)] * 3), ValueError, r"a number, a pair, or 2 pairs for shape \(2, 3\)"),
        (lambda x: mg.pad(x, 0.5), TypeError, "widths must be integers"),
        (lambda x: mg.roll(x, (1, 2), (0,)), ValueError, "2 shifts for 1 axes"),
        (lambda x: mg.tril(x[0]), ValueError, r"tril needs matrices, not shape \(3,\)"),
        (lambda x: mg.take(x, [3], 1), IndexError, "out of bounds"),
        (lambda x: mg.take(x, [0.5], 1), IndexError, "take: indices must be integers, not float64"),
        (lambda x: mg.take_along_axis(x, [[3], [0]], 1), IndexError, "numbers must be 0 to 2"),
        (
            lambda x: mg.take_along_axis(x, [[0], [0], [0]], 1),
            ValueError,
            r"indices have shape \(3, 1\), x has \(2, 3\)",
        ),
        (lambda x: x.at[[0, 0]].set(1.0), ValueError, "a place is named twice"),
        (lambda x: x.at[0].set(np.ones(4, np.float32)), ValueError, "do not broadcast"),
        (lambda x: x.at[0].set(np.ones((2, 3), np.float32)), ValueError, r"shape \(2, 3\) does not fit into \(3,\)"),
        (lambda x: x.at[0].set(np.ones(3)), TypeError, "dtypes differ, float32 and float64"),
        (lambda x: mg.tensor([1]).at[0].set(np.nan), TypeError, "at: the value is nan, which int64 does not hold"),
        (
            lambda x: mg.tensor([1], dtype="uint8").at[0].set(-1),
            TypeError,
            "at: the value is -1, which uint8 does not hold",
        ),
        (lambda x: mg.pad(mg.tensor([1]), 1, value=0.5), TypeError, "pad: the value is 0.5, which int64 does not hold"),
        (lambda x: x.at[5].set(1.0), IndexError, "out of bounds"),
        (lambda x: x.at.set(1.0), TypeError, r"at needs an index: x.at\[index\].set\(value\)"),
        (lambda x: x.at.add(1.0), TypeError, "at needs an index"),
        (
            lambda x: mg.tensor([1, 2]).at[0].add(1),
            TypeError,
            r"at\[...\].add needs a float32 or float64 tensor, not int64",
        ),
        (lambda x: mg.tensor([1, 2]).at[[0, 0]].add(1), TypeError, "add needs a float32 or float64 tensor, not int64"),
        (lambda x: mg.split(x, 0), ValueError, "sections must be at least 1, not 0"),
        (lambda x: mg.split(x, 1.5), TypeError, "split: sections must be an integer, not 1.5"),
        (lambda x: mg.split(x, 1, (0, 1)), TypeError, r"axis must be one integer here, not \(0, 1\)"),
        (lambda x: mg.swapaxes(x, 0, (0, 1)), TypeError, "axis must be one integer here"),
        (lambda x: mg.concat([x, x], (0, 1)), TypeError, "axis must be one integer here"),
        (lambda x: mg.softmax(x, (0, 1)), TypeError, "axis must be one integer here"),
        (lambda x: mg.flip([1.0]), TypeError, "flip needs a Tensor, not list"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(mg.tensor(np.ones((2, 3), np.float32)))


def test_a_tuple_of_indices_takes_rows_not_axes(device):
    a = np.arange(16.0, dtype=np.float32).reshape(2, 2, 2, 2)
    x = mg.tensor(a, device=device)
    for indices, axis in (((0, 1), 0), ((1,), 0), ((0,), 1), ((1, 0), 2), ((3, 0), None)):
        np.testing.assert_array_equal(mg.take(x, indices, axis).numpy(), np.take(a, indices, axis))


@pytest.mark.parametrize("shift", [0, 2, 4, 1])
def test_what_is_rolled_is_a_copy_whatever_the_shift(device, shift):
    x = mg.tensor(np.array([1.0, 2.0], np.float32), device=device)
    y = mg.roll(x, shift, 0)
    y += 1.0
    np.testing.assert_array_equal(x.numpy(), [1, 2])
    z = mg.einsum("i->i", x)
    z += 1.0
    np.testing.assert_array_equal(x.numpy(), [1, 2])
