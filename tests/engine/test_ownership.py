"""Gradients are added up without writing into an array that someone else may hold."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import tape
from minigrad.ops.attention import self_attention
from minigrad.ops.branches import BranchConcat
from minigrad.ops.norm import BatchNorm
from minigrad.ops.pointwise import Pointwise


def leaf(values, dtype=np.float32):
    return mg.tensor(np.array(values, dtype), requires_grad=True)


class PassesOn(mg.Op):
    """The inputs' sum; its gradients are whatever `gradients(dy)` returns."""

    def forward(self, *arrays, gradients):
        self.gradients = gradients
        return sum(arrays[1:], arrays[0].copy())

    def backward(self, dy):
        return self.gradients(dy)


def test_two_leaves_of_a_sum_get_arrays_of_their_own():
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    (a + b).backward([1, 1])
    assert not np.shares_memory(a.grad.numpy(), b.grad.numpy())
    (a * 10.0).backward([1, 1])
    np.testing.assert_array_equal(a.grad.numpy(), [11, 11])
    np.testing.assert_array_equal(b.grad.numpy(), [1, 1])


@pytest.mark.parametrize("wrap", [np.asarray, mg.tensor], ids=["array", "tensor"])
def test_gradient_to_start_from_is_not_written(wrap):
    grad = wrap(np.array([1, 1], np.float32))
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    for _ in range(2):
        y = a + b
        (y + a).backward(grad)
    np.testing.assert_array_equal(np.asarray(grad), [1, 1])
    np.testing.assert_array_equal(a.grad.numpy(), [4, 4])
    assert not np.shares_memory(a.grad.numpy(), np.asarray(grad))
    assert not np.shares_memory(b.grad.numpy(), np.asarray(grad))


def test_gradient_to_start_from_on_a_leaf_is_not_kept():
    x, grad = leaf([1.0]), mg.tensor([5.0])
    x.backward(grad)
    x.backward(grad)
    assert x.grad.item() == 10
    assert grad.item() == 5


def test_gradient_set_by_the_user_is_not_written():
    x, mine = leaf([1.0, 2.0]), mg.tensor([100.0, 100.0])
    x.grad = mine
    (x * 3.0).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [103, 103])
    np.testing.assert_array_equal(mine.numpy(), [100, 100])


def test_array_set_as_gradient_is_not_written():
    x, mine = leaf([1.0, 2.0]), np.array([100, 100], np.float32)
    x.grad = mine
    (x * 3.0).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [103, 103])
    np.testing.assert_array_equal(mine, [100, 100])


def test_old_gradient_survives_zero_grad():
    x = leaf([1.0])
    (x * 3.0).backward()
    old = x.grad
    x.zero_grad()
    (x * 4.0).backward()
    assert old.item() == 3


def test_saved_array_returned_as_gradient_is_not_written():
    class Times(mg.Op):
        def forward(self, x, factor):
            self.save(factor)
            return x * factor

        def backward(self, dy):
            return self.saved[0], None

    x, factor = leaf([1.0, 1.0]), mg.tensor([2.0, 3.0])
    for _ in range(3):
        (Times.apply(x, factor) + x).backward([1, 1])
    np.testing.assert_array_equal(factor.numpy(), [2, 3])
    np.testing.assert_array_equal(x.grad.numpy(), [9, 12])
    assert not np.shares_memory(x.grad.numpy(), factor.numpy())


def test_array_kept_by_the_op_is_not_written():
    kept = np.array([7, 7], np.float32)
    x = leaf([1.0, 1.0])
    for _ in range(3):
        PassesOn.apply(x, gradients=lambda dy: (kept,)).backward([1, 1])
    np.testing.assert_array_equal(kept, [7, 7])
    np.testing.assert_array_equal(x.grad.numpy(), [21, 21])


