"""Users' own ops through mg.Op: what they may do, and what is said when they do it wrong."""

import numpy as np
import pytest

import minigrad as mg

NUMPYS = "cpu", "reference"  # the devices whose arrays are NumPy's


def leaf(values, dtype=np.float32):
    return mg.tensor(np.array(values, dtype), requires_grad=True)


class Square(mg.Op):
    """The example of the documentation."""

    def forward(self, x):
        self.save(x)
        return x * x

    def backward(self, dy):
        (x,) = self.saved
        return (2 * x * dy,)


class Gives(mg.Op):
    """2 x, with a backward that returns what the test says."""

    def forward(self, *arrays, gradients, result=None):
        self.gradients = gradients
        return arrays[0] * 2 if result is None else result

    def backward(self, dy):
        return self.gradients


class Transposed(mg.Op):
    """A transposed view, in both directions."""

    def forward(self, x):
        return x.T

    def backward(self, dy):
        return (dy.T,)


@pytest.mark.parametrize("device", NUMPYS)
def test_square(device, rng):
    mg.testing.check_forward(Square.apply, np.square, rng.standard_normal((3, 4)), device=device)
    mg.testing.check_grads(Square.apply, rng.standard_normal((3, 4)), device=device)


@pytest.mark.parametrize("device", NUMPYS)
def test_numpys_scalars_stand_for_arrays_without_axes(device):
    x = mg.tensor(np.array(3.0), device=device, requires_grad=True)
    y = Square.apply(x)
    assert type(y.numpy()) is np.ndarray
    y.backward()
    assert type(x.grad.numpy()) is np.ndarray
    assert (y.item(), x.grad.item()) == (9, 6)


def test_op_on_the_kernels_of_its_device(device, rng):
    class Sigmoid(mg.Op):
        def forward(self, x):
            y = self.empty_like(x)
            self.kernels.elementwise.sigmoid_forward(x.reshape(-1), y.reshape(-1))
            self.save(y)
            return y

        def backward(self, dy):
            dx = self.empty(dy.shape, dy.dtype)
            self.kernels.elementwise.sigmoid_backward(dy.reshape(-1), self.saved[0].reshape(-1), dx.reshape(-1))
            return (dx,)

    mg.testing.check_grads(Sigmoid.apply, rng.standard_normal((5, 3)), device=device)


def test_input_left_out_is_none():
    class AddMaybe(mg.Op):
        def forward(self, a, b):
            return a + 1 if b is None else a + b

        def backward(self, dy):
            return dy, dy if self.needs[1] else None

    a = leaf([1.0])
    y = AddMaybe.apply(a, None)
    y.backward()
    assert y.item() == 2
    assert a.grad.item() == 1


def test_parameters_are_passed_by_name():
    class Scale(mg.Op):
        def forward(self, x, *, factor):
            self.factor = factor
            return x * factor

        def backward(self, dy):
            return (dy * self.factor,)

    x = leaf([1.0])
    Scale.apply(x, factor=np.float32(3)).backward()
    assert x.grad.item() == 3


def test_instance_is_the_node_on_the_tape():
    y = Square.apply(leaf([1.0]))
    assert isinstance(y._op, Square)
    assert "op=Square" in repr(y)


def test_transposed_views_are_made_contiguous(rng):
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((3, 5))
    x = leaf(a, np.float64)
    y = Transposed.apply(x * 1.0) @ mg.tensor(b)
    np.testing.assert_allclose(y.numpy(), a.T @ b, rtol=1e-12)
    weights = rng.standard_normal((4, 5))
    y.backward(weights)
    np.testing.assert_allclose(x.grad.numpy(), (weights @ b.T).T, rtol=1e-12)


def test_transposed_gradient_meets_a_matrix_product(rng):
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((4, 5))
    x, w = leaf(a, np.float64), mg.tensor(b)
    weights = rng.standard_normal((5, 3))
    Transposed.apply(x @ w).backward(weights)
    np.testing.assert_allclose(x.grad.numpy(), weights.T @ b.T, rtol=1e-12)


def test_gradient_for_an_input_without_need_is_ignored():
    x = leaf([1.0])
    Gives.apply(x, mg.tensor([1.0]), gradients=(np.ones(1, np.float32), "nonsense")).backward()
    assert x.grad.item() == 1


def test_none_for_a_needed_gradient_leaves_none():
    x = leaf([1.0])
    Gives.apply(x, gradients=(None,)).backward()
    assert x.grad is None


