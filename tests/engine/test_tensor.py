import numpy as np
import pytest

import minigrad as mg


def leaf(values, dtype=np.float32):
    return mg.tensor(np.array(values, dtype), requires_grad=True)


ORDERED = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def test_description(device):
    t = mg.tensor(np.zeros((2, 3)), device=device)
    assert (t.shape, t.ndim, t.size, t.dtype, t.device) == ((2, 3), 2, 6, np.float64, device)
    assert (t.requires_grad, t.is_leaf, t.grad) == (False, True, None)
    assert len(t) == 2


def test_scalar_has_no_length():
    with pytest.raises(TypeError, match="no length"):
        len(mg.tensor(1.0))
    with pytest.raises(TypeError, match="no length"):
        list(mg.tensor(1.0))


def test_iteration_gives_differentiable_rows():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    first, second = x
    (first * 10.0 + second).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[10, 10], [1, 1]])


def test_python_numbers():
    assert float(mg.tensor([2.5])) == 2.5
    assert int(mg.tensor(2.9)) == 2
    assert [10, 20, 30][mg.tensor(1)] == 20
    assert mg.tensor(2.0).item() == 2.0
    assert type(mg.tensor([[2.5]]).item()) is float
    assert type(mg.tensor(3).item()) is int
    assert mg.tensor([[1, 2]]).tolist() == [[1, 2]]


def test_float_is_no_index():
    with pytest.raises(TypeError):
        [1, 2][mg.tensor(1.0)]


@pytest.mark.parametrize("value", [0.0, 1.0, True, False, 3])
def test_truth_of_one_element(value):
    assert bool(mg.tensor([value])) is bool(value)


def test_one_number_is_formatted_and_rounded_like_a_number():
    loss = mg.tensor(0.12345)
    assert f"{loss:.2f} {mg.tensor([[3]]):03d} {loss:>8.1e}" == "0.12 003  1.2e-01"
    assert round(loss, 2) == round(loss.item(), 2)
    assert round(mg.tensor([2.6])) == 3
    assert f"{loss}" == repr(loss)


def test_formatting_of_many_numbers_is_refused():
    with pytest.raises(TypeError, match=r"'.2f' formats one number, and this tensor has shape \(2,\)"):
        f"{mg.tensor([1.0, 2.0]):.2f}"
    with pytest.raises(ValueError, match="needs a tensor of one element"):
        round(mg.tensor([1.0, 2.0]))


@pytest.mark.parametrize("convert", [bool, float, int, mg.Tensor.item])
@pytest.mark.parametrize("shape", [(2,), (0,), (1, 2)])
def test_several_elements_are_no_number(convert, shape):
    with pytest.raises(ValueError, match="one element"):
        convert(mg.tensor(np.ones(shape)))


@pytest.mark.parametrize(
    ("t", "text"),
    [
        (mg.tensor([1.0, 2.5]), "tensor([1. , 2.5], dtype=float32)"),
        (mg.tensor(3), "tensor(3, dtype=int64)"),
        (mg.tensor([1.0], requires_grad=True), "tensor([1.], dtype=float32, requires_grad=True)"),
        (mg.tensor([1.0], device="reference"), "tensor([1.], dtype=float32, device='reference')"),
        (mg.tensor([1.0], requires_grad=True) + 1.0, "tensor([2.], dtype=float32, op=Add)"),
    ],
    ids=["floats", "integer", "leaf", "device", "result"],
)
def test_repr(t, text):
    assert repr(t) == text


def test_repr_of_a_large_tensor_is_short():
    assert len(repr(mg.tensor(np.zeros((1000, 1000))))) < 1000


def test_tensors_are_told_apart_by_identity_in_sets():
    a, b = mg.tensor([1.0]), mg.tensor([1.0])
    assert a == b
    assert len({a, b, a}) == 2


# Out of the tape


def test_numpy_shares_memory():
    t = mg.tensor([1.0, 2.0])
    t.numpy()[0] = 9
    assert t.numpy()[0] == 9
    assert t.data is t.numpy()


def test_asarray_shares_memory():
    t = mg.tensor([1.0, 2.0])
    assert np.asarray(t) is t.numpy()
    assert not np.shares_memory(np.array(t), t.numpy())


