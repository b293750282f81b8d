"""Write minigrad/data/mnist_binary.npz, the binary MNIST that comes with the package, from the official files.

    python tools/embed_mnist.py FOLDER [OUTPUT]

FOLDER holds the four IDX files, plain or gzip'd. Their uncompressed content must have the official SHA-256. A pixel
becomes 1 above 127, eight pixels one byte. The same files and the same zlib give the same bytes. The format is
described at `minigrad.data.mnist.read_embedded`.
"""

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

from minigrad.data.idx import read_idx
from minigrad.data.mnist import EMBEDDED, MNIST, OFFICIAL, binarize, find_file, read_embedded

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip file can hold, instead of today's


def read_official(folder: Path) -> MNIST:
    """Images made binary and labels (uint8) from the official files; ValueError if any other file is there."""
    arrays = {}
    for key, file in OFFICIAL.items():
        path = find_file(folder, file.name)
        if path is None:
            raise FileNotFoundError(f"neither {file.name} nor {file.name}.gz is in {folder}")
        array = read_idx(path, dtype=np.uint8, max_bytes=file.size, sha256=file.sha256)
        arrays[key] = binarize(array) if key.endswith("images") else array
    return MNIST(**arrays)


def pack(data: MNIST) -> bytes:
    """The bytes of the embedded file for images (N, 28, 28) of 0 and 1 and labels (N,) below 256."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = bytes(64)  # room for the checksum
        for name, array in data._asdict().items():
            stored = np.packbits(array, axis=1) if name.endswith("images") else array.astype(np.uint8)
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(stored), version=(1, 0))
            info = zipfile.ZipInfo(f"{name}.npy", EPOCH)
            info.create_system = 3  # Unix, whatever system this runs on
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue(), compresslevel=9)
    content = buffer.getvalue()[:-64]
    return content + hashlib.sha256(content).hexdigest().encode()


def main() -> None:
    """Read the command line, write the file, and read it back."""
    parser = argparse.ArgumentParser(description="Write the binary MNIST that comes with the package.")
    parser.add_argument("folder", type=Path, help="folder of the official files, plain or gzip'd")
    parser.add_argument("output", type=Path, nargs="?", default=EMBEDDED, help="default: %(default)s")
    arguments = parser.parse_args()
    data = read_official(arguments.folder)
    arguments.output.write_bytes(pack(data))
    again = read_embedded(arguments.output)
    if not all(np.array_equal(ours, theirs) for ours, theirs in zip(again, data, strict=True)):
        raise SystemExit(f"{arguments.output} does not read back as it was written")
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
