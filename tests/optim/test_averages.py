"""Running averages of the parameters (`ema=`)."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import optim

MAKES = {
    "SGD": lambda p, **k: optim.SGD(p, lr=0.1, momentum=0.9, **k),
    "AdaGrad": optim.AdaGrad,
    "RMSprop": optim.RMSprop,
    "Adam": optim.Adam,
    "AdamW": optim.AdamW,
}
every_make = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)


def parameters(device="cpu", dtypes=("float64", "float32", "float64")):
    rng = np.random.default_rng(0)
    return [mg.tensor(rng.standard_normal((2, 3)), dtype=d, device=device, requires_grad=True) for d in dtypes]


def train(optimizer, count, start=0):
    for step in range(start, start + count):
        rng = np.random.default_rng(step)
        for i, p in enumerate(optimizer.params):
            p.grad = rng.standard_normal(p.shape).astype(p.dtype) if i < 2 or step >= 2 else None
        optimizer.step()
        yield [p.numpy().copy() for p in optimizer.params]


@every_make
def test_average_is_the_formula_and_begins_with_the_first_update(make, device):
    optimizer = make(parameters(device), ema=0.9)
    expected = [None] * 3
    for step, values in enumerate(train(optimizer, 5)):
        for i, value in enumerate(values):
            if i < 2 or step >= 2:
                expected[i] = value if expected[i] is None else 0.9 * expected[i] + 0.1 * value
    with optimizer.averaged():
        for p, e in zip(optimizer.params, expected, strict=True):
            bound = 1e-6 if p.dtype == np.float32 else 1e-13
            np.testing.assert_allclose(p.numpy(), e, rtol=bound, atol=bound)
    for p, value in zip(optimizer.params, values, strict=True):
        np.testing.assert_array_equal(p.numpy(), value)


def test_numbers_are_those_of_pytorch(rng):
    torch = pytest.importorskip("torch")
    swa = torch.optim.swa_utils
    ours, theirs = mg.nn.Linear(3, 2).to("float64"), torch.nn.Linear(3, 2, dtype=torch.float64)
    mg.interop.from_torch(ours, theirs.state_dict())
    optimizer = optim.SGD(ours.parameters(), lr=0.1, ema=0.7)
    other = torch.optim.SGD(theirs.parameters(), lr=0.1)
    averaged = swa.AveragedModel(theirs, multi_avg_fn=swa.get_ema_multi_avg_fn(0.7))
    for _ in range(4):
        x = rng.standard_normal((5, 3))
        for o, loss in ((optimizer, (ours(mg.tensor(x)) ** 2).sum()), (other, (theirs(torch.tensor(x)) ** 2).sum())):
            o.zero_grad()
            loss.backward()
            o.step()
        averaged.update_parameters(theirs)
    with optimizer.averaged():
        expected = averaged.module.weight.detach().numpy().T
        np.testing.assert_allclose(ours.weight.numpy(), expected, rtol=1e-12, atol=1e-14)


@every_make
def test_training_goes_on_as_without(make):
    plain, averaging = make(parameters()), make(parameters(), ema=0.5)
    for one, two in zip(train(plain, 4), train(averaging, 4), strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)
        with averaging.averaged():
            pass


@every_make
def test_saved_and_loaded_goes_on_with_the_same_bits(make, device):
    straight = make(parameters(device), ema=0.9)
    values = list(train(straight, 3))[-1]
    state = straight.state_dict()
    list(train(straight, 3, start=3))
    other = make([mg.tensor(v, device=device, requires_grad=True) for v in values], ema=0.9)
    other.load_state_dict(state)
    list(train(other, 3, start=3))
    with straight.averaged(), other.averaged():
        for p, q in zip(straight.params, other.params, strict=True):
            np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_captured_steps_average_with_the_bits_of_eager_ones():
    results = []
    for captured in (False, True):
        optimizer = optim.AdamW(parameters(dtypes=["float32"] * 3), ema=0.9)

        def step(x, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (optimizer.params[0] * optimizer.params[1] * optimizer.params[2] * x).sum()
            loss.backward()
            optimizer.step()
            return loss

        step = mg.capture(step) if captured else step
        for i in range(5):
            x = np.full((2, 3), 1.0 + i, np.float32)
            step(x if captured else mg.tensor(x))
            optimizer.ema = 0.9 if i < 2 else 0.6  # another recording
        with optimizer.averaged():
            results.append([p.numpy().copy() for p in optimizer.params])
    for eager, replayed in zip(*results, strict=True):
        np.testing.assert_array_equal(eager, replayed)


def test_parameters_are_put_back_after_an_error():
    optimizer = optim.SGD(parameters(), lr=0.1, ema=0.9)
    values = list(train(optimizer, 3))[-1]
    with pytest.raises(KeyError), optimizer.averaged():
        raise KeyError
    for p, value in zip(optimizer.params, values, strict=True):
        np.testing.assert_array_equal(p.numpy(), value)


def test_averages_are_seen_by_versions():
    p = parameters(dtypes=["float64"])[0]
    optimizer = optim.SGD([p], lr=0.1, ema=0.9)
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    loss = (p * p).sum()
    with optimizer.averaged():
        pass
    with pytest.raises(RuntimeError, match="changed in"):
        loss.backward()


def test_what_has_no_averages_says_so():
    with pytest.raises(ValueError, match="keeps no averages of its parameters; make it with ema=0.999"):
        optim.SGD(parameters(), lr=0.1).averaged().__enter__()
    with pytest.raises(ValueError, match="ema must be at least 0 and below 1, not 1"):
        optim.SGD(parameters(), lr=0.1, ema=1.0)
    with pytest.raises(ValueError, match=r"missing: averages\.0"):
        optim.SGD(parameters(), lr=0.1, ema=0.9).load_state_dict(optim.SGD(parameters(), lr=0.1).state_dict())
    assert repr(optim.AdaGrad(parameters(), ema=0.99)).endswith("weight_decay=0, ema=0.99)")


def test_the_share_is_part_of_the_state(device):
    straight = optim.SGD(parameters(device), lr=0.1, ema=0.9)
    list(train(straight, 3))
    state = straight.state_dict()
    assert state["ema"].tolist() == [0.9]
    other = optim.SGD(parameters(device), lr=0.5, ema=0.5)
    other.load_state_dict(state)
    assert (other.ema, other.lr) == (0.9, 0.1)
    other.ema = 0.3
    other.load_state_dict(
        {name: array for name, array in state.items() if name != "ema"}
    )  # as earlier versions wrote it
    assert other.ema == 0.3
    for bad in (1.0, -0.5, np.nan):
        with pytest.raises(ValueError, match="ema must be at least 0 and below 1"):
            other.load_state_dict({**state, "ema": np.array([bad])})
    with pytest.raises(ValueError, match="unknown: ema"):
        optim.SGD(parameters(device), lr=0.1).load_state_dict(state)
    assert other.ema == 0.3


def test_a_share_set_later_is_refused_by_the_next_step():
    optimizer = optim.SGD(parameters(dtypes=["float64"]), lr=0.1)
    optimizer.ema = 0.9
    with pytest.raises(ValueError, match="ema was set on SGD made without; make it with ema=0.9"):
        list(train(optimizer, 1))


def test_averaged_is_refused_inside_a_captured_step():
    optimizer = optim.SGD(parameters(dtypes=["float64"]), lr=0.1, ema=0.9)

    @mg.capture
    def step(x):
        with optimizer.averaged():
            return optimizer.params[0] * x

    with pytest.raises(mg.CaptureError, match="averaged\\(\\) inside a captured step"):
        step(np.ones((2, 3)))
