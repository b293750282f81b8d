"""A captured step does what the step does: the same bits, whatever changes between the calls."""

import gc
import weakref
from collections import namedtuple

import numpy as np
import pytest

import minigrad as mg
from minigrad.device import Device

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
            if self.captured:
                loss = self.captured(images, labels)
            else:
                loss = self.step(mg.tensor(images, device=self.device), labels)
            self.losses.append(loss)
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
    assert_same_bits(eager.run([5000] * 4), captured.run([5000] * 4))


def test_another_shape_records_anew_and_both_are_kept(device):
    sizes = [10, 10, 7, 10, 7, 7, 10]
    eager, captured = both(device=device)
    assert_same_bits(eager.run(sizes), captured.run(sizes))
    assert recordings(captured.captured) == 2


def test_results_are_not_overwritten_by_later_calls():
    step = mg.capture(lambda x: x * 2.0)
    results = [step(np.full(3, float(i), np.float32)) for i in range(5)]
    assert [r.numpy()[0] for r in results] == [0, 2, 4, 6, 8]


def test_results_may_be_written():
    step = mg.capture(lambda x: x * 2.0)
    for i in range(3):
        result = step(np.full(3, float(i), np.float32))
        np.testing.assert_array_equal(result.numpy(), np.full(3, 2 * i))
        result.numpy()[:] = -1


