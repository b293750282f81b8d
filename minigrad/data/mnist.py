"""MNIST: the binary images embedded in the package, and the grey ones from the official files.

MNIST, by Y. LeCun, C. Cortes and C. J. C. Burges, holds 60,000 training and 10,000 test images of handwritten digits,
28 by 28 pixels from 0 (ground) to 255 (ink).
"""

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from minigrad.data.download import DownloadError, fetch
from minigrad.data.idx import read_idx
from minigrad.kernels.build.settings import cache_root

EMBEDDED = Path(__file__).with_name("mnist_binary.npz")
THRESHOLD = 127  # a pixel above it counts as ink
MAX_BYTES = 1 << 30  # the largest uncompressed file read from a user's folder; EMNIST's largest has 0.55 GB
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")


class MNIST(NamedTuple):
    """Images `(N, 28, 28)`, or `(N, 784)` where asked for, and labels `(N,)`, int64 from 0 to 9."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


class OfficialFile(NamedTuple):
    """An official file: its name, and the SHA-256 and size in bytes of what is in it uncompressed."""

    name: str
    sha256: str
    size: int


OFFICIAL = {
    "train_images": OfficialFile(
        "train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 47_040_016
    ),
    "train_labels": OfficialFile(
        "train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 60_008
    ),
    "test_images": OfficialFile(
        "t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 7_840_016
    ),
    "test_labels": OfficialFile(
        "t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 10_008
    ),
}


def load_binary_mnist(*, flat: bool = False, dtype: DTypeLike = np.uint8) -> MNIST:
    """The complete MNIST as binary images (a pixel is 1 where the grey one is above 127); no file or network needed.

    The images are those of section 4.1 of the Batch Normalization paper. They come bit-packed with the package.

    Args:
        flat: give the images as `(N, 784)` instead of `(N, 28, 28)`.
        dtype: the type of the images' zeros and ones, float32 for example.

    Returns:
        60,000 training and 10,000 test images with their labels, fresh arrays.

    Raises:
        ValueError: the embedded file is damaged.
        FileNotFoundError: it is missing from the installation.
    """
    data = read_embedded(EMBEDDED)
    images = [images.astype(dtype, copy=False) for images in (data.train_images, data.test_images)]
    if flat:
        images = [each.reshape(len(each), -1) for each in images]
    return data._replace(train_images=images[0], test_images=images[1])


def load_mnist(folder: str | os.PathLike[str] | None = None, download: bool = True) -> MNIST:
    """MNIST in grey, uint8 from 0 to 255, from the four IDX files, plain or gzip'd.

    `folder`, where given, is the only place looked in. Otherwise it is the folder in the environment variable
    `MINIGRAD_DATA`, then minigrad's cache folder, into which the files are downloaded once. In a folder of your own the
    files may also lie in a subfolder `mnist`, and may hold other data in MNIST's format: only their structure is
    checked. Files in the cache must have the official checksums; one that doesn't is downloaded anew.

    Args:
        folder: the folder of the files.
        download: whether the network may be used for files that are found nowhere.

    Returns:
        Images `(N, H, W)` and labels `(N,)`, fresh arrays; N is 60,000 and 10,000 and H = W = 28 for MNIST itself.

    Raises:
        FileNotFoundError: the files are nowhere and can't be downloaded; the message says how to place them.
        ValueError: a file is damaged or doesn't hold what it should; numbers of images and labels differ; a label is
            above 9.
    """
    given = folder if folder is not None else os.environ.get("MINIGRAD_DATA") or None
    if given is not None and not Path(given).is_dir():
        source = "MINIGRAD_DATA" if folder is None else "the argument"
        raise FileNotFoundError(_not_found([Path(given)], f"{source} names {given}, which isn't a folder."))
    places = [] if given is None else [Path(given), Path(given) / "mnist"]
    for place in places:
        paths = _find_all(place)
        if paths:
            return _checked(paths, {key: _read(key, path) for key, path in paths.items()})
    if folder is not None:
        raise FileNotFoundError(_not_found(places, "A folder given as argument is the only place looked in."))
    cache = cache_root() / "mnist"
    places.append(cache)
    try:
        arrays = {key: _from_cache(key, cache, download) for key in OFFICIAL}
    except (DownloadError, OSError) as error:
        raise FileNotFoundError(_not_found(places, str(error))) from error
    return MNIST(**arrays)


def binarize(images: np.ndarray) -> np.ndarray:
    """1 where a grey pixel is above 127, else 0; uint8 of the same shape."""
    return (images > THRESHOLD).view(np.uint8)


def read_embedded(path: Path) -> MNIST:
    """Read binary images and labels from a file that tools/embed_mnist.py wrote.

    It is an ordinary .npz file of uint8 arrays: labels `(N,)`, and images `(N, 4, 28)` in which bit 7 - b of row r
    holds the image's row 8 r + b (packed along columns: deflate packs strokes better so). The zip comment, which is the
    file's last 64 bytes, is the SHA-256 of all bytes before it in hexadecimal, so damage is found before parsing.
    """
    data = path.read_bytes()
    content, checksum = data[:-64], data[-64:]
    digest = hashlib.sha256(content).hexdigest()
    if digest.encode() != checksum:
        raise ValueError(
            f"{path}: damaged: SHA-256 of the content is {digest}, where its last 64 bytes say {checksum!r}; "
            "install minigrad anew"
        )
    with np.load(io.BytesIO(data)) as file:
        return MNIST(
            train_images=np.unpackbits(file["train_images"], axis=1, count=28),
            train_labels=file["train_labels"].astype(np.int64),
            test_images=np.unpackbits(file["test_images"], axis=1, count=28),
            test_labels=file["test_labels"].astype(np.int64),
        )


def find_file(folder: Path, name: str) -> Path | None:
    """The path of a file in a folder, gzip'd or plain."""
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _find_all(place: Path) -> dict[str, Path]:
    """The paths of the four files in a folder; none at all is fine, a part of them is an error."""
    found = {key: path for key, file in OFFICIAL.items() if (path := find_file(place, file.name))}
    missing = [file.name for key, file in OFFICIAL.items() if key not in found]
    if found and missing:
        raise FileNotFoundError(
            f"{place} holds {', '.join(path.name for path in found.values())}, but not {', '.join(missing)} "
            "(plain or with the suffix .gz); place all four files there"
        )
    return found


