"""CIFAR-10 from its official binary distribution: 60,000 colour images of 32 by 32 pixels in ten classes.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from minigrad.data.download import DownloadError, fetch
from minigrad.data.idx import CHUNK, REPLACE, gunzipped
from minigrad.kernels.build.settings import cache_root

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
FILES = (*TRAIN_FILES, TEST_FILE)
FOLDER = "cifar-10-batches-bin"  # what the archive unpacks to
SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE  # bytes: the label, then the planes of red, green and blue

ARCHIVE = "cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
SIZE = 170_052_171
MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
)
MAX_BYTES = 1 << 29  # the largest file, or archive unpacked, that is read; the official one has 184 MB
BLOCK = 512  # bytes; what a tar file is made of
REGULAR = (b"0", b"\0", b"7")  # kinds of members in a tar file
WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices and folders
PICKLES = ("data_batch_1", "test_batch", "cifar-10-batches-py", "cifar-10-python.tar.gz")


class CIFAR10(NamedTuple):
    """Images uint8 `(N, 32, 32, 3)`, red, green and blue from 0 to 255, and labels `(N,)`, int64, positions in `CLASSES`."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_cifar10(folder: str | os.PathLike[str] | None = None, download: bool = True) -> CIFAR10:
    """CIFAR-10 from the binary distribution's six files, or from the archive cifar-10-binary.tar.gz that holds them.

    `folder`, where given, is the only place looked in. Otherwise it is the folder in the environment variable
    `MINIGRAD_DATA`, then minigrad's cache folder, into which the archive is downloaded once (162 MB). In a folder of your
    own the files may also lie in a subfolder `cifar-10-batches-bin`, and may hold other images in this format: only their
    structure is checked. The archive in the cache must have the official checksum; one that doesn't is downloaded anew.

    Args:
        folder: the folder of the files or of the archive.
        download: whether the network may be used if they are found nowhere.

    Returns:
        50,000 training and 10,000 test images with their labels, fresh arrays.

    Raises:
        FileNotFoundError: the files are nowhere and can't be downloaded; the message says how to place them.
        ValueError: a file or the archive is damaged, or a label is above 9; or there are only the pickled batches of the
            Python distribution, which are not read as unpickling can run any code.
    """
    given = folder if folder is not None else os.environ.get("MINIGRAD_DATA") or None
    if given is not None and not Path(given).is_dir():
        source = "MINIGRAD_DATA" if folder is None else "the argument"
        raise FileNotFoundError(_not_found([Path(given)], f"{source} names {given}, which isn't a folder."))
    places = [] if given is None else [Path(given), Path(given) / FOLDER]
    for place in places:
        if _has_files(place):
            return _dataset({name: _read_file(place / name) for name in FILES}, place)
        if (place / ARCHIVE).is_file():
            return _dataset(read_archive(place / ARCHIVE), place / ARCHIVE)
    pickles = [place / name for place in places for name in PICKLES if (place / name).exists()]
    if folder is not None:
        if pickles:
            raise ValueError(_not_found(places, _refusal(pickles[0])))
        raise FileNotFoundError(_not_found(places, "A folder given as argument is the only place looked in."))
    cache = cache_root() / "cifar10"
    places.append(cache)
    try:
        archive = _from_cache(cache, download)
    except (DownloadError, OSError) as error:
        why = str(error)
        if pickles:
            raise ValueError(_not_found(places, f"{_refusal(pickles[0])}\n{why}")) from error
        raise FileNotFoundError(_not_found(places, why)) from error
    return _dataset(read_archive(archive), archive)


