"""Readers of data sets, each with whole files to be damaged, and a check of what it makes of a damaged one."""

import gzip
import io
import struct
import warnings
import zlib

import numpy as np
from fuzz.damage import damaged


class Idx:
    """read_idx, against a reader of a few lines."""

    error = ValueError

    def __init__(self, folder):
        from minigrad.data import read_idx

        self.read, self.path = read_idx, folder / "file"
        arrays = [np.arange(60).reshape(3, 4, 5) % 256, np.arange(6.0).reshape(2, 3), np.arange(300), np.zeros((0, 5))]
        codes = [(8, "u1"), (13, ">f4"), (11, ">i2"), (14, ">f8")]
        self.whole = [
            struct.pack(">BBBB", 0, 0, code, a.ndim) + np.array(a.shape, ">u4").tobytes() + a.astype(dtype).tobytes()
            for a, (code, dtype) in zip(arrays, codes, strict=True)
        ]

    def make(self, rng):
        data = self.whole[rng.integers(len(self.whole))]
        match rng.integers(0, 3):
            case 0:
                return damaged(data, rng)
            case 1:
                return gzip.compress(damaged(data, rng), mtime=0)
            case _:
                return damaged(gzip.compress(data, mtime=0), rng)

    def check(self, data):
        expected, may_refuse = self.expected(data)
        self.path.write_bytes(data)
        try:
            found = self.read(self.path)
        except ValueError:
            assert expected is None or may_refuse, "refused, though it is whole"
            raise
        assert expected is not None, "loaded, though it is damaged"
        assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())

    def expected(self, data):
        """(the array or None, whether more may be wrong with the file than this looks for)."""
        zipped = data[:2] == b"\x1f\x8b"
        try:
            data = gzip.decompress(data) if zipped else data
            zeros, code, rank = struct.unpack(">HBB", data[:4])
            dtype = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}[code]
            shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
            if zeros or not rank:
                return None, False
            array = np.frombuffer(data[4 + 4 * rank :], dtype).reshape(shape)
        except (OSError, EOFError, zlib.error, struct.error, KeyError, ValueError):
            return None, False
        return array.astype(array.dtype.newbyteorder("=")), zipped


class Cifar:
    """load_cifar10 of six files, one of them damaged."""

    error = ValueError

    def __init__(self, folder):
        from minigrad.data import cifar10

        self.cifar10, self.folder = cifar10, folder
        rng = np.random.default_rng(0)
        self.whole = [bytes([i]) + rng.bytes(3072) + bytes([9 - i]) + rng.bytes(3072) for i in range(6)]
        for name, data in zip(cifar10.FILES, self.whole, strict=True):
            (folder / name).write_bytes(data)

    def make(self, rng):
        data = self.whole[0]
        return damaged(data, rng) if rng.random() < 0.5 else data[:3073] + damaged(data[3073:], rng)

    def check(self, data):
        (self.folder / self.cifar10.FILES[0]).write_bytes(data)
        rows = len(data) // 3073
        whole = rows and len(data) == rows * 3073 and all(label <= 9 for label in data[::3073])
        try:
            found = self.cifar10.load_cifar10(self.folder)
        except ValueError:
            assert not whole, "refused, though it is whole"
            raise
        assert whole, "loaded, though it is damaged"
        images = found.train_images[:rows].transpose(0, 3, 1, 2).reshape(rows, -1)
        assert b"".join(bytes([n]) + i.tobytes() for n, i in zip(found.train_labels, images, strict=False)) == data


class Archive:
    """load_cifar10 of an archive."""

    error = ValueError

    def __init__(self, folder):
        import tarfile

        from minigrad.data import cifar10

        self.cifar10, self.path = cifar10, folder / cifar10.ARCHIVE
        rng = np.random.default_rng(0)
        self.contents = {name: bytes([3]) + rng.bytes(3072) for name in cifar10.FILES}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in {"readme.html": b"x" * 700, **self.contents}.items():
                member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
                member.size, member.pax_headers = len(data), {"comment": "1"} if name < "r" else {}
                tar.addfile(member, io.BytesIO(data))
        self.tar = packed.getvalue()

    def make(self, rng):
        match rng.integers(0, 3):
            case 0:
                return damaged(gzip.compress(self.tar, 1, mtime=0), rng)
            case 1:
                return gzip.compress(damaged(self.tar, rng), 1, mtime=0)
            case _:
                return gzip.compress(self.with_damaged_headers(rng), 1, mtime=0)

    def with_damaged_headers(self, rng):
        """The tar file with fields of one or two headers changed, and their checksums right again."""
        tar = bytearray(self.tar)
        headers = [i for i in range(0, len(tar), 512) if tar[i + 257 : i + 262] == b"ustar"]
        for at in rng.choice(headers, rng.integers(1, 3), replace=False):
            start, size = [(0, 100), (124, 12), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)][rng.integers(7)]
            field = damaged(tar[at + start : at + start + size], rng)
            kinds = rng.choice([b"S", b"x", b"g", b"L", b"K", b"1", b"5", b"\0", b"7"])
            sizes = [
                b"-0000000001",
                b"77777777777",
                b"\x80" + b"\xff" * 11,
                b"\xff" * 12,
                b"00000006001",
                b"00000000000",
            ]
            field = {124: sizes[rng.integers(len(sizes))], 156: bytes(kinds)}.get(start, field)
            tar[at + start : at + start + size] = field[:size].ljust(size, b"\0")
            tar[at + 148 : at + 156] = b"%06o\0 " % (sum(tar[at : at + 148]) + 256 + sum(tar[at + 156 : at + 512]))
        return bytes(tar)

    def check(self, data):
        self.path.write_bytes(data)
        found = self.cifar10.load_cifar10(self.path.parent)
        tar = gzip.decompress(data)
        images = np.concatenate([found.train_images, found.test_images]).transpose(0, 3, 1, 2).reshape(-1, 3072)
        for label, image in zip([*found.train_labels, *found.test_labels], images, strict=True):
            assert bytes([label]) + image.tobytes() in tar, "an image that the archive has not"


