"""Batch normalization of many matrices into columns of one y, and back from columns of one dy."""

import copy

import numpy as np
import pytest

from minigrad.kernels import reference
from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.cpu import norm
from minigrad.kernels.cpu.tools.launch import GRAIN

GAP = 3  # columns of y and dy that belong to no branch, before each of them
SENTINEL = -7
SEVERAL_THREADS = [(515, (24, 8, 48)), (263, (100, 300, 2000)), (2053, (16, 33))]  # compiled anew
# Rows that are no multiple of a block's; features that are summed in chunks of different sizes. The simulator has enough in the
# small ones, which take the same CUDA kernels.
SIZES = [
    (2, (1,)),
    (61, (8, 17, 1)),
    pytest.param(515, (24, 8, 48), marks=pytest.mark.cuda),
    *[pytest.param(*size, marks=[pytest.mark.cpu, pytest.mark.slow]) for size in SEVERAL_THREADS],
    pytest.param(1025, (4, 5), marks=pytest.mark.cuda),
]
each_size = pytest.mark.parametrize(("m", "widths"), SIZES, ids=lambda value: str(value).replace(" ", ""))


class Branches:
    """What the kernels take, for one x of each width; every activation has its turn."""

    def __init__(self, rng, dtype, m, widths):
        self.widths = widths
        self.columns = [GAP * (b + 1) + sum(widths[:b]) for b in range(len(widths))]
        self.total = GAP * (len(widths) + 1) + sum(widths)
        self.xs = [(rng.standard_normal((m, c)) * 2 + 1).astype(dtype) for c in widths]
        self.gammas = [rng.uniform(0.5, 2, c).astype(dtype) for c in widths]
        self.betas = [rng.standard_normal(c).astype(dtype) for c in widths]
        self.eps = [10.0 ** -(b + 3) for b in range(len(widths))]
        self.activations = [(RELU, IDENTITY, SIGMOID)[b % 3] for b in range(len(widths))]
        self.y = np.full((m, self.total), SENTINEL, dtype)
        self.dy = rng.standard_normal((m, self.total)).astype(dtype)
        self.means, self.variances = self.empty(np.float64), self.empty(np.float64)
        self.decays = [0.5 + 0.1 * b for b in range(len(widths))]
        kept = [c * (b != 1) for b, c in enumerate(widths)]  # all but the second branch have running statistics
        self.running_means = [rng.standard_normal(c).astype(dtype) for c in kept]
        self.running_vars = [rng.uniform(0.5, 2, c).astype(dtype) for c in kept]

    def empty(self, dtype):
        return [np.full(c, np.nan, dtype) for c in self.widths]

    def forward(self):
        """Arguments of batch_norms_forward."""
        given = self.xs, self.gammas, self.betas, self.eps, self.activations, self.y, self.columns
        return *given, self.means, self.variances, self.decays, self.running_means, self.running_vars

    def backward(self):
        """Arguments of batch_norms_backward; call the forward kernel first."""
        given = self.gammas, self.betas, self.means, self.variances, self.eps, self.activations
        results = [np.full_like(x, np.nan) for x in self.xs], self.empty(self.y.dtype), self.empty(self.y.dtype)
        return self.dy, self.xs, self.y, self.columns, *given, *results


def outside(branches):
    """Columns of y that belong to no branch."""
    inside = [np.arange(column, column + c) for column, c in zip(branches.columns, branches.widths, strict=True)]
    return np.delete(branches.y, np.concatenate(inside), axis=1)


@each_size
def test_forward_has_the_bits_of_one_call_for_each(rng, dtype, m, widths):
    branches = Branches(rng, dtype, m, widths)
    y, before = branches.y.copy(), copy.deepcopy((branches.running_means, branches.running_vars))
    norm.batch_norms_forward(*branches.forward())
    for x, gamma, beta, eps, activation, column, *results, decay, running_mean, running_var, old_mean, old_var in zip(
        *branches.forward()[:5], *branches.forward()[6:], *before, strict=True
    ):
        own = [np.empty_like(a) for a in results]
        norm.batch_norm_forward(x, gamma, beta, eps, activation, y, column, *own, decay, old_mean, old_var)
        results, own = [*results, running_mean, running_var], [*own, old_mean, old_var]
        assert [a.tobytes() for a in own] == [a.tobytes() for a in results]
    assert branches.y.tobytes() == y.tobytes()
    assert (outside(branches) == SENTINEL).all()


@each_size
def test_backward_has_the_bits_of_one_call_for_each(rng, dtype, m, widths):
    branches = Branches(rng, dtype, m, widths)
    norm.batch_norms_forward(*branches.forward())
    dy, xs, y, *rest = branches.backward()
    norm.batch_norms_backward(dy, xs, y, *rest)
    for x, *given, dx, dgamma, dbeta in zip(xs, *rest, strict=True):
        own = [np.empty_like(a) for a in (dx, dgamma, dbeta)]
        norm.batch_norm_backward(dy, x, y, *given, *own)
        assert [a.tobytes() for a in own] == [a.tobytes() for a in (dx, dgamma, dbeta)]


@each_size
def test_forward_matches_reference(check_kernel, rng, dtype, m, widths):
    branches = Branches(rng, dtype, m, widths)
    checked = {"parallel": m * sum(widths) >= GRAIN, "ulps": 64, "precision": dtype}
    check_kernel("norm", "batch_norms_forward", *branches.forward(), **checked)


@pytest.mark.parametrize(("m", "widths"), SIZES[1:])  # of two rows alone, the gradient is next to nothing
def test_backward_matches_reference(check_kernel, rng, dtype, m, widths):
    branches = Branches(rng, dtype, m, widths)
    reference.norm.batch_norms_forward(*branches.forward())
    for x, gamma, beta, mean, var, eps, column, c in zip(
        branches.xs, branches.gammas, branches.betas, branches.means, branches.variances, branches.eps,
        branches.columns, widths, strict=True,
    ):  # fmt: skip
        z = gamma * (x - mean) / np.sqrt(var + eps) + beta
        branches.dy[:, column : column + c][np.abs(z) < 1e-3] = 0  # beside the kink rounding decides what passes ReLU
    checked = {"parallel": m * sum(widths) >= GRAIN, "ulps": 64}
    check_kernel("norm", "batch_norms_backward", *branches.backward(), **checked)
