"""Steps drawn at random, captured and eager: the same bits in all that they leave, whatever happens between two calls."""

import random

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.kernels.cpu.tools.launch import Choice

ROWS = 4
CALLS = 8


class World:
    """What a step works on: a model, a parameter by itself, two tensors that it changes in place, an optimizer, a number."""

    def __init__(self, draw, device):
        mg.manual_seed(draw.randrange(1000))
        self.device = device
        self.width = n = draw.choice([3, 8, 16])
        layers = nn.Linear(n, n), nn.BatchNorm(n), nn.Tanh(), nn.Dropout(0.3), nn.Linear(n, n)
        self.model = nn.Sequential(*layers).to(device)
        self.weight = nn.Parameter(np.linspace(-1, 1, n * n).reshape(n, n).astype(np.float32)).to(device)
        self.state = mg.zeros((ROWS, n), device=device)
        self.sums = mg.zeros(n, device=device)
        self.factor = 1.5
        self.parameters = [*self.model.parameters(), self.weight]
        make = draw.choice([lambda ps: mg.optim.SGD(ps, lr=0.05, momentum=0.9), lambda ps: mg.optim.Adam(ps, lr=0.01)])
        self.optimizer = make(self.parameters)

    def left(self):
        """All that a step may change, as arrays; None for a gradient that is not there."""
        tensors = [*self.model.state_dict().values(), self.weight, self.state, self.sums]
        gradients = [p.grad for p in self.parameters]
        return [None if t is None else np.array(t.numpy()) for t in tensors + gradients]


class Run:
    """One run of a step: the value that goes from action to action, and a loss that adds up until `backward`."""

    def __init__(self, world, x):
        self.world, self.v, self.loss = world, x, None

    def add(self, term):
        self.loss = term if self.loss is None else self.loss + term

    def use_and_free_memory(self, u):
        many = [self.v * (i + u) for i in range(6)]
        total = sum(many[1:], start=many[0])
        self.v = total * 0.05

    def run_the_model(self, u):
        self.v = self.world.model(self.v)
        self.add((self.v * self.v).sum())

    def multiply_by_the_parameter(self, u):
        self.v = self.v @ self.world.weight
        self.add((self.v * self.v).mean())

    def multiply_by_a_number(self, u):
        self.v = self.v * self.world.factor

    def change_in_place(self, u):
        v = self.v * 1.0
        v += u
        v *= 0.5
        self.v = v

    def change_a_tensor_from_outside(self, u):
        with mg.no_grad():
            self.world.sums += self.v.detach().sum(axis=0) * 0.01

    def carry_state(self, u):
        self.v = self.v + self.world.state * 0.5
        with mg.no_grad():
            self.world.state *= 0.9
            self.world.state += self.v.detach() * 0.1

    def look_at_a_gradient(self, u):
        if self.world.weight.grad is not None:
            self.add((self.world.weight.grad.detach() * 0.01 * self.world.weight).sum())

    def go_backward(self, u):
        if self.loss is not None:
            self.loss.backward()
            self.loss, self.v = None, self.v.detach()

    def clip(self, u):
        if self.world.weight.grad is not None:
            mg.optim.clip_grad_norm([self.world.weight], 0.5)

    def scale_a_gradient(self, u):
        if self.world.weight.grad is not None:
            self.world.weight.grad = self.world.weight.grad * u

    def take_a_step(self, u):
        if all(p.grad is not None for p in self.world.parameters):
            self.world.optimizer.step()

    def forget_gradients(self, u):
        self.world.optimizer.zero_grad()

    def forget_a_gradient(self, u):
        self.world.weight.grad = None

    def draw_numbers(self, u):
        self.v = self.v + mg.random.normal(self.v.shape, device=self.v.device) * 0.1

    def reshape(self, u):
        self.v = self.v.reshape(-1).reshape(ROWS, -1)[::1]

    def leave_the_tape(self, u):
        with mg.no_grad():
            self.v = self.v + u * self.v

    def run_again_in_backward(self, u):
        self.v = mg.recompute(lambda v: mg.tanh(v) * u, self.v)


