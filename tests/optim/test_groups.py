"""Groups of parameters, each with settings of its own."""

import copy
import pickle

import numpy as np
import pytest

import minigrad as mg
from minigrad import optim

GROUPS = {
    "SGD": (optim.SGD, {"lr": 0.1, "momentum": 0.9}, {"lr": 0.02, "momentum": 0.0, "weight_decay": 0.1}),
    "SGD, one with momentum": (optim.SGD, {"lr": 0.1}, {"momentum": 0.5, "nesterov": True}),
    "AdaGrad": (optim.AdaGrad, {"lr": 0.1}, {"eps": 0.1}),
    "RMSprop": (optim.RMSprop, {"lr": 0.1}, {"momentum": 0.5, "centered": True, "alpha": 0.5}),
    "Adam": (optim.Adam, {"lr": 0.1}, {"betas": (0.5, 0.7), "eps": 0.1}),
    "AdamW": (optim.AdamW, {"lr": 0.1}, {"weight_decay": 0.5}),
}
every_case = pytest.mark.parametrize("case", GROUPS)


def parameters(rng, device="cpu", dtypes=("float64",) * 4):
    return [mg.tensor(rng.standard_normal((3, 5)), dtype=d, device=device, requires_grad=True) for d in dtypes]


def steps(optimizer, rng, count=4):
    for _ in range(count):
        for p in optimizer.params:
            p.grad = rng.standard_normal(p.shape).astype(p.dtype)
        optimizer.step()


def grouped(case, params):
    make, common, own = GROUPS[case]
    return make([{"params": params[:2]}, {"params": params[2:], **own}], **common)