ONES = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        ((), "must return a tuple of 1 gradients, not 0 of them"),
        ((ONES, ONES), "must return a tuple of 1 gradients, not 2 of them"),
        (ONES, "must return a tuple of 1 gradients, not ndarray"),
        ([ONES], "must return a tuple of 1 gradients, not list"),
        (None, "must return a tuple of 1 gradients, not NoneType"),
        ((np.ones(3, np.float32),), r"gave float32\[3\] as the gradient of input 0, which is float32\[2\]"),
        ((np.ones((2, 1), np.float32),), r"gave float32\[2, 1\] as the gradient of input 0"),
        ((np.ones(2),), r"gave float64\[2\] as the gradient of input 0, which is float32\[2\]"),
        ((np.ones(2, ">f4"),), r"gave >f4\[2\] as the gradient of input 0"),
        ((np.ones(2, int),), r"gave int64\[2\] as the gradient of input 0"),
        ((np.float32(1),), r"gave float32\[\] as the gradient of input 0, which is float32\[2\]"),
        ((mg.tensor([1.0, 1.0]),), "gave Tensor as the gradient of input 0"),
        (([1.0, 1.0],), "gave list as the gradient of input 0"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("on_leaf", [True, False])
def test_wrong_gradients_are_refused(gradients, message, on_leaf):
    x = leaf([1.0, 2.0])
    y = Gives.apply(x if on_leaf else x * 1.0, gradients=gradients)
    with pytest.raises(TypeError, match=r"Gives.backward " + message):
        y.backward([1, 1])
    assert x.grad is None


@pytest.mark.parametrize("result", [3.0, [1.0], mg.tensor([1.0])], ids=lambda r: type(r).__name__)
def test_forward_must_return_an_array(result):
    with pytest.raises(
        TypeError, match=f"Gives.forward must return an array, or a tuple of arrays, not {type(result).__name__}"
    ):
        Gives.apply(leaf([1.0]), gradients=None, result=result)


def test_op_without_forward_or_backward_says_so():
    class Nothing(mg.Op):
        pass

    class Forward(mg.Op):
        def forward(self, x):
            return x + 1

    with pytest.raises(NotImplementedError, match="Nothing has no forward"):
        Nothing.apply(leaf([1.0]))
    with pytest.raises(NotImplementedError, match="Forward has no backward"):
        Forward.apply(leaf([1.0])).backward()


def test_op_without_tensors_is_refused():
    with pytest.raises(TypeError, match=r"Square.apply needs at least one tensor"):
        Square.apply(None)


class Scale(mg.Op):
    def forward(self, x, factor):
        self.factor = factor
        return x * factor

    def backward(self, dy):
        return (dy * self.factor,)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((leaf([1.0]), 0.5), r"input 1 is of type float, .* by name, Scale.apply\(..., factor=0.5\), as a parameter"),
        ((leaf([1.0]), np.float32(2)), r"input 1 is of type float32, .* Scale.apply\(..., factor=2\)"),
        ((np.ones(2, np.float32),), r"input 0 is of type ndarray, .* make it a tensor, by mg.tensor"),
        (([1.0],), r"input 0 is of type list, .* make it a tensor"),
        ((leaf([1.0]), "half"), r"input 1 is of type str, .* by name, Scale.apply\(..., factor=...\)"),
    ],
    ids=["number", "NumPy's number", "array", "list", "string"],
)
def test_inputs_that_are_no_tensors_are_refused(inputs, message):
    with pytest.raises(TypeError, match=r"Scale.apply: " + message):
        Scale.apply(*inputs)


def test_a_parameter_of_forward_goes_by_name():
    x = leaf([3.0])
    Scale.apply(x, factor=np.float32(0.5)).backward()
    assert x.grad.item() == 0.5


def test_error_in_forward_comes_out_and_leaves_the_tape_right():
    class Fails(mg.Op):
        def forward(self, x):
            raise ZeroDivisionError

    x = leaf([2.0])
    y = x * x
    with pytest.raises(ZeroDivisionError):
        Fails.apply(y)
    y.backward()
    assert x.grad.item() == 4


def test_needs_follow_no_grad():
    needs = []

    class Notes(mg.Op):
        def forward(self, x):
            needs.append(self.needs)
            return x + 1

    Notes.apply(leaf([1.0]))
    with mg.no_grad():
        Notes.apply(leaf([1.0]))
    assert needs == [(True,), (False,)]
