import numpy as np
import pytest

import minigrad as mg


class Square(mg.Op):
    formula = "y = x²;  dx = 2 x dy"

    def forward(self, x):
        self.save(x)
        return x * x

    def backward(self, dy):
        (x,) = self.saved
        return (2 * x * dy,)


class WrongSquare(Square):
    def backward(self, dy):
        (x,) = self.saved
        return (x * dy,)


def leaf(*shape, dtype="float64", low=-1.0, high=1.0, seed=0):
    values = np.random.default_rng(seed).uniform(low, high, shape)
    return mg.tensor(values, dtype, "reference", requires_grad=True)


def everything(dtype):
    """A loss through most ops, its leaves, and tensors used more than once."""
    a, b, g = leaf(4, 3, dtype=dtype), leaf(3, 5, dtype=dtype, seed=1), leaf(5, dtype=dtype, seed=2)
    running = np.zeros(5, dtype), np.ones(5, dtype)
    h = mg.batch_norm(mg.linear(a, b), g, None, *running, training=True)
    h = mg.dropout(mg.relu(h) + mg.tanh(h), 0.3, training=True, seed=5)
    peaks = h.max(axis=0)
    h = mg.concat([h[1:3], h[:2].transpose().transpose(), h[np.array([0, 0, 3])]], axis=0)
    h = mg.log_softmax(h * h / (mg.exp(h) + 2.0)) - mg.softmax(h, axis=0) * peaks
    h = (h * h + 1.0).sqrt().log() ** 2 @ b.reshape(5, 3)
    return mg.cross_entropy(h, [0, 1, 2, 0, 1, 2, 2]) + h.mean(), [a, b, g]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_are_those_of_backward_to_the_bit(dtype):
    with mg.inspect.record():
        loss, leaves = everything(dtype)
    steps = mg.inspect.steps(loss)
    for _ in steps:
        pass
    loss.backward()
    for t in leaves:
        np.testing.assert_array_equal(steps.gradients[t], t.grad)
    assert len(steps.gradients) == len(leaves)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_op_agrees_with_finite_differences(dtype):
    with mg.inspect.record():
        loss, _ = everything(dtype)
    for step in mg.inspect.steps(loss):
        assert step.passed
        assert step.ok, str(step)


def test_gradients_on_the_cpu_are_those_of_backward_to_the_bit(net):
    two = net(device="cpu")
    loss = two.loss()
    steps = mg.inspect.steps(loss)
    list(steps)
    loss.backward()
    for t in two.leaves.values():
        np.testing.assert_array_equal(steps.gradients[t], t.grad)


def test_no_grad_of_a_leaf_is_touched(net):
    two = net()
    before = {name: None for name in two.leaves}
    two.leaves["w1"].grad = before["w1"] = np.ones((2, 3), "float32")
    list(mg.inspect.steps(two.loss()))
    np.testing.assert_array_equal(two.leaves["w1"].grad, before["w1"])
    assert two.leaves["w2"].grad is None


def test_the_tape_can_be_stepped_through_again(net):
    loss = net().loss()
    first, second = list(mg.inspect.steps(loss)), list(mg.inspect.steps(loss))
    assert [step.number for step in first] == [6, 5, 4, 3, 2, 1]
    assert all((a.dy == b.dy).all() for a, b in zip(first, second, strict=True))


def test_a_wrong_backward_is_found_where_it_is():
    x = leaf(3)
    with mg.inspect.record():
        loss = mg.exp(WrongSquare.apply(mg.tanh(x))).sum()
    assert [(step.op, step.ok) for step in mg.inspect.steps(loss)] == [
        ("Sum", True), ("Exp", True), ("WrongSquare", False), ("Tanh", True),
    ]  # fmt: skip
    assert "DIFFERS" in "".join(map(str, mg.inspect.steps(loss)))


def test_a_gradient_of_zeros_is_found():
    class Zeros(Square):
        def backward(self, dy):
            return (np.zeros_like(dy),)

    with mg.inspect.record():
        loss = Zeros.apply(leaf(3)).sum()
    (check,) = [passed.check for step in mg.inspect.steps(loss) for passed in step.passed if step.op == "Zeros"]
    assert not check.ok
    assert check.error > 0.1


def test_terms_that_cancel_are_no_error():
    with mg.inspect.record():
        loss = mg.batch_norm(leaf(8, 3, dtype="float32"), None, None, None, None, training=True).sum()
    *_, last = mg.inspect.steps(loss)
    assert np.abs(last.passed[0].gradient).max() < 1e-6
    assert last.ok


@pytest.mark.parametrize(("op", "low"), [(mg.relu, -1e-7), (mg.log, 1e-9), (mg.sqrt, 1e-9)])
def test_the_step_stays_on_its_side_of_zero(op, low):
    with mg.inspect.record():
        loss = op(leaf(50, low=low, high=1e-7)).sum()
    assert all(step.ok for step in mg.inspect.steps(loss))


def test_inputs_of_zeros_are_moved_too():
    x = mg.tensor(np.zeros(3), device="reference", requires_grad=True)
    with mg.inspect.record():
        loss = WrongSquare.apply(x + 1.0).sum()
        loss = loss + mg.exp(x).sum()
    checks = {step.op: step.passed[0].check for step in mg.inspect.steps(loss)}
    assert checks["Exp"].numeric != 0


def test_running_statistics_are_not_updated_by_the_check():
    running = np.zeros(3), np.ones(3)
    with mg.inspect.record():
        loss = mg.batch_norm(leaf(4, 3), None, None, *running, training=True).sum()
    then = running[0].copy(), running[1].copy()
    list(mg.inspect.steps(loss))
    np.testing.assert_array_equal(running, then)