class Pictures:
    """ImageFolder's pictures, of every kind that Pillow writes here."""

    error = ValueError

    def __init__(self, folder):
        from PIL import Image, features

        from minigrad.data.imagefolder import Pictures

        self.pictures, self.folder = Pictures, folder
        rng = np.random.default_rng(0)
        pixels = np.kron(rng.integers(0, 256, (5, 6, 4), np.uint8), np.ones((3, 3, 1), np.uint8))
        picture = Image.fromarray(pixels[..., :3])
        clear = Image.fromarray(pixels)
        kinds = {
            "png": [picture, clear, picture.convert("P"), picture.convert("L"), picture.convert("1")],
            "jpg": [picture, picture.convert("L")], "gif": [picture.convert("P")], "bmp": [picture], "ppm": [picture],
            "tif": [picture, clear], "webp": [picture, clear] if features.check("webp") else [],
        }  # fmt: skip
        self.whole = []
        for suffix, given in kinds.items():
            for image in given:
                for options in [{}, {"compression": "tiff_adobe_deflate"}] if suffix == "tif" else [{}]:
                    image.save(folder / f"x.{suffix}", **options)
                    data = (folder / f"x.{suffix}").read_bytes()
                    self.whole.append((suffix, data, self.read(suffix, data)))
        self.pngs = [entry for entry in self.whole if entry[0] == "png"]
        self.expected = None

    def read(self, suffix, data):
        path = self.folder / f"x.{suffix}"
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of notes that it does not understand
            return self.pictures([path], 8, max_pixels=1 << 20)[0]

    def make(self, rng):
        signed = rng.random() < 0.3
        chosen = self.pngs if signed else self.whole
        self.suffix, data, image = chosen[rng.integers(len(chosen))]
        self.expected = image if self.suffix == "png" and not signed else None
        return self.with_damaged_chunks(data, rng) if signed else damaged(data, rng)

    def with_damaged_chunks(self, data, rng):
        """The PNG file with a chunk changed and its checksum right again."""
        chunks, at = [], 8
        while at < len(data):
            (length,) = struct.unpack(">I", data[at : at + 4])
            chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
            at += 12 + length
        place = rng.integers(len(chunks))
        kind, body = chunks[place]
        if kind == b"IDAT" and rng.random() < 0.5:
            chunks[place] = kind, zlib.compress(damaged(zlib.decompress(body), rng))
        else:
            chunks[place] = kind, damaged(body, rng)
        return data[:8] + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )

    def check(self, data):
        image = self.read(self.suffix, data)
        assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)
        assert self.expected is None or np.array_equal(image, self.expected), "loaded, though it is damaged"


class Tables:
    """data.parquet, every row read once."""

    error = ValueError

    def __init__(self, folder):
        import pyarrow
        import pyarrow.parquet

        from minigrad.data import parquet

        self.parquet, self.path = parquet, folder / "a.parquet"
        rng = np.random.default_rng(0)
        columns = {
            "pixels": pyarrow.array(
                list(rng.standard_normal((40, 3)).astype(np.float32)), pyarrow.list_(pyarrow.float32(), 3)
            ),
            "label": pyarrow.array(rng.integers(0, 9, 40)),
            "name": pyarrow.array([f"row {i % 7}" for i in range(40)]),
        }
        self.whole = []
        for compression in ("none", "snappy", "gzip"):
            pyarrow.parquet.write_table(pyarrow.table(columns), self.path, row_group_size=16, compression=compression)
            self.whole.append(self.path.read_bytes())
            self.rows()

    def rows(self):
        table = self.parquet(self.path)
        return [table[i] for i in range(len(table))]

    def make(self, rng):
        data = self.whole[rng.integers(len(self.whole))]
        if rng.random() < 0.5:  # the footer is at the end
            return data[:-900] + damaged(data[-900:-8], rng) + data[-8:]
        return damaged(data, rng)

    def check(self, data):
        self.path.write_bytes(data)
        rows = self.rows()
        assert rows
        assert all(len(row) == 3 for row in rows)
