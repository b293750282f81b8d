import math

import numpy as np
import pytest

import minigrad as mg
from minigrad import optim

SHAPES = [(), (1,), (17,), (3, 11), (4097,)]


def parameters(rng, dtype="float64", device="cpu", shapes=SHAPES):
    return [mg.tensor(rng.standard_normal(s), dtype=dtype, device=device, requires_grad=True) for s in shapes]


def set_gradients(params, rng):
    for p in params:
        p.grad = rng.standard_normal(p.shape)


def sgd(p, g, state, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    g = g + weight_decay * p
    v = state["v"] = momentum * state.get("v", 0) + g
    return p - lr * (g + momentum * v if nesterov else v)


def adagrad(p, g, state, lr, eps=1e-10, weight_decay=0.0):
    g = g + weight_decay * p
    s = state["s"] = state.get("s", 0) + g**2
    return p - lr * g / (np.sqrt(s) + eps)


def adam(p, g, state, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    g = g + weight_decay * p
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g**2
    return p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def adamw(p, g, state, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
    return adam((1 - lr * weight_decay) * p, g, state, lr, betas, eps)


def rmsprop(p, g, state, lr, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False):
    g = g + weight_decay * p
    s = state["s"] = alpha * state.get("s", 0) + (1 - alpha) * g**2
    m = state["m"] = alpha * state.get("m", 0) + (1 - alpha) * g
    step = g / (np.sqrt(s - m**2 if centered else s) + eps)
    v = state["v"] = momentum * state.get("v", 0) + step
    return p - lr * v


CASES = {
    "SGD": (optim.SGD, sgd, {"lr": 0.1}),
    "SGD with momentum": (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
    "SGD with Nesterov's momentum": (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "SGD with weight decay": (optim.SGD, sgd, {"lr": 0.1, "weight_decay": 0.3}),
    "SGD with all": (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 0.3}),
    "AdaGrad": (optim.AdaGrad, adagrad, {"lr": 0.1}),
    "AdaGrad with all": (optim.AdaGrad, adagrad, {"lr": 0.1, "eps": 0.1, "weight_decay": 0.3}),
    "Adam": (optim.Adam, adam, {"lr": 0.1}),
    "Adam with all": (optim.Adam, adam, {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.1, "weight_decay": 0.3}),
    "AdamW": (optim.AdamW, adamw, {"lr": 0.1}),
    "AdamW with all": (optim.AdamW, adamw, {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.1, "weight_decay": 0.3}),
    "RMSprop": (optim.RMSprop, rmsprop, {"lr": 0.1}),
    "RMSprop with momentum": (optim.RMSprop, rmsprop, {"lr": 0.1, "momentum": 0.5}),
    "RMSprop, centered": (optim.RMSprop, rmsprop, {"lr": 0.1, "centered": True}),
    "RMSprop with all": (
        optim.RMSprop,
        rmsprop,
        {"lr": 0.1, "alpha": 0.7, "eps": 0.1, "weight_decay": 0.3, "momentum": 0.5, "centered": True},
    ),
}
STATEFUL = [name for name in CASES if name not in ("SGD", "SGD with weight decay")]

every_case = pytest.mark.parametrize("case", CASES)


@every_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_five_steps_are_the_formula(case, dtype, device, rng):
    make, formula, settings = CASES[case]
    params = parameters(rng, dtype, device)
    arrays = [p.data for p in params]
    expected = [p.numpy().astype(np.float64) for p in params]
    states = [{} for _ in params]
    optimizer = make(params, **settings)
    for _ in range(5):
        set_gradients(params, rng)
        optimizer.step()
        expected = [
            formula(p, t.grad.numpy().astype(np.float64), s, **settings)
            for p, t, s in zip(expected, params, states, strict=True)
        ]
    bound = {"float32": 5e-6, "float64": 1e-13}[dtype]
    for p, array, e in zip(params, arrays, expected, strict=True):
        assert p.data is array  # in place
        assert p.dtype == dtype
        np.testing.assert_allclose(p.numpy(), e, rtol=bound, atol=bound)


@every_case
def test_gradients_are_left_alone(case, device, rng):
    params = parameters(rng, device=device)
    set_gradients(params, rng)
    before = [p.grad.numpy().copy() for p in params]
    CASES[case][0](params, **CASES[case][2]).step()
    for p, g in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), g)


@every_case
def test_a_parameter_without_a_gradient_stays(case, device, rng):
    params = parameters(rng, device=device)
    set_gradients(params, rng)
    params[2].grad = None
    before = [p.numpy().copy() for p in params]
    CASES[case][0](params, **CASES[case][2]).step()
    changed = [not np.array_equal(p.numpy(), b) for p, b in zip(params, before, strict=True)]
    assert changed == [True, True, False, True, True]


@every_case
def test_parameters_of_both_dtypes_in_one_optimizer(case, device, rng):
    make, _, settings = CASES[case]
    start = [rng.standard_normal(7) for _ in range(4)]
    dtypes = ["float32", "float64", "float32", "float64"]

    def run(chosen):
        params = [mg.tensor(start[i], dtype=dtypes[i], device=device, requires_grad=True) for i in chosen]
        optimizer = make(params, **settings)
        for step in range(3):
            for i, p in zip(chosen, params, strict=True):
                p.grad = (step + 1) * start[i]
            optimizer.step()
        return {i: p.numpy() for i, p in zip(chosen, params, strict=True)}

    together, apart = run([0, 1, 2, 3]), run([0, 2]) | run([1, 3])
    for i in together:
        np.testing.assert_array_equal(together[i], apart[i], strict=True)


def test_a_changed_parameter_is_noticed_by_an_older_graph(device):
    p = mg.tensor([1.0, 2.0], device=device, requires_grad=True)
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    optim.SGD([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="changed in"):
        loss.backward()


def test_zero_grad_forgets_and_step_then_complains(device, rng):
    params = parameters(rng, device=device)
    set_gradients(params, rng)
    optimizer = optim.SGD(params, lr=0.1)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)
    with pytest.raises(RuntimeError, match=r"no parameter has a gradient; call loss\.backward"):
        optimizer.step()


def test_training_finds_the_minimum(device):
    target = np.array([1.0, -2.0, 3.0])
    for case, (make, _, settings) in CASES.items():
        if "weight_decay" in settings or make is optim.AdamW or make is optim.RMSprop:
            continue  # the first two pull towards zero; the last has steps of one size
        p = mg.tensor(np.zeros(3), device=device, requires_grad=True)
        optimizer = make([p], **settings | {"lr": 1.0 if make is optim.AdaGrad else 0.1})
        for _ in range(300):
            optimizer.zero_grad()
            ((p - target) ** 2).sum().backward()
            optimizer.step()
        np.testing.assert_allclose(p.numpy(), target, atol=1e-2, err_msg=case)


@every_case
def test_a_run_that_is_saved_and_loaded_goes_on_with_the_same_bits(case, device, rng):
    make, _, settings = CASES[case]
    gradients = [[rng.standard_normal(s) for s in SHAPES] for _ in range(6)]

    def steps(params, optimizer, which):
        for grads in which:
            for p, g in zip(params, grads, strict=True):
                p.grad = g
            optimizer.step()

    straight = parameters(np.random.default_rng(1), device=device)
    steps(straight, make(straight, **settings), gradients)

    first = parameters(np.random.default_rng(1), device=device)
    optimizer = make(first, **settings)
    steps(first, optimizer, gradients[:3])
    saved, state = [p.numpy().copy() for p in first], optimizer.state_dict()
    steps(first, optimizer, gradients[3:])  # the saved state is a copy: this does not touch it

    second = [mg.tensor(a, device=device, requires_grad=True) for a in saved]
    optimizer = make(second, **settings | {"lr": 99.0})
    optimizer.load_state_dict(state)
    assert optimizer.lr == settings["lr"]
    steps(second, optimizer, gradients[3:])
    for a, b in zip(straight, second, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_state_that_does_not_fit_is_listed_whole_and_changes_nothing(rng):
    optimizer = optim.Adam(parameters(rng), lr=0.1)
    set_gradients(optimizer.params, rng)
    optimizer.step()
    before, state = optimizer.state_dict(), optimizer.state_dict()
    del state["means.0"]
    state["velocity.0"] = np.zeros(1)
    state["squares.2"] = np.zeros(16)
    state["means.3"] = np.zeros((3, 11), np.float32)
    with pytest.raises(ValueError, match="does not fit Adam; nothing was loaded") as caught:
        optimizer.load_state_dict(state)
    for line in (
        "missing: means.0",
        "unknown: velocity.0",
        "squares.2: float64[16], expected float64[17]",
        "means.3: float32[3, 11], expected float64[3, 11]",
    ):
        assert line in str(caught.value)
    after = optimizer.state_dict()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(
    ("make", "column", "number", "message"),
    [
        (lambda p: optim.SGD(p, 0.1, momentum=0.9), 2, 0.37, "hyper: nesterov must be True or False, not 0.37"),
        (lambda p: optim.RMSprop(p), 5, 2.0, "hyper: centered must be True or False, not 2.0"),
        (lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True), 1, 0.0, "hyper: nesterov needs a momentum above 0"),
    ],
)
def test_flags_of_a_state_that_are_none_are_refused(make, column, number, message, rng):
    optimizer = make(parameters(rng))
    state = optimizer.state_dict()
    before = state["hyper"].copy()
    state["hyper"][column] = number
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    np.testing.assert_array_equal(optimizer.hyper[0], before)


def test_hyperparameters_can_be_changed_between_steps(device):
    p = mg.tensor([1.0], dtype="float64", device=device, requires_grad=True)
    optimizer = optim.SGD([p], lr=0.5, momentum=0.5)
    p.grad = np.array([1.0])
    optimizer.step()  # v = 1, p = 0.5
    optimizer.lr, optimizer.momentum, optimizer.weight_decay = 0.25, 0.25, 2.0
    optimizer.step()  # v = 0.25 * 1 + (1 + 2 * 0.5) = 2.25, p = 0.5 - 0.25 * 2.25
    assert p.item() == -0.0625
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.25, 0.25, 2.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: optim.SGD([], lr=0.1), ValueError, "got no parameters"),
        (lambda p: optim.SGD([p, p], lr=0.1), ValueError, "given twice"),
        (lambda p: optim.SGD([p * 2.0], lr=0.1), ValueError, r"parameter 0 \(shape \(2,\)\) is the result of an op"),
        (lambda p: optim.SGD([p, np.ones(2)], lr=0.1), TypeError, "parameter 1 must be .* Tensor, not ndarray"),
        (lambda p: optim.SGD([mg.tensor([1])], lr=0.1), TypeError, "not int64"),
        (lambda p: optim.SGD([p, p.detach().to("reference")], lr=0.1), ValueError, "different devices"),
        (lambda p: optim.SGD([p], lr=-0.1), ValueError, "lr must be at least 0 and finite, not -0.1"),
        (lambda p: optim.SGD([p], lr=math.inf), ValueError, "finite, not inf"),
        (lambda p: optim.SGD([p], lr=math.nan), ValueError, "finite, not nan"),
        (lambda p: optim.SGD([p], lr=10**400), ValueError, "finite, not 1000"),
        (lambda p: optim.SGD([p], lr="fast"), TypeError, "lr must be a number, not 'fast'"),
        (
            lambda p: optim.SGD([p], lr=0.1, momentum=1.0),
            ValueError,
            "momentum must be at least 0 and below 1, not 1.0",
        ),
        (lambda p: optim.SGD([p], lr=0.1, weight_decay=-1), ValueError, "weight_decay must be at least 0"),
        (lambda p: optim.SGD([p], lr=0.1, nesterov=True), ValueError, "nesterov needs a momentum above 0"),
        (
            lambda p: optim.SGD([{"params": p, "nesterov": 0.5, "momentum": 0.9}], lr=0.1),
            ValueError,
            "nesterov must be True or False, not 0.5",
        ),
        (lambda p: optim.Adam([p], betas=(1.0, 0.9)), ValueError, r"betas\[0\] must be at least 0 and below 1"),
        (lambda p: optim.Adam([p], betas=(0.9, -0.1)), ValueError, r"betas\[1\] must be"),
        (lambda p: optim.AdaGrad([p], eps=-1e-9), ValueError, "eps must be at least 0"),
        (lambda p: optim.RMSprop([p], alpha=1.0), ValueError, "alpha must be at least 0 and below 1"),
        (lambda p: optim.SGD(p, lr=0.1), TypeError, "params must be a list of tensors, not one tensor"),
    ],
)
def test_what_cannot_be_optimized_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(mg.tensor([1.0, 2.0], requires_grad=True))


