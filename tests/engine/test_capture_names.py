"""What the names in a step's code stand for: another value is recorded anew, and never goes unnoticed."""

import functools
import sys
import types

import numpy as np
import pytest

import minigrad as mg

ONE = np.ones(1, np.float32)
SCALE = 2.0
WEIGHT = mg.tensor([2.0])
TABLE = {"factor": 2.0, "inner": [2.0]}


def recordings(captured):
    return sum(map(len, captured.plans.values()))


def helper(x):
    return x * SCALE


def deep(x):
    return helper(helper(x))


class Config:
    rate = 3.0

    def __init__(self):
        self.p, self.weight, self.inner = 2.0, mg.tensor([2.0]), types.SimpleNamespace(q=2.0)

    @property
    def doubled(self):
        return self.p * 2

    def apply(self, x):
        return x * self.p * SCALE

    def __call__(self, x):
        return x * self.p


class Slotted:
    __slots__ = ("p",)

    def __init__(self):
        self.p = 2.0


class Power(mg.Op):
    """x to the power of a global number."""

    def forward(self, x):
        y = self.empty_like(x)
        self.kernels.elementwise.power_forward(x.reshape(-1), SCALE, y.reshape(-1))
        return y


def check(step, change, before, after):
    """Called often before and after the change, it gives these results."""
    captured = mg.capture(step)
    assert [captured(ONE).item() for _ in range(3)] == [before] * 3
    assert recordings(captured) == 1
    change()
    assert [captured(ONE).item() for _ in range(3)] == [after] * 3
    assert recordings(captured) == 2


GLOBALS = {
    "number": (lambda x: x * SCALE, 2, 5),
    "through a function": (helper, 2, 5),
    "through two": (deep, 4, 25),
    "in a nested function": (lambda x: (lambda y: y * SCALE)(x), 2, 5),
    "in a comprehension": (lambda x: mg.concat([x * s for s in (SCALE,)]), 2, 5),
    "partial": (functools.partial(lambda f, x: f(x), helper), 2, 5),
    "decorated": (mg.no_grad()(helper), 2, 5),
    "cached": (lambda x: functools.lru_cache(helper).__wrapped__(x), 2, 5),
    "of an op": (lambda x: Power.apply(x * 2.0), 4, 32),
    "argument": (lambda x, f=helper: f(x), 2, 5),
}


@pytest.mark.parametrize("case", GLOBALS, ids=GLOBALS.keys())
def test_global_number(case, monkeypatch):
    step, before, after = GLOBALS[case]
    check(step, lambda: monkeypatch.setitem(globals(), "SCALE", 5.0), before, after)


def test_global_tensor(monkeypatch):
    check(lambda x: x * WEIGHT, lambda: monkeypatch.setitem(globals(), "WEIGHT", mg.tensor([5.0])), 2, 5)


def test_global_function(monkeypatch):
    check(lambda x: helper(x), lambda: monkeypatch.setitem(globals(), "helper", lambda x: x * 7.0), 2, 7)


@pytest.mark.parametrize("change", [lambda: TABLE.update(factor=5.0), lambda: TABLE["inner"].__setitem__(0, 5.0)])
def test_contents_of_a_dict(change, monkeypatch):
    monkeypatch.setitem(globals(), "TABLE", {"factor": 2.0, "inner": [2.0]})
    check(lambda x: x * TABLE["factor"] * TABLE["inner"][0], change, 4, 10)


def test_number_in_a_small_array():
    values = np.array([2.0, 3.0])
    check(lambda x: x * float(values[0]), lambda: values.__setitem__(0, 5.0), 2, 5)


@pytest.mark.parametrize("value", [5.0, -2.0])
def test_variable_around_the_step(value):
    scale = 2.0

    def step(x):
        return x * scale

    def change():
        nonlocal scale
        scale = value

    check(step, change, 2, value)


def test_tensor_around_the_step():
    weight = mg.tensor([2.0])

    def step(x):
        return x * weight

    def change():
        nonlocal weight
        weight = mg.tensor([5.0])

    check(step, change, 2, 5)


