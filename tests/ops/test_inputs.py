"""What arrays of any layout, byte order or dtype become on their way into an op, the same for all families."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg

FAMILIES = {
    "arithmetic": lambda x: x * 2.0 + x,
    "elementwise": mg.sigmoid,
    "pointwise": lambda x: mg.gelu(x) * mg.maximum(x, x[:1]),
    "transpose": lambda x: mg.transpose(x),
    "getitem": lambda x: x[1:, ::-1],
    "concat": lambda x: mg.concat([x, x]),
    "split": lambda x: mg.split(x, [3, 4], axis=1)[2],
    "unstack": lambda x: mg.unstack(x, axis=1)[2],
    "reduce": lambda x: x.sum(axis=0),
    "max": lambda x: x.max(axis=-1),
    "matmul": lambda x: x @ x.T,
    "softmax": mg.softmax,
    "cross_entropy": lambda x: mg.cross_entropy(x, np.zeros(x.shape[0], np.int64)),
    "batch_norm": lambda x: mg.batch_norm(x, None, None, None, None, training=True),
    "dropout": lambda x: mg.dropout(x, 0.5, training=True, seed=3),
    "linear": lambda x: mg.linear(x, x[:3].T),
    "conv2d": lambda x: mg.conv2d(x.reshape(1, 6, 10, 1), x[:2, :3].reshape(2, 3, 1, 1)),
    "conv2d, depthwise": lambda x: mg.conv2d(x.reshape(1, 3, 10, 2), x[:2, :6].reshape(2, 3, 1, 2), groups=2),
    "conv2d in groups": lambda x: mg.conv2d(x.reshape(1, 3, 5, 4), x[:4, :6].reshape(2, 3, 2, 2), groups=2),
    "conv1d": lambda x: mg.conv1d(x.reshape(2, 10, 3), x[:2, :6].reshape(2, 3, 2)),
    "conv_transpose2d": lambda x: mg.conv_transpose2d(x.reshape(1, 3, 5, 4), x[:4, :6].reshape(2, 3, 4, 1), stride=2),
    "interpolate": lambda x: mg.interpolate(x.reshape(1, 6, 10, 1), size=(4, 13), mode="bilinear"),
    "max_pool2d": lambda x: mg.max_pool2d(x.reshape(1, 6, 10, 1), 2),
    "avg_pool2d": lambda x: mg.avg_pool2d(x.reshape(1, 6, 10, 1), 2),
    "layer_norm": mg.layer_norm,
    "group_norm": lambda x: mg.group_norm(x, 5),
    "attention": lambda x: mg.scaled_dot_product_attention(x, x[::-1], x, is_causal=True),
    "lstm": lambda x: mg.lstm(x.reshape(2, 3, 10), None, None, x.reshape(10, 6)[:, :4], x[:1, :4])[0],
    "rnn": lambda x: mg.rnn(x.reshape(2, 3, 10), None, x.T, x[:, :6])[0],
    "gru": lambda x: mg.gru(x.reshape(2, 3, 10), None, x.T, x[:2, :6])[0],
    "embedding": lambda x: mg.embedding([1, 0, 1], x),
    "local_response_norm": mg.local_response_norm,
    "nll_loss": lambda x: mg.nll_loss(x, np.zeros(x.shape[0], np.int64), ignore_index=1),
    "huber_loss": lambda x: mg.huber_loss(x, x[::-1]),
    "mse_loss": lambda x: mg.mse_loss(x, x[::-1]),
}
MOVEMENT = ("transpose", "getitem", "concat", "split", "unstack")  # elements of any dtype
SHAPE = (6, 10)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "transposed view": lambda x: x.T.copy().T,
    "every other": lambda x: np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3],
    "negative strides": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": read_only,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "unaligned": lambda x: np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    "subclass": lambda x: x.view(np.ma.MaskedArray),
}

every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_bits_of_the_plain_array(family, layout, device, rng):
    x = rng.standard_normal(SHAPE).astype(np.float32)
    results = []
    for array in (x, LAYOUTS[layout](x)):
        t = mg.tensor(array, device=device, requires_grad=True)
        y = FAMILIES[family](t)
        y.backward(np.ones(y.shape, np.float32))
        assert y.dtype == np.float32
        results.append((y.numpy().tobytes(), t.grad.numpy().tobytes()))
    assert results[0] == results[1]


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_view_is_read_right(data, device):
    base = np.arange(2 * 3 * 4 * 5, dtype=data.draw(st.sampled_from(["<f4", ">f4", "<f8", ">f8"])))
    base = base.reshape(2, 3, 4, 5).transpose(data.draw(st.permutations(range(4))))
    steps = data.draw(st.tuples(*[st.sampled_from([1, 2, -1, -2])] * 4))
    view = base[tuple(slice(None, None, step) for step in steps)]
    t = mg.tensor(view, device=device)
    assert t.dtype == view.dtype.newbyteorder("=")
    np.testing.assert_array_equal((t + 1.0).numpy(), view + 1)


def test_the_tensor_does_not_share_the_callers_memory(device):
    x = np.ones(3, np.float32)
    t = mg.tensor(x, device=device)
    x[:] = 5
    np.testing.assert_array_equal(t.numpy(), [1, 1, 1])


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in MOVEMENT])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integers_and_bools_are_refused_where_floats_are_needed(family, dtype, device):
    with pytest.raises(TypeError, match=str(np.dtype(dtype))):
        FAMILIES[family](mg.tensor(np.ones(SHAPE, dtype), device=device))


@pytest.mark.parametrize("family", MOVEMENT)
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_movement_keeps_integers_and_bools(family, dtype, device):
    x = (np.arange(60).reshape(SHAPE) % 3).astype(dtype)
    expected = {"transpose": x.T, "getitem": x[1:, ::-1], "concat": np.concatenate([x, x], -1)}
    expected |= {"split": x[:, 4:], "unstack": x[:, 2]}
    y = FAMILIES[family](mg.tensor(x, device=device)).numpy()
    np.testing.assert_array_equal(y, expected[family], strict=True)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(3, np.float16), "float16 is not supported; convert to float32"),
        (np.ones(3, np.longdouble), "is not supported; convert to float32"),
        (np.array([1.0, None]), "object"),
        (np.array(["a"]), "<U1"),
        (np.ones(3, np.complex64), "complex64"),
        (np.array(["2020-01-01"], "datetime64[D]"), "datetime64"),
    ],
)
def test_dtypes_that_are_not_supported_never_become_a_tensor(array, message):
    with pytest.raises(TypeError, match=message):
        mg.tensor(array)