def test_asarray_converts():
    t = mg.tensor([1.0, 2.0])
    assert np.asarray(t, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        np.array(t, dtype=np.float64, copy=False)


def test_numpy_functions_take_tensors():
    assert np.sum(np.asarray(mg.tensor([1.0, 2.0]))) == 3
    np.testing.assert_allclose(mg.tensor([1.0, 2.0]), [1, 2])


def test_detach_shares_memory_off_the_tape():
    x = leaf([1.0, 2.0])
    y = (x * 2.0).detach()
    assert not y.requires_grad
    assert y.is_leaf
    assert np.shares_memory(x.detach().numpy(), x.numpy())


def test_copy_is_off_the_tape_and_elsewhere(device):
    x = mg.tensor([1.0, 2.0], device=device, requires_grad=True)
    y = x.copy()
    assert not y.requires_grad
    assert y.device == device
    assert not np.shares_memory(y.numpy(), x.numpy())
    np.testing.assert_array_equal(y.numpy(), [1, 2])


# to


def test_to_what_it_is_already_is_itself(device):
    x = mg.tensor([1.0], device=device, requires_grad=True)
    assert x.to(device) is x
    assert x.to("float32") is x
    assert x.to(np.float32) is x


def test_to_another_dtype_is_differentiable(device):
    x = mg.tensor([1.0, 2.0], device=device, requires_grad=True)
    y = x.to("float64")
    (y * y).sum().backward()
    assert y.dtype == np.float64
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad.numpy(), [2, 4])


def test_to_another_device_is_a_leaf_there():
    x = leaf([1.0, 2.0])
    y = x.to("reference")
    assert (y.device, y.requires_grad, y.is_leaf) == ("reference", True, True)
    assert not np.shares_memory(x.numpy(), y.numpy())


@pytest.mark.parametrize(
    ("x", "where", "error", "message"),
    [
        (leaf([1.0]) * 2.0, "reference", RuntimeError, "the tape does not cross devices"),
        (leaf([1.0]), "int64", TypeError, "requires a gradient cannot become int64"),
        (leaf([1.0]), "float16", TypeError, "float16 is not supported"),
        (leaf([1.0]), "complex64", TypeError, "complex64"),
        (leaf([1.0]), "nowhere", ValueError, "neither a device"),
        (leaf([1.0]), "cuda:1", RuntimeError, "CUDA"),
    ],
    ids=["result", "int", "half", "complex", "unknown", "cuda"],
)
def test_to_what_it_cannot_be(x, where, error, message):
    with pytest.raises(error, match=message):
        x.to(where)


def test_integers_become_floats_and_back():
    t = mg.tensor([1, 2, 300])
    assert t.to("float32").dtype == np.float32
    np.testing.assert_array_equal(t.to("float64").to("int64").numpy(), [1, 2, 300])


# data and grad


def test_new_data_of_the_same_kind():
    x = leaf([1.0, 2.0])
    given = np.array([3.0, 4.0])[::-1]
    x.data = given
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x.numpy(), [4, 3])
    assert not np.shares_memory(x.numpy(), given)


def test_data_in_place_keeps_the_memory():
    x = leaf([1.0, 2.0])
    memory = x.numpy()
    x.data -= 1
    assert x.numpy() is memory
    np.testing.assert_array_equal(memory, [0, 1])


@pytest.mark.parametrize("value", [np.ones(3), np.ones((2, 1)), 1.0, mg.tensor(np.ones(2))], ids=str)
def test_data_of_another_kind_is_refused(value):
    x = leaf([1.0, 2.0])
    with pytest.raises(ValueError, match=r"data must stay float32\[2\]"):
        x.data = value
    np.testing.assert_array_equal(x.numpy(), [1, 2])


def test_gradient_may_be_set():
    x = leaf([1.0, 2.0])
    given = mg.tensor([5.0, 6.0])
    x.grad = given
    assert x.grad is given
    x.grad = [7, 8]
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad.numpy(), [7, 8])
    x.grad = None
    assert x.grad is None


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.ones(3), ValueError),
        (np.ones((1, 2)), ValueError),
        (mg.tensor(np.ones(2)), ValueError),
        (np.ones(2, complex), TypeError),
        ("a", TypeError),
        (mg.tensor([1.0, 2.0], device="reference"), RuntimeError),
    ],
    ids=["length", "rank", "dtype", "complex", "text", "device"],
)
def test_gradient_of_another_kind_is_refused(value, error):
    x = leaf([1.0, 2.0])
    with pytest.raises(error):
        x.grad = value
    assert x.grad is None