def test_without_record_there_is_no_check(net):
    steps = list(mg.inspect.steps(net().loss()))
    assert all(passed.check is None for step in steps for passed in step.passed)
    assert "not checked" in str(steps[0])


def test_a_step_says_what_arrives_and_what_it_passes_on(net):
    two = net()
    with mg.inspect.record():
        loss = two.loss()
    second = list(mg.inspect.steps(loss, names=two.leaves))[1]
    assert (second.index, second.number, second.op, second.shape) == (2, 5, "Add", (4, 2))
    assert [passed.to for passed in second.passed] == ["#4 MatMul", "b2"]
    np.testing.assert_allclose(second.passed[1].gradient, second.dy.sum(axis=0), rtol=1e-5)
    text = str(second)
    assert text.startswith("step 2: #5 Add    conftest.py:")
    assert "formula    y = a + b;  da = dy;  db = dy" in text
    assert text.count("checked  dx·v = ") == 2


def test_parts_of_a_gradient_are_counted():
    x = leaf(3)
    steps = list(mg.inspect.steps((x * x + x).sum(), names={"x": x}))
    assert [(passed.to, passed.part) for step in steps for passed in step.passed if passed.to == "x"] == [
        ("x", 1), ("x", 2), ("x", 3),
    ]  # fmt: skip


def test_shown_gradients_do_not_change_when_others_are_added():
    x = leaf(3)
    y = mg.exp(x)
    steps = list(mg.inspect.steps((y + y + y).sum()))
    for step in steps[1:3]:
        for passed in step.passed:
            np.testing.assert_array_equal(passed.gradient, np.ones(3))


def test_grad_weights_a_result_that_is_no_number():
    x = leaf(3)
    steps = mg.inspect.steps(mg.exp(x), np.array([1.0, 2.0, 3.0]))
    list(steps)
    np.testing.assert_allclose(steps.gradients[x], np.exp(x.numpy()) * [1, 2, 3], rtol=1e-12)


def test_without_grad_a_result_that_is_no_number_is_an_error():
    with pytest.raises(RuntimeError, match="needs a gradient of that shape"):
        mg.inspect.steps(mg.exp(leaf(3)))


def test_hooks_work_as_in_backward():
    x, w = leaf(3), leaf(3, seed=1)
    y = x * w
    y.register_hook(lambda grad: grad * 2.0)
    calls = []
    x.register_hook(lambda grad: calls.append(1) or grad * 3.0)
    loss = (y + x).sum()
    steps = mg.inspect.steps(loss)
    list(steps)
    assert len(calls) == 1
    loss.backward()
    np.testing.assert_array_equal(steps.gradients[x], x.grad)
    np.testing.assert_array_equal(steps.gradients[w], w.grad)


def test_a_saved_tensor_changed_in_place_is_an_error(net):
    two = net()
    loss = two.loss()
    with mg.no_grad():
        two.leaves["w2"] += 1.0
    with pytest.raises(RuntimeError, match="changed in place"):
        list(mg.inspect.steps(loss))


def test_inputs_are_recorded_as_they_were():
    x = leaf(3)
    with mg.inspect.record():
        loss = mg.exp(x).sum()
    with mg.no_grad():
        x += 1.0  # exp saves its result, so the tape is still good
    assert all(step.ok for step in mg.inspect.steps(loss))


def test_a_backward_that_returns_too_few_is_named():
    class Few(mg.Op):
        def forward(self, a, b):
            return a + b

        def backward(self, dy):
            return (dy,)

    with pytest.raises(TypeError, match=r"Few.backward must return a tuple of 2 gradients"):
        list(mg.inspect.steps(Few.apply(leaf(3), leaf(3)).sum()))


def test_recording_ends_with_the_block():
    x = leaf(3)
    with mg.inspect.record():
        mg.exp(x)
    y = mg.exp(x)
    assert y._op.recorded is None
    assert y._op.line == ""


def test_converting_dtypes_is_checked_in_float64():
    with mg.inspect.record():
        loss = mg.exp(leaf(3, dtype="float32")).to("float64").sum().to("float32")
    assert [step.ok for step in mg.inspect.steps(loss)] == [True] * 4


def test_each_of_several_results_has_its_gradient_and_is_checked():
    x = leaf(2, 4)
    with mg.inspect.record():
        a, _, c = mg.split(x, [1, 2], axis=1)
        loss = (a * c * c).sum()
    walk = mg.inspect.steps(loss, names={"x": x})
    *_, last = steps = list(walk)
    assert [part.to for part in steps[1].passed] == ["#2 Mul", "#1[2] Split"]
    assert [None if dy is None else dy.shape for dy in last.dy] == [(2, 1), None, (2, 2)]
    assert last.shape == ((2, 1), (2, 1), (2, 2))
    assert all(step.ok and step.passed[0].check is not None for step in steps)
    assert "arrives    [1] nothing" in str(last)
    loss.backward()
    assert walk.gradients[x].numpy().tobytes() == x.grad.numpy().tobytes()


def test_a_wrong_gradient_of_one_result_is_found():
    class Wrong(mg.Op):
        def forward(self, x):
            return 2 * x, 3 * x

        def backward(self, da, db):
            return (2 * da + 2 * db,)

    for used, ok in ((0, True), (1, False)):
        with mg.inspect.record():
            y = Wrong.apply(leaf(3))[used].sum()
        assert [step.ok for step in mg.inspect.steps(y)] == [True, ok]
