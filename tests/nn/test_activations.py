import numpy as np
import pytest

import minigrad as mg
from minigrad import nn

LAYERS = {
    "GELU": {},
    "GELU, tanh": {"approximate": "tanh"},
    "SiLU": {},
    "LeakyReLU": {"negative_slope": 0.2},
    "ELU": {"alpha": 0.7},
    "Softplus": {},
}


@pytest.mark.parametrize("name", LAYERS)
def test_numbers_and_gradients_are_those_of_pytorch(name, rng):
    torch = pytest.importorskip("torch")
    kind, options = name.split(",")[0], LAYERS[name]
    x = rng.standard_normal((3, 5))
    ours, theirs = mg.tensor(x, device="reference", requires_grad=True), torch.tensor(x, requires_grad=True)
    y, expected = getattr(nn, kind)(**options)(ours), getattr(torch.nn, kind)(**options)(theirs)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    y.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_an_unknown_approximation_is_refused_when_the_layer_is_made():
    with pytest.raises(ValueError, match="not 'erf'"):
        nn.GELU("erf")