def test_inputs_are_not_written_and_not_kept():
    @mg.capture
    def step(x):
        x += 1.0
        return x * 2.0

    array = np.zeros(3, np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(step(array).numpy(), [2, 2, 2])
    np.testing.assert_array_equal(array, [0, 0, 0])
    reference = weakref.ref(array)
    del array
    assert reference() is None


Pair = namedtuple("Pair", "total parts")


def test_nested_results_keep_their_structure():
    @mg.capture
    def step(x):
        return {"pair": Pair(x.sum(), [x * 2.0, (x * 3.0,)]), "name": "text", "none": None}

    for value in (1.0, 2.0):
        result = step(np.full(2, value, np.float32))
        assert result["pair"].total.item() == 2 * value
        assert result["pair"].parts[0].numpy()[0] == 2 * value
        assert result["pair"].parts[1][0].numpy()[0] == 3 * value
        assert (result["name"], result["none"]) == ("text", None)


def test_step_without_result():
    w = mg.tensor([1.0])

    @mg.capture
    def step():
        w.__iadd__(1.0)

    assert [step() for _ in range(3)] == [None] * 3
    assert w.item() == 4


# Arguments


def test_arguments_by_name_and_by_place():
    step = mg.capture(lambda x, y=None: x * 2.0 if y is None else x * y)
    a, b = np.float32([3.0]), np.float32([5.0])
    for _ in range(2):
        assert step(a, b).item() == 15
        assert step(a, y=b).item() == 15
        assert step(y=a, x=b).item() == 15
        assert step(a).item() == 6
    assert recordings(step) == 4


def test_tensors_are_taken_like_arrays(device):
    step = mg.capture(lambda x: x * 2.0)
    for value in (1.0, 2.0, 3.0):
        result = step(mg.tensor([value], device=device))
        assert result.item() == 2 * value
        assert result.device == device
    assert recordings(step) == 1


@pytest.mark.parametrize("layout", [lambda a: a[::-1], lambda a: a.T, lambda a: a[:, :1], lambda a: a.astype(">f4")])
def test_arrays_of_any_layout(layout):
    step = mg.capture(lambda x: x * 2.0)
    for i in range(3):
        array = layout(np.arange(9, dtype=np.float32).reshape(3, 3) + i)
        np.testing.assert_array_equal(step(array).numpy(), array * 2)
    assert recordings(step) == 1


def test_integers_stay_integers():
    seen = []

    @mg.capture
    def step(labels):
        seen.append(labels.dtype)
        return labels.to("float32") * 2.0

    for labels in ([1, 2], [3, 4]):
        np.testing.assert_array_equal(step(np.array(labels, np.uint8)).numpy(), np.array(labels) * 2)
    assert seen == [np.dtype(np.uint8)]


def test_python_values_select_the_recording():
    step = mg.capture(lambda x, factor, mode: x * factor if mode == "times" else x + factor)
    x = np.float32([3.0])
    for _ in range(2):
        assert step(x, 2.0, "times").item() == 6
        assert step(x, 4.0, "times").item() == 12
        assert step(x, 4.0, "plus").item() == 7
    assert recordings(step) == 3


def test_values_of_different_type_are_different():
    step = mg.capture(lambda x, flag: x * 10.0 if flag is True else x)
    x = np.float32([1.0])
    assert [step(x, flag).item() for flag in (True, 1, 1.0, True)] == [10, 1, 1, 10]


def test_no_grad_selects_the_recording():
    w = mg.tensor([2.0], requires_grad=True)
    enabled = []

    @mg.capture
    def step(x):
        enabled.append(mg.is_grad_enabled())
        return x * w

    x = np.float32([1.0])
    for _ in range(2):
        step(x)
        with mg.no_grad():
            step(x)
    assert enabled == [True, False]


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


def test_dropout_masks_differ_from_step_to_step(device):
    layer = mg.nn.Dropout(0.5).to(device)
    step = mg.capture(layer, device=device)
    x = np.ones(64, np.float32)
    masks = {step(x).numpy().tobytes() for _ in range(10)}
    assert len(masks) == 10


def test_dropout_counter_replaced_between_calls():
    layer = mg.nn.Dropout(0.5)
    step = mg.capture(layer)
    x = np.ones(64, np.float32)
    start = layer.counter.copy()
    first = [step(x).numpy().tobytes() for _ in range(3)]
    layer.counter.data = start
    assert [step(x).numpy().tobytes() for _ in range(3)] == first


def test_running_statistics_move(rng):
    norm = mg.nn.BatchNorm(3, decay=0.5)
    step = mg.capture(norm)
    expected = np.zeros(3)
    for i in range(5):
        x = rng.standard_normal((50, 3)).astype(np.float32) + i
        step(x)
        expected = 0.5 * expected + 0.5 * x.mean(axis=0)
    np.testing.assert_allclose(norm.running_mean.numpy(), expected, rtol=1e-5)


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


def test_hook_added_between_calls_is_respected():
    w = mg.tensor([1.0], requires_grad=True)

    @mg.capture
    def step(x):
        w.zero_grad()
        (w * x).backward()

    x, gradients = np.float32([3.0]), []
    step(x)
    handle = w.register_hook(lambda grad: grad * 10.0)
    for _ in range(2):
        step(x)
        gradients.append(w.grad.item())
    handle.remove()
    step(x)
    assert [*gradients, w.grad.item()] == [30, 30, 3]
    assert recordings(step) == 2


def test_detached_parameter_replaced_between_calls():
    w = mg.tensor([2.0], requires_grad=True)
    step = mg.capture(lambda x: x * w.detach())
    x = np.float32([3.0])
    assert step(x).item() == 6
    w.data = [5.0]
    assert step(x).item() == 15


def test_parameter_updated_inside_without_an_optimizer():
    w = mg.tensor([8.0], requires_grad=True)

    @mg.capture
    def step(x):
        w.zero_grad()
        (w * x).backward()
        with mg.no_grad():
            w.__isub__(w.grad * 0.5)

    for expected in (7, 6, 5, 4):
        step(np.float32([2.0]))
        assert w.item() == expected


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


def test_gradient_to_start_from_may_be_an_argument():
    w = mg.tensor([1.0, 2.0], requires_grad=True)

    @mg.capture
    def step(grad):
        w.zero_grad()
        (w * 3.0).backward(grad)

    for grad in ([1, 1], [5, 7], [0, 2]):
        step(np.array(grad, np.float32))
        np.testing.assert_array_equal(w.grad.numpy(), 3 * np.array(grad))


def test_gradients_are_left_as_by_the_step():
    w = mg.tensor([1.0], requires_grad=True)

    @mg.capture
    def step(x):
        w.zero_grad()
        (w * x).backward()

    for value in (1.0, 2.0, 3.0):
        step(np.float32([value]))
        assert w.grad.item() == value
    w.zero_grad()
    (w * 10.0).backward()
    assert w.grad.item() == 10


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


# The object


def test_decorator_keeps_name_and_docstring():
    @mg.capture
    def step(x):
        """Twice x."""
        return x * 2.0

    assert (step.__name__, step.__doc__) == ("step", "Twice x.")


def test_decorator_with_a_device():
    devices = []

    @mg.capture(device="reference")
    def step(x):
        devices.append(x.device)
        return x * 2.0

    assert step(np.float32([1.0])).device == "reference"
    assert devices == ["reference"]


def test_captured_step_inside_a_captured_step():
    inner = mg.capture(lambda x: x * 2.0)
    outer = mg.capture(lambda x: inner(x) + inner(x * 10.0))
    for value in (1.0, 2.0, 3.0):
        assert outer(np.float32([value])).item() == 22 * value
    assert recordings(inner) == 0
    assert inner(np.float32([1.0])).item() == 2


def test_clear_forgets_recordings_and_their_memory():
    step = mg.capture(lambda x: (x * 2.0) * 3.0)
    x = np.ones(100_000, np.float32)
    step(x)
    pool = weakref.ref(step.plan.pool)
    step.clear()
    gc.collect()
    assert pool() is None
    assert step.plan is None
    assert step(np.ones(2)).numpy().dtype == np.float64  # a new start, also for dtypes


def test_replays_compile_nothing():
    training = Training(True).run([10])
    with mg.no_compile():
        training.run([10] * 3)


def test_memory_is_used_again():
    def step(x):
        for _ in range(50):
            x = x * 1.5
        return x.sum()

    captured = mg.capture(step)
    x = np.ones(10_000, np.float32)
    with mg.no_grad():
        captured(x)
    all_results = 50 * x.nbytes
    assert x.nbytes < captured.plan.nbytes < all_results / 10


def test_memory_of_a_training_step_is_planned(monkeypatch):
    eager, captured = both()
    captured.run([2000])
    sizes = []
    empty = Device.empty
    monkeypatch.setattr(Device, "empty", lambda *given: sizes.append(empty(*given).nbytes) or empty(*given))
    eager.run([2000])
    assert captured.captured.plan.nbytes < 0.75 * sum(sizes)


def test_plan_lists_the_launches():
    training = Training(True).run([10])
    plan = training.captured.plan
    ops = [launch.op for launch in plan.launches]
    assert ops[:4] == ["Linear", "BatchNorm", "BatchNorm", "Sigmoid"]
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