def test_negative_zero_is_another_number():
    zero = 0.0

    def step(x):
        return x * zero

    captured = mg.capture(step)
    assert np.signbit(captured(ONE).numpy()) == [False]
    zero = -0.0
    assert np.signbit(captured(ONE).numpy()) == [True]


CONFIGS = {
    "attribute": (lambda c, x: x * c.p, lambda c: setattr(c, "p", 5.0), 2, 5),
    "tensor": (lambda c, x: x * c.weight, lambda c: setattr(c, "weight", mg.tensor([5.0])), 2, 5),
    "chain": (lambda c, x: x * c.inner.q, lambda c: setattr(c.inner, "q", 5.0), 2, 5),
    "object of a chain": (
        lambda c, x: x * c.inner.q,
        lambda c: setattr(c, "inner", types.SimpleNamespace(q=5.0)),
        2,
        5,
    ),
    "property": (lambda c, x: x * c.doubled, lambda c: setattr(c, "p", 5.0), 4, 10),
    "method": (lambda c, x: c.apply(x), lambda c: setattr(c, "p", 5.0), 4, 10),
    "call": (lambda c, x: c(x), lambda c: setattr(c, "p", 5.0), 2, 5),
    "of the class": (lambda c, x: x * c.rate, lambda c: setattr(c, "rate", 5.0), 3, 5),
    "deleted": (lambda c, x: x * c.rate, lambda c: delattr(c, "rate"), 4, 3),
}


@pytest.mark.parametrize("around", [True, False], ids=["around", "argument"])
@pytest.mark.parametrize("case", CONFIGS)
def test_attribute_of_an_object(case, around):
    read, change, before, after = CONFIGS[case]
    config = Config()
    if case == "deleted":
        config.rate = 4.0
    if around:
        check(lambda x: read(config, x), lambda: change(config), before, after)
        return
    captured = mg.capture(read)
    assert [captured(config, ONE).item() for _ in range(3)] == [before] * 3
    change(config)
    assert [captured(config, ONE).item() for _ in range(3)] == [after] * 3


def test_attribute_of_a_class(monkeypatch):
    config = Config()
    check(lambda x: x * config.rate, lambda: monkeypatch.setattr(Config, "rate", 5.0), 3, 5)


def test_method_of_a_class(monkeypatch):
    config = Config()
    check(lambda x: config.apply(x), lambda: monkeypatch.setattr(Config, "apply", lambda self, x: x * 9.0), 4, 9)


def test_attribute_in_a_slot():
    slotted = Slotted()
    check(lambda x: x * slotted.p, lambda: setattr(slotted, "p", 5.0), 2, 5)


def test_attribute_of_objects_in_a_list():
    configs = [Config(), Config()]

    def step(x):
        for config in configs:
            x = x * config.p
        return x

    check(step, lambda: setattr(configs[1], "p", 5.0), 4, 10)


def test_attribute_through_a_local_variable_and_a_function():
    config = Config()

    def read(settings):
        return settings.inner.q

    def step(x):
        mine = config
        return x * read(mine)

    check(step, lambda: setattr(config.inner, "q", 5.0), 2, 5)


class Scaling:
    """Made by the step: what it is given comes from outside."""

    power = 1.0

    def __init__(self, config):
        self.config = config
        self.loss = 0.0

    @property
    def factor(self):
        return self.config.inner.q * self.power

    def apply(self, x):
        return x * self.factor * SCALE


@pytest.mark.parametrize("change", ["object", "global", "class"])
def test_what_an_instance_reads_that_the_step_makes(change, monkeypatch):
    config = Config()

    @mg.capture
    def step(x):
        return Scaling(config).apply(x)

    assert step(ONE).item() == 4
    if change == "object":
        config.inner.q = 6.0
    elif change == "global":
        monkeypatch.setitem(globals(), "SCALE", 6.0)
    else:
        monkeypatch.setattr(Scaling, "power", 3.0)
    assert step(ONE).item() == 12