def read_batch(data: bytes | bytearray, name: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Images `(n, 32, 32, 3)` and labels `(n,)` from the bytes of one of the files, which `name` names in errors.

    Raises:
        ValueError: the bytes are no whole records of 3073, none at all, or a label is above 9; the message says where.
    """
    whole, rest = divmod(len(data), RECORD)
    hint = "; it looks like a pickled batch of the Python distribution" if data[:1] == b"\x80" else ""
    if rest or not whole:
        raise ValueError(
            f"{name}: {len(data):,} bytes, where a multiple of {RECORD} was expected: "
            f"the record at offset {whole * RECORD} has {rest} bytes{hint}; {REPLACE}"
        )
    records = np.frombuffer(data, np.uint8).reshape(whole, RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        where = int(np.argmax(labels >= len(CLASSES)))
        raise ValueError(
            f"{name}: the label at offset {where * RECORD} is {labels[where]}, where 0 to 9 were expected{hint}; {REPLACE}"
        )
    planes = records[:, 1:].reshape(whole, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def read_archive(path: Path) -> dict[str, bytearray]:
    """The six files' contents by name, from a tar file compressed by gzip.

    Only regular members with the official names are read, and nothing is written anywhere, so other members (paths with
    `..`, links, devices) can do no harm. No more than MAX_BYTES are decompressed.

    Raises:
        ValueError: the archive is damaged, too large, or one of the files is missing, there twice, or not a regular file.
    """
    found: dict[str, bytearray] = {}
    with gunzipped(path) as unzipped:
        stream = _BoundedReader(unzipped, path)
        for member, kind, size in _members(stream):
            folder, _, name = member.removeprefix("./").rstrip("/").rpartition("/")
            if folder != FOLDER or name not in FILES:
                stream.skip(_padded(size))
                continue
            if kind not in REGULAR:
                raise ValueError(f"{path}: {folder}/{name} is no regular file in the archive; {REPLACE}")
            if name in found:
                raise ValueError(f"{path}: {folder}/{name} is there twice; {REPLACE}")
            if size % RECORD or not size:
                raise ValueError(
                    f"{path}: {folder}/{name} has {size:,} bytes, where a multiple of {RECORD} was expected; {REPLACE}"
                )
            found[name] = stream.exactly(size)
            stream.skip(_padded(size) - size)
        while stream.read(CHUNK):  # at the end, gzip compares its checksum
            pass
    missing = [name for name in FILES if name not in found]
    if missing:
        raise ValueError(
            f"{path}: the archive doesn't hold {', '.join(f'{FOLDER}/{name}' for name in missing)}; {REPLACE}"
        )
    return found


class _BoundedReader:
    """A stream that gives no more than MAX_BYTES."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self.stream, self.path, self.given = stream, path, 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes, fewer at the end."""
        data = self.stream.read(size)
        self.given += len(data)
        if self.given > MAX_BYTES:
            raise ValueError(
                f"{self.path}: more than {MAX_BYTES:,} bytes unpacked, where 184 MB were expected; {REPLACE}"
            )
        return data

    def exactly(self, size: int) -> bytearray:
        """`size` bytes; ValueError if there are fewer."""
        data = bytearray()  # grows with what comes, whatever was claimed
        for part in self._parts(size):
            data += part
        return data

    def skip(self, size: int) -> None:
        """Pass over `size` bytes; ValueError if there are fewer."""
        for _ in self._parts(size):
            pass

    def _parts(self, size: int) -> Iterator[bytes]:
        while size:
            part = self.read(min(size, CHUNK))
            if not part:
                raise self.damage("it ends within a file")
            size -= len(part)
            yield part

    def damage(self, what: str) -> ValueError:
        """The error for something that no tar file holds."""
        return ValueError(f"{self.path}: damaged tar data ({what}); {REPLACE}")


def _members(stream: _BoundedReader) -> Iterator[tuple[str, bytes, int]]:
    """(name, kind, size) of each member of a tar file (POSIX.1-1988, ustar); who asks for the next has read its content.

    Extended headers are members of their own here, passed over like any other: a name or a size that needs one is none of
    CIFAR-10's. So a header can make nobody read or allocate more than it says itself.
    """
    while True:
        header = stream.read(BLOCK)
        while 0 < len(header) < BLOCK and (rest := stream.read(BLOCK - len(header))):
            header += rest
        if not header.strip(b"\0"):  # an empty block, or no more: the end
            return
        if len(header) < BLOCK:
            raise stream.damage("it ends within a header")
        try:
            own = int(header[148:156].strip(b" \0"), 8)
            size = int(header[124:136].strip(b" \0") or b"0", 8)
        except ValueError:
            raise stream.damage("a header's numbers are not octal") from None
        if own != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
            raise stream.damage("a header's checksum is wrong")
        if size < 0:
            raise stream.damage(f"a header claims {size} bytes")
        name, prefix = (
            field.partition(b"\0")[0].decode("utf-8", "replace") for field in (header[:100], header[345:500])
        )
        if header[257:262] == b"ustar" and prefix:
            name = f"{prefix}/{name}"
        kind = header[156:157]
        yield name, kind, 0 if kind in WITHOUT_CONTENT else size


def _padded(size: int) -> int:
    """The bytes that a member's content takes: whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _has_files(place: Path) -> bool:
    """Whether the six files are in a folder; a part of them is an error."""
    missing = [name for name in FILES if not (place / name).is_file()]
    if 0 < len(missing) < len(FILES):
        raise FileNotFoundError(f"{place} holds a part of CIFAR-10, but not {', '.join(missing)}; place all six there")
    return not missing


def _read_file(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path}: {size:,} bytes, where at most {MAX_BYTES:,} were expected (officially 30,730,000)")
    return path.read_bytes()


def _from_cache(cache: Path, download: bool) -> Path:
    """The official archive in the cache, downloaded if it isn't there or isn't right."""
    target = cache / ARCHIVE
    if not download and not target.is_file():
        raise FileNotFoundError(f"Not downloaded, as download=False: {ARCHIVE}")
    mirrors = [f"{mirror}{ARCHIVE}" for mirror in MIRRORS] if download else []
    return fetch(target, mirrors, sha256=SHA256, size=SIZE)


def _dataset(contents: dict[str, bytes] | dict[str, bytearray], source: Path) -> CIFAR10:
    parts = [read_batch(contents.pop(name), source / name) for name in TRAIN_FILES]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return CIFAR10(images, labels, *read_batch(contents.pop(TEST_FILE), source / TEST_FILE))


def _refusal(path: Path) -> str:
    return (
        f"{path} belongs to the Python distribution. Its batches are pickles, which can run any code when they are "
        "loaded, so they are not read; take the binary distribution."
    )


def _not_found(places: list[Path], why: str) -> str:
    looked = "\n".join(f"  {place}" for place in places)
    return (
        f"CIFAR-10 was not found. Looked in:\n{looked}\n{why}\n"
        f"Place {ARCHIVE} from {MIRRORS[0]}{ARCHIVE}, or the files it holds\n"
        f"  {', '.join(FILES)}\n"
        f"(also in a subfolder {FOLDER}) in a folder and pass it to load_cifar10, or set MINIGRAD_DATA to it. "
        "For first experiments without any file, load_binary_mnist() gives images that come with the package."
    )
