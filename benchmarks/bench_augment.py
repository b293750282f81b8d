"""What happens to a batch of CIFAR-10's size on its way to the network: uint8 images (128, 32, 32, 3)."""

import numpy as np

import minigrad as mg
from minigrad.data import BrightnessContrast, Kiefer, Loader, ShiftCrop

from .measure import PLACES, Benchmark, empty

SHAPE = (128, 32, 32, 3)


def pictures(count):
    """The same random images at every call."""
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE[1:]), dtype=np.uint8)


class Augment(Benchmark):
    """The kernels."""

    timed = ("affine", "shift_crop", "brightness_contrast", "normalize")
    params = (PLACES,)
    param_names = ("place",)

    def setup(self, place):
        self.use(place)
        images = pictures(SHAPE[0])
        matrices = Kiefer().matrices(SHAPE, 0, 0)
        shifts, flips = ShiftCrop().shifts(SHAPE[0], 0, 0)
        brightness, contrast = BrightnessContrast().changes(SHAPE[0], 0, 0)
        shift, gain = np.full(3, 120, np.float32), np.full(3, 1 / 60, np.float32)
        arguments = {
            "affine": (images, matrices, 1 / 255, empty(*SHAPE)),
            "shift_crop": (images, shifts, flips, False, np.zeros(SHAPE, np.uint8)),
            "brightness_contrast": (images, brightness, contrast, 1 / 255, empty(*SHAPE)),
            "normalize": (images, shift, gain, empty(*SHAPE)),
        }
        self.works = {name: self.kernel_call("augment", name, *given) for name, given in arguments.items()}


class Batches(Benchmark):
    """A batch of Kiefer's augmentation from a Loader, and a step of some 10 ms that takes batches prepared ahead."""

    timed = ("batch", "batch_and_step")
    params = ([0, 2],)
    param_names = ("prefetch",)

    def setup(self, prefetch):
        loader = Loader(pictures(4 * SHAPE[0]), batch_size=SHAPE[0], transform=Kiefer(), prefetch=prefetch)
        for (images,), step in zip(loader.steps(4), range(4), strict=True):
            np.testing.assert_array_equal(images, loader.batch(step)[0])
        batches = loader.steps()
        x = mg.tensor(np.ones((1024, 1024), np.float32))
        self.works["batch"] = lambda: next(batches)
        self.works["batch_and_step"] = lambda: (next(batches), x @ x, x @ x)
        self.works["batch_and_step"]()