def test_attributes_of_that_instance_itself_are_no_condition():
    config = Config()
    config.loss = 1.0  # as it has, too
    step = mg.capture(lambda x: Scaling(config).apply(x))
    for i in range(3):
        config.loss = float(i)
        step(ONE)
    assert recordings(step) == 1


def test_name_in_a_module_of_the_users_own(monkeypatch):
    module = types.ModuleType("settings_of_a_test")
    module.scale = 2.0
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def step(x):
        import settings_of_a_test as settings

        return x * settings.scale

    check(step, lambda: setattr(module, "scale", 5.0), 2, 5)


def test_function_of_a_module_forward_and_its_global(monkeypatch):
    class Net(mg.nn.Module):
        def forward(self, x):
            return self.twice(x)

        def twice(self, x):
            return helper(x)

    check(Net(), lambda: monkeypatch.setitem(globals(), "SCALE", 5.0), 2, 5)


def test_hook_and_its_variable():
    w = mg.tensor([1.0], requires_grad=True)
    factor = 10.0
    w.register_hook(lambda grad: grad * factor)

    @mg.capture
    def step(x):
        w.zero_grad()
        (w * x).backward()

    step(ONE)
    assert w.grad.item() == 10
    factor = 20.0
    step(ONE)
    assert w.grad.item() == 20


def test_schedule_is_computed_from_anew():
    optimizer = mg.optim.SGD([mg.tensor([1.0], requires_grad=True)], lr=0.5)
    schedule = mg.optim.ExponentialSchedule(optimizer, 0.5)
    step = mg.capture(lambda x: x * schedule.value(1))
    assert step(ONE).item() == 0.25
    schedule.factor = 0.25
    assert step(ONE).item() == 0.125


def test_value_set_back_finds_the_earlier_recording(monkeypatch):
    step = mg.capture(helper)
    for scale in (2.0, 5.0, 2.0, 5.0):
        monkeypatch.setitem(globals(), "SCALE", scale)
        assert step(ONE).item() == scale
    assert recordings(step) == 2


def test_equal_numbers_are_not_recorded_anew(monkeypatch):
    step = mg.capture(helper)
    for _ in range(4):
        monkeypatch.setitem(globals(), "SCALE", float("2.0"))
        step(ONE)
    assert recordings(step) == 1


def test_other_attributes_of_the_same_object_do_not_matter():
    class Trainer:
        def __init__(self):
            self.step, self.scale, self.inner = 0, 2.0, types.SimpleNamespace(step=lambda x: x)

        def run(self, x):
            return self.inner.step(x) * self.scale

    trainer = Trainer()
    step = mg.capture(trainer.run)
    for i in range(5):
        trainer.step = i
        step(ONE)
    assert recordings(step) == 1


def test_list_that_is_only_added_to_decides_nothing():
    seen = []

    @mg.capture
    def step(x):
        seen.append(x.shape)
        return x * 2.0

    for _ in range(4):
        step(ONE)
    assert recordings(step) == 1
    assert seen == [(1,)]


def test_tensor_put_into_a_list_is_refused():
    kept = []

    @mg.capture
    def step(x):
        kept.append(x * 2.0)

    with pytest.raises(mg.CaptureError, match="puts a tensor into the variable 'kept'"):
        step(ONE)


def test_variable_that_the_step_counts_is_refused():
    count = 0

    @mg.capture
    def step(x):
        nonlocal count
        count += 1
        return x * float(count)

    assert step(ONE).item() == 1
    with pytest.raises(mg.CaptureError, match="changes the variable 'count' around step itself at every call"):
        step(ONE)


def test_tuples_of_equal_numbers_of_other_types_are_other_arguments():
    step = mg.capture(lambda x, flags: x * 10.0 if flags[0] is True else x)
    assert [step(ONE, flags).item() for flags in ((True,), (1,), (1.0,), (True,))] == [10, 1, 1, 10]
    step = mg.capture(lambda x, factor: x * factor)
    assert [np.signbit(step(ONE, zero).numpy())[0] for zero in (0.0, -0.0, 0.0)] == [False, True, False]
