"""A run on the CPU's kernels that is ended after any of its steps and gone on with, by another number of threads."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.data import Loader
from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.tools.launch import GRAIN
from minigrad.train import Checkpoints, fit

STEPS = 8  # two epochs of four batches, the last of an epoch shorter
BATCH, SIDE, CHANNELS = 8, 16, 16


def noisy(outputs, labels):
    """A loss that draws numbers of its own in each step."""
    return mg.cross_entropy(outputs + 0.1 * mg.random.normal(outputs.shape), labels)


def run(steps, folder=None, resume=False, count=1, capture=True):
    """(all numbers of model and optimizer, the rows of the history) after so many steps."""
    before = threads.get_num_threads()
    mg.set_num_threads(min(count, threads.available_threads()))
    try:
        mg.manual_seed(3)
        rng = np.random.default_rng(0)
        images, labels = rng.standard_normal((30, SIDE, SIDE, 3)).astype(np.float32), rng.integers(0, 4, 30)
        layers = [mg.nn.Conv2d(3, CHANNELS, 3, padding=1), mg.nn.BatchNorm(CHANNELS), mg.nn.ReLU(), mg.nn.Dropout(0.3)]
        model = mg.nn.Sequential(*layers, mg.nn.GlobalAvgPool(), mg.nn.Linear(CHANNELS, 4))
        optimizer = mg.optim.AdamW(model.parameters(), lr=0.01, ema=0.9)
        files = {} if folder is None else {"checkpoint": Checkpoints(folder, every_steps=None), "resume": resume}
        history = fit(
            model, optimizer, Loader(images, labels, batch_size=BATCH, seed=1), steps=steps, loss=noisy, log_every=1,
            schedule=mg.optim.CosineSchedule(optimizer, STEPS), schedule_by="step", capture=capture, progress=False, **files,
        )  # fmt: skip
    finally:
        mg.set_num_threads(before)
    numbers = {name: t.numpy().tobytes() for name, t in model.state_dict().items()}
    numbers |= {name: array.tobytes() for name, array in optimizer.state_dict().items()}
    times = ("seconds", "images_per_second")
    return numbers, [{k: v for k, v in row.items() if k not in times} for row in history.steps]


@pytest.fixture(scope="module")
def straight():
    assert BATCH * SIDE * SIDE * CHANNELS >= GRAIN  # so that several threads work
    return run(STEPS)


@pytest.mark.parametrize("end", range(1, STEPS))
def test_a_run_ended_after_any_step_resumes_to_the_same_bits_on_the_cpu(straight, tmp_path, end):
    run(end, tmp_path, count=1 + end % 2)
    numbers, rows = run(STEPS, tmp_path, resume=True, count=2 - end % 2, capture=end % 3 != 0)
    assert rows == straight[1]
    for name, expected in straight[0].items():
        assert numbers[name] == expected, name


def test_a_run_ended_after_every_step_resumes_to_the_same_bits_on_the_cpu(straight, tmp_path):
    for end in range(1, STEPS + 1):
        found = run(end, tmp_path, resume=True, count=1 + end % 2)
    assert found == straight
