"""Files of ONNX, read with care: nothing in one is believed before it is checked, and nothing outside its folder is opened."""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from minigrad.onnx.library import LARGEST, NEWEST, OLDEST, library

DTYPES = {  # those that minigrad has: (dtype, where values are that do not come as bytes)
    "FLOAT": (np.float32, "float_data"),
    "DOUBLE": (np.float64, "double_data"),
    "INT64": (np.int64, "int64_data"),
    "INT32": (np.int32, "int32_data"),
    "INT16": (np.int16, "int32_data"),
    "INT8": (np.int8, "int32_data"),
    "UINT8": (np.uint8, "int32_data"),
    "BOOL": (np.bool_, "int32_data"),
}


def read(path: str | os.PathLike[str]) -> tuple[Any, dict[str, np.ndarray], int]:
    """(the graph without its initializers, these as arrays, the version of the ops) of a file.

    Raises ValueError for a file that is damaged, too large, or of versions that are not known, and for tensors that do not fit
    their description or lie outside the file's folder; FileNotFoundError.
    """
    onnx = library()
    from google.protobuf.message import DecodeError

    path = Path(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise ValueError(f"{path} has {size:,} bytes, and a file of ONNX can have {LARGEST:,}")
        data = file.read(size)  # of LARGEST, as much memory would be taken at once
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ValueError(f"{path} is no whole file of ONNX: {error}") from error
    opset = version_of_ops(path, model)
    if model.graph.sparse_initializer:
        raise ValueError(f"{path} holds sparse weights, which minigrad has not")
    arrays: dict[str, np.ndarray] = {}
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            raise ValueError(f"{path} holds two initializers of the name {tensor.name!r}")
        arrays[tensor.name] = array_of(tensor, f"{path}: initializer {tensor.name!r}", path.parent)
    graph = model.graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.t.data_location == onnx.TensorProto.EXTERNAL:
                raise ValueError(
                    f"{path}: {node.op_type} {node.name!r} lies in another file, and only initializers may"
                )
    taken = {value.name for value in graph.input}
    inputs = [
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in graph.initializer
        if t.name not in taken
    ]
    del graph.initializer[:]
    sound = onnx.ModelProto()
    sound.CopyFrom(model)
    sound.graph.input.extend(inputs)  # the values are checked; without them the checker takes files of any size
    try:
        onnx.checker.check_model(sound)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ValueError(f"{path} is no sound file of ONNX: {error}") from error
    return graph, arrays, opset


def version_of_ops(path: Path, model: Any) -> int:
    """The opset of ONNX's own ops; ValueError for one that is not known."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1:
        raise ValueError(
            f"{path} is no sound file of ONNX: it says {len(versions)} times which opset it is of, not once"
        )
    if not OLDEST <= versions[0] <= NEWEST:
        raise ValueError(
            f"{path} is of opset {versions[0]}; {OLDEST} to {NEWEST} are read, so export it anew in one of these"
        )
    return versions[0]


def array_of(tensor: Any, what: str, folder: Path | None) -> np.ndarray:
    """The values of a tensor, checked; `folder` is where other files with values may lie, None for nowhere."""
    onnx = library()
    known = onnx.TensorProto.DataType
    name = known.Name(tensor.data_type) if tensor.data_type in known.values() else str(tensor.data_type)
    if name not in DTYPES:
        mend = "; convert the model to float32 first" if "FLOAT" in name else ""
        raise ValueError(f"{what} is of {name}, which minigrad has not{mend}")
    dtype, place = np.dtype(DTYPES[name][0]), DTYPES[name][1]
    shape = tuple(tensor.dims)
    if any(n < 0 for n in shape):
        raise ValueError(f"{what} has a length below 0, shape {shape}")
    count = math.prod(shape)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        data = outside(tensor, what, folder, count * dtype.itemsize)
    elif tensor.HasField("raw_data"):
        data = tensor.raw_data
    else:
        values = getattr(tensor, place)
        if len(values) != count:
            raise ValueError(f"{what} has {len(values)} values, and its shape {shape} is one of {count}")
        return np.array(values, np.int64 if place == "int32_data" else dtype).astype(dtype).reshape(shape)
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"{what} has {len(data):,} bytes, and {dtype}{list(shape)} takes {count * dtype.itemsize:,}")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def outside(tensor: Any, what: str, folder: Path | None, size: int) -> bytes:
    """The bytes of a tensor that lie in another file, which must be in the same folder or below."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ValueError(f"{what} lies in another file, {location!r}, and only initializers may")
    home = folder.resolve()
    try:
        file = (home / location).resolve()
        is_there = file.is_file()
    except (OSError, ValueError) as error:  # too long, or with a zero byte
        raise ValueError(f"{what} lies in {location[:60]!r}, which can be no file's name: {error}"[:500]) from None
    if not location or not file.is_relative_to(home) or file == home:
        raise ValueError(f"{what} lies in {location!r}, outside of the model's folder; nothing there is read")
    try:
        start, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        raise ValueError(f"{what}: offset and length must be numbers, not {entries}") from None
    if not is_there:
        raise ValueError(f"{what} lies in {location!r}, and there is no such file beside the model; copy it there")
    there = file.stat().st_size
    if length != size or start < 0 or start + length > there:
        raise ValueError(
            f"{what} takes {size:,} bytes, and {length:,} from {start:,} of {location!r} ({there:,}) are named"
        )
    with open(file, "rb") as opened:
        opened.seek(start)
        return opened.read(length)


def described(values: Iterable[Any]) -> list[tuple[str, np.dtype, list[int | str] | None]]:
    """(name, dtype, lengths, numbers or names, or None) of inputs or outputs; ValueError for what is no tensor."""
    onnx = library()
    found: list[tuple[str, np.dtype, list[int | str] | None]] = []
    for value in values:
        if not value.type.HasField("tensor_type"):
            raise ValueError(f"{value.name!r} is no tensor, but {value.type.WhichOneof('value')}")
        kind = value.type.tensor_type
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        if name not in DTYPES:
            raise ValueError(f"{value.name!r} is of {name}, which minigrad has not")
        lengths = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
        found.append((value.name, np.dtype(DTYPES[name][0]), lengths if kind.HasField("shape") else None))
    return found
