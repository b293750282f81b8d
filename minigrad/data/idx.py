"""IDX, the array format of the MNIST files: a magic number, the sizes as big-endian uint32, the values in C order."""

import hashlib
import io
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import DTypeLike

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

TYPES: dict[int, np.dtype] = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
MAX_RANK = 64  # NumPy's own limit
GZIP = 31  # what zlib calls deflated data with gzip's header and trailer
CHUNK = 1 << 20  # bytes read at a time
PIECE = 1 << 16  # bytes unpacked at a time
DEFLATE_RATIO = 1032  # deflate spends at least 2 bits on 258 bytes, so no file grows by more than this factor
REPLACE = "replace the file by a whole copy"


def read_idx(
    path: str | os.PathLike[str],
    *,
    ndim: int | None = None,
    dtype: DTypeLike | None = None,
    max_bytes: int | None = None,
    sha256: str | None = None,
) -> np.ndarray:
    """Read an IDX file, plain or gzip'd, into a fresh array of the machine's byte order.

    Gzip is recognized by the file's first bytes, not by its name. The header's claims are held against the size of the
    file before anything is allocated, and no more is decompressed than the header promises.

    Args:
        path: the file.
        ndim: the number of axes the array must have; None takes any.
        dtype: the type the array must have; None takes any of the format's six (8-bit, int16, int32, float32, float64).
        max_bytes: the largest uncompressed size of the file, header included; None sets no bound of its own.
        sha256: the SHA-256 of the uncompressed file in hexadecimal; None leaves it unchecked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it isn't an IDX file, or not the one described: wrong magic number, type, number of axes, size
            or checksum, truncated, followed by other bytes, or with damaged gzip data.
    """
    path = Path(path)
    gzipped = is_gzip(path)
    with gunzipped(path) if gzipped else open(path, "rb") as stream:
        header, kind, shape = _read_header(stream, path)
        if ndim is not None and len(shape) != ndim:
            raise ValueError(f"{path}: the array has {len(shape)} axes, {shape}, where {ndim} were expected")
        if dtype is not None and kind.newbyteorder("=") != np.dtype(dtype):
            raise ValueError(f"{path}: the values are {kind.name}, where {np.dtype(dtype).name} was expected")
        size = _check_size(path, len(header), shape, kind, gzipped, max_bytes)
        body = _read_exactly(stream, size - len(header), path)
        # The one byte past the end also makes gzip compare its CRC and length.
        if stream.read(1):
            raise ValueError(f"{path}: bytes follow the {size:,} that its header describes; {REPLACE}")
    if sha256 is not None:
        digest = hashlib.sha256(header)
        digest.update(body.data)
        if digest.hexdigest() != sha256:
            raise ValueError(f"{path}: SHA-256 is {digest.hexdigest()}, where {sha256} was expected; {REPLACE}")
    return body.view(kind).reshape(shape).astype(kind.newbyteorder("="), copy=False)


def is_gzip(path: Path) -> bool:
    """Whether the file begins as gzip files do, whatever its name says."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def gunzipped(path: Path) -> Iterator[BinaryIO]:
    """A gzip file open for reading; its damage (truncated, wrong CRC, not deflate) becomes a ValueError."""
    with open(path, "rb") as file, io.BufferedReader(_Unzipped(file), PIECE) as stream:
        try:
            yield cast(BinaryIO, stream)
        except (EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip data ({error}); {REPLACE}") from error


class _Unzipped(io.RawIOBase):
    """What is in a gzip file, of one member or several (RFC 1952).

    zlib looks at more of the headers than Python's module gzip does: flags that no version of the format uses, checksums.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.unpacker = zlib.decompressobj(GZIP)
        self.left = b""  # read from the file, and not unpacked yet

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, into: "WriteableBuffer") -> int:
        """Fill a part of `into`; how many bytes, 0 at the end. EOFError or zlib.error for a damaged file."""
        view = memoryview(into).cast("B")
        while True:
            part = self.unpacker.decompress(self.left, len(view))
            self.left = self.unpacker.unconsumed_tail
            if part:
                view[: len(part)] = part
                return len(part)
            if self.unpacker.eof:
                self.left = self.unpacker.unused_data.lstrip(b"\0")  # zeros may follow, as on tapes
                while not self.left and (more := self.file.read(PIECE)):
                    self.left = more.lstrip(b"\0")
                if not self.left:
                    return 0
                self.unpacker = zlib.decompressobj(GZIP)
            elif not self.left:
                self.left = self.file.read(PIECE)
                if not self.left:
                    raise EOFError("it ends too early")


def _read_header(stream: BinaryIO, path: Path) -> tuple[bytes, np.dtype, tuple[int, ...]]:
    """The header's bytes, the type of the values as stored, and the shape."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES:
        raise ValueError(
            f"{path}: not an IDX file: it begins with {magic!r}, where two zero bytes, a type "
            f"({', '.join(f'0x{code:02x}' for code in TYPES)}) and the number of axes were expected"
        )
    rank = magic[3]
    if not 1 <= rank <= MAX_RANK:
        raise ValueError(f"{path}: the IDX header claims {rank} axes, where 1 to {MAX_RANK} were expected")
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise ValueError(f"{path}: truncated: {len(sizes)} of the {4 * rank} bytes that hold the sizes of {rank} axes")
    return magic + sizes, TYPES[magic[2]], tuple(np.frombuffer(sizes, ">u4").tolist())


def _check_size(
    path: Path, header: int, shape: tuple[int, ...], kind: np.dtype, gzipped: bool, max_bytes: int | None
) -> int:
    """The uncompressed size in bytes that the header claims, once it is known to be possible."""
    size = header + math.prod(shape) * kind.itemsize
    claim = f"{path}: the IDX header claims {shape} {kind.name}, in all {size:,} bytes"
    stored = path.stat().st_size
    if max_bytes is not None and size > max_bytes:
        raise ValueError(f"{claim}, where at most {max_bytes:,} were expected")
    if gzipped and size > stored * DEFLATE_RATIO:
        raise ValueError(f"{claim}, more than its {stored:,} bytes of gzip data can hold; {REPLACE}")
    if not gzipped and size != stored:
        trouble = "truncated" if stored < size else "bytes follow the data"
        raise ValueError(f"{claim}, but the file has {stored:,}: {trouble}; {REPLACE}")
    # NumPy refuses a shape like (0, 2**32 - 1, 2**32 - 1) although the array would be empty.
    if math.prod(axis or 1 for axis in shape) * kind.itemsize > np.iinfo(np.intp).max:
        raise ValueError(f"{claim}, a shape larger than an array can have")
    return size


def _read_exactly(stream: BinaryIO, size: int, path: Path) -> np.ndarray:
    """The next `size` bytes of the stream as a uint8 array."""
    body = np.empty(size, np.uint8)
    filled = 0
    while filled < size:
        chunk = stream.read(min(CHUNK, size - filled))
        if not chunk:
            raise ValueError(f"{path}: truncated: {filled:,} of {size:,} bytes of data; {REPLACE}")
        body[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
        filled += len(chunk)
    return body
