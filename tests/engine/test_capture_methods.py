"""`@mg.capture` on a method: self is passed, and every instance has recordings of its own, which go with it."""

import copy
import dataclasses
import gc
import weakref

import numpy as np
import pytest

import minigrad as mg

ONE = np.ones(1, np.float32)


class Trainer:
    def __init__(self, value=2.0):
        self.w = mg.nn.Parameter(np.array([value], np.float32))
        self.scale = 1.0

    @mg.capture
    def step(self, x, power=1):
        """Times w."""
        return x * self.w * self.scale**power

    @mg.capture(device="reference")
    def slow(self, x):
        return x * 3.0


class Special(Trainer):
    @mg.capture
    def step(self, x):
        return super().step(x) + 1.0


class Layer(mg.nn.Module):
    def __init__(self):
        self.linear = mg.nn.Linear(1, 1)

    def forward(self, x):
        return self.linear(x)

    @mg.capture
    def predict(self, x):
        return self(x)


def recordings(method):
    return sum(map(len, method.plans.values()))


def test_self_is_passed():
    trainer = Trainer()
    for i in range(4):
        assert trainer.step(ONE * np.float32(i)).item() == 2 * i
        assert trainer.step(ONE, power=2).item() == 2
    assert recordings(trainer.step) == 2
    assert Trainer(5.0).step(ONE).item() == 5
    assert trainer.slow(ONE).device == "reference"


def test_every_instance_has_its_own_recordings():
    a, b = Trainer(2.0), Trainer(3.0)
    for _ in range(3):
        assert (a.step(ONE).item(), b.step(ONE).item()) == (2, 3)
    assert recordings(a.step) == recordings(b.step) == 1
    a.step.clear()
    assert (recordings(a.step), recordings(b.step)) == (0, 1)


def test_attributes_of_the_instance_are_respected():
    trainer = Trainer()
    assert trainer.step(ONE).item() == 2
    trainer.scale = 2.0
    assert trainer.step(ONE).item() == 4
    trainer.w = mg.tensor([10.0])
    assert trainer.step(ONE).item() == 20
    assert recordings(trainer.step) == 3


def test_method_of_the_class_takes_the_instance_as_an_argument():
    trainer = Trainer()
    assert [Trainer.step(trainer, ONE).item() for _ in range(3)] == [2, 2, 2]


def test_super():
    special = Special()
    assert [special.step(ONE).item() for _ in range(3)] == [3, 3, 3]
    assert recordings(special.step) == 1


def test_module():
    layer = Layer()
    expected = layer(mg.tensor(ONE.reshape(1, 1))).item()
    for _ in range(3):
        assert layer.predict(ONE.reshape(1, 1)).item() == expected
    assert recordings(layer.predict) == 1
    assert list(layer.state_dict()) == ["linear.weight", "linear.bias"]


@pytest.mark.parametrize("kind", [Trainer, Layer])
def test_instance_and_its_recordings_are_freed_without_the_garbage_collector(kind):
    def work():
        instance = kind()
        method = instance.step if kind is Trainer else instance.predict
        method(ONE.reshape(1, 1))
        method(ONE.reshape(1, 1))
        return weakref.ref(instance), weakref.ref(method.plan.pool)

    work()
    gc.disable()
    try:
        references = work()
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


def test_name_and_docstring():
    assert (Trainer().step.__name__, Trainer.step.__doc__) == ("step", "Times w.")


def test_shallow_copy_has_its_own():
    trainer = Trainer()
    trainer.step(ONE)
    twin = copy.copy(trainer)
    twin.w = mg.tensor([7.0])
    assert (trainer.step(ONE).item(), twin.step(ONE).item()) == (2, 7)


def test_frozen_dataclass():
    @dataclasses.dataclass(frozen=True)
    class Step:
        factor: float

        @mg.capture
        def __call__(self, x):
            return x * self.factor

    assert [Step(factor)(ONE).item() for factor in (2.0, 3.0, 2.0)] == [2, 3, 2]


def test_class_method_and_static_method():
    class Steps:
        factor = 2.0

        @classmethod
        @mg.capture
        def by_class(cls, x):
            return x * cls.factor

        @staticmethod
        @mg.capture
        def by_nobody(x):
            return x * 3.0

    for _ in range(2):
        assert Steps.by_nobody(ONE).item() == Steps().by_nobody(ONE).item() == 3
        assert Steps.by_class(ONE).item() == 2
    Steps.factor = 5.0
    assert Steps.by_class(ONE).item() == 5


def test_instance_without_a_dict_is_refused():
    class Bare:
        __slots__ = ()

        @mg.capture
        def step(self, x):
            return x

    with pytest.raises(TypeError, match="a captured method needs a place for its recordings; let Bare have a __dict__"):
        Bare().step(ONE)
