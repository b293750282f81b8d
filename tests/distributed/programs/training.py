"""Runs of fit by several processes, and the same runs in one: tests import this, and start it."""

import argparse
from pathlib import Path

import numpy as np

import minigrad as mg
from minigrad import distributed

BATCH = 60
SAMPLES = 630  # the last batch of an epoch is of 30


def data(samples=SAMPLES):
    mnist = mg.data.load_binary_mnist()
    images, labels = mnist.train_images[:samples], mnist.train_labels[:samples]
    return images.reshape(len(images), -1).astype(np.float32), labels.astype(np.int64)


def network(batch_norm, dropout=0.0):
    mg.manual_seed(7)
    nn = mg.nn
    layers, size = [], 784
    for _ in range(3):
        layers += [nn.Linear(size, 100, bias=batch_norm is None)]
        layers += [] if batch_norm is None else [batch_norm(100)]
        layers += [nn.Sigmoid()] + ([nn.Dropout(dropout)] if dropout else [])
        size = 100
    return nn.Sequential(*layers, nn.Linear(100, 10))


def train(
    folder=None, *, steps=None, epochs=None, batch_norm=mg.nn.SyncBatchNorm, dropout=0.0, resume=False, samples=SAMPLES,
    batch=BATCH, log_every=None, validate=True, callbacks=(), seed=1, lr=0.1, ema=None, numbers=None, **options,
):  # fmt: skip
    """(history, model) of a run; `numbers` seeds what is drawn in it."""
    model = network(batch_norm, dropout)
    if numbers is not None:
        mg.manual_seed(numbers)
    optimizer = mg.optim.SGD(model.parameters(), lr, momentum=0.9, ema=ema)
    images, labels = data(samples)
    loader = mg.data.Loader(images, labels, batch_size=batch, seed=seed, prefetch=1)
    validation = mg.data.Loader(images[:130], labels[:130], batch_size=50, shuffle=False) if validate else None
    files = {} if folder is None else {"checkpoint": mg.train.Checkpoints(folder, every_steps=1), "resume": resume}
    history = mg.train.fit(
        model, optimizer, loader, steps=steps, epochs=epochs, validation=validation, log_every=log_every,
        callbacks=callbacks, progress=False, **files, **options,
    )  # fmt: skip
    return history, model


def plain_rows(history):
    """The rows without their times."""
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in times} for row in [*history.epochs, *history.steps]]


def main():
    from told import bits, result

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", nargs="*", default=[])
    given = parser.parse_args()
    distributed.init(timeout=200)
    cases = {name: case for name, case in globals().items() if name.startswith("case_")}
    chosen = [cases[f"case_{name}"] for name in given.cases] or cases.values()
    found = {}
    for case in chosen:
        history, model, *more = case(given.folder)
        tensors = [t for name, t in model.state_dict().items() if "counter" not in name]
        found[case.__name__.removeprefix("case_")] = {
            "bits": bits(tensors), "rows": plain_rows(history), "stopped": history.stopped,
            "weights": bits(model.parameters()), "more": more,
        }  # fmt: skip
    result(found)


class Interrupted(Exception):
    """By `until`."""


def until(step, folder, **options):
    """A run that ends before the checkpoint of the step after this one."""

    class Ends:
        def on_step(self, run):
            if run.step > step:
                raise Interrupted

    try:
        train(folder, callbacks=[Ends()], **options)
    except Interrupted:
        return
    raise AssertionError("it was not interrupted")


def case_straight(folder):
    return train(folder / "straight", epochs=3, log_every=5)


def case_again(folder):
    return train(epochs=3, log_every=5)


def case_eager(folder):
    return train(epochs=3, log_every=5, capture=False)


def case_overlapped(folder):
    return train(epochs=3, log_every=5, overlap=True)


def case_resumed(folder):
    until(13, folder / "resumed", epochs=3, log_every=5)
    return train(folder / "resumed", epochs=3, log_every=5, resume=True)


def case_plain_batch_norm(folder):
    return train(epochs=1, batch_norm=mg.nn.BatchNorm)


def case_dropout(folder):
    history, model = train(folder / "dropout", steps=9, dropout=0.3, batch_norm=None)
    seeds = [int(t.numpy()[0]) for name, t in model.state_dict().items() if "counter" in name]
    return history, model, [str(seed) for seed in seeds]


def case_dropout_resumed(folder):
    until(4, folder / "dropout resumed", steps=9, dropout=0.3, batch_norm=None)
    return train(folder / "dropout resumed", steps=9, dropout=0.3, batch_norm=None, resume=True)


def noisy(outputs, labels):
    return mg.cross_entropy(outputs + mg.random.normal(outputs.shape), labels)


def case_noise(folder):
    """Each process draws numbers of its own in each step."""
    return train(folder / "noise", steps=9, loss=noisy, numbers=50 + distributed.rank)


def case_noise_resumed(folder):
    until(4, folder / "noise resumed", steps=9, loss=noisy, numbers=50 + distributed.rank)
    return train(folder / "noise resumed", steps=9, loss=noisy, numbers=50 + distributed.rank, resume=True)


def case_noise_of_one(folder):
    """All processes draw as rank 0 does: another noise, so that the test above can fail."""
    return train(folder / "noise of one", steps=9, loss=noisy, numbers=50)


def case_of_another_world(folder):
    """Goes on from what the test has left there, of one process."""
    return train(folder / "one", epochs=3, log_every=5, resume=True)


MARKS = (1, 10, 50, 200)


def trajectory():
    """The parameters of the MNIST network of the paper after so many steps, as flat arrays."""
    found = []

    class Notes:
        def on_step(self, run):
            if run.step in MARKS:
                found.append(np.concatenate([p.numpy().ravel() for p in run.model.parameters()]))

    mg.manual_seed(0)
    model = distributed.convert(mg.models.MLP())
    images, labels = data(12_000)
    loader = mg.data.Loader(images, labels, batch_size=BATCH)
    optimizer = mg.optim.SGD(model.parameters(), 0.5)
    history = mg.train.fit(model, optimizer, loader, steps=MARKS[-1], callbacks=Notes(), progress=False)
    return history, model, found


def case_trajectory(folder):
    history, model, found = trajectory()
    if distributed.rank == 0:
        np.savez(folder / "trajectory.npz", *found)
    return history, model


def case_accumulated(folder):
    """Steps of three batches, the last of an epoch of two, with parts of other proportions; gradients clipped, the parameters'
    averages validated.
    """
    return train(epochs=2, log_every=1, accumulate=3, samples=607, clip_norm=0.3, ema=0.5)


def case_accumulated_overlapped(folder):
    return train(epochs=2, log_every=1, accumulate=3, samples=607, clip_norm=0.3, ema=0.5, overlap=True)


def case_callbacks(folder):
    called = []

    class Looks:
        only_looks = True

        def on_epoch_end(self, run, row):
            called.append("looks")

    class Acts:
        def on_step(self, run):
            if distributed.rank == distributed.world - 1 and run.step == 4:
                run.stop("one of them wants to")

        def on_epoch_end(self, run, row):
            called.append("acts")

    files = mg.train.HistoryFile(folder / "history.csv")
    history, model = train(epochs=3, callbacks=[Looks(), Acts(), files])
    return history, model, called


if __name__ == "__main__":
    main()