def test_a_hyperparameter_out_of_range_is_refused_and_stays(rng):
    optimizer = optim.SGD(parameters(rng), lr=0.1)
    with pytest.raises(ValueError, match="lr must be at least 0"):
        optimizer.lr = -1
    assert optimizer.lr == 0.1


@pytest.mark.parametrize(("name", "value"), [("momentum", 0.5), ("centered", True)])
def test_what_an_rmsprop_has_no_state_for_is_refused(rng, name, value):
    optimizer = optim.RMSprop(parameters(rng))
    optimizer.param_groups[0][name] = value
    set_gradients(optimizer.params, rng)
    with pytest.raises(ValueError, match=f"{name} was set on an RMSprop made without"):
        optimizer.step()


def test_momentum_set_on_an_sgd_made_without_is_refused(rng):
    optimizer = optim.SGD(parameters(rng), lr=0.1)
    optimizer.momentum = 0.9
    set_gradients(optimizer.params, rng)
    with pytest.raises(ValueError, match="momentum was set on an SGD made without"):
        optimizer.step()


@pytest.mark.parametrize("case", STATEFUL)
def test_a_model_converted_after_the_optimizer_was_made_is_refused(case, device, rng):
    model = mg.nn.Linear(3, 2).to(device)
    optimizer = CASES[case][0](model.parameters(), **CASES[case][2])
    model.to("float64")
    model(mg.tensor(rng.standard_normal((5, 3)), device=device)).sum().backward()
    before = model.weight.numpy().copy()
    with pytest.raises(
        TypeError, match=r"parameter 0 is float64 now, its \w+ in this \w+ float32; convert the model first"
    ):
        optimizer.step()
    np.testing.assert_array_equal(model.weight.numpy(), before)