def _read(key: str, path: Path, sha256: str | None = None) -> np.ndarray:
    """One of the four files; labels as int64."""
    if key.endswith("images"):
        return read_idx(path, ndim=3, dtype=np.uint8, max_bytes=MAX_BYTES, sha256=sha256)
    labels = read_idx(path, ndim=1, dtype=np.uint8, max_bytes=MAX_BYTES, sha256=sha256)
    return labels.astype(np.int64)


def _from_cache(key: str, cache: Path, download: bool) -> np.ndarray:
    """One of the official files from the cache, downloaded if it isn't there or isn't right."""
    file = OFFICIAL[key]
    path = find_file(cache, file.name)
    if path is not None:
        try:
            return _read(key, path, file.sha256)
        except ValueError:
            if not download:
                raise
    if not download:
        raise FileNotFoundError(f"Not downloaded, as download=False: {file.name}.gz")
    target = cache / f"{file.name}.gz"
    mirrors = [f"{mirror}{target.name}" for mirror in MIRRORS]
    fetch(target, mirrors, sha256=file.sha256, size=file.size, gunzip=True)
    return _read(key, target, file.sha256)


def _checked(paths: dict[str, Path], arrays: dict[str, np.ndarray]) -> MNIST:
    """The four arrays as one dataset, once images and labels are known to belong together."""
    data = MNIST(**arrays)
    pairs = (("train", data.train_images, data.train_labels), ("test", data.test_images, data.test_labels))
    for part, images, labels in pairs:
        images_path, labels_path = paths[f"{part}_images"], paths[f"{part}_labels"]
        if len(images) != len(labels):
            raise ValueError(f"{images_path} holds {len(images):,} images, but {labels_path} {len(labels):,} labels")
        if len(labels) and labels.max() > 9:
            where = int(np.argmax(labels > 9))
            raise ValueError(f"{labels_path}: label {where} is {labels[where]}, where 0 to 9 were expected")
    if data.train_images.shape[1:] != data.test_images.shape[1:]:
        raise ValueError(
            f"{paths['train_images']} holds images of {data.train_images.shape[1:]} pixels, "
            f"{paths['test_images']} of {data.test_images.shape[1:]}"
        )
    return data


def _not_found(places: list[Path], why: str) -> str:
    names = "\n".join(f"  {file.name}" for file in OFFICIAL.values())
    looked = "\n".join(f"  {place}" for place in places)
    return (
        f"MNIST was not found. Looked in:\n{looked}\n{why}\n"
        f"Place these files, plain or with the suffix .gz, in a folder:\n{names}\n"
        "and pass the folder to load_mnist, or set MINIGRAD_DATA to it. The binary images are embedded in the "
        "package: load_binary_mnist() needs no file and no network."
    )
