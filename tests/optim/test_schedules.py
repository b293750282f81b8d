import math

import numpy as np
import pytest

import minigrad as mg
from minigrad import optim


def parameters(count=2):
    return [mg.tensor(np.ones(3), requires_grad=True) for _ in range(count)]


def rates(schedule, count):
    """The optimizer's learning rate, now and after each of `count` steps of the schedule."""
    result = [schedule.optimizer.lr]
    for _ in range(count):
        schedule.step()
        result.append(schedule.optimizer.lr)
    return result


@pytest.fixture
def optimizer():
    return optim.SGD(parameters(), lr=0.01)


def test_step_schedule_as_kiefer_had_it(optimizer):
    schedule = optim.StepSchedule(optimizer, every=10, factor=0.1, offset=1)
    expected = [1e-2] * 9 + [1e-3] * 10 + [1e-4] * 10 + [1e-5]
    np.testing.assert_allclose(rates(schedule, 29), expected, rtol=1e-12)


def test_step_schedule(optimizer):
    np.testing.assert_allclose(
        rates(optim.StepSchedule(optimizer, every=2, factor=0.5), 5), [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025]
    )


def test_exponential_schedule(optimizer):
    np.testing.assert_allclose(rates(optim.ExponentialSchedule(optimizer, 0.9), 3), [0.01, 0.009, 0.0081, 0.00729])


def test_cosine_schedule(optimizer):
    half = 0.002 + 0.008 / 2
    quarter = 0.002 + 0.008 * (1 + math.sqrt(0.5)) / 2
    expected = [0.01, quarter, half, 0.012 - quarter, 0.002, 0.002, 0.002]
    np.testing.assert_allclose(rates(optim.CosineSchedule(optimizer, 4, final=0.002), 6), expected, rtol=1e-12)


def test_function_schedule_gives_the_rate_itself(optimizer):
    assert rates(optim.FunctionSchedule(optimizer, lambda n: 0.3 / (n + 1)), 2) == [0.3, 0.15, 0.3 / 3]


def test_warmup_rises_to_the_learning_rate_and_stays(optimizer):
    expected = [0.0, 0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01]
    np.testing.assert_allclose(rates(optim.WarmupSchedule(optimizer, 4), 6), expected, rtol=1e-12)
    optimizer.lr = 0.01
    np.testing.assert_allclose(rates(optim.WarmupSchedule(optimizer, 2, start=0.5), 2), [0.005, 0.0075, 0.01])


def test_warmup_leads_to_another_schedule():
    alone = rates(optim.CosineSchedule(optim.SGD(parameters(), lr=0.3), 4), 5)
    optimizer = optim.SGD(parameters(), lr=0.3)
    warm = optim.WarmupSchedule(optimizer, 3, optim.CosineSchedule(optimizer, 4))
    np.testing.assert_allclose(rates(warm, 8), [0.0, 0.1, 0.2, *alone], atol=1e-15)


ONE_CYCLE = [
    {},
    {"pct_start": 0.5, "div_factor": 10.0, "final_div_factor": 100.0},
    {"anneal_strategy": "linear"},
    {"pct_start": 0.9, "anneal_strategy": "linear"},
    {"pct_start": 0.02},
    {"pct_start": 0.0, "anneal_strategy": "linear"},
]


