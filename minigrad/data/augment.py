"""Random changes of the training images, new in every epoch and yet repeatable: transforms for a Loader.

    Loader(images, labels, batch_size=128, transform=augment.Kiefer(seed=1), prefetch=2)

Image i of a step is changed by random numbers that depend on (seed, epoch, step, i) alone: the words of Philox4x64 with
key (seed, epoch) for the counter (i + 1, step, 0, name of the transform). So any step can be repeated by itself, on any
machine, and an image's place in its batch decides, not the batch's size. Where two transforms of one kind are composed,
give them different seeds.
"""

import numpy as np

from minigrad.checks import integer, number
from minigrad.data.sources import FIRST_ROW
from minigrad.data.transforms import Transform, checked, float_type, scale_of
from minigrad.kernels.cpu import augment as kernels

__all__ = ["BrightnessContrast", "Kiefer", "ShiftCrop", "affine"]

WORDS = 4  # 64-bit words that a step of Philox4x64 gives; one step serves one image


def uniforms(name: str, seed: int, epoch: int, step: int, n: int) -> np.ndarray:
    """Four numbers in [0, 1) for each of n images; float64 `(n, 4)`, multiples of 2^-53.

    `name` (of at most 8 letters) keeps the numbers of different transforms apart. Row i doesn't depend on n. The first is that
    of the image whose place is in FIRST_ROW: 0, but where a Loader has parts of batches transformed.
    """
    key = np.array([seed, epoch], np.uint64)
    counter = np.array([FIRST_ROW.get(), step, 0, int.from_bytes(name.encode(), "big")], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(n * WORDS)
    return (words >> np.uint64(11)).reshape(n, WORDS) * 2.0**-53


def generator(seed: int, epoch: int, number: int) -> np.random.Generator:
    """Random numbers of one sample in one epoch, for a Loader's `sample_transform`: a pure function of its arguments.

    Philox4x64 with key (seed, epoch), whose counter begins at (0, 0, number, name): apart from other samples' and streams'.
    """
    counter = np.array([0, 0, number, int.from_bytes(b"sample", "big")], np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=counter))