@every_case
def test_groups_are_updated_as_by_optimizers_of_their_own(case, device):
    make, common, own = GROUPS[case]
    together = parameters(np.random.default_rng(0), device, ("float64", "float32", "float32", "float64"))
    apart = [mg.tensor(p.numpy(), device=device, requires_grad=True) for p in together]
    one = grouped(case, together)
    two = [make(apart[:2], **common), make(apart[2:], **common | own)]
    rng = np.random.default_rng(1)
    for _ in range(4):
        for p, q in zip(together, apart, strict=True):
            p.grad = q.grad = rng.standard_normal(p.shape).astype(p.dtype)
        for optimizer in (one, *two):
            optimizer.step()
    for p, q in zip(together, apart, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_all_groups_take_one_launch(rng):
    optimizer = grouped("Adam", parameters(rng))

    @mg.capture
    def step(x):
        optimizer.zero_grad()
        loss = sum(((p * x).sum() for p in optimizer.params), mg.tensor(0.0, dtype="float64"))
        loss.backward()
        optimizer.step()
        return loss

    step(np.ones((3, 5)))
    assert [launch.kernel for launch in step.plan.launches].count("optim.adam") == 1


@every_case
def test_captured_steps_see_what_changes_in_a_group(case):
    results = []
    for captured in (False, True):
        optimizer = grouped(case, parameters(np.random.default_rng(0)))

        def step(x, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (optimizer.params[0] * optimizer.params[2] * optimizer.params[3] * x).sum()
            loss.backward()
            optimizer.step()
            return loss

        step = mg.capture(step) if captured else step
        for i in range(6):
            optimizer.param_groups[1]["lr"] = 0.1 / (i + 1)
            x = np.full((3, 5), 1.0 + i)
            step(x if captured else mg.tensor(x))
        results.append([p.numpy() for p in optimizer.params])
    for eager, replayed in zip(*results, strict=True):
        np.testing.assert_array_equal(eager, replayed)


@every_case
def test_saved_and_loaded_goes_on_with_the_same_bits(case, device):
    straight = grouped(case, parameters(np.random.default_rng(0), device))
    steps(straight, np.random.default_rng(1), 3)
    kept, state = [p.numpy().copy() for p in straight.params], straight.state_dict()
    steps(straight, np.random.default_rng(2))
    other = grouped(case, [mg.tensor(a, device=device, requires_grad=True) for a in kept])
    other.rates = [9.0, 9.0]
    other.load_state_dict(state)
    steps(other, np.random.default_rng(2))
    for p, q in zip(straight.params, other.params, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_a_state_of_other_groups_is_refused_and_changes_nothing(rng):
    params = parameters(rng)
    state = grouped("Adam", params).state_dict()
    other = optim.Adam([{"params": params[:1]}, {"params": params[1:]}])
    with pytest.raises(ValueError, match="groups: the parameters are in other groups"):
        other.load_state_dict(state)
    one = optim.Adam(params)
    with pytest.raises(ValueError, match=r"unknown: groups\n  hyper: float64\[2, 5\], expected float64\[5\]"):
        one.load_state_dict(state)
    assert one.lr == other.lr == 1e-3
    with pytest.raises(ValueError, match="missing: groups"):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_have_their_own_groups(copied, rng):
    optimizer = grouped("Adam", parameters(rng))
    twin = copied(optimizer)
    twin.param_groups[1]["lr"] = 7.0
    assert optimizer.rates == [0.1, 0.1]
    assert twin.rates == [0.1, 7.0]
    assert twin.param_groups[1]["params"][0] is twin.params[2]


def test_groups_are_read_and_set_as_dicts(rng):
    params = parameters(rng)
    optimizer = grouped("Adam", params)
    first, second = optimizer.param_groups
    assert list(second) == ["params", "lr", "betas", "eps", "weight_decay"]
    assert all(a is b for a, b in zip(second["params"], params[2:], strict=True))
    assert (first["betas"], second["betas"], second["eps"]) == ((0.9, 0.999), (0.5, 0.7), 0.1)
    second["betas"] = 0.1, 0.2
    assert (first["betas"], second["betas"]) == ((0.9, 0.999), (0.1, 0.2))
    assert grouped("SGD, one with momentum", params).param_groups[1]["nesterov"] is True
    assert repr(optimizer) == (
        "Adam(2 parameters, lr=0.1, betas=(0.9, 0.999), eps=1e-08, weight_decay=0; "
        "2 parameters, lr=0.1, betas=(0.1, 0.2), eps=0.1, weight_decay=0)"
    )


def test_one_number_for_all_groups_only_where_they_have_one(rng):
    optimizer = grouped("Adam", parameters(rng))
    optimizer.lr = 0.5
    assert optimizer.rates == [0.5, 0.5]
    for use in (lambda: optimizer.betas, lambda: setattr(optimizer, "betas", (0.1, 0.1))):
        with pytest.raises(ValueError, match=r"different betas; read optimizer.param_groups\[i\]\['betas'\]"):
            use()
    assert optimizer.param_groups[1]["betas"] == (0.5, 0.7)


def test_rates_out_of_range_are_refused_and_none_is_set(rng):
    optimizer = grouped("Adam", parameters(rng))
    with pytest.raises(ValueError, match="lr must be at least 0"):
        optimizer.rates = [0.3, -1.0]
    assert optimizer.rates == [0.1, 0.1]


def wrong(group, value):
    def change(optimizer):
        optimizer.param_groups[0][group] = value

    return change


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (
            lambda p: optim.SGD([{"params": p}, p[0]], lr=0.1),
            TypeError,
            "all tensors or all groups; entry 1 is a Tensor",
        ),
        (lambda p: optim.SGD({"params": p}, lr=0.1), TypeError, "a list of groups, not one"),
        (lambda p: optim.SGD([{"lr": 0.1}], lr=0.1), ValueError, "group 0 has no \"params\"; it has 'lr'"),
        (lambda p: optim.SGD([{"params": p}, {"params": []}], lr=0.1), ValueError, "group 1 has no parameters"),
        (lambda p: optim.SGD([{"params": p}, {"params": p[1]}], lr=0.1), ValueError, "given twice"),
        (lambda p: optim.SGD([{"params": p, "lr": -1}], lr=0.1), ValueError, "lr must be at least 0"),
        (
            lambda p: optim.SGD([{"params": p, "momentun": 0.5}], lr=0.1),
            TypeError,
            "SGD has no setting 'momentun' for a group of parameters; did you mean 'momentum'",
        ),
        (lambda p: optim.Adam([{"params": p, "beta1": 0.5}]), TypeError, "no setting 'beta1' .* 'betas'"),
        (lambda p: optim.Adam([{"params": p, "betas": 0.5}]), TypeError, "betas must be two numbers"),
        (lambda p: optim.SGD([{"params": p, "nesterov": True}], lr=0.1), ValueError, "nesterov needs a momentum"),
        (lambda p: wrong("params", p)(optim.SGD(p, lr=0.1)), TypeError, "no setting 'params'"),
        (lambda p: wrong("lr", "x")(optim.SGD(p, lr=0.1)), TypeError, "lr must be a number"),
        (lambda p: optim.SGD(p, lr=0.1).param_groups[0].pop("lr"), TypeError, "a group keeps all its settings"),
    ],
)
def test_what_makes_no_groups_is_refused(use, error, message, rng):
    with pytest.raises(error, match=message):
        use(parameters(rng))


def test_groups_stay_as_they_are_inside_a_captured_step(rng):
    optimizer = grouped("Adam", parameters(rng))
    x = mg.tensor(np.ones(2))
    for use in (lambda: optimizer.rates, lambda: setattr(optimizer, "lr", 0.1)):
        with pytest.raises(mg.CaptureError, match="lr is (read|set) inside a captured step"):
            mg.capture(lambda x, use=use: (use(), x * 2.0)[1])(x)