def test_view_returned_as_gradient_is_not_written():
    whole = np.array([[7, 7], [8, 8]], np.float32)
    x = leaf([1.0, 1.0])
    for _ in range(3):
        PassesOn.apply(x, gradients=lambda dy: (whole[0],)).backward([1, 1])
    np.testing.assert_array_equal(whole, [[7, 7], [8, 8]])
    np.testing.assert_array_equal(x.grad.numpy(), [21, 21])


def test_array_with_a_view_elsewhere_is_not_written():
    views = []

    def gradients(dy):
        dx = np.array([7, 7], np.float32)
        views.append(dx[:1])
        return (dx,)

    x = leaf([1.0, 1.0])
    for _ in range(3):
        PassesOn.apply(x, gradients=gradients).backward([1, 1])
    assert [view.item() for view in views] == [7, 7, 7]


@pytest.mark.parametrize("direct", [True, False], ids=["leaves", "results"])
def test_one_array_returned_for_two_inputs(direct):
    def gradients(dy):
        dx = np.array([1, 1], np.float32)
        return dx, dx

    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    for _ in range(3):
        inputs = (a, b) if direct else (a * 2.0, b * 3.0)
        total = PassesOn.apply(*inputs, gradients=gradients)
        (total + inputs[0]).backward([1, 1])
    np.testing.assert_array_equal(a.grad.numpy(), np.full(2, 6 if direct else 12))
    np.testing.assert_array_equal(b.grad.numpy(), np.full(2, 3 if direct else 9))


def test_large_pooled_gradients_are_not_shared():
    a, b = leaf(np.ones(200_000)), leaf(np.ones(200_000))
    y = a + b
    (y + y).backward(np.ones(200_000))
    a.grad.numpy()[:] = 5
    assert (b.grad.numpy() == 2).all()


def random_graph(rng, leaves, ops):
    """A random graph of ops that pass gradients on as views or as they are: (the sum of its tensors, all of them)."""
    tensors = list(leaves)
    for _ in range(ops):
        a, b = (tensors[i] for i in rng.integers(max(0, len(tensors) - 6), len(tensors), 2))
        match rng.integers(4):
            case 0:
                new = a + b
            case 1:
                new = a.reshape(3, 2).reshape(6)
            case 2:
                new = PassesOn.apply(a, b, gradients=lambda dy: (dy, dy[:]))
            case 3:
                new = a * 0.5
        tensors.append(new)
    total = tensors[0]
    for t in tensors[1:]:
        total = total + t
    return total, tensors


@pytest.mark.parametrize("seed", range(10))
def test_no_gradient_is_written_after_it_was_seen(seed):
    rng = np.random.default_rng(seed)
    leaves = [leaf(rng.integers(-8, 8, 6), np.float64) for _ in range(2)]
    seen = []
    for _ in range(2):
        total, tensors = random_graph(rng, leaves, 25)
        for t in tensors[2:]:
            t.register_hook(lambda grad: seen.append((grad.numpy(), grad.numpy().copy())))
        start = mg.tensor(np.ones(6))
        seen.append((start.numpy(), np.ones(6)))
        total.backward(start)
    assert len(seen) == 52
    for array, as_it_was in seen:
        np.testing.assert_array_equal(array, as_it_was)
    for x in leaves:
        assert not any(np.shares_memory(x.grad.numpy(), array) for array, _ in seen)


@pytest.mark.parametrize("seed", range(5))
def test_random_graph_has_the_gradient_of_its_linear_map(seed):
    leaves = [leaf(np.zeros(6), np.float64) for _ in range(2)]
    random_graph(np.random.default_rng(seed), leaves, 25)[0].backward(np.ones(6))
    for i, x in enumerate(leaves):
        values = [mg.tensor(np.full(6, float(j == i))) for j in range(2)]
        slope = random_graph(np.random.default_rng(seed), values, 25)[0]
        np.testing.assert_array_equal(x.grad.numpy(), slope.numpy())


