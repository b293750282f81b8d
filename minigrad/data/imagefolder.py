"""Your own pictures, one folder for each class. Needs Pillow: pip install 'minigrad[images]'."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from minigrad.data.loader import integer

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
DEEP_MODES = ("I", "F")  # Pillow's modes of more than 8 bits begin so; converting them would clip their values


class ImageFolder:
    """Pictures in folder/class/picture, for example `flowers/rose/1.jpg`, with their labels.

    Classes are the subfolders and samples their files with the suffix of a picture, each in the order of their names by
    code points, the same on every machine. Names that begin with a dot, other files and deeper folders are left out.

        data = ImageFolder("flowers", size=224)
        Loader(data.images, data.labels, batch_size=32, transform=Kiefer(), prefetch=4)

    A picture is decoded when it is asked for, at every epoch anew; `data.images[:]` is an array of all of them, for what
    fits into memory.

    Args:
        folder: the folder of the classes' folders.
        size: height and width that all pictures are brought to, in pixels; one number for squares.
        crop: cut what sticks out, equally on both sides, so that proportions stay; False stretches the picture instead.

    Attributes:
        images: the pictures, a `Pictures`; for a Loader as good as an array uint8 `(n, height, width, 3)`.
        labels: int64 `(n,)`, positions in `classes`.
        classes: the names of the classes.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no class, a class without pictures, or a size below 1.
        ImportError: Pillow isn't installed.
    """

    def __init__(self, folder: str | os.PathLike[str], size: int | tuple[int, int], *, crop: bool = True) -> None:
        _pillow()
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
        self.images = Pictures([file for files in members.values() for file in files], size, crop=crop)

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.images)

    def __repr__(self) -> str:
        return f"<ImageFolder: {len(self)} pictures of {len(self.classes)} classes, {self.images.shape[1:]}>"


class Pictures:
    """Picture files as one array uint8 `(n, height, width, 3)` that is read where it is indexed: `p[5]`, `p[2:9]`, `p[rows]`.

    Greys become three equal channels, transparency is dropped, a camera's note of orientation is followed. Resampling is
    Pillow's bicubic, which averages where it shrinks.

    Args:
        paths: the files.
        size: as for `ImageFolder`.
        crop: as for `ImageFolder`.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, paths: list[Path], size: int | tuple[int, int], *, crop: bool = True) -> None:
        height, width = size if isinstance(size, tuple | list) else (size, size)
        self.paths = list(paths)
        self.crop = bool(crop)
        self.shape = (len(self.paths), integer("height", height, 1), integer("width", width, 1), 3)

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.paths)

    def __getitem__(self, index: Any) -> np.ndarray:
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
                with pillow.open(file) as picture:
                    if picture.mode.startswith(DEEP_MODES):
                        raise ValueError(
                            f"its pixels have more than 8 bits (mode {picture.mode}); convert it to 8 bits"
                        )
                    picture = ops.exif_transpose(picture).convert("RGB")
                    size = (self.shape[2], self.shape[1])
                    fitted = ops.fit(picture, size, pillow.Resampling.BICUBIC) if self.crop else picture.resize(size)
                    return np.asarray(fitted)
            except MemoryError:
                raise
            except (
                Exception
            ) as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more on bad files
                raise ValueError(f"{path}: not a picture that can be read: {error}") from error


def _is_seen(path: Path) -> bool:
    return not path.name.startswith(".")


def _pillow() -> tuple[Any, Any]:
    """Pillow's modules Image and ImageOps."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("image folders need Pillow: pip install 'minigrad[images]'") from error
    return Image, ImageOps
