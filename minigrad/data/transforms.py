"""Images scaled, normalized or whitened: transforms that a Loader applies to its batches, or that you apply yourself.

A transform changes the first array of a batch, the images `(n, h, w, c)`, and passes on the others (labels). Images are
uint8, taken as 0 to 255 and given as float32 from 0 to 1, or float32 or float64, whose type and range are kept.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from minigrad.data.collate import Batch
from minigrad.data.sources import chosen
from minigrad.kernels.cpu import augment as kernels
from minigrad.kernels.cpu.gemm import gemm

if TYPE_CHECKING:
    from minigrad.data.imagefolder import Pictures

__all__ = [
    "ZCA",
    "Compose",
    "Normalize",
    "Scale",
    "Transform",
    "channel_statistics",
]

ROWS = 1024  # images worked on at a time where a float64 copy of them is needed


class Transform:
    """What a Loader calls on a batch. A subclass says in `images` what becomes of the images.

    One with `by_rows = True` makes of each image what follows from it and from its place in the batch, so that of several
    processes each transforms its part alone; others are given the whole batch in each. The place of the first image of a part
    is in `FIRST_ROW`, where `augment.uniforms` looks.
    """

    by_rows = False

    def __call__(self, batch: Batch, epoch: int, step: int) -> Batch:
        """The batch with its images transformed."""
        if not isinstance(batch, tuple | list):
            name = type(self).__name__
            raise TypeError(
                f"{name} changes the first array of a batch, and this batch is a {type(batch).__name__}; say which entry of a "
                f"dict holds the images: ByName(image={name}(...))"
            )
        return (self.images(batch[0], epoch, step), *batch[1:])

    def images(self, images: np.ndarray, epoch: int, step: int) -> np.ndarray:
        """The images of an epoch's step, transformed."""
        raise NotImplementedError(f"{type(self).__name__} does not define images(images, epoch, step)")


class Compose:
    """Several transforms, one after another: `Compose(Kiefer(), Normalize(mean, std))`."""

    def __init__(self, *transforms: Callable[[Batch, int, int], Batch]) -> None:
        self.transforms = transforms
        self.by_rows = all(getattr(transform, "by_rows", False) for transform in transforms)

    def __call__(self, batch: Batch, epoch: int, step: int) -> Batch:
        """The batch after all transforms."""
        for transform in self.transforms:
            batch = transform(batch, epoch, step)
        return batch


class ByName:
    """Transforms of single entries of batches that are dicts: `ByName(image=Compose(Kiefer(), Normalize(mean, std)))`."""

    def __init__(self, **transforms: Callable[[Batch, int, int], Batch]) -> None:
        self.transforms = transforms
        self.by_rows = all(getattr(transform, "by_rows", False) for transform in transforms.values())

    def __call__(self, batch: Batch, epoch: int, step: int) -> Batch:
        """The batch with these entries transformed, each as a batch of one array."""
        changed = {}
        for name, transform in self.transforms.items():
            (changed[name],) = transform((chosen(batch, name),), epoch, step)
        return {**batch, **changed}


class Scale(Transform):
    """uint8 images from 0 to 255 as float32 from 0 to 1; float images as they are."""

    by_rows = True

    def apply(self, images: np.ndarray) -> np.ndarray:
        """The images scaled; `(n, h, w, c)`.

        Raises:
            TypeError, ValueError: they are no images, see `checked`.
        """
        images = checked(images)
        if images.dtype != np.uint8:
            return images
        return _normalized(images, np.zeros(images.shape[3]), np.full(images.shape[3], 1 / 255))

    def images(self, images: np.ndarray, epoch: int, step: int) -> np.ndarray:
        """The same for every epoch and step."""
        return self.apply(images)


