"""mg.elementwise: a scalar formula of a user's own as an op on every device."""

import pickle

import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import check_forward, check_grads


def chain(a, x, b):
    return a * x * mg.tanh(b + x)


def np_chain(a, x, b):
    return a * x * np.tanh(b + x)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4), (3, 4)), ((), (3, 4), (4,)), ((2, 1, 3), (4, 1), (1,))])
def test_formula_broadcasts(shapes, device, rng):
    inputs = [rng.standard_normal(shape) for shape in shapes]
    check_forward(mg.elementwise(chain), np_chain, *inputs, device=device)
    check_grads(mg.elementwise(chain), *inputs, device=device)


def test_numbers_take_the_dtype_of_tensors(device, rng):
    x = rng.standard_normal(9).astype(np.float32)
    y = mg.elementwise(chain)(2, mg.tensor(x, device=device), np.float64(0.5))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), np_chain(2, x, 0.5), rtol=2e-6, atol=1e-6)


def test_decorator_keeps_name_and_words():
    @mg.elementwise
    def swish(x, beta=1.0):
        """x sigmoid(beta x)."""
        return x * mg.sigmoid(beta * x)

    @mg.elementwise(df=lambda x: 7.0, name="seven")
    def slope(x):
        return x

    assert swish.__name__ == "swish"
    assert swish.__doc__ == "x sigmoid(beta x)."
    assert repr(swish).startswith("<elementwise swish: y = x sigmoid(beta x);")
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    np.testing.assert_allclose(swish(x).numpy(), swish(x, beta=1).numpy())
    assert type(swish(x)._op).__name__ == "Swish"
    slope(x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [7, 7])
    assert slope.__name__ == "seven"


def test_one_kernel_does_all_of_it_and_gradients_are_one_more(monkeypatch, rng):
    step = mg.capture(lambda a, x, b: run(a, x, b))
    op = mg.elementwise(chain)
    leaves = [mg.tensor(rng.standard_normal(20), requires_grad=True) for _ in range(3)]

    def run(a, x, b):
        y = op(*leaves)
        y.backward(x)
        return y

    arrays = [rng.standard_normal(20) for _ in range(3)]
    step(*arrays)
    kernels = [launch.kernel for launch in step.plan.launches]
    assert kernels == ["pointwise.evaluate"] * 2


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, True), (False, False, True)])
def test_only_gradients_that_are_needed_are_computed(needed, device, rng):
    tensors = [mg.tensor(rng.standard_normal(5), device=device, requires_grad=n) for n in needed]
    y = mg.elementwise(chain)(*tensors)
    assert y._op.needs == needed
    y.backward(np.ones(5))
    for t, n in zip(tensors, needed, strict=True):
        assert (t.grad is not None) == n


def test_what_the_gradient_does_not_read_is_not_kept():
    a, b = mg.tensor([1.0], requires_grad=True), mg.tensor([2.0], requires_grad=True)
    y = mg.elementwise(lambda a, b: 3 * a + mg.exp(b))(a, b)
    assert y._op.saved[0] is None
    assert y._op.saved[1] is not None


def test_inputs_changed_in_place_before_backward_are_an_error():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    y = mg.elementwise(lambda x: x * x)(x)
    with mg.no_grad():
        x += 1.0
    with pytest.raises(RuntimeError, match="Elementwise saved its input 0"):
        y.sum().backward()


def test_captured_steps_with_formulas_made_outside_and_inside(rng):
    outside = mg.elementwise(chain)

    def step(a, x, b):
        inside = mg.elementwise(lambda u: u * u + 1)
        return inside(outside(a, x, b)).sum()

    captured = mg.capture(step)
    for _ in range(3):
        arrays = [rng.standard_normal((4, 5)).astype(np.float32) for _ in range(3)]
        assert captured(*arrays).item() == step(*[mg.tensor(a) for a in arrays]).item()


def test_threads_do_not_change_a_bit(set_threads, rng):
    x = rng.standard_normal(200_001).astype(np.float32)
    results = []
    for count in (1, min(2, mg.get_num_threads())):
        set_threads(count)
        t = mg.tensor(x, requires_grad=True)
        y = mg.elementwise(lambda x: mg.gelu(x) * mg.exp(-x * x))(t)
        y.sum().backward()
        results.append((y.numpy().tobytes(), t.grad.numpy().tobytes()))
    assert results[0] == results[1]


