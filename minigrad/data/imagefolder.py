"""Your own pictures, one folder for each class. Needs Pillow, the extra `images`."""

import copy
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np

from minigrad.checks import integer
from minigrad.data.png import check_png
from minigrad.kernels.build.settings import install

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
WHITE = (255, 255, 255)
# 67 million, more than most cameras make; decoded, such a picture takes 270 MB, and so does its copy in RGB.
MAX_PIXELS = 1 << 26
STRIP = 1 << 20  # pixels laid over the background at a time
DEEP_MODES = ("I", "F")  # Pillow's modes of more than 8 bits begin so; converting them would clip their values


class ImageFolder:
    """Pictures in folder/class/picture, for example `flowers/rose/1.jpg`, with their labels.

    Classes are the subfolders and samples their files with the suffix of a picture, each in the order of their names by
    code points, the same on every machine. Names that begin with a dot, other files and deeper folders are left out.

        data = ImageFolder("flowers", size=224)
        Loader(data.images, data.labels, batch_size=32, transform=Kiefer(), prefetch=4)

    A picture is decoded when it is asked for, at every epoch anew; `data.images[:]` is an array of all of them, for what
    fits into memory. `data.images.damaged()` lists all files that cannot be read, and `data.split(0.1)` takes a tenth of
    each class for validation.

    Args:
        folder: the folder of the classes' folders.
        size: height and width that all pictures are brought to, in pixels; one number for squares.
        crop: cut what sticks out, equally on both sides, so that proportions stay; False stretches the picture instead.
        background: the colour, red, green and blue from 0 to 255, that shows through what is transparent.
        max_pixels: pictures of more pixels are refused before they are decoded.
        damaged: what happens to files that cannot be read: "raise" when a batch asks for one; "skip" reads all files now
            and leaves out those that cannot, with one warning that names them.

    Attributes:
        images: the pictures, a `Pictures`; for a Loader as good as an array uint8 `(n, height, width, 3)`.
        labels: int64 `(n,)`, positions in `classes`.
        classes: the names of the classes.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no class, a class without pictures (that can be read), or a size below 1.
        ImportError: Pillow isn't installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        size: int | tuple[int, int],
        *,
        crop: bool = True,
        background: tuple[int, int, int] = WHITE,
        max_pixels: int = MAX_PIXELS,
        damaged: str = "raise",
    ) -> None:
        _pillow()
        if damaged not in ("raise", "skip"):
            raise ValueError(f"damaged must be 'raise' or 'skip', not {damaged!r}")
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} isn't a folder")
        members = {
            path.name: sorted(
                (
                    file
                    for file in path.iterdir()
                    if file.suffix.lower() in SUFFIXES and _is_seen(file) and file.is_file()
                ),
                key=lambda file: file.name,
            )
            for path in sorted((path for path in folder.iterdir() if _is_seen(path)), key=lambda path: path.name)
            if path.is_dir()
        }
        if not members:
            raise ValueError(
                f"{folder} holds no folders, where one for each class was expected: {folder / 'class' / 'picture.jpg'}"
            )
        empty = [name for name, files in members.items() if not files]
        if empty:
            raise ValueError(
                f"{folder}: no pictures ({', '.join(SUFFIXES)}) in {', '.join(empty)}; add some or remove the folder"
            )
        self.classes = tuple(members)
        self.labels = np.repeat(np.arange(len(members)), [len(files) for files in members.values()])
        paths = [file for files in members.values() for file in files]
        self.images = Pictures(paths, size, crop=crop, background=background, max_pixels=max_pixels)
        if damaged == "skip":
            self._skip(self.images.damaged(), folder)

    def _skip(self, damaged: dict[Path, str], folder: Path) -> None:
        """Leave out files that cannot be read; ValueError if a class is then empty."""
        if not damaged:
            return
        kept = np.array([path not in damaged for path in self.images.paths])
        counts = np.bincount(self.labels[kept], minlength=len(self.classes))
        if not counts.all():
            names = [name for name, count in zip(self.classes, counts, strict=True) if not count]
            raise ValueError(
                f"{folder}: none of the pictures in {', '.join(names)} can be read:\n  " + "\n  ".join(damaged.values())
            )
        warnings.warn(
            f"{folder}: {len(damaged)} of {len(kept)} pictures cannot be read and are left out:\n  "
            + "\n  ".join(damaged.values()),
            stacklevel=3,
        )
        self.images, self.labels = self.images.taken(np.flatnonzero(kept)), self.labels[kept]

    def split(self, share: float, seed: int = 0) -> "tuple[ImageFolder, ImageFolder]":
        """(the rest, a share of each class drawn by `seed`): two of the same classes, for training and validation.

        Raises:
            ValueError: the share is not between 0 and 1, or leaves a class without pictures on one side.
        """
        if not 0 < share < 1:
            raise ValueError(f"the share must be above 0 and below 1, not {share}")
        drawn = np.zeros(len(self), bool)
        for label, name in enumerate(self.classes):
            rows = np.flatnonzero(self.labels == label)
            count = round(share * len(rows))
            if not 0 < count < len(rows):
                raise ValueError(
                    f"a share of {share} of the {len(rows)} pictures of {name} leaves one side without any"
                )
            generator = np.random.Generator(np.random.Philox(key=np.array([seed, label], np.uint64)))
            drawn[generator.permutation(rows)[:count]] = True
        return self._taken(~drawn), self._taken(drawn)

    def _taken(self, chosen: np.ndarray) -> "ImageFolder":
        part = copy.copy(self)
        part.images, part.labels = self.images.taken(np.flatnonzero(chosen)), self.labels[chosen]
        return part

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.images)

    def __repr__(self) -> str:
        return f"<ImageFolder: {len(self)} pictures of {len(self.classes)} classes, {self.images.shape[1:]}>"


class Pictures:
    """Picture files as one array uint8 `(n, height, width, 3)` that is read where it is indexed: `p[5]`, `p[2:9]`, `p[rows]`.

    Greys become three equal channels, what is transparent is laid over a background, a camera's note of orientation is
    followed. Resampling is Pillow's bicubic, which averages where it shrinks.

    Args:
        paths: the files.
        size, crop, background, max_pixels: as for `ImageFolder`.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        paths: list[Path],
        size: int | tuple[int, int],
        *,
        crop: bool = True,
        background: tuple[int, int, int] = WHITE,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        height, width = size if isinstance(size, tuple | list) else (size, size)
        self.paths = list(paths)
        self.crop = bool(crop)
        self.background = background
        self.max_pixels = integer("max_pixels", max_pixels, 1)
        self.shape = (len(self.paths), integer("height", height, 1), integer("width", width, 1), 3)

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.paths)

    def __getitem__(self, index: SupportsIndex | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """One picture `(height, width, 3)` for an integer, several `(m, height, width, 3)` for a slice or integer array."""
        rows = np.arange(len(self))[index]
        return self.read_samples(rows) if np.ndim(rows) else self.read(self.paths[rows])

    def read_samples(self, rows: np.ndarray) -> np.ndarray:
        """The pictures at some positions, as a fresh array uint8 `(m, height, width, 3)`.

        Raises:
            OSError: a file can't be read.
            ValueError: a file is no picture, or a damaged one, or of more than 8 bits; the message names it.
        """
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for image, row in zip(images, rows, strict=True):
            image[:] = self.read(self.paths[row])
        return images

    def read(self, path: Path) -> np.ndarray:
        """One file's picture in the size of all, uint8 `(height, width, 3)`; errors as of `read_samples`."""
        pillow, ops = _pillow()
        with open(path, "rb") as file:
            try:
                check_png(file)
                file.seek(0)
                with pillow.open(file) as picture:
                    self._check(picture)
                    ops.exif_transpose(picture, in_place=True)
                    opaque = _opaque(picture, self.background, pillow)
                    size = (self.shape[2], self.shape[1])
                    fitted = ops.fit(opaque, size, pillow.Resampling.BICUBIC) if self.crop else opaque.resize(size)
                    return np.asarray(fitted)
            except MemoryError:
                raise
            except (
                Exception
            ) as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more on bad files
                raise ValueError(f"{path}: not a picture that can be read: {error}") from error

    def _check(self, picture: "Image") -> None:
        """Raise for what is not taken, before its pixels are decoded."""
        if picture.mode.startswith(DEEP_MODES):
            raise ValueError(f"its pixels have more than 8 bits (mode {picture.mode}); convert it to 8 bits")
        if picture.width * picture.height > self.max_pixels:
            raise ValueError(
                f"it has {picture.width:,} x {picture.height:,} pixels, more than max_pixels={self.max_pixels:,}; such a "
                "file can be made to fill the memory: if it is what it says, pass a larger max_pixels"
            )

    def damaged(self) -> dict[Path, str]:
        """Why the files that cannot be read cannot, by their paths: all are read once. Empty if all is well."""
        found = {}
        for path in self.paths:
            try:
                self.read(path)
            except (OSError, ValueError) as error:
                found[path] = str(error)
        return found

    def taken(self, rows: np.ndarray) -> "Pictures":
        """The pictures at some positions, as another array of pictures."""
        part = copy.copy(self)
        part.paths = [self.paths[row] for row in rows]
        part.shape = (len(part.paths), *self.shape[1:])
        return part


def _opaque(picture: "Image", background: tuple[int, int, int], pillow: ModuleType) -> "Image":
    """The picture in red, green and blue, what is transparent laid over the background: in strips, to save memory."""
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    whole = pillow.new("RGB", picture.size)
    rows = max(1, STRIP // picture.width)
    for top in range(0, picture.height, rows):
        box = (0, top, picture.width, min(top + rows, picture.height))
        layer = picture.crop(box).convert("RGBA")
        under = pillow.new("RGBA", layer.size, (*background, 255))
        whole.paste(pillow.alpha_composite(under, layer).convert("RGB"), box)
    return whole


def _is_seen(path: Path) -> bool:
    return not path.name.startswith(".")


def _pillow() -> tuple[ModuleType, ModuleType]:
    """Pillow's modules Image and ImageOps."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(f"image folders need Pillow: {install('images')}") from error
    return Image, ImageOps