class Normalize(Transform):
    """(images - mean) / std, channel by channel, of images from 0 to 1 (uint8 images are scaled first).

    Args:
        mean: one number per channel, or one for all; what `channel_statistics` of the training images gives.
        std: likewise, above 0.

    Raises:
        ValueError: a number isn't finite or a std isn't above 0, or mean and std differ in length.
    """

    by_rows = True

    def __init__(self, mean: ArrayLike, std: ArrayLike) -> None:
        self.mean, self.std = np.atleast_1d(np.asarray(mean, np.float64)), np.atleast_1d(np.asarray(std, np.float64))
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape:
            raise ValueError(
                f"mean and std have the shapes {self.mean.shape} and {self.std.shape}, where one number per channel "
                "was expected in both"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and (self.std > 0).all()):
            raise ValueError(
                f"mean is {self.mean} and std {self.std}, where finite numbers and std > 0 were expected; "
                "a channel that never changes has std 0: take 1 instead"
            )

    def apply(self, images: np.ndarray) -> np.ndarray:
        """The images normalized; `(n, h, w, c)`.

        Raises:
            TypeError, ValueError: they are no images, see `checked`, or have another number of channels.
        """
        images = checked(images)
        channels = images.shape[3]
        if len(self.mean) not in (1, channels):
            raise ValueError(f"the images have {channels} channels, where {len(self.mean)} were expected, as in mean")
        unit = scale_of(images)
        return _normalized(
            images, np.broadcast_to(self.mean / unit, channels), np.broadcast_to(unit / self.std, channels)
        )

    def images(self, images: np.ndarray, epoch: int, step: int) -> np.ndarray:
        """The same for every epoch and step."""
        return self.apply(images)


class ZCA(Transform):
    """Whitening that changes the images least: (images - mean) @ matrix, an image being one row of h w c values from 0 to 1.

    Get one by `ZCA.fit(training_images)`. Whitening multiplies by a matrix of (h w c)^2 numbers; whiten a dataset once by
    `apply`, not in every epoch, unless augmentation comes before it.

    Args:
        mean: `(h, w, c)`.
        matrix: `(h w c, h w c)`, symmetric.

    Raises:
        ValueError: the shapes don't fit.
    """

    def __init__(self, mean: np.ndarray, matrix: np.ndarray) -> None:
        self.mean, self.matrix = np.asarray(mean), np.asarray(matrix)
        if self.mean.ndim != 3 or self.matrix.shape != (self.mean.size, self.mean.size):
            raise ValueError(
                f"mean and matrix have the shapes {self.mean.shape} and {self.matrix.shape}, where (h, w, c) and "
                "(h w c, h w c) were expected"
            )
        self._matrices: dict[np.dtype, np.ndarray] = {}  # by the type of the images, converted once

    @classmethod
    def fit(cls, images: np.ndarray, epsilon: float = 1e-2) -> "ZCA":
        """The whitening of training images: matrix = U diag(1 / sqrt(l + epsilon)) U^T of their covariance U diag(l) U^T.

        After A. J. Bell and T. J. Sejnowski, "The independent components of natural scenes are edge filters" (1997).
        Sums are in float64. For h w c = 3072 it takes half a minute and some 400 MB.

        Args:
            images: `(n, h, w, c)`; uint8 are scaled to [0, 1].
            epsilon: added to the variances l, so that directions without any are not blown up.

        Raises:
            TypeError, ValueError: they are no images, see `checked`, there are none, one holds a NaN or an infinity, or epsilon
                isn't above 0.
        """
        images = checked(images)
        if len(images) == 0:
            raise ValueError("no images came, where at least one was expected")
        if not (np.isfinite(epsilon) and epsilon > 0):
            raise ValueError(f"epsilon is {epsilon}, where a finite number above 0 was expected")
        rows = images.reshape(len(images), -1)
        if images.dtype != np.uint8 and not (finite := np.isfinite(rows).all(axis=1)).all():
            raise ValueError(
                f"image {int(finite.argmin())} holds a NaN or an infinity, where finite numbers were expected"
            )
        unit = scale_of(images)
        mean = unit * rows.mean(axis=0, dtype=np.float64)
        covariance = np.zeros((mean.size, mean.size))
        for start in range(0, len(rows), ROWS):
            part = unit * rows[start : start + ROWS].astype(np.float64) - mean
            covariance += part.T @ part
        values, vectors = np.linalg.eigh(covariance / len(rows))
        # Rounding may have made a variance of 0 slightly negative.
        matrix = vectors / np.sqrt(np.maximum(values, 0) + epsilon) @ vectors.T
        return cls(mean.reshape(images.shape[1:]), matrix)

    def apply(self, images: np.ndarray) -> np.ndarray:
        """The images whitened; `(n, h, w, c)`, around 0.

        Raises:
            TypeError, ValueError: they are no images, see `checked`, or not of the size fitted.
        """
        images = checked(images)
        if images.shape[1:] != self.mean.shape:
            raise ValueError(f"the images have the shape {images.shape[1:]}, where {self.mean.shape} was fitted")
        kind = float_type(images)
        if kind not in self._matrices:
            self._matrices[kind] = np.ascontiguousarray(self.matrix, kind)
        matrix = self._matrices[kind]
        bias = np.zeros(len(matrix), kind)
        y = np.empty(images.shape, kind)
        for start in range(0, len(images), ROWS):
            part = images[start : start + ROWS]
            centred = scale_of(images) * part.astype(np.float64) - self.mean
            rows = np.ascontiguousarray(centred.reshape(len(part), -1), kind)
            gemm.itself(rows, matrix, bias, y[start : start + ROWS].reshape(rows.shape), False, False)
        return y

    def images(self, images: np.ndarray, epoch: int, step: int) -> np.ndarray:
        """The same for every epoch and step."""
        return self.apply(images)