def affine(images: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Each image under an affine map of its own: pixel (r, q) of the result is the image's value at matrix (r, q, 1).

    Bilinear between pixels; outside the image the nearest pixel of its edge counts.

    Args:
        images: `(n, h, w, c)`, uint8 (0 to 255, given as float32 from 0 to 1), float32 or float64.
        matrices: `(n, 2, 3)`; the first row gives the row of the point, the second its column.

    Returns:
        Fresh float images of the same shape.

    Raises:
        TypeError, ValueError: they are no images, see `transforms.checked`; or matrices of another shape, or not finite.
    """
    images = checked(images)
    matrices = np.ascontiguousarray(matrices, np.float64)
    if matrices.shape != (len(images), 2, 3):
        raise ValueError(f"matrices have the shape {matrices.shape}, where {(len(images), 2, 3)} was expected")
    if not np.isfinite(matrices).all():
        raise ValueError("a matrix holds NaN or infinity, where finite numbers were expected")
    y = np.empty(images.shape, float_type(images))
    if images.size:
        kernels.affine(images, matrices, scale_of(images), y)
    return y


class Kiefer(Transform):
    """The augmentation of Kiefer's CIFAR-10 study: one affine map per image about its centre, then perhaps a mirror image.

    As Keras composes it: a point of the result, (row, column) from the image's centre, is taken from

        [1  -sin(s)] [zx  0]  (row   )
        [0   cos(s)] [ 0 zy]  (column)

    with zx, zy ~ U(1 - zoom, 1 + zoom) and s ~ U(-shear, shear), independent of each other. Bilinear; edge pixels are
    repeated. uint8 images are given as float32 from 0 to 1.

    Args:
        zoom: from 0 to below 1.
        shear: in degrees, as Keras reads it, so that the study's 0.2 is next to none; from 0 to below 90.
        flip: turn every second image, on average, left to right.
        seed: from 0 to 2**64 - 1.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.
    """

    by_rows = True

    def __init__(self, zoom: float = 0.2, shear: float = 0.2, flip: bool = True, seed: int = 0) -> None:
        self.zoom, self.shear = number("zoom", zoom, 1), number("shear", shear, 90)
        self.flip = bool(flip)
        self.seed = integer("seed", seed, 0, 2**64 - 1)

    def matrices(self, shape: tuple[int, ...], epoch: int, step: int) -> np.ndarray:
        """The maps of a step for images of a shape `(n, h, w, c)`; float64 `(n, 2, 3)`, for `affine`."""
        n, h, w, _ = shape
        draws = uniforms("kiefer", self.seed, epoch, step, n)
        zx, zy = 1 + self.zoom * (2 * draws[:, 0] - 1), 1 + self.zoom * (2 * draws[:, 1] - 1)
        s = np.deg2rad(self.shear * (2 * draws[:, 2] - 1))
        mirror = np.where(draws[:, 3] < 0.5, -1.0, 1.0) if self.flip else 1.0
        matrices = np.zeros((n, 2, 3))
        matrices[:, 0, 0] = zx
        # The mirror image comes after the map, so its points' columns are negated before.
        matrices[:, 0, 1] = -np.sin(s) * zy * mirror
        matrices[:, 1, 1] = np.cos(s) * zy * mirror
        centre = np.array([(h - 1) / 2, (w - 1) / 2])
        matrices[:, :, 2] = centre - matrices[:, :, :2] @ centre
        return matrices

    def images(self, images: np.ndarray, epoch: int, step: int) -> np.ndarray:
        """The images of a step, augmented."""
        return affine(images, self.matrices(checked(images).shape, epoch, step))


class ShiftCrop(Transform):
    """A random window of the padded image, of the image's size, and perhaps its mirror image; the images' type is kept.

    Args:
        pad: pixels added on each side; the image moves by up to so many, each whole number being as likely.
        flip: turn every second image, on average, left to right.
        repeat: pad by repeating the edge; False pads with 0.
        seed: from 0 to 2**64 - 1.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.
    """

    by_rows = True

    def __init__(self, pad: int = 4, flip: bool = True, repeat: bool = False, seed: int = 0) -> None:
        self.pad = integer("pad", pad, 0, 2**31)
        self.flip, self.repeat = bool(flip), bool(repeat)
        self.seed = integer("seed", seed, 0, 2**64 - 1)

    def shifts(self, n: int, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The shifts of a step's images, int64 `(n, 2)` from -pad to pad, and which are flipped, bool `(n,)`."""
        draws = uniforms("shift", self.seed, epoch, step, n)
        shifts = np.floor(draws[:, :2] * (2 * self.pad + 1)).astype(np.int64) - self.pad
        return shifts, (draws[:, 2] < 0.5) & self.flip

    def images(self, images: np.ndarray, epoch: int, step: int) -> np.ndarray:
        """The images of a step, augmented."""
        images = checked(images)
        y = np.empty_like(images)
        if images.size:
            kernels.shift_crop(images, *self.shifts(len(images), epoch, step), self.repeat, y)
        return y


class BrightnessContrast(Transform):
    """Images of random brightness and contrast: (x - mean) a + mean + b, mean being that of all the image's values.

    a ~ U(1 - contrast, 1 + contrast) and b ~ U(-brightness, brightness) for each image, x from 0 to 1 where the images
    are uint8. The result is float and not clipped: it may go below 0 and above 1.

    Args:
        brightness: 0 or more.
        contrast: from 0 to below 1.
        seed: from 0 to 2**64 - 1.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.
    """

    by_rows = True

    def __init__(self, brightness: float = 0.2, contrast: float = 0.2, seed: int = 0) -> None:
        self.brightness, self.contrast = number("brightness", brightness, np.inf), number("contrast", contrast, 1)
        self.seed = integer("seed", seed, 0, 2**64 - 1)

    def changes(self, n: int, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(b, a) of a step's images; float64 `(n,)` each."""
        draws = 2 * uniforms("light", self.seed, epoch, step, n) - 1
        return self.brightness * draws[:, 0], 1 + self.contrast * draws[:, 1]

    def images(self, images: np.ndarray, epoch: int, step: int) -> np.ndarray:
        """The images of a step, augmented."""
        images = checked(images)
        y = np.empty(images.shape, float_type(images))
        if images.size:
            brightness, contrast = self.changes(len(images), epoch, step)
            kernels.brightness_contrast(images, brightness, contrast, scale_of(images), y)
        return y
