"""minigrad.array_api: what is there computes what NumPy's functions of the same names do."""

import inspect

import numpy as np
import pytest

import minigrad as mg
from minigrad import array_api as xp

UNARY = ["abs", "cos", "exp", "expm1", "isfinite", "isinf", "isnan", "log", "log1p", "negative", "positive"]
UNARY += ["reciprocal", "sign", "sin", "sqrt", "square", "tan", "tanh"]
BINARY = ["add", "subtract", "multiply", "divide", "pow", "maximum", "minimum"]
BINARY += ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"]
SPECIAL = [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan]
FLOATS = pytest.mark.parametrize("dtype", ["float32", "float64"])


def same(came, expected):
    """Values, shape and dtype."""
    assert isinstance(came, mg.Tensor)
    assert (came.shape, came.dtype) == (expected.shape, expected.dtype)
    exact = expected.dtype.kind != "f"
    np.testing.assert_allclose(came.numpy(), expected, rtol=0 if exact else 2e-6 if came.dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("name", UNARY)
@FLOATS
def test_unary(name, dtype, device, rng):
    for array in (1.5 + rng.random((3, 5)), np.array(2.0), np.zeros((0, 3)), np.array(SPECIAL)):
        with np.errstate(all="ignore"):
            expected = getattr(np, name)(array.astype(dtype))
        same(getattr(xp, name)(mg.tensor(array.astype(dtype), device=device)), np.asarray(expected))


@pytest.mark.parametrize("name", ["isfinite", "isinf", "isnan"])
@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_integers_are_finite(name, dtype, device):
    array = np.array([[0, 1]], dtype)
    same(getattr(xp, name)(mg.tensor(array, device=device)), getattr(np, name)(array))


@pytest.mark.parametrize("name", ["all", "any"])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
def test_numbers_hold_if_they_are_not_0(name, dtype, device):
    array = np.array([[0, 0], [0, 3], [4, 3]], dtype)
    same(getattr(xp, name)(mg.tensor(array, device=device), axis=1), getattr(np, name)(array, axis=1))


@pytest.mark.parametrize("name", BINARY)
@FLOATS
def test_binary(name, dtype, device, rng):
    shapes = [((3, 5), (3, 5)), ((3, 1), (5,)), ((), (2, 2)), ((0, 3), (1, 3))]
    for a, b in [(1.5 + rng.random(s), 1.5 + rng.random(t)) for s, t in shapes]:
        a, b = a.astype(dtype), b.astype(dtype)
        same(getattr(xp, name)(mg.tensor(a, device=device), mg.tensor(b, device=device)), getattr(np, name)(a, b))


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor", "logical_not"])
def test_logical(name, device):
    a, b = np.array([[True], [False]]), np.array([True, False])
    arrays = (a,) if name == "logical_not" else (a, b)
    same(getattr(xp, name)(*[mg.tensor(x, device=device) for x in arrays]), getattr(np, name)(*arrays))


@pytest.mark.parametrize("name", ["sum", "mean", "max"])
@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"axis": (0, -1)}, {"axis": 1, "keepdims": True}])
@FLOATS
def test_statistics(name, options, dtype, device, rng):
    array = rng.random((2, 3, 4)).astype(dtype)
    same(getattr(xp, name)(mg.tensor(array, device=device), **options), np.asarray(getattr(np, name)(array, **options)))


@pytest.mark.parametrize("options", [{}, {"axis": 1}, {"axis": -1}, {"axis": None}])
def test_concat_is_along_the_first_axis(options, device, rng):
    arrays = [rng.random((2, 2)).astype(np.float32) for _ in range(3)]
    expected = np.concatenate(arrays, **{"axis": 0, **options})
    same(xp.concat([mg.tensor(a, device=device) for a in arrays], **options), expected)


def test_elements_in_other_places(device, rng):
    array = rng.random((2, 3, 4)).astype(np.float32)
    t = mg.tensor(array, device=device)
    same(xp.permute_dims(t, (2, 0, 1)), array.transpose(2, 0, 1))
    same(xp.matrix_transpose(t), np.swapaxes(array, 1, 2))
    same(xp.reshape(t, (4, -1)), array.reshape(4, -1))
    same(xp.matmul(t, xp.matrix_transpose(t)), array @ np.swapaxes(array, 1, 2))
    same(xp.where(t > 0.5, t, xp.zeros_like(t)), np.where(array > 0.5, array, 0))
    same(xp.clip(t, 0.2, 0.6), np.clip(array, np.float32(0.2), np.float32(0.6)))
    same(t.mT, np.swapaxes(array, 1, 2))
    assert xp.clip(t) is t
    with pytest.raises(ValueError, match="two axes"):
        xp.matrix_transpose(t[0, 0])