def channel_statistics(images: "np.ndarray | Pictures") -> tuple[np.ndarray, np.ndarray]:
    """Mean and (biased) standard deviation of every channel, of values from 0 to 1 where the images are uint8.

    The images are gone through once, some at a time, and may therefore be read from files on the way; partial sums are
    float64 and combined as by Chan, Golub and LeVeque (1983), so a large mean costs no precision.

    Args:
        images: an array `(n, h, w, c)`, or the pictures of an `ImageFolder`.

    Returns:
        mean, std: float64 `(c,)` each.

    Raises:
        TypeError, ValueError: they are no images, see `checked`, or there are none.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for start in range(0, len(images), ROWS):
        part = checked(images[start : start + ROWS])
        values = scale_of(part) * part.reshape(-1, part.shape[3]).astype(np.float64)
        middle = values.mean(axis=0)
        total = count + len(values)
        gap = middle - mean
        squares = squares + ((values - middle) ** 2).sum(axis=0) + gap**2 * count * len(values) / total
        mean = mean + gap * len(values) / total
        count = total
    if count == 0:
        raise ValueError("no images came, where at least one was expected")
    return mean, np.sqrt(squares / count)


def checked(images: np.ndarray) -> np.ndarray:
    """The images, C-contiguous and in the machine's byte order; a copy only where they are not.

    Raises:
        TypeError: not a NumPy array, or not uint8, float32 or float64.
        ValueError: not `(n, h, w, c)`, or h, w or c is 0.
    """
    if not isinstance(images, np.ndarray):
        raise TypeError(f"the images are a {type(images).__name__}, where a NumPy array was expected")
    kind = images.dtype.newbyteorder("=")
    if kind not in (np.uint8, np.float32, np.float64):
        raise TypeError(f"the images are {images.dtype}, where uint8, float32 or float64 was expected")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(
            f"the images have the shape {images.shape}, where (n, h, w, c) was expected, no axis empty but n"
        )
    return np.ascontiguousarray(images, kind)


def float_type(images: np.ndarray) -> np.dtype:
    """The type of the images as floats: float32 for uint8, else their own."""
    return np.dtype(np.float32) if images.dtype == np.uint8 else images.dtype


def scale_of(images: np.ndarray) -> float:
    """What the images' values are multiplied by: 1/255 for uint8, else 1."""
    return 1 / 255 if images.dtype == np.uint8 else 1.0


def _normalized(images: np.ndarray, shift: np.ndarray, gain: np.ndarray) -> np.ndarray:
    kind = float_type(images)
    y = np.empty(images.shape, kind)
    if images.size:
        kernels.normalize(images, shift.astype(kind), gain.astype(kind), y)
    return y