ACTIONS = [action for name, action in vars(Run).items() if not name.startswith("_") and name != "add"]


class Between:
    """What may happen between two calls."""

    def set_a_gradient(world, rng):
        world.weight.grad = mg.tensor(rng.standard_normal(world.weight.shape), dtype="float32", device=world.device)

    def set_gradients(world, rng):
        for p in world.parameters:
            p.grad = mg.tensor(rng.standard_normal(p.shape), dtype="float32", device=world.device)

    def forget_a_gradient(world, rng):
        world.weight.grad = None

    def forget_gradients(world, rng):
        world.optimizer.zero_grad()

    def add_to_a_gradient(world, rng):
        (world.weight * world.weight).sum().backward()

    def keep_a_gradient(world, rng):
        world.kept = world.weight.grad

    def set_a_number(world, rng):
        world.factor = 0.5 + rng.random()

    def replace_a_tensor(world, rng):
        world.state = mg.tensor(rng.standard_normal(world.state.shape), dtype="float32", device=world.device)

    def replace_an_array(world, rng):
        world.weight.data = rng.standard_normal(world.weight.shape).astype(np.float32)

    def write_into_an_array(world, rng):
        with mg.no_grad():
            world.weight += 0.1

    def change_the_mode(world, rng):
        world.model.train(not world.model.training)

    def set_the_learning_rate(world, rng):
        world.optimizer.lr = 0.05 * rng.random()

    def set_the_rate_of_dropout(world, rng):
        world.model[3].p = 0.5 * rng.random()

    def replace_a_layer(world, rng):
        world.model[2] = nn.Sigmoid() if isinstance(world.model[2], nn.Tanh) else nn.Tanh()


CHANGES = [change for name, change in vars(Between).items() if not name.startswith("_")]


def results(seed, device, captured):
    """What a step drawn by `seed` gives and leaves in each call, to its end or to the first error."""
    draw, rng = random.Random(seed), np.random.default_rng(seed)
    world = World(draw, device)
    program = [
        (draw.choice([*ACTIONS, Run.go_backward, Run.use_and_free_memory]), draw.random())
        for _ in range(draw.randint(3, 14))
    ]

    def step(x):
        run = Run(world, x)
        for action, u in program:
            action(run, u)
        return [run.v * 1.0] if run.loss is None else [run.v * 1.0, run.loss * 1.0]

    run = mg.capture(step) if captured else step
    for _ in range(CALLS):
        x = mg.tensor(rng.standard_normal((ROWS, world.width)), dtype="float32", device=device)
        names = " ".join(action.__name__ for action, _ in program)
        try:
            outputs = run(x)
        except RuntimeError as error:  # a step may change in place what backward needs
            yield f"{names}: {error}", world.left()
            return
        yield names, [*map(np.array, outputs), *world.left()]
        for number in rng.integers(0, 2 * len(CHANGES), 2):
            if number < len(CHANGES):
                CHANGES[number](world, rng)


def check(seeds, device):
    for seed in seeds:
        both = zip(*[list(results(seed, device, captured)) for captured in (True, False)], strict=True)
        for call, ((program, found), (eager_program, expected)) in enumerate(both):
            where = f"seed {seed}, call {call} of {program}"
            assert program == eager_program, where
            for x, y in zip(found, expected, strict=True):
                assert (x is None) == (y is None), where
                assert x is None or np.array_equal(x, y, equal_nan=True), where


def test_steps_of_any_kind_give_the_bits_of_eager_ones(device):
    check(range(40) if device != "cuda" else range(4), device)


def test_steps_whose_launches_wait_give_the_bits_of_eager_ones(monkeypatch):
    draw = random.Random(0)
    monkeypatch.setattr(Choice, "has_to_wait", lambda choice: draw.random() < 0.3)
    check(range(40), "cpu")


@pytest.mark.slow
def test_many_steps_of_any_kind_give_the_bits_of_eager_ones():
    check(range(1000, 1500), "cpu")