def test_formula_has_the_bits_of_its_operations_one_by_one(rng):
    a, x, b = (mg.tensor(rng.standard_normal(1000).astype(np.float32)) for _ in range(3))
    np.testing.assert_array_equal(mg.elementwise(chain)(a, x, b).numpy(), chain(a, x, b).numpy())


def test_masks_are_arguments_that_say_bool(device):
    @mg.elementwise
    def kept(x, mask: bool, other=0.0):
        return mg.where(mask, x, other)

    x = mg.tensor([1.0, 2.0, 3.0], device=device, requires_grad=True)
    y = kept(x, x > 1.5)
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), [0, 2, 3])
    np.testing.assert_array_equal(x.grad.numpy(), [0, 1, 1])
    with pytest.raises(TypeError, match="kept: mask must be a bool tensor"):
        kept(x, x)


def test_conditions_are_bool_tensors_off_the_tape(device):
    x = mg.tensor([1.0, 2.0, 3.0], device=device, requires_grad=True)
    y = mg.elementwise(lambda x: (x > 1.5) & (x < 2.5))(x)
    assert not y.requires_grad
    np.testing.assert_array_equal(y.numpy(), [False, True, False], strict=True)


def test_wrong_inputs_are_refused(device):
    op = mg.elementwise(chain)
    x = mg.tensor([1.0, 2.0], device=device)
    for given, message in [
        ((1.0, 2.0, 3.0), "chain needs a Tensor, not float"),
        ((x, x), "chain takes a, x, b; it was given 2 by position"),
        ((x, x, mg.tensor([1.0], dtype="float64", device=device)), "dtypes differ, float32 and float64"),
        ((x, x, "b"), "chain: b is of type str; pass a Tensor"),
        ((x, x, mg.tensor([1], device=device)), "dtypes differ, float32 and int64"),
        ((mg.tensor([1], device=device), 1, 1), "needs a float32 or float64 tensor, not int64"),
    ]:
        with pytest.raises(TypeError, match=message):
            op(*given)
    with pytest.raises(ValueError, match="do not broadcast"):
        op(x, x, mg.tensor([1.0, 2.0, 3.0], device=device))


def test_too_many_axes_are_told():
    shapes = (2, 1) * 4, (1, 2) * 4
    with pytest.raises(ValueError, match="needs 8 nested loops here; at most 6"):
        mg.elementwise(lambda a, b: a * b)(*[mg.tensor(np.ones(shape)) for shape in shapes])


def test_ops_can_be_pickled():
    op = pickle.loads(pickle.dumps(mg.elementwise(chain)))
    x = mg.tensor([1.0, 2.0])
    np.testing.assert_array_equal(op(x, x, x).numpy(), mg.elementwise(chain)(x, x, x).numpy())
    assert pickle.loads(pickle.dumps(mg.leaky_relu))(mg.tensor([-1.0])).item() == pytest.approx(-0.01)


def test_inspect_draws_the_formula():
    x = mg.tensor([1.0], requires_grad=True)
    y = mg.elementwise(chain, name="chain")(x, x, x)
    drawn = str(mg.inspect.draw(y))
    assert "Chain" in drawn
    assert "y = a x tanh(b + x)" in drawn


def test_an_op_with_a_derivative_of_its_own_is_no_part_of_a_formula():
    straight = mg.elementwise(lambda x: mg.sign(x), df=lambda x: 1.0)
    with pytest.raises(TypeError, match="has a derivative of its own, df"):
        mg.elementwise(lambda x: straight(x) * x)
    again = pickle.loads(pickle.dumps(straight))
    with pytest.raises(TypeError, match="has a derivative of its own, df"):
        mg.elementwise(lambda x: again(x) * x)
    x = mg.tensor([-2.0, 0.5], device="reference", requires_grad=True)
    (straight(x) * x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [-3, 1.5])


def test_formulas_of_the_same_steps_are_shown_by_their_own_names():
    shown = [mg.elementwise(lambda w: w * w * w).formula, mg.elementwise(lambda q: q * q * q).formula]
    assert ["dw" in text and "q" not in text for text in shown] == [True, False]
    assert "dq" in shown[1]
    assert "w" not in shown[1]
