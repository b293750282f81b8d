"""A run that may be ended after any of its steps, and gone on with."""

import numpy as np

import minigrad as mg
from minigrad.data import Loader
from minigrad.train import Checkpoints, fit

STEPS = 8  # two epochs of four batches, the last of an epoch shorter


def noisy(outputs, labels):
    """A loss that draws numbers of its own in each step."""
    noise = mg.random.normal(outputs.shape, device=outputs.device)
    return mg.cross_entropy(outputs + 0.1 * noise, labels)


def run(steps, folder=None, resume=False, capture=True, *, batch=8, side, channels, device="cpu"):
    """(all numbers of model and optimizer, the rows of the history) after so many of the STEPS."""
    mg.manual_seed(3)
    rng = np.random.default_rng(0)
    count = 4 * batch - 2
    images, labels = rng.standard_normal((count, side, side, 3)).astype(np.float32), rng.integers(0, 4, count)
    layers = [mg.nn.Conv2d(3, channels, 3, padding=1), mg.nn.BatchNorm(channels), mg.nn.ReLU(), mg.nn.Dropout(0.3)]
    model = mg.nn.Sequential(*layers, mg.nn.GlobalAvgPool(), mg.nn.Linear(channels, 4)).to(device)
    optimizer = mg.optim.AdamW(model.parameters(), lr=0.01, ema=0.9)
    files = {} if folder is None else {"checkpoint": Checkpoints(folder, every_steps=None), "resume": resume}
    history = fit(
        model, optimizer, Loader(images, labels, batch_size=batch, seed=1), steps=steps, loss=noisy, log_every=1,
        schedule=mg.optim.CosineSchedule(optimizer, STEPS), schedule_by="step", capture=capture, progress=False, **files,
    )  # fmt: skip
    numbers = {name: t.numpy().tobytes() for name, t in model.state_dict().items()}
    numbers |= {name: array.tobytes() for name, array in optimizer.state_dict().items()}
    times = ("seconds", "images_per_second")
    return numbers, [{k: v for k, v in row.items() if k not in times} for row in history.steps]
