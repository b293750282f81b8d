"""Branches concatenated in one op, each normalized, activated, both or neither on the way."""

import re

import numpy as np
import pytest

import minigrad as mg
from minigrad.ops import Branch, Normalization, concat_branches
from minigrad.testing import check_grads

EPS = 1e-5
NORMALIZED = {"bn-relu": "relu", "bn-sigmoid": "sigmoid", "bn": None}
PLAIN = {"relu": "relu", "sigmoid": "sigmoid", "untouched": None}
MIXES = [  # of features and what is done to them
    [(3, "bn-relu"), (5, "relu"), (1, "sigmoid"), (2, "untouched")],
    [(1, "bn-sigmoid"), (17, "bn-relu"), (4, "bn")],
    [(7, "relu"), (2, "relu")],
    [(4, "sigmoid"), (3, "bn")],
    [(5, "untouched"), (6, "bn-relu")],
    [(9, "bn-relu")],
]
each_mix = pytest.mark.parametrize("mix", MIXES, ids=lambda mix: " ".join(f"{c} {kind}" for c, kind in mix))


class Case:
    """The arrays of a mix: x of every branch, and gamma, beta and running statistics of those that are normalized."""

    def __init__(self, rng, mix, shape=(6, 2), dtype=np.float64, device="cpu", requires_grad=True):
        self.mix = mix
        self.xs, self.norms = [], []
        for c, kind in mix:
            x = 0.5 + 2 * rng.standard_normal((*shape, c))
            gamma, beta = 1 + 0.3 * rng.standard_normal(c), rng.standard_normal(c)
            mean, var = rng.standard_normal(c), 0.5 + rng.random(c)
            tensors = [mg.tensor(a.astype(dtype), device=device, requires_grad=requires_grad) for a in (x, gamma, beta)]
            running = [mg.tensor(a.astype(dtype), device=device) for a in (mean, var)]
            self.xs.append(tensors[0])
            self.norms.append(Normalization(*tensors[1:], *running, 0.7, EPS) if kind in NORMALIZED else None)

    def branches(self):
        kinds = NORMALIZED | PLAIN
        return [Branch(x, norm, kinds[kind]) for x, norm, (_, kind) in zip(self.xs, self.norms, self.mix, strict=True)]

    def separately(self):
        """The same by ops of their own."""
        results = []
        for x, norm, name in self.branches():
            y = x if norm is None else mg.batch_norm(x, *norm[:4], training=True, decay=norm.decay, eps=norm.eps)
            results.append(y if name is None else getattr(mg, name)(y))
        return mg.concat(results)

    def arrays(self):
        """All gradients and running statistics."""
        norms = [norm for norm in self.norms if norm is not None]
        tensors = [*self.xs, *[t for norm in norms for t in (norm.gamma, norm.beta)]]
        statistics = [t for norm in norms for t in (norm.running_mean, norm.running_var)]
        return [t.grad.numpy() for t in tensors] + [t.numpy() for t in statistics]


def both(mix, device="cpu", **options):
    """(one op's result and Case, those of separate ops) after a backward each."""
    found = []
    for join in (lambda case: concat_branches(case.branches()), Case.separately):
        case = Case(np.random.default_rng(7), mix, device=device, **options)
        y = join(case)
        y.backward(np.random.default_rng(8).standard_normal(y.shape).astype(y.dtype))
        found.append((y.numpy(), case))
    return found