def test_hook_that_writes_changes_that_gradient_only():
    x, other = leaf([1.0, 2.0]), leaf([1.0, 2.0])

    def times_ten(grad):
        grad *= 10.0

    x.register_hook(times_ten)
    total = x + other
    total.register_hook(times_ten)
    total.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [100, 100])
    np.testing.assert_array_equal(other.grad.numpy(), [10, 10])
    y = leaf(3.0)
    (y * 1.0).register_hook(times_ten)
    loss = y * 1.0
    loss.register_hook(times_ten)
    loss.backward()
    assert y.grad.item() == 10
    z = leaf(3.0)
    (z * 1.0).backward()
    assert z.grad.item() == 1


class Spoils(mg.Op):
    """The identity, whose backward writes into what it is given."""

    def forward(self, x):
        self.save(x)
        return x * 1

    def backward(self, dy):
        dy *= 3
        return (dy,)


def test_own_op_that_writes_into_its_gradient_changes_that_gradient_only():
    for _ in range(2):
        x, other = leaf([1.0, 2.0]), leaf([1.0, 2.0])
        (Spoils.apply(x) + other).backward([1, 1])
        np.testing.assert_array_equal(x.grad.numpy(), [3, 3])
        np.testing.assert_array_equal(other.grad.numpy(), [1, 1])
        y = leaf(1.0)
        Spoils.apply(y).backward()
        assert y.grad.item() == 3


def test_anomaly_mode_tells_an_op_that_writes_into_what_it_was_given():
    class SpoilsSaved(Spoils):
        def backward(self, dy):
            self.saved[0][:] = 0
            return (dy.copy(),)

    for op, what in ((Spoils, "the gradient it was given"), (SpoilsSaved, "saved array 0")):
        with mg.detect_anomaly(), pytest.raises(RuntimeError, match=f"{op.__name__} wrote into {what}"):
            op.apply(leaf([1.0, 2.0])).backward([1, 1])


class Sharing:
    """Watches a backward: which ops that call their gradients new returned memory that others have."""

    def __init__(self):
        self.seen, self.wrong = set(), []

    def before(self, op, dys):
        pass

    def after(self, op, dys, results):
        if op.passes_on:
            return
        self.seen |= {kind.__name__ for kind in type(op).__mro__}
        made = [dx for dx in results if dx is not None]
        others = [*[a for a in (*dys, *op.saved) if a is not None], *op.device.constants.values()]
        for i, dx in enumerate(made):
            if any(np.may_share_memory(dx, other) for other in [*others, *made[:i]]):
                self.wrong.append(type(op).__name__)