def test_repr_shows_the_settings(rng):
    text = repr(optim.SGD(parameters(rng), lr=0.1, momentum=0.9))
    assert text == "SGD(5 parameters, lr=0.1, momentum=0.9, nesterov=False, weight_decay=0)"
    text = repr(optim.Adam(parameters(rng), betas=(0.8, 0.99)))
    assert text == "Adam(5 parameters, lr=0.001, betas=(0.8, 0.99), eps=1e-08, weight_decay=0)"


def test_betas_have_one_form(rng):
    adam = optim.Adam(parameters(rng))
    adam.betas = 0.5, 0.9
    assert adam.betas == (0.5, 0.9)
    np.testing.assert_array_equal(adam.hyper[0, 1:3], [0.5, 0.9])
    with pytest.raises(ValueError, match=r"betas\[1\] must be at least 0 and below 1, not 1"):
        adam.betas = 0.1, 1
    assert adam.betas == (0.5, 0.9)
    for betas in (0.9, (0.9,)):
        with pytest.raises(TypeError, match=r"betas must be two numbers, such as \(0.9, 0.999\), not"):
            optim.Adam(parameters(rng), betas=betas)


def test_a_parameter_whose_first_gradient_comes_late_begins_as_the_others_did(device):
    """0.25 it moved when one count served all, at step 1,001 and a learning rate of 0.1."""
    early, late = (mg.tensor(np.zeros(2), device=device, requires_grad=True) for _ in range(2))
    optimizer = optim.Adam([early, late], lr=0.1)
    early.grad = np.ones(2)
    for _ in range(20):
        optimizer.step()
    late.grad = np.ones(2)
    optimizer.step()
    np.testing.assert_allclose(late.numpy(), -0.1, rtol=1e-6)
    counts = optimizer.state_dict()
    assert (counts["counts.0"], counts["counts.1"]) == (21, 1)


def test_rmsprop_of_a_constant_gradient_stays_finite(device):
    """Rounding makes s - m² negative there, in float32, and PyTorch's root a NaN."""
    p = mg.tensor(np.zeros(500), dtype="float32", device=device, requires_grad=True)
    optimizer = optim.RMSprop([p], lr=1e-4, alpha=0.5, centered=True)
    p.grad = np.linspace(0.1, 3, 500, dtype=np.float32)
    for _ in range(60):
        optimizer.step()
    assert np.isfinite(p.numpy()).all()
