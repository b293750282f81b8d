"""Every combination of options against PyTorch, in float64."""

import itertools

import numpy as np
import pytest

import minigrad as mg
from minigrad import optim

torch = pytest.importorskip("torch")

OPTIONS = {
    "SGD": {"lr": [0.1], "momentum": [0.0, 0.9], "weight_decay": [0.0, 0.1], "nesterov": [False, True]},
    "RMSprop": {
        "lr": [0.01, 0.1],
        "alpha": [0.99, 0.5],
        "eps": [1e-8, 0.1],
        "weight_decay": [0.0, 0.1],
        "momentum": [0.0, 0.9],
        "centered": [False, True],
    },
    "Adam": {"lr": [1e-3, 0.1], "betas": [(0.9, 0.999), (0.5, 0.7)], "eps": [1e-8, 0.1], "weight_decay": [0.0, 0.1]},
    "AdamW": {"lr": [1e-3, 0.1], "betas": [(0.9, 0.999), (0.5, 0.7)], "eps": [1e-8, 0.1], "weight_decay": [0.01, 0.3]},
}
SHAPES = [(7,), (3, 5)]


def combinations(name):
    for values in itertools.product(*OPTIONS[name].values()):
        options = dict(zip(OPTIONS[name], values, strict=True))
        if not options.get("nesterov") or options["momentum"]:
            yield options


@pytest.mark.parametrize("name", OPTIONS)
def test_numbers_are_those_of_pytorch(name, device):
    """Two parameters, of which the second has its first gradient at the third step."""
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(s) for s in SHAPES]
    gradients = [[rng.standard_normal(s) for s in SHAPES] for _ in range(6)]
    for options in combinations(name):
        ours = [mg.tensor(a, device=device, requires_grad=True) for a in start]
        theirs = [torch.nn.Parameter(torch.tensor(a)) for a in start]
        optimizers = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
        for i, grads in enumerate(gradients):
            for p, q, g in zip(ours, theirs, grads, strict=True):
                late = p is ours[1] and i < 2
                p.grad, q.grad = (None, None) if late else (g, torch.tensor(g))
            for optimizer in optimizers:
                optimizer.step()
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-12, atol=1e-14, err_msg=repr(options))


@pytest.mark.parametrize("name", OPTIONS)
def test_groups_are_those_of_pytorch(name, rng):
    own = {"lr": 0.03, "weight_decay": 0.2}
    start = [rng.standard_normal(s) for s in SHAPES]
    ours = [mg.tensor(a, requires_grad=True) for a in start]
    theirs = [torch.nn.Parameter(torch.tensor(a)) for a in start]
    optimizers = [
        getattr(module, name)([{"params": [p[0]]}, {"params": [p[1]], **own}], lr=0.1)
        for module, p in ((optim, ours), (torch.optim, theirs))
    ]
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            g = rng.standard_normal(p.shape)
            p.grad, q.grad = g, torch.tensor(g)
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-12, atol=1e-14)