@each_mix
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_op_has_the_bits_of_separate_ops(mix, dtype, device):
    (y, case), (expected, other) = both(mix, device, dtype=dtype)
    np.testing.assert_array_equal(y, expected)
    for one, two in zip(case.arrays(), other.arrays(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("shape", [(2,), (65, 9, 9), (3, 2, 3, 2)])
def test_one_op_has_the_bits_of_separate_ops_for_images_and_rows(shape):
    (y, case), (expected, other) = both(MIXES[0], shape=shape, dtype=np.float32)
    assert y.shape == (*shape, 11)
    np.testing.assert_array_equal(y, expected)
    for one, two in zip(case.arrays(), other.arrays(), strict=True):
        np.testing.assert_array_equal(one, two)


def off_kinks(mix, kinks=1e-3):
    """A Case none of whose ReLUs stands near 0."""
    for seed in range(1000):
        case = Case(np.random.default_rng(seed), mix)
        values = [
            (x if norm is None else mg.batch_norm(x, *norm[:2], None, None, training=True)).numpy()
            for x, norm, name in case.branches()
            if name == "relu"
        ]
        if all(np.abs(v).min() > kinks for v in values):
            return case
    raise AssertionError("no inputs off the kinks of ReLU were found")


@each_mix
def test_gradients(mix, device):
    case = off_kinks(mix)
    norms = [norm for norm in case.norms if norm is not None]
    inputs = [t.numpy() for t in [*case.xs, *[t for norm in norms for t in (norm.gamma, norm.beta)]]]

    def join(*tensors):
        xs, affine = list(tensors[: len(mix)]), list(tensors[len(mix) :])
        branches = []
        for x, (_, norm, name) in zip(xs, case.branches(), strict=True):
            if norm is not None:
                norm = Normalization(affine.pop(0), affine.pop(0), None, None, norm.decay, norm.eps)
            branches.append(Branch(x, norm, name))
        return concat_branches(branches)

    check_grads(join, *inputs, device=device, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("has_gamma", "has_beta"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_without_gamma_or_beta(has_gamma, has_beta, name, device):
    results = []
    for fused in (True, False):
        case = Case(np.random.default_rng(3), [(5, "bn-relu")], device=device)
        norm = case.norms[0]
        gamma, beta = norm.gamma if has_gamma else None, norm.beta if has_beta else None
        if fused:
            y = concat_branches([Branch(case.xs[0], norm._replace(gamma=gamma, beta=beta), name)])
        else:
            y = getattr(mg, name)(mg.batch_norm(case.xs[0], gamma, beta, None, None, training=True))
        y.backward(np.random.default_rng(8).standard_normal(y.shape))
        results.append([y, *[t.grad for t in (case.xs[0], gamma, beta) if t is not None]])
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_branches_that_need_no_gradient_get_none(device):
    case = Case(np.random.default_rng(3), MIXES[0], device=device)
    case.xs[0].requires_grad = case.xs[1].requires_grad = False
    concat_branches(case.branches()).sum().backward()
    assert [x.grad is None for x in case.xs] == [True, True, False, False]
    assert case.norms[0].gamma.grad is not None


def test_a_tensor_in_several_branches_gets_the_sum(device):
    case = Case(np.random.default_rng(3), [(4, "bn-relu")], device=device)
    x, norm = case.xs[0], case.norms[0]
    concat_branches([Branch(x, norm, "relu"), Branch(x, None, "relu"), Branch(x, None, None)]).sum().backward()
    together, gamma = x.grad.numpy(), norm.gamma.grad.numpy()
    expected = np.ones(x.shape) + (x.numpy() > 0)
    x.zero_grad()
    norm.gamma.zero_grad()
    mg.relu(mg.batch_norm(x, *norm[:2], None, None, training=True)).sum().backward()
    np.testing.assert_allclose(together, expected + x.grad.numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(gamma, norm.gamma.grad.numpy())


def test_running_statistics_are_updated_and_marked_as_changed(device):
    case = Case(np.random.default_rng(3), MIXES[1], device=device)
    versions = [[t._version[0] for t in norm[2:4]] for norm in case.norms]
    before = [norm.running_mean.numpy().copy() for norm in case.norms]
    concat_branches(case.branches())
    for x, norm, mean, version in zip(case.xs, case.norms, before, versions, strict=True):
        rows = x.numpy().reshape(-1, x.shape[-1])
        np.testing.assert_allclose(norm.running_mean.numpy(), 0.7 * mean + 0.3 * rows.mean(axis=0), rtol=1e-12)
        assert [t._version[0] for t in norm[2:4]] == [v + 1 for v in version]


def test_statistics_saved_elsewhere_that_change_are_noticed(device):
    case = Case(np.random.default_rng(3), [(5, "bn-relu")], device=device)
    norm = case.norms[0]
    y = mg.batch_norm(case.xs[0], *norm[:4], training=False)
    concat_branches(case.branches())
    with pytest.raises(RuntimeError, match="BatchNormInference saved its input"):
        y.sum().backward()


def test_an_input_that_backward_needs_may_not_change(device):
    case = Case(np.random.default_rng(3), [(5, "bn-relu"), (2, "relu")], device=device)
    y = concat_branches(case.branches())
    with mg.no_grad():
        case.xs[0] += 1.0
    with pytest.raises(RuntimeError, match="BranchConcat saved its input 0"):
        y.sum().backward()


def test_an_input_without_a_norm_is_not_kept(device):
    case = Case(np.random.default_rng(3), MIXES[0], device=device)
    y = concat_branches(case.branches())
    kept = [array for array in y._op.saved if array is not None]
    assert any(array is case.xs[0]._data for array in kept)
    assert not any(array is x._data for array in kept for x in case.xs[1:])


def test_a_result_that_backward_does_not_need_is_not_kept(device):
    case = Case(np.random.default_rng(3), [(5, "bn-relu"), (2, "untouched"), (3, "bn")], device=device)
    y = concat_branches(case.branches())
    assert not any(array is y._data for array in y._op.saved)


def test_nan_passes_relu_in_its_own_place(device):
    case = Case(np.random.default_rng(3), [(5, "bn-relu"), (4, "relu")], device=device)
    with mg.no_grad():
        for x in case.xs:
            x[2, 1, 3] = np.nan
    y = concat_branches(case.branches())
    expected = np.zeros(y.shape, bool)
    expected[..., 3] = True  # the whole feature that was normalized
    expected[2, 1, 5 + 3] = True
    np.testing.assert_array_equal(np.isnan(y.numpy()), expected)
    dy = np.random.default_rng(8).standard_normal(y.shape)
    y.backward(dy)
    assert case.xs[1].grad.numpy()[2, 1, 3] == dy[2, 1, 8]
    np.testing.assert_array_equal(np.isnan(case.xs[0].grad.numpy()), expected[..., :5])


def test_branches_without_features_or_rows(device):
    x = mg.tensor(np.ones((3, 0)), device=device, requires_grad=True)
    other = mg.tensor(-np.ones((3, 2)), device=device, requires_grad=True)
    y = concat_branches([Branch(x, None, "relu"), Branch(other, None, "sigmoid"), Branch(x, None, None)])
    assert y.shape == (3, 2)
    y.sum().backward()
    assert x.grad.shape == (3, 0)
    empty = mg.tensor(np.ones((0, 2)), device=device, requires_grad=True)
    y = concat_branches([Branch(empty, None, "relu"), Branch(empty, None, "sigmoid")])
    assert y.shape == (0, 4)
    y.sum().backward()
    assert empty.grad.shape == (0, 2)


def test_untouched_branches_may_be_whatever_concat_takes(device):
    xs = [mg.tensor(np.arange(3), device=device), mg.tensor(np.arange(2), device=device)]
    np.testing.assert_array_equal(concat_branches([Branch(x, None, None) for x in xs]), [0, 1, 2, 0, 1])


def test_one_axis_is_enough_without_a_norm(device):
    xs = [mg.tensor(np.array([-1.0, 2.0]), device=device, requires_grad=True) for _ in range(2)]
    y = concat_branches([Branch(xs[0], None, "relu"), Branch(xs[1], None, None)])
    np.testing.assert_array_equal(y, [0, 2, -1, 2])
    y.sum().backward()
    np.testing.assert_array_equal(xs[0].grad, [0, 1])


def test_no_branches_are_refused():
    with pytest.raises(ValueError, match="concat needs at least one tensor"):
        concat_branches([])


F32 = np.float32


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ([np.ones((4, 5)), np.ones((3, 5))], ValueError, "tensor 1 has shape (3, 5), tensor 0 has (4, 5)"),
        ([np.ones((4, 5)), np.ones((4, 1, 5))], ValueError, "tensor 1 has shape (4, 1, 5), tensor 0 has (4, 5)"),
        ([np.ones((4, 5)), np.ones((4, 5), F32)], TypeError, "tensor 1 is float32, tensor 0 is float64"),
        ([np.ones((4, 5), int), np.ones((4, 5), int)], TypeError, "not int64"),
        ([np.ones((1, 5)), np.ones(5)], ValueError, "tensor 1 has shape (5,), tensor 0 has (1, 5)"),
        ([np.array(1.0)], ValueError, "concat on the last axis: tensor 0 has none"),
    ],
)
def test_branches_that_do_not_match_are_refused(arrays, error, message, device):
    branches = [Branch(mg.tensor(a, device=device), None, "relu") for a in arrays]
    with pytest.raises(error, match=re.escape(message)):
        concat_branches(branches)


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="concat needs a Tensor, not ndarray"):
        concat_branches([Branch(np.ones((4, 5)), None, "relu")])


def test_branches_on_different_devices_are_refused():
    branches = [Branch(mg.tensor(np.ones((4, 5)), device=name), None, "relu") for name in ("cpu", "reference")]
    with pytest.raises(RuntimeError, match="different devices"):
        concat_branches(branches)


@pytest.mark.parametrize("name", ["tanh", "ReLU", 1, ["relu"]], ids=str)
def test_activations_there_are_not_are_refused(name):
    with pytest.raises(ValueError, match=re.escape(f"must be None, 'relu' or 'sigmoid', not {name!r}")):
        concat_branches([Branch(mg.tensor(np.ones((4, 5))), None, name)])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda norm: norm._replace(gamma=mg.tensor(np.ones(4))), ValueError, r"gamma must have shape \(2,\)"),
        (lambda norm: norm._replace(beta=mg.tensor(np.ones(2, F32))), TypeError, "beta is float32, x is float64"),
        (lambda norm: norm._replace(running_var=None), ValueError, "both running_mean and running_var, or neither"),
        (lambda norm: norm._replace(decay=1.5), ValueError, "decay must be from 0 to 1"),
    ],
)
def test_a_norm_that_does_not_match_is_refused_and_nothing_changed(change, error, message):
    case = Case(np.random.default_rng(3), [(5, "bn-relu"), (2, "bn-relu")])
    before = case.norms[0].running_mean.numpy().copy(), case.norms[0].running_var.numpy().copy()
    case.norms[1] = change(case.norms[1])
    with pytest.raises(error, match=message):
        concat_branches(case.branches())
    np.testing.assert_array_equal(case.norms[0].running_mean, before[0])
    np.testing.assert_array_equal(case.norms[0].running_var, before[1])


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1), (0,)])
def test_a_norm_of_less_than_two_values_per_feature_is_refused(shape):
    case = Case(np.random.default_rng(3), [(5, "relu"), (2, "bn-relu")], shape=shape)
    with pytest.raises(ValueError, match="at least 2 values"):
        concat_branches(case.branches())
