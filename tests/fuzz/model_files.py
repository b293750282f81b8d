"""Readers of models and their weights, each with whole files to be damaged, and a check of what it makes of a damaged one."""

import json
import struct

import numpy as np
from fuzz.damage import JSON_VALUES, damaged


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