def every_op(x, w, images):
    """Results of all ops that have a gradient."""
    b, square = w[0], x @ x.T
    yield from (x - b, x * b, x / (b * b + 1.0), x**3.0, x.sum(0), x.mean(), x.max(1), x[1:, ::2], x[[0, 2]])
    yield from ((x * x).exp(), (x * x + 1.0).log(), (x * x + 1.0).sqrt(), x.tanh(), x.relu(), x.sigmoid())
    yield from (mg.cumsum(x, 0), mg.flip(x), mg.pad(x, 1), x.at[1:].set(b), x.at[[0, 0]].add(w[:2]))
    yield mg.take_along_axis(x, np.zeros((4, 2), int))
    yield from (*mg.split(x, [1, 3]), *mg.unstack(x, 1))
    yield from (mg.gelu(x), mg.maximum(x, b), mg.elementwise(lambda x, b: x * mg.exp(b))(x, b))
    yield from (x.T, mg.concat([x, x * 2.0]), x.to("float64"), mg.softmax(x), mg.log_softmax(x), square)
    yield from (
        mg.linear(x, w, b),
        mg.concat([x.reshape(1, 4, 3)] * 2, axis=0) @ mg.concat([w.reshape(1, 3, 3)] * 2, axis=0),
        mg.cross_entropy(x, mg.tensor([0, 1, 2, 0])),
        mg.cross_entropy(x, mg.tensor([0, 1, 2, 0]), weight=[1.0, 2.0, 3.0]),
        mg.huber_loss(x, x * 2.0),
    )
    yield mg.dropout(x, 0.5, training=True, seed=3)
    yield mg.scaled_dot_product_attention(x, x * 2.0, x * 3.0, mg.tensor(np.tri(4) > 0))
    yield self_attention(mg.concat([x.reshape(1, 4, 3)] * 3, axis=0))
    yield mg.grad((x @ w).sum(), x, create_graph=True)[0]
    yield mg.batch_norm(x, b, b, None, None, training=True)
    yield from (
        mg.layer_norm(x, b, b),
        mg.layer_norm(x),
        mg.rms_norm(x, b),
        mg.group_norm(x, 3),
        mg.embedding([0, 2], x),
    )
    yield from recurrent(x, w, b)
    yield mg.batch_norm(x, b, b, np.zeros(3, b.dtype), np.ones(3, b.dtype), training=False)
    yield mg.batch_norm(x[:0], b, b, np.zeros(3, b.dtype), np.ones(3, b.dtype), training=False)
    kernel = mg.concat([w.reshape(1, 1, 3, 3)] * 2, axis=0)
    yield from (mg.conv2d(images, kernel, b, padding=1), mg.conv2d(images, w.reshape(1, 1, 3, 3), b))
    yield mg.conv2d(images, kernel[:, :, :1], b, padding=1, groups=3)
    yield mg.conv2d(mg.concat([images] * 2), mg.concat([kernel[:, :, :2]] * 2), groups=3)
    yield mg.conv_transpose2d(images, kernel, b, stride=2)
    yield mg.conv_transpose2d(images, mg.transpose(kernel[:, :, :1], (0, 1, 3, 2)), groups=3)
    yield mg.interpolate(images, size=(5, 3), mode="bilinear")
    yield from (mg.max_pool2d(images, 2), mg.avg_pool2d(images, 2), mg.local_response_norm(images))
    with_norm = mg.nn.Sequential(mg.nn.Conv2d(3, 2, 1), mg.nn.BatchNorm(2), mg.nn.ReLU())
    yield mg.nn.Concat(with_norm, mg.nn.Sequential(mg.nn.Conv2d(3, 2, 1), mg.nn.ReLU()))(images)


def recurrent(x, w, b):
    """One layer of each kind, with all that it may be given."""
    x, h = x.reshape(1, 4, 3), b.reshape(1, 3)
    for op, gates, states in (mg.rnn, 1, [h]), (mg.lstm, 4, [h, h]), (mg.gru, 3, [h]):
        weight, bias = mg.concat([w] * gates, axis=1), mg.concat([b] * gates, axis=0)
        yield from op(x, *states, weight, weight, bias, bias)


def all_ops(base=mg.Op):
    """The op classes of minigrad.ops that are used, not only made others of; for those made of formulas what they share.

    SyncBatchNorm and SyncBranchConcat, made of BatchNorm and BranchConcat, take several processes: tests/distributed.
    """
    for op in base.__subclasses__():
        last = op in (Pointwise, BatchNorm, BranchConcat) or not op.__subclasses__()
        yield from [op] * op.__module__.startswith("minigrad.ops") if last else all_ops(op)


def test_gradients_that_an_op_calls_new_are_new(monkeypatch, rng):
    watch = Sharing()
    monkeypatch.setattr(tape, "watching", lambda: [watch])
    shapes = (4, 3), (3, 3), (2, 5, 5, 3)
    x, w, images = (mg.tensor(rng.standard_normal(shape, np.float32), requires_grad=True) for shape in shapes)
    for y in every_op(x, w, images):
        y.backward(np.ones(y.shape, y.dtype), retain_graph=True)
    called_new = {op.__name__ for op in all_ops() if not op.passes_on}
    assert called_new <= watch.seen
    assert not watch.wrong
