"""Feeds damaged files to one reader, in a process that may take little memory and time, and prints what was wrong.

    python feed.py READER FIRST COUNT

The reader gets the files number FIRST and on, each made from a whole one by chance keyed by its number: the same on every
machine. It must load them rightly or raise the error that it documents, and change nothing then.
"""

import gzip
import io
import json
import re
import signal
import struct
import sys
import tempfile
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np

MEMORY = 256 << 20  # bytes beyond what the process has once it has read whole files
SECONDS = 5  # of the processor's time for one file
EXTREMES = (
    0,
    1,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    (1 << 64) - 1,
)
WORDS = (
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'"x"',
    b"9" * 20,
    b"9" * 5000,
    b"0.5",
    b"[" * 2000,
)
JSON_VALUES = (
    None, True, -1, 0, 1, 0.5, -0.5, 1e308, float("nan"), float("inf"), 10**23, 2**63, 2**64, "x", "", [], {}, [1], {"a": 1},
)  # fmt: skip


def damaged(data, rng):
    """The bytes after one to three changes, every other one near the beginning, where headers are."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        end = len(data) if rng.random() < 0.5 else min(len(data), 600)
        at, length = int(rng.integers(0, end + 1)), int(rng.integers(1, 40))
        match rng.integers(0, 9):
            case 0 | 1 if data:
                data[at % len(data)] ^= 1 << int(rng.integers(0, 8))
            case 2 if data:
                data[at % len(data)] = int(rng.choice([0, 1, 127, 128, 255]))
            case 3:
                del data[at:]
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = rng.bytes(length)
            case 6:
                data[at:at] = data[at : at + length * 20]
            case 7:
                size, order = int(rng.choice([2, 4, 8])), str(rng.choice(["little", "big"]))
                number = EXTREMES[rng.integers(len(EXTREMES))] % (1 << 8 * size)
                data[at : at + size] = number.to_bytes(size, order)
            case 8:
                numbers = list(re.finditer(rb"\d+", data))
                if numbers:
                    found = numbers[rng.integers(len(numbers))]
                    data[found.start() : found.end()] = WORDS[rng.integers(len(WORDS))]
    return bytes(data)


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


class Checkpoint:
    """checkpoint.load into model, optimizer, schedule and loader."""

    def __init__(self, folder):
        import minigrad as mg
        from minigrad import checkpoint
        from minigrad.checkpoint import contents

        self.mg, self.checkpoint, self.contents = mg, checkpoint, contents
        self.error, self.path = checkpoint.CheckpointError, folder / "a.safetensors"
        parts = self.parts(0)
        parts["loader"].seek(7)
        parts["schedule"].step()
        checkpoint.save(self.path, **parts, configuration={"width": 0.25, "layers": [1, 2]}, extra={"note": "x"})
        self.saved, self.data = self.state(parts), self.path.read_bytes()
        self.tensors = checkpoint.load(self.path).tensors
        (length,) = struct.unpack("<Q", self.data[:8])
        self.header, self.body = self.data[8 : 8 + length], self.data[8 + length :]
        self.signed = False

    def parts(self, seed):
        self.mg.manual_seed(seed)
        layers = [self.mg.nn.Linear(3, 4), self.mg.nn.BatchNorm(4), self.mg.nn.Dropout(0.5), self.mg.nn.Linear(4, 2)]
        model = self.mg.nn.Sequential(*layers).to("reference")
        optimizer = self.mg.optim.Adam(model.parameters(), lr=0.1)
        schedule = self.mg.optim.StepSchedule(optimizer, every=2)
        loader = self.mg.data.Loader(np.zeros((10, 3), np.float32), batch_size=4)
        return {"model": model, "optimizer": optimizer, "schedule": schedule, "loader": loader}

    def state(self, parts):
        return (
            {name: t.numpy().tobytes() for name, t in parts["model"].state_dict().items()},
            {name: a.tobytes() for name, a in parts["optimizer"].state_dict().items()},
            parts["schedule"].state_dict(), parts["loader"].state_dict(), self.mg.random.state_dict(),
        )  # fmt: skip

    def make(self, rng):
        kind = rng.integers(0, 4)
        self.signed = kind > 1
        if kind == 0:
            return damaged(self.data, rng)
        if kind == 1:
            text = damaged(self.header, rng)
            return struct.pack("<Q", len(text)) + text + self.body
        return self.with_other_metadata(rng)

    def with_other_metadata(self, rng):
        """The file with one or two values of its metadata changed, and a checksum that fits."""
        header = json.loads(self.header)
        metadata = header["__metadata__"]
        for name in rng.choice(self.contents.JSON_ENTRIES, rng.integers(1, 3), replace=False).tolist():
            value = json.loads(metadata[name])
            extreme = JSON_VALUES[rng.integers(len(JSON_VALUES))]
            if isinstance(value, dict) and value and rng.random() < 0.8:
                value[str(rng.choice(list(value)))] = extreme
            else:
                value = extreme
            metadata[name] = (
                json.dumps(value) if rng.random() < 0.9 else damaged(metadata[name].encode(), rng).decode("latin1")
            )
        metadata["sha256"] = self.contents.checksum(self.tensors, metadata)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + self.body

    def check(self, data):
        parts = self.parts(1)
        before = self.state(parts)
        self.path.write_bytes(data)
        try:
            self.checkpoint.load(self.path, **parts, configuration={"width": 0.25, "layers": [1, 2]}, random=True)
        except self.checkpoint.CheckpointError:
            assert self.state(parts) == before, "refused, but something was changed"
            raise
        assert self.state(parts)[:2] == self.saved[:2] or self.signed, "loaded, though it is damaged"
        if not self.signed:
            assert self.state(parts) == self.saved, "loaded, though it is damaged"
        assert np.isfinite(parts["optimizer"].lr)
        parts["schedule"].step()
        assert len(list(parts["loader"].steps(1))) == 1
        self.mg.random.stream().random()


class Weights:
    """interop.load_safetensors into a model, of files in either layout, against a reader of a few lines."""

    error = ValueError

    def __init__(self, folder):
        import minigrad as mg

        self.mg, self.path = mg, folder / "a.safetensors"
        model = self.model(0)
        example = np.zeros((2, 3), np.float32)
        self.whole = {}
        for layout, options in (("minigrad", {}), ("torch", {"example": example})):
            mg.interop.save_safetensors(model, self.path, layout=layout, **options)
            self.whole[layout] = self.path.read_bytes()
        self.options = {"minigrad": {}, "torch": {"example": example}}

    def model(self, seed):
        self.mg.manual_seed(seed)
        layers = [self.mg.nn.Linear(3, 3), self.mg.nn.BatchNorm(3), self.mg.nn.Linear(3, 2)]
        return self.mg.nn.Sequential(*layers).to("reference")

    def state(self, model):
        return {name: t.numpy() for name, t in model.state_dict().items()}

    def make(self, rng):
        self.layout = str(rng.choice(list(self.whole)))
        data, kind = self.whole[self.layout], rng.random()
        (length,) = struct.unpack("<Q", data[:8])
        if kind < 0.2:  # another number, which no checksum guards
            at = int(rng.integers(8 + length, len(data)))
            return data[:at] + rng.bytes(1) + data[at + 1 :]
        if kind < 0.6:
            return damaged(data, rng)
        header = json.loads(data[8 : 8 + length])
        for name in rng.choice(list(header), rng.integers(1, 3)).tolist():
            entry = header.get(name)
            extreme = JSON_VALUES[rng.integers(len(JSON_VALUES))]
            match rng.integers(0, 5):
                case 0:
                    header[name] = extreme
                case 1:
                    header[name + "x"] = header.pop(name, {})
                case 2 if isinstance(entry, dict):
                    entry["dtype"] = str(rng.choice(["F64", "F16", "BF16", "F8_E4M3", "I64", "U8", "BOOL", "X"]))
                case 3 if isinstance(entry, dict) and isinstance(entry.get("shape"), list):
                    entry["shape"] = [int(n) * int(rng.choice([0, 1, 2, 1 << 32, 1 << 62])) for n in entry["shape"]]
                case _ if isinstance(entry, dict) and entry:
                    entry[str(rng.choice(list(entry)))] = extreme
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    def check(self, data):
        model = self.model(1)
        before = self.state(model)
        self.path.write_bytes(data)
        try:
            self.mg.interop.load_safetensors(model, self.path, **self.options[self.layout])
        except ValueError:
            after = self.state(model)
            assert all(np.array_equal(before[n], after[n]) for n in before), "refused, but something was changed"
            raise
        (length,) = struct.unpack("<Q", data[:8])
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        for name, found in self.state(model).items():
            if self.layout == "torch":
                name = name.replace("gamma", "weight").replace("beta", "bias")
            start, stop = header[name]["data_offsets"]
            dtype = {"F32": "<f4", "F64": "<f8", "F16": "<f2"}[header[name]["dtype"]]
            kept = np.frombuffer(body[start:stop], dtype).reshape(header[name]["shape"])
            kept = kept.T if self.layout == "torch" and kept.ndim == 2 else kept
            assert np.array_equal(found, kept.astype(found.dtype), equal_nan=True), f"{name} is another"


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


class Onnx:
    """onnx.import_model and a run of what it gives, against ONNX's own evaluator where that takes the file."""

    error = ValueError

    def __init__(self, folder):
        import onnx
        from onnx.reference import ReferenceEvaluator

        import minigrad as mg
        from minigrad.onnx.runs import READERS

        self.mg, self.onnx, self.evaluator, self.path = mg, onnx, ReferenceEvaluator, folder / "a.onnx"
        self.kinds = [*READERS, "Loop", "x", ""]
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((2, 3, 6, 6)).astype(np.float32)
        (folder / "a.data").write_bytes(rng.standard_normal(200).astype(np.float32).tobytes())
        self.models = [self.convolutional(rng), self.recurrent(rng)]
        for model in self.models:
            self.check(model.SerializeToString())

    def convolutional(self, rng):
        node = self.onnx.helper.make_node
        nodes = [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[1, 1]),
            node("Relu", ["c"], ["r"]),
            node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", ["p"], ["f"], axis=1),
            node("Gemm", ["f", "v", "b"], ["g"], alpha=0.5, transB=1),
            node("Softmax", ["g"], ["y"], axis=1),
        ]
        return self.model(nodes, {"w": (4, 3, 3, 3), "v": (5, 36), "b": (5,)}, {}, rng)

    def recurrent(self, rng):
        node = self.onnx.helper.make_node
        nodes = [
            node("Reshape", ["x", "rows"], ["r"]),
            node("Transpose", ["r"], ["t"], perm=[1, 0, 2]),
            node("LSTM", ["t", "w", "u", "b"], ["l"], hidden_size=4),
            node("Squeeze", ["l", "one"], ["s"]),
            node("Slice", ["s", "start", "end", "zero", "one"], ["c"]),
            node("Gather", ["c", "places"], ["g"], axis=0),
            node("Concat", ["g", "s"], ["k"], axis=2),
            node("Pad", ["k", "pads"], ["p"]),
            node("ReduceMean", ["p"], ["m"], axes=[0], keepdims=0),
            node("LayerNormalization", ["m", "scale"], ["y"], axis=-1),
        ]
        numbers = {"rows": [2, 3, 36], "one": [1], "start": [0], "end": [2], "zero": [0], "places": [1, 0, 1]}
        weights = {"w": (1, 16, 36), "u": (1, 16, 4), "b": (1, 32), "scale": (9,)}
        return self.model(nodes, weights, numbers | {"pads": [0, 0, 0, 0, 0, 1]}, rng)

    def model(self, nodes, weights, numbers, rng):
        """A network of these nodes, from x to y."""
        helper, array, kind = self.onnx.helper, self.onnx.numpy_helper.from_array, self.onnx.TensorProto.FLOAT
        made = [array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in weights.items()]
        made += [array(np.array(values, np.int64), name) for name, values in numbers.items()]
        given = helper.make_tensor_value_info("x", kind, ["n", 3, 6, 6])
        result = helper.make_tensor_value_info("y", kind, ["n", "m"])
        graph = helper.make_graph(nodes, "graph", [given], [result], made)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def make(self, rng):
        chosen = self.models[rng.integers(len(self.models))]
        if rng.random() < 0.4:
            return damaged(chosen.SerializeToString(), rng)
        model = self.onnx.ModelProto()
        model.CopyFrom(chosen)
        for _ in range(rng.integers(1, 3)):
            self.change(model.graph, rng)
        return model.SerializeToString()

    def change(self, graph, rng):
        """Another value of something that a sound file has."""
        node = graph.node[rng.integers(len(graph.node))]
        tensor = graph.initializer[rng.integers(len(graph.initializer))]
        number = int(rng.choice([-(1 << 63), -2, -1, 0, 1, 2, 3, 7, 1 << 20, 1 << 31, (1 << 63) - 1]))
        match rng.integers(0, 8):
            case 0:
                node.op_type = str(rng.choice(self.kinds))
            case 1:
                names = [name for other in graph.node for name in [*other.input, *other.output]]
                node.input[rng.integers(len(node.input))] = str(rng.choice([*names, "", "z"]))
            case 2 | 3 if node.attribute:
                attribute = node.attribute[rng.integers(len(node.attribute))]
                if attribute.ints:
                    attribute.ints[rng.integers(len(attribute.ints))] = number
                else:
                    attribute.i, attribute.f = number, float(rng.choice([0.0, 1.0, np.nan, np.inf]))
            case 4:
                tensor.dims[rng.integers(len(tensor.dims))] = number
            case 5:
                self.put_outside(tensor, number, rng)
            case 6 if tensor.data_type == self.onnx.TensorProto.INT64 and tensor.raw_data:
                values = bytearray(tensor.raw_data)
                at = 8 * int(rng.integers(0, 1 + (len(values) - 1) // 8))
                values[at : at + 8] = number.to_bytes(8, "little", signed=True)
                tensor.raw_data = bytes(values)
            case _:
                tensor.raw_data = damaged(tensor.raw_data, rng)

    def put_outside(self, tensor, number, rng):
        """The values of a tensor are said to lie in another file."""
        size = len(tensor.raw_data)
        places = ["a.data", "../a.data", "/dev/zero", ".", "", "no.data", "a" * 5000, "a.data/b", "a\0b"]
        named = {"location": places[rng.integers(len(places)) if rng.random() < 0.5 else 0]}
        if rng.random() < 0.5:
            named |= {
                "offset": str(rng.choice([str(number), "0", "8", "x"])),
                "length": str(rng.choice([number, size])),
            }
        tensor.ClearField("raw_data")
        tensor.data_location = self.onnx.TensorProto.EXTERNAL
        for key, value in named.items():
            tensor.external_data.add(key=key, value=value)

    def check(self, data):
        self.path.write_bytes(data)
        model = self.mg.onnx.import_model(self.path)
        model = model.to("reference")
        try:
            found = model(self.x)
        except (TypeError, IndexError, MemoryError) as error:  # of an op, which says which and what came
            raise ValueError(str(error)) from error
        try:
            with np.errstate(all="ignore"):
                expected = self.evaluator(self.onnx.load_from_string(data)).run(None, {"x": self.x})
        except Exception:
            return  # what it does not take
        found = [t.numpy() for t in (found.values() if isinstance(found, dict) else [found])]
        for ours, theirs in zip(found, expected, strict=True):
            if np.isfinite(theirs).all():
                assert np.allclose(ours, theirs, rtol=1e-3, atol=1e-4), "another result than ONNX's own"


READERS = {
    "onnx": Onnx,
    "idx": Idx,
    "cifar": Cifar,
    "archive": Archive,
    "checkpoint": Checkpoint,
    "weights": Weights,
    "tables": Tables,
    "pictures": Pictures,
}


class TooSlow(BaseException):
    """A file took longer than SECONDS."""


def too_slow(number, frame):
    raise TooSlow


def limit_memory():
    """From now on this process gets MEMORY bytes more, where the system can be told so."""
    if sys.platform.startswith("linux"):
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def main(name, first, count):
    """Print how many files were loaded and refused, and what else happened, as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        reader = READERS[name](Path(folder))
        counts, wrong = {"loaded": 0, "refused": 0}, []
        limit_memory()
        has_timer = hasattr(signal, "setitimer")
        if has_timer:
            signal.signal(signal.SIGVTALRM, too_slow)
        for number in range(first, first + count):
            data = reader.make(np.random.default_rng(number))
            if has_timer:
                signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            try:
                reader.check(data)
                counts["loaded"] += 1
            except (Exception, TooSlow) as error:
                if type(error) is reader.error:
                    counts["refused"] += 1
                else:
                    wrong.append([number, "".join(traceback.format_exception(error))[-1500:]])
            finally:
                if has_timer:
                    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    print(json.dumps({**counts, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