def test_reshape_copies_when_asked():
    t = mg.tensor([1.0, 2.0])
    assert np.shares_memory(xp.reshape(t, (2, 1)).numpy(), t.numpy())
    assert not np.shares_memory(xp.reshape(t, (2, 1), copy=True).numpy(), t.numpy())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("zeros", [(2, 3)]),
        ("ones", [3]),
        ("full", [(2,), 7]),
        ("full", [(2,), 7.5]),
        ("full", [(2,), True]),
        ("arange", [5]),
        ("arange", [1, 7, 2]),
        ("arange", [0.0, 1.0, 0.25]),
        ("arange", [3, 0, -1]),
        ("linspace", [0.0, 1.0, 5]),
        ("eye", [3]),
        ("eye", [2, 4]),
    ],
)
@pytest.mark.parametrize("dtype", [None, "float64", "int32"])
def test_creation(name, arguments, dtype, device):
    expected = getattr(np, name)(*arguments)
    if (name, arguments[-1], dtype) == ("full", 7.5, "int32"):
        with pytest.raises(TypeError, match=r"int32 does not hold 7\.5"):
            xp.full(*arguments, dtype=dtype, device=device)
        return
    expected = expected.astype(dtype or (np.float32 if expected.dtype == np.float64 else expected.dtype))
    came = getattr(xp, name)(*arguments, dtype=dtype, device=device)
    assert came.device == device
    same(came, expected)


def test_creation_like_another(device):
    x = mg.tensor(np.ones((2, 3)), device=device)
    for name, value in (("zeros_like", 0), ("ones_like", 1), ("empty_like", 0)):
        t = getattr(xp, name)(x)
        assert t.device == device
        same(t, np.full((2, 3), value, np.float64))
    same(xp.full_like(x, 5, dtype=xp.int64), np.full((2, 3), 5))
    same(xp.eye(3, k=1), np.eye(3, k=1, dtype=np.float32))
    assert xp.empty((2, 2)).shape == (2, 2)


def test_asarray():
    assert xp.asarray(1.5).dtype == np.float32
    assert xp.asarray([1, 2]).dtype == np.int64
    assert xp.asarray([1, 2], dtype=xp.float64).dtype == np.float64
    array = np.array([1.0, 2.0])
    assert np.shares_memory(xp.asarray(array).numpy(), array)
    assert np.shares_memory(xp.asarray(array, copy=False).numpy(), array)
    assert not np.shares_memory(xp.asarray(array, copy=True).numpy(), array)
    t = mg.tensor([1.0], requires_grad=True)
    assert xp.asarray(t) is t
    assert xp.asarray(t, copy=True).requires_grad
    for value, dtype in (([1.0], None), (array, xp.float32), (array[::-1], None)):
        with pytest.raises((ValueError, BufferError), match="copy=False forbids"):
            xp.asarray(value, dtype=dtype, copy=False)


def test_astype():
    t = mg.tensor([1.5, 2.5])
    same(xp.astype(t, xp.int64), np.array([1, 2]))
    assert xp.astype(t, xp.float32, copy=False) is t
    assert not np.shares_memory(xp.astype(t, xp.float32).numpy(), t.numpy())
    assert xp.astype(t, xp.float32, device="reference").device == "reference"


def test_gradients_go_through():
    x = mg.tensor([[1.0, 2.0]], requires_grad=True)
    xp.sum(xp.multiply(xp.concat([x, xp.negative(x)]), 3.0) + xp.astype(x, xp.float32)).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[2, 2]])


def test_to_device():
    t = mg.tensor([1.0])
    assert t.to_device("cpu") is t
    assert t.to_device("reference").device == "reference"
    with pytest.raises(ValueError, match="unknown device"):
        t.to_device("float64")
    with pytest.raises(ValueError, match="stream of minigrad's own"):
        t.to_device("cpu", stream=1)


