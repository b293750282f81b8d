"""Data sets and functions for tests of the Loader, where processes that start afresh can import them."""

import os
import signal
import time

import numpy as np

from minigrad.data import generator


class Pairs:
    """Number i gives (an array that holds i, i % 3)."""

    def __init__(self, length=50, shape=(2, 3)):
        self.length, self.shape = length, shape

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return np.full(self.shape, i, np.float32), i % 3


class Named(Pairs):
    """The same as dicts."""

    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        return {"image": image, "label": label, "name": f"number {i}"}


class ManyAtOnce(Pairs):
    """Is asked for many samples at once only."""

    def __getitem__(self, i):
        raise AssertionError

    def __getitems__(self, rows):
        assert all(type(row) is int for row in rows)
        return [super(ManyAtOnce, self).__getitem__(i) for i in rows]


class Broken(Pairs):
    """Sample 17 can't be read."""

    def __getitem__(self, i):
        if i == 17:
            raise KeyError("no such file")
        return super().__getitem__(i)


class Unsendable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class BrokenOddly(Pairs):
    """Sample 17 raises an error that pickle can't bring back."""

    def __getitem__(self, i):
        if i == 17:
            raise Unsendable("this", "that")
        return super().__getitem__(i)


class Leaves(Pairs):
    """Sample 17 ends the process, in the way asked for."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def __getitem__(self, i):
        if i == 17:
            os.kill(os.getpid(), signal.SIGKILL) if self.how == "kill" else os._exit(3)
        return super().__getitem__(i)


class Hangs(Pairs):
    """Sample 17 takes ten minutes."""

    def __getitem__(self, i):
        if i == 17:
            time.sleep(600)
        return super().__getitem__(i)


class Growing(Pairs):
    """Each sample is larger than the one before, and takes a moment from number 1 on."""

    def __getitem__(self, i):
        if i:
            time.sleep(0.3)
        return np.full(20_000 * (i + 1), i, np.float32), i % 3


class Global(Pairs):
    """Draws from NumPy's global generator."""

    def __getitem__(self, i):
        return np.random.random(4).astype(np.float32), i  # noqa: NPY002 - what data sets do


class Numbers:
    """A stream of (array, label) without a length."""

    def __init__(self, length=23):
        self.last = length
        self.passes = []

    def set_epoch(self, epoch):
        self.passes.append(epoch)

    def __iter__(self):
        epoch = self.passes[-1] if self.passes else 0
        for i in range(self.last):
            yield np.full(3, 100 * epoch + i, np.float32), i % 3


def noisy(sample, epoch, number):
    image, label = sample
    return image + generator(7, epoch, number).standard_normal(image.shape, np.float32), label


def doubled(batch, epoch, step):
    return (2 * batch[0], *batch[1:])


def as_lists(samples):
    return {"sizes": [len(samples)], "images": np.stack([image for image, _ in samples])}
