"""copy.deepcopy and pickle: tensors, modules and optimizers come out with the same bits, and with memory of their own."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import minigrad as mg

WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value))}
each_way = pytest.mark.parametrize("copied", WAYS.values(), ids=WAYS.keys())


def training(device="cpu"):
    """A model with an optimizer that has a state, after a few steps."""
    mg.manual_seed(3)
    model = mg.models.MLP(6, (5,), 3, batch_norm=True).to(device)
    optimizer = mg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for i in range(3):
        step(model, optimizer, i)
    return model, optimizer


def step(model, optimizer, i):
    rng = np.random.default_rng(i)
    x = mg.tensor(rng.standard_normal((8, 6)).astype(np.float32), device=model.parameters()[0].device)
    optimizer.zero_grad()
    loss = mg.cross_entropy(model(x), mg.tensor(rng.integers(0, 3, 8), device=x.device))
    loss.backward()
    optimizer.step()
    return loss.item()


@each_way
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_tensor(copied, dtype, device):
    x = mg.tensor(np.arange(6).reshape(2, 3).astype(dtype), device=device, requires_grad=dtype.startswith("float"))
    twin = copied(x)
    assert (twin.dtype, twin.device, twin.requires_grad) == (x.dtype, x.device, x.requires_grad)
    np.testing.assert_array_equal(twin.numpy(), x.numpy())
    with mg.no_grad():
        twin[0, 0] = 1
    assert x.numpy()[0, 0] == 0


@each_way
def test_gradient_comes_along(copied):
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    (x * 3.0).sum().backward()
    twin = copied(x)
    np.testing.assert_array_equal(twin.grad.numpy(), [3, 3])
    (twin * 1.0).sum().backward()
    np.testing.assert_array_equal(twin.grad.numpy(), [4, 4])
    np.testing.assert_array_equal(x.grad.numpy(), [3, 3])


@each_way
def test_tensor_on_the_tape_is_refused(copied):
    y = mg.tensor([1.0], requires_grad=True) * 2.0
    with pytest.raises(TypeError, match=r"copy its detach\(\)"):
        copied(y)
    assert copied(y.detach()).item() == 2


@each_way
def test_model_and_optimizer_go_on_with_the_same_bits(copied, device):
    model, optimizer = training(device)
    twin, twin_optimizer = copied((model, optimizer))
    assert {id(p) for p in twin.parameters()} == {id(p) for p in twin_optimizer.params}
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    for i in range(3, 6):
        assert step(model, optimizer, i) == step(twin, twin_optimizer, i)
    for one, other in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@each_way
def test_copy_does_not_follow_the_model(copied):
    model, optimizer = training()
    twin = copied(model)
    before = {name: t.numpy() for name, t in twin.state_dict().items()}
    step(model, optimizer, 9)
    for name, t in twin.state_dict().items():
        np.testing.assert_array_equal(t.numpy(), before[name])
    assert not np.array_equal(model.parameters()[0].numpy(), twin.parameters()[0].numpy())


def test_model_pickled_before_its_first_op_works_in_another_process(tmp_path):
    script = "import pickle, minigrad as mg; pickle.dump(mg.nn.Linear(3, 2), open('model', 'wb'))"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    model = pickle.loads((tmp_path / "model").read_bytes())
    assert model(mg.tensor(np.ones((2, 3), np.float32))).shape == (2, 2)
