"""What sync_batch_norm refuses, and what it computes where the other processes have the same; in several: tests/distributed."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.ops import Branch, Normalization, sync_batch_norm, sync_concat_branches
from minigrad.testing import check_grads


class Twins:
    """A session of processes that all have what this one has."""

    def __init__(self, world):
        self.world, self.rank = world, 0
        self.exchanges = 0
        self.part = None

    def gather(self, label, values):
        self.exchanges += 1
        return np.repeat(values.reshape(1, -1), self.world, axis=0)

    def check(self, label, nbytes):
        pass

    def swap(self, parts, received, label):
        received[:] = parts[0]  # this one adds up the first part

    def collect(self, part, whole, label):
        raise AssertionError("too long for this session, which knows one part of the sum")


def norm(x, running=True):
    c = x.shape[-1]
    buffers = [mg.tensor(np.zeros(c, x.dtype)), mg.tensor(np.ones(c, x.dtype))] if running else [None, None]
    gamma, beta = mg.tensor(np.linspace(0.5, 2, c).astype(x.dtype)), mg.tensor(np.linspace(-1, 1, c).astype(x.dtype))
    return Normalization(gamma, beta, *buffers, 0.9, 1e-5)


@pytest.mark.parametrize("activation", [None, "relu", "sigmoid"])
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_of_equal_parts_the_result_is_that_of_one(device, activation, rng):
    x = mg.tensor(rng.standard_normal((12, 3, 5)).astype(np.float32) + 3).to(device)
    ours, theirs = [Normalization(*[t.to(device) for t in norm(x)[:4]], 0.9, 1e-5) for _ in range(2)]
    y = sync_batch_norm(x, ours, Twins(3), activation)
    expected = mg.batch_norm(x, *theirs[:4], training=True, activation=activation)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.running_mean.numpy(), theirs.running_mean.numpy(), rtol=1e-6)
    m = 12 * 3  # the estimate of three times as many rows has another divisor
    wide = theirs.running_var.numpy().astype(np.float64)
    np.testing.assert_allclose(
        ours.running_var.numpy(), 0.9 + (wide - 0.9) * (m - 1) / m * (3 * m) / (3 * m - 1), rtol=1e-5
    )


def test_gradients(rng):
    """Of all twins together: moving one element moves that of each, and each has a loss, their mean."""

    def function(x, gamma, beta):
        return sync_batch_norm(x, Normalization(gamma, beta, None, None, 0.9, 1e-5), Twins(2))

    check_grads(
        function, rng.standard_normal((7, 3)), rng.uniform(0.5, 2, 3), rng.standard_normal(3), device="reference"
    )


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_branches_have_the_bits_of_separate_ops_by_one_exchange_in_each_direction(device, rng):
    plan = [(3, "relu", True), (5, "relu", False), (4, "sigmoid", True), (2, None, True), (1, None, False)]
    arrays = [rng.standard_normal((6, 2, c)).astype(np.float32) for c, _, _ in plan]
    dy = rng.standard_normal((6, 2, 15)).astype(np.float32)
    found = {}
    for joined in (True, False):
        session = Twins(2)
        xs = [mg.tensor(a, device=device, requires_grad=True) for a in arrays]
        norms = [None] * len(xs)
        for i, (x, (_, _, normalized)) in enumerate(zip(xs, plan, strict=True)):
            if normalized:
                made = [t.to(device) for t in norm(x)[:4]]
                made[0].requires_grad = made[1].requires_grad = True
                norms[i] = Normalization(*made, 0.9, 1e-5)
        if joined:
            given = [Branch(x, n, name) for x, n, (_, name, _) in zip(xs, norms, plan, strict=True)]
            y = sync_concat_branches(given, session)
        else:
            parts = []
            for x, n, (_, name, _) in zip(xs, norms, plan, strict=True):
                if n is not None:
                    parts.append(sync_batch_norm(x, n, session, name))
                else:
                    parts.append(x if name is None else getattr(mg, name)(x))
            y = mg.concat(parts)
        y.backward(mg.tensor(dy, device=device))
        tensors = [t for n in norms if n is not None for t in n[:4]]
        gradients = [t.grad for t in (*xs, *[t for t in tensors if t.requires_grad])]
        found[joined] = [t.numpy().tobytes() for t in (y, *gradients, *tensors)], session.exchanges
    assert found[True][0] == found[False][0]
    assert [exchanges for _, exchanges in found.values()] == [2, 6]


def test_branches_without_rows_are_refused():
    x = mg.tensor(np.ones((0, 2), np.float32))
    with pytest.raises(ValueError, match="each process needs at least one value per feature"):
        sync_concat_branches([Branch(x, norm(x), None)], Twins(2))


def test_one_row_in_each_of_two_processes_is_enough():
    x = mg.tensor(np.ones((1, 2), np.float32))
    assert sync_batch_norm(x, norm(x), Twins(2)).shape == (1, 2)
    with pytest.raises(ValueError, match="at least 2 values per feature to have a variance, and 1 came"):
        sync_batch_norm(x, norm(x), Twins(1))


def test_no_rows_are_refused():
    x = mg.tensor(np.ones((0, 2), np.float32))
    with pytest.raises(ValueError, match="each process needs at least one value per feature"):
        sync_batch_norm(x, norm(x), Twins(2))


def test_alone_the_layer_is_batch_norm_and_is_folded_like_one(rng):
    x = rng.standard_normal((8, 4)).astype(np.float32)
    mg.manual_seed(0)
    plain = mg.nn.Sequential(mg.nn.Linear(4, 3), mg.nn.BatchNorm(3), mg.nn.ReLU())
    mg.manual_seed(0)
    sync = mg.nn.convert_sync_batch_norm(mg.nn.Sequential(mg.nn.Linear(4, 3), mg.nn.BatchNorm(3), mg.nn.ReLU()))
    assert type(sync[1]) is mg.nn.SyncBatchNorm
    assert plain(x).numpy().tobytes() == sync(x).numpy().tobytes()
    assert mg.nn.fold_batch_norm(plain)(x).numpy().tobytes() == mg.nn.fold_batch_norm(sync)(x).numpy().tobytes()
