"""Whether a PNG file is whole: decoders fill what is missing and pass over wrong checksums, and the pixels are wrong.

W3C, "Portable Network Graphics (PNG) Specification", second edition: chunks in section 5, passes in section 8.
"""

import struct
import zlib
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by the header's colour type
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced picture: first column and row, and the steps to the next."""
CHUNK = 1 << 16  # bytes read, and unpacked, at a time


def check_png(file: BinaryIO) -> None:
    """Raise ValueError for a PNG whose checksums are wrong or whose rows are not all there; pass over other files."""
    if file.read(8) != SIGNATURE:
        return
    unpacker, unpacked, expected = zlib.decompressobj(), 0, 0
    kind = b""
    while kind != b"IEND":
        start = file.read(8)
        if len(start) < 8:
            raise ValueError("truncated: the last chunk is missing")
        length, kind = struct.unpack(">I4s", start)
        crc = zlib.crc32(kind)
        left = length
        while left:
            part = file.read(min(left, CHUNK))
            if not part:
                raise ValueError(f"truncated inside the chunk {kind!r}")
            crc, left = zlib.crc32(part, crc), left - len(part)
            if kind == b"IHDR" and length == 13:
                expected = bytes_of_rows(part)
            elif kind == b"IDAT":
                unpacked += count_unpacked(unpacker, part, expected - unpacked)
        stored = file.read(4)
        if len(stored) < 4 or struct.unpack(">I", stored)[0] != crc:
            raise ValueError(f"the checksum of the chunk {kind!r} is wrong")
    if unpacked < expected:
        raise ValueError(f"its rows take {expected:,} bytes, and {unpacked:,} are there")


def bytes_of_rows(header: bytes) -> int:
    """The bytes that all rows take unpacked, each with the number of its filter; from the 13 bytes of the header."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * SAMPLES.get(colour, 1)
    total = 0
    for x, y, step_x, step_y in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def count_unpacked(unpacker: "zlib._Decompress", data: bytes, most: int) -> int:
    """How many bytes these unpack to, up to `most`; they are not kept."""
    count = 0
    try:
        while count < most:
            part = unpacker.decompress(data, CHUNK)
            count, data = count + len(part), unpacker.unconsumed_tail
            if not data and len(part) < CHUNK:
                break
    except zlib.error as error:
        raise ValueError(f"damaged data ({error})") from error
    return count