def test_namespace_of_a_tensor():
    t = mg.tensor([1.0])
    assert t.__array_namespace__() is xp
    assert t.__array_namespace__(api_version="2023.12") is xp
    with pytest.raises(ValueError, match="api_version may be"):
        t.__array_namespace__(api_version="2021.12")
    info = xp.__array_namespace_info__()
    assert info.default_dtypes() == {"real floating": np.float32, "integral": np.int64, "indexing": np.int64}
    assert set(info.dtypes(kind="real floating")) == {"float32", "float64"}
    assert set(info.dtypes(kind=("bool", "unsigned integer"))) == {"bool", "uint8", "uint16", "uint32", "uint64"}
    assert {"cpu", "reference"} <= set(info.devices())
    assert info.default_device() == "cpu"
    assert info.capabilities()["boolean indexing"]


def test_dtypes_do_not_mix():
    assert xp.result_type(mg.tensor([1.0]), xp.float32) == np.float32
    assert xp.result_type(2, xp.int8, True) == np.int8
    with pytest.raises(TypeError, match="do not mix: float32, float64"):
        xp.result_type(xp.float32, xp.float64)


def test_all_that_is_public_is_there_and_documented():
    assert len(set(xp.__all__)) == len(xp.__all__)
    for name in xp.__all__:
        value = getattr(xp, name)
        assert not inspect.isfunction(value) or value.__doc__, name


def test_functions_take_the_standards_arguments_by_position():
    """Of those that are here under another name or with other defaults, as the standard writes them."""
    assert str(inspect.signature(xp.concat).parameters["axis"]) == "axis: int | None = 0"
    for name in ("asarray", "astype", "concat", "reshape", "matrix_transpose"):
        first = next(iter(inspect.signature(getattr(xp, name)).parameters.values()))
        assert first.kind is inspect.Parameter.POSITIONAL_ONLY


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        *[(name, [], options) for name in ("min", "prod", "all", "any") for options in ({}, {"axis": 1}, {"keepdims": True})],
        *[(name, [], {"axis": 1, "keepdims": keepdims}) for name in ("argmax", "argmin") for keepdims in (False, True)],
        *[(name, [], {"axis": 0, "correction": 1.0}) for name in ("std", "var")],
        *[(name, [], options) for name in ("sum", "prod") for options in ({}, {"axis": (0, 1)}, {"dtype": np.float64})],
        *[("diff", [], {"axis": axis, "n": n}) for axis in (0, -1) for n in (0, 1, 2, 5)],
        ("broadcast_to", [(2, 3, 4)], {}),
        ("expand_dims", [], {"axis": 1}),
        ("flip", [], {"axis": 1}),
        ("moveaxis", [0, 1], {}),
        ("permute_dims", [(1, 0)], {}),
        ("repeat", [2], {"axis": 1}),
        ("roll", [1], {"axis": 0}),
        ("take", [[2, 0]], {"axis": 0}),
        ("tile", [(2, 1)], {}),
        ("tril", [], {"k": -1}),
        ("triu", [], {"k": 1}),
    ],
)  # fmt: skip
def test_what_is_minigrads_own_under_the_standards_name(name, arguments, options, device, rng):
    a = rng.standard_normal((3, 4)).astype(np.float32)
    if name in ("all", "any"):
        a = a > -1
    given = dict(options)
    if "correction" in given:
        given["ddof"] = given.pop("correction")
    expected = getattr(np, name)(a, *arguments, **given)
    came = getattr(xp, name)(mg.tensor(a, device=device), *arguments, **options).numpy()
    assert (came.shape, came.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(came, expected, rtol=1e-5)


def test_differences_of_what_is_joined_before(device, rng):
    a = rng.standard_normal((2, 3)).astype(np.float32)
    x = mg.tensor(a, device=device)
    same(xp.diff(x, axis=0, prepend=x, append=x[:1]), np.diff(a, axis=0, prepend=a, append=a[:1]))


@pytest.mark.parametrize("dtype", [None, np.float64])
def test_cumulative_sums(dtype, device, rng):
    a = rng.standard_normal((2, 3)).astype(np.float32)
    x = mg.tensor(a, device=device)
    same(xp.cumulative_sum(x, axis=-1, dtype=dtype), np.cumsum(a, axis=-1, dtype=dtype))
    sums = np.pad(np.cumsum(a, axis=0, dtype=dtype), [(1, 0), (0, 0)])
    same(xp.cumulative_sum(x, axis=0, dtype=dtype, include_initial=True), sums)
    same(xp.cumulative_sum(x[0]), np.cumsum(a[0]))
    with pytest.raises(ValueError, match=r"which axis\? x has the shape \(2, 3\)"):
        xp.cumulative_sum(x)


@pytest.mark.parametrize("indexing", ["xy", "ij"])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_grids(indexing, count, device):
    axes = [np.arange(n, dtype=np.float32) for n in (3, 2, 4)][:count]
    came = xp.meshgrid(*[mg.tensor(a, device=device) for a in axes], indexing=indexing)
    for one, expected in zip(came, np.meshgrid(*axes, indexing=indexing), strict=True):
        same(one, expected)


def test_grids_are_made_of_vectors_of_one_dtype():
    x = mg.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match=r'indexing is "xy" or "ij", not .yx.'):
        xp.meshgrid(x, indexing="yx")
    for other in (mg.tensor([[1.0]]), mg.tensor([1])):
        with pytest.raises(ValueError, match="vectors of one dtype"):
            xp.meshgrid(x, other)


