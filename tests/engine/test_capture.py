"""A captured step does what the step does: the same bits, whatever changes between the calls."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.devices import Device
from minigrad.kernels.cpu.tools.launch import Variants
from minigrad.kernels.cpu.tools.threads import available_threads

OPTIMIZERS = {
    "sgd": lambda params: mg.optim.SGD(params, lr=0.1),
    "momentum": lambda params: mg.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda params: mg.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "adagrad": lambda params: mg.optim.AdaGrad(params, lr=0.05),
    "adam": lambda params: mg.optim.Adam(params, lr=0.01),
}


class Training:
    """A network with Batch Normalization and dropout, its optimizer, and one step, captured or not."""

    def __init__(self, captured, device="cpu", optimizer="sgd", dtype="float32"):
        mg.manual_seed(3)
        self.model = mg.nn.Sequential(
            mg.nn.Linear(12, 16, bias=False),
            mg.nn.BatchNorm(16),
            mg.nn.Sigmoid(),
            mg.nn.Dropout(0.3),
            mg.nn.Linear(16, 8),
            mg.nn.ReLU(),
            mg.nn.Linear(8, 4),
        )
        self.model.to(dtype).to(device)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.device, self.dtype = device, dtype
        self.rng = np.random.default_rng(5)
        self.captured = mg.capture(self.step, device=device) if captured else None
        self.losses = []

    def step(self, images, labels):
        self.optimizer.zero_grad()
        loss = mg.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        return loss

    def batch(self, size):
        images = self.rng.standard_normal((size, 12)).astype(self.dtype)
        return images, self.rng.integers(0, 4, size)

    def run(self, sizes):
        for size in sizes:
            images, labels = self.batch(size)
            step = self.captured or (lambda x, labels: self.step(mg.tensor(x, device=self.device), labels))
            self.losses.append(step(images, labels))
        return self

    def bits(self):
        """Everything a run leaves, as bytes."""
        arrays = {name: t.numpy() for name, t in self.model.state_dict().items()} | self.optimizer.state_dict()
        arrays |= {f"grad of {name}": t.grad.numpy() for name, t in self.model.named_parameters() if t.grad is not None}
        arrays["losses"] = np.array([loss.item() for loss in self.losses])
        return {name: (array.dtype, array.tobytes()) for name, array in arrays.items()}


def both(**options):
    """The same training, eager and captured."""
    return Training(False, **options), Training(True, **options)


def assert_same_bits(eager, captured):
    left, right = eager.bits(), captured.bits()
    assert left.keys() == right.keys()
    assert [name for name in left if left[name] != right[name]] == []


def recordings(captured):
    return sum(map(len, captured.plans.values()))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_many_steps_give_the_bits_of_eager_steps(optimizer, device):
    eager, captured = both(device=device, optimizer=optimizer)
    assert_same_bits(eager.run([10] * 30), captured.run([10] * 30))
    assert recordings(captured.captured) == 1
    assert len({loss.item() for loss in captured.losses}) == 30


def test_float64_gives_the_bits_of_eager_steps(device):
    eager, captured = both(device=device, dtype="float64", optimizer="adam")
    assert_same_bits(eager.run([10] * 10), captured.run([10] * 10))


def test_large_batches_give_the_bits_of_eager_steps():
    eager, captured = both()
    assert_same_bits(eager.run([5000] * 10), captured.run([5000] * 10))


def test_another_shape_records_anew_and_both_are_kept(device):
    sizes = [10, 10, 7, 10, 7, 7, 10]
    eager, captured = both(device=device)
    assert_same_bits(eager.run(sizes), captured.run(sizes))
    assert recordings(captured.captured) == 2


# What may change between calls


def test_learning_rate_is_seen_by_replays(device):
    eager, captured = both(device=device, optimizer="momentum")
    for training in (eager, captured):
        schedule = mg.optim.ExponentialSchedule(training.optimizer, 0.5)
        for _ in range(6):
            training.run([10])
            schedule.step()
        training.optimizer.weight_decay = 0.1
        training.run([10, 10])
    assert_same_bits(eager, captured)
    assert recordings(captured.captured) == 1


def test_evaluation_between_calls_is_respected(device):
    eager, captured = both(device=device)
    probe = np.ones((5, 12), np.float32)
    for training in (eager, captured):
        predict = mg.capture(training.model, device=device) if training.captured else training.model
        for _ in range(3):
            training.run([10, 10])
            training.model.eval()
            given = probe if training.captured else mg.tensor(probe, device=device)
            training.losses.append(predict(given).sum())
            training.model.train()
    assert_same_bits(eager, captured)
    assert recordings(captured.captured) == 1


def test_one_part_of_the_model_in_evaluation_is_respected():
    eager, captured = both()
    for training in (eager, captured):
        training.run([10, 10])
        training.model[1].eval()
        training.run([10, 10])
        training.model[3].eval()
        training.run([10, 10])
    assert_same_bits(eager, captured)


def test_replaced_parameters_are_respected():
    eager, captured = both(optimizer="adam")
    for training in (eager, captured):
        training.run([10, 10, 10])
        training.model[4].weight.data = np.ones((16, 8)) * 0.1
        training.run([10, 10, 10])
    assert_same_bits(eager, captured)
    assert recordings(captured.captured) == 2


def test_parameters_loaded_in_place_are_respected():
    eager, captured = both()
    for training in (eager, captured):
        state = {name: t.numpy() * 0.5 for name, t in training.model.state_dict().items()}
        state["3.counter"] = np.array([9, 9], np.uint64)
        training.run([10, 10])
        training.model.load_state_dict(
            {name: np.asarray(a, training.model.state_dict()[name].dtype) for name, a in state.items()}
        )
        training.run([10, 10])
    assert_same_bits(eager, captured)
    assert recordings(captured.captured) == 1


def test_parameter_changed_in_place_is_respected():
    eager, captured = both()
    for training in (eager, captured):
        for _ in range(3):
            training.run([10, 10])
            training.model[4].weight.data *= 0.5
    assert_same_bits(eager, captured)
    assert recordings(captured.captured) == 1


def test_frozen_parameter_stays_as_it_is():
    eager, captured = both()
    for training in (eager, captured):
        training.run([10, 10])
        weight = training.model[4].weight
        weight.requires_grad = False
        before = weight.numpy().copy()
        training.run([10, 10])
        np.testing.assert_array_equal(weight.numpy(), before)
        weight.requires_grad = True
        training.run([10, 10])
    assert_same_bits(eager, captured)
    assert recordings(captured.captured) == 2


# Gradients


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_accumulation_with_zero_grad_outside(optimizer, device):
    def run(captured):
        mg.manual_seed(0)
        model = mg.nn.Sequential(mg.nn.Linear(12, 8), mg.nn.Tanh(), mg.nn.Linear(8, 4)).to(device)
        training = OPTIMIZERS[optimizer](model.parameters())
        rng = np.random.default_rng(1)

        def accumulate(images, labels):
            loss = mg.cross_entropy(model(images), labels)
            loss.backward()
            return loss

        step = mg.capture(accumulate, device=device)
        losses, gradients = [], []
        for i in range(12):
            images, labels = rng.standard_normal((6, 12)).astype(np.float32), rng.integers(0, 4, 6)
            if captured:
                losses.append(step(images, labels).item())
            else:
                losses.append(accumulate(mg.tensor(images, device=device), labels).item())
            if i % 4 == 3:
                gradients += [p.grad.numpy().copy() for p in model.parameters()]
                training.step()
                training.zero_grad()
        assert not captured or recordings(step) == 2  # onto nothing, and onto a gradient
        return losses, [a.tobytes() for a in gradients], [p.numpy().tobytes() for p in model.parameters()]

    assert run(captured=True) == run(captured=False)


def test_a_gradient_from_outside_is_not_where_the_step_has_worked_before(device, rng):
    x = rng.standard_normal((4, 4)).astype(np.float32)

    def gradients(captured):
        p = mg.nn.Parameter(np.ones((4, 4), np.float32)).to(device)
        p.grad = mg.tensor(np.full((4, 4), 5.0, np.float32), device=device)

        def step(x):
            many = [x * float(i) for i in range(5)]  # whose memory is free again when the gradient is looked at
            y = sum([part.sum() for part in many], start=(x * 0.0).sum())
            del many
            ((p * x).sum() + y).backward()

        run = mg.capture(step) if captured else step
        found = []
        for i in range(3):
            run(mg.tensor(x + i, device=device))
            found.append(p.grad.numpy().copy())
        return found

    np.testing.assert_array_equal(gradients(captured=True), gradients(captured=False))


def test_eager_steps_between_captured_ones():
    eager, captured = both(optimizer="adam")
    eager.run([10] * 9)
    for i in range(9):
        if i % 3 == 2:
            images, labels = captured.batch(10)
            captured.losses.append(captured.step(mg.tensor(images), labels))
        else:
            captured.run([10])
    assert_same_bits(eager, captured)


# The plan


def test_replays_compile_nothing():
    training = Training(True).run([10])
    with mg.no_compile():
        training.run([10] * 3)


@pytest.mark.parametrize("count", [1, 2])
def test_step_with_large_and_small_work_is_replayed_by_one_function_of_machine_code(count, set_threads):
    set_threads(min(count, available_threads()))
    plan = Training(True).run([5000] * 8).captured.plan  # the first replay may have found threads that were not ready
    functions = {launch.function for launch in plan.launches}
    assert 0 < sum(isinstance(function, Variants) for function in functions) < len(functions)
    [(run, nothing)] = plan.program.replay.joined[available_threads() > 1 and count > 1]
    assert nothing == ()
    assert [arguments for _, arguments in run.calls] == [launch.arguments for launch in plan.launches]


def test_reference_kernels_are_replayed_from_python():
    plan = Training(True, device="reference").run([10] * 7).captured.plan
    [calls] = plan.program.replay.joined.values()
    assert calls == [(launch.function, launch.arguments) for launch in plan.launches]


def test_memory_of_a_training_step_is_planned(monkeypatch):
    eager, captured = both()
    captured.run([2000])
    sizes = []
    empty = Device.empty
    monkeypatch.setattr(Device, "empty", lambda *given: sizes.append(empty(*given).nbytes) or empty(*given))
    eager.run([2000])
    assert captured.captured.plan.nbytes < 0.85 * sum(sizes)


def test_plan_lists_the_launches():
    training = Training(True).run([10])
    plan = training.captured.plan
    ops = [launch.op for launch in plan.launches]
    assert ops[:3] == ["Linear", "BatchNorm", "Dropout"]
    assert ops[-1] == "SGD"
    assert "Linear backward" in ops
    first = plan.launches[0]
    assert (first.kernel, first.shapes) == ("gemm.gemm", "10x12 12x16 0 10x16")
    assert first.nbytes == 4 * (10 * 12 + 12 * 16 + 10 * 16)

    lines = str(plan).splitlines()
    assert lines[0].split() == ["op", "kernel", "shapes", "bytes", "us"]
    assert lines[1].split() == ["Linear", "gemm.gemm", *first.shapes.split(), f"{first.nbytes:,}", "-"]
    assert len(lines) == len(plan.launches) + 2
    assert lines[-1].startswith(
        f"{len(plan.launches)} launches (times come with the first replays); {plan.nbytes:,} bytes"
    )


def test_plan_tells_times_after_replays():
    training = Training(True).run([10] * 3)
    plan = training.captured.plan
    assert all(len(launch.times) == 2 for launch in plan.launches)
    assert all(float(line.split()[-1]) >= 0 for line in str(plan).splitlines()[1:-1])
    assert " us; " in str(plan).splitlines()[-1]


def test_times_are_taken_in_the_first_replays_only():
    training = Training(True).run([10] * 20)
    counts = {len(launch.times) for launch in training.captured.plan.launches}
    assert counts == {5}
    assert len(str(training.captured.plan).splitlines()) == len(training.captured.plan.launches) + 2
    assert len(repr(training.captured.plan)) < 100