@pytest.mark.parametrize("options", ONE_CYCLE)
@pytest.mark.parametrize("steps", [10, 37])
def test_one_cycle_is_that_of_pytorch(options, steps):
    torch = pytest.importorskip("torch")
    other = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=7.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(other, 0.3, total_steps=steps, cycle_momentum=False, **options)
    expected = []
    for step in range(steps):
        expected.append(theirs.get_last_lr()[0])
        other.step()
        if step + 1 < steps:
            theirs.step()
    found = rates(optim.OneCycleSchedule(optim.SGD(parameters(), lr=0.3), steps, **options), steps + 1)
    np.testing.assert_allclose(found, [*expected, expected[-1], expected[-1]], rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_shortest_cycles_are_finite(steps):
    for pct_start in (0.0, 0.3, 0.5, 1.0):
        found = rates(optim.OneCycleSchedule(optim.SGD(parameters(), lr=0.3), steps, pct_start=pct_start), steps)
        assert all(0 < rate <= 0.3 for rate in found)


PLATEAU = [
    {},
    {"mode": "max"},
    {"threshold": 0.2},
    {"threshold": 0.5, "threshold_mode": "abs"},
    {"mode": "max", "threshold": 0.2, "threshold_mode": "abs"},
    {"cooldown": 3},
    {"min_lr": 0.05, "patience": 0},
]


@pytest.mark.parametrize("options", PLATEAU)
def test_plateau_is_that_of_pytorch(options, rng):
    torch = pytest.importorskip("torch")
    options = {"patience": 2, "factor": 0.5, **options}
    other = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(other, **options)
    optimizer = optim.SGD(parameters(), lr=0.3)
    ours = optim.PlateauSchedule(optimizer, **options)
    twin = None
    for step, value in enumerate([*rng.uniform(-2, 2, 40), math.nan, *rng.uniform(1, 2, 40), *[1.5] * 40]):
        theirs.step(value)
        ours.step(value)
        assert optimizer.lr == pytest.approx(other.param_groups[0]["lr"], rel=1e-12)
        if twin is not None:
            twin.step(value)
            assert (twin.state_dict(), twin.optimizer.lr) == (ours.state_dict(), optimizer.lr)
        if step == 50:
            twin = optim.PlateauSchedule(optim.SGD(parameters(), lr=7.0), **options)
            twin.load_state_dict(ours.state_dict())
    assert optimizer.lr < 0.3


def test_plateau_knows_by_the_name_which_way_is_better(optimizer):
    schedule = optim.PlateauSchedule(optimizer, "validation_accuracy", patience=0)
    for value, rate in ((0.5, 0.01), (0.6, 0.01), (0.4, 0.001)):
        schedule.step(value)
        assert optimizer.lr == pytest.approx(rate)


def test_plateau_refuses_a_state_that_is_none_and_changes_nothing(optimizer):
    schedule = optim.PlateauSchedule(optimizer)
    schedule.step(2.0)
    before = schedule.state_dict()
    for change in (
        {"best": "x"},
        {"best": True},
        {"waited": -1},
        {"resting": 0.5},
        {"rates": [0.1, 0.1]},
        {"rates": -1},
    ):
        with pytest.raises((TypeError, ValueError)):
            schedule.load_state_dict({**before, **change})
        assert schedule.state_dict() == before


SCHEDULES = {
    "step": lambda o: optim.StepSchedule(o, every=2),
    "exponential": lambda o: optim.ExponentialSchedule(o, 0.9),
    "cosine": lambda o: optim.CosineSchedule(o, 10),
    "function": lambda o: optim.FunctionSchedule(o, lambda n: 0.3 / (n + 1)),
    "warmup": lambda o: optim.WarmupSchedule(o, 5),
    "warmup before another": lambda o: optim.WarmupSchedule(o, 2, optim.CosineSchedule(o, 10, final=0.01)),
    "one cycle": lambda o: optim.OneCycleSchedule(o, 9),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_from_its_state(name, optimizer):
    schedule = SCHEDULES[name](optimizer)
    rates(schedule, 3)
    state = schedule.state_dict()
    expected = rates(schedule, 5)
    other = SCHEDULES[name](optim.SGD(parameters(), lr=77.0))
    other.load_state_dict(state)
    assert rates(other, 5) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: optim.StepSchedule(o, every=0), "every must be at least 1, not 0"),
        (lambda o: optim.StepSchedule(o, every=1, factor=-1), "factor must be at least 0"),
        (lambda o: optim.ExponentialSchedule(o, math.nan), "factor must be at least 0 and finite, not nan"),
        (lambda o: optim.CosineSchedule(o, 0), "steps must be at least 1, not 0"),
        (lambda o: optim.CosineSchedule(o, 5, final=-1), "final must be at least 0"),
        (lambda o: optim.WarmupSchedule(o, 0), "steps must be at least 1, not 0"),
        (lambda o: optim.WarmupSchedule(o, 5, start=-1.0), "start must be from 0"),
        (
            lambda o: optim.WarmupSchedule(o, 5, optim.StepSchedule(optim.SGD(parameters(), lr=1.0), every=2)),
            "after must be a schedule of mg.optim for the same optimizer",
        ),
        (lambda o: optim.OneCycleSchedule(o, 0), "steps must be at least 1, not 0"),
        (lambda o: optim.OneCycleSchedule(o, 5, pct_start=1.5), "pct_start, the share"),
        (lambda o: optim.OneCycleSchedule(o, 5, anneal_strategy="exp"), "must be 'cos' or 'linear', not 'exp'"),
        (lambda o: optim.OneCycleSchedule(o, 5, div_factor=0.0), "must be above 0"),
        (lambda o: optim.PlateauSchedule(o, mode="less"), "mode must be 'min' or 'max'"),
        (lambda o: optim.PlateauSchedule(o, factor=1.0), "factor must be from 0 to below 1"),
        (lambda o: optim.PlateauSchedule(o, patience=-1), "patience must be at least 0"),
        (lambda o: optim.PlateauSchedule(o, threshold_mode="both"), "threshold_mode must be 'rel' or 'abs'"),
        (lambda o: optim.FunctionSchedule(o, lambda n: -0.1), "lr must be at least 0 and finite, not -0.1"),
    ],
)
def test_a_schedule_out_of_range_is_refused(make, message, optimizer):
    with pytest.raises(ValueError, match=message):
        make(optimizer)
    assert optimizer.lr == 0.01


def groups(*rates):
    """An optimizer with a group of one parameter for each learning rate."""
    return optim.SGD([{"params": p, "lr": lr} for p, lr in zip(parameters(len(rates)), rates, strict=True)], lr=1.0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_groups_follow_one_rule_each_from_its_own_beginning(name):
    first, second = (SCHEDULES[name](optim.SGD(parameters(), lr=lr)) for lr in (0.3, 0.03))
    together = SCHEDULES[name](groups(0.3, 0.03, 0.3))
    for _ in range(12):
        for schedule in (first, second, together):
            schedule.step()
        second_rate = first.optimizer.lr / 10 if name == "function" else second.optimizer.lr
        np.testing.assert_allclose(
            together.optimizer.rates, [first.optimizer.lr, second_rate, first.optimizer.lr], rtol=1e-14
        )


def test_state_of_a_schedule_over_groups():
    schedule = optim.StepSchedule(groups(0.3, 0.03), every=2)
    rates = schedule.optimizer.rates
    for _ in range(3):
        schedule.step()
    state = schedule.state_dict()
    assert state == {"initial": rates, "count": 3}
    other = optim.StepSchedule(groups(7.0, 5.0), every=2)
    other.load_state_dict(state)
    assert other.optimizer.rates == schedule.optimizer.rates
    with pytest.raises(ValueError, match="initial has 2 learning rates, and the optimizer 1 groups"):
        optim.StepSchedule(optim.SGD(parameters(), lr=1.0), every=2).load_state_dict(state)
    assert other.optimizer.rates == schedule.optimizer.rates