def test_arrays_broadcast_together(device):
    a, b = np.ones((3, 1), np.float32), np.arange(2)
    for one, expected in zip(
        xp.broadcast_arrays(mg.tensor(a, device=device), mg.tensor(b, device=device)),
        np.broadcast_arrays(a, b),
        strict=True,
    ):
        same(one, expected)


@pytest.mark.parametrize("axes", [0, 1, 2, ((1, 2), (0, 1)), ((-1,), (1,)), ((), ())])
def test_products_over_several_axes(axes, device, rng):
    a, b = [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 3), (3, 3, 4))]
    came = xp.tensordot(mg.tensor(a, device=device), mg.tensor(b, device=device), axes=axes).numpy()
    np.testing.assert_allclose(came, np.tensordot(a, b, axes=axes), rtol=1e-4, atol=1e-6)


def test_products_of_vectors(device, rng):
    a, b = [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 4), (3, 4))]
    x, y = mg.tensor(a, device=device), mg.tensor(b, device=device)
    np.testing.assert_allclose(xp.vecdot(x, y).numpy(), np.vecdot(a, b), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(xp.vecdot(x, y, axis=-2).numpy(), np.vecdot(a, b, axis=-2), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="counted from the end"):
        xp.vecdot(x, y, axis=0)
    with pytest.raises(ValueError, match="two lengths"):
        xp.vecdot(x, y[:, :1])
    with pytest.raises(ValueError, match="of the same lengths"):
        xp.tensordot(x, y[:, :1], axes=2)


def test_what_composed_functions_pass_on():
    x = mg.tensor([1.0, 2.0, 4.0], requires_grad=True)
    weights = mg.tensor([1.0, 10.0])
    (xp.vecdot(xp.diff(x), weights) + xp.sum(xp.cumulative_sum(x, include_initial=True))).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [-1 + 3, 1 - 10 + 2, 10 + 1])


def test_limits_of_dtypes_are_pythons_numbers():
    for dtype in (xp.float32, xp.float64):
        info, theirs = xp.finfo(dtype), np.finfo(dtype)
        assert xp.finfo(mg.tensor(np.ones(2, dtype))) == info
        assert (info.bits, info.dtype) == (theirs.bits, dtype)
        for name in ("eps", "max", "min", "smallest_normal"):
            assert type(getattr(info, name)) is float
            assert getattr(info, name) == getattr(theirs, name)


def test_what_can_be_cast():
    assert xp.can_cast(xp.float32, xp.float64)
    assert not xp.can_cast(mg.tensor([1.0]), xp.int32)


@pytest.mark.parametrize("axis", [-4, 3])
def test_a_new_axis_has_a_place(axis):
    with pytest.raises(IndexError, match=rf"axis {axis} is no place for a new one in the shape \(2, 3\)"):
        xp.expand_dims(mg.tensor(np.ones((2, 3))), axis=axis)


def test_several_become_one_and_one_several(device, rng):
    a = rng.standard_normal((3, 1, 4)).astype(np.float32)
    x = mg.tensor(a, device=device)
    np.testing.assert_array_equal(xp.stack(xp.unstack(x, axis=2), axis=-1).numpy(), a)
    np.testing.assert_array_equal(xp.squeeze(x, axis=1).numpy(), a[:, 0])
    order = np.argsort(a[:, 0], axis=1)
    taken = xp.take_along_axis(xp.squeeze(x, axis=1), mg.tensor(order, device=device), axis=1)
    np.testing.assert_array_equal(taken.numpy(), np.sort(a[:, 0], axis=1))
