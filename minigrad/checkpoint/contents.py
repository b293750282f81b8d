"""A checkpoint's file, read without trust: what it claims is checked before anything is allocated or read for it."""

import hashlib
import json
import math
import os
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FORMAT = "minigrad checkpoint 1"
HEADER_LIMIT = 100_000_000  # bytes, by the format's definition; a tensor takes about a hundred
DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
        "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?",
    }.items()
}  # fmt: skip
JSON_ENTRIES = ("versions", "configuration", "random", "schedule", "loader", "extra")
MOST_AXES = 64  # NumPy's own limit

Json = Any
"""Numbers, strings, None, and lists and dicts of them, as JSON has it: what comes back from a file is known to its reader."""


@dataclass
class Contents:
    """What could be read of a file, and what is wrong with it."""

    path: Path
    problems: list[str] = field(default_factory=list)
    described: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)  # by place: dtype's name, shape
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Json] = field(default_factory=dict)  # JSON_ENTRIES, parsed


def checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256, in hexadecimal, over names, dtypes, shapes and bytes of the tensors, and all metadata but the checksum."""
    digest = hashlib.sha256()
    digest.update(json.dumps({k: v for k, v in metadata.items() if k != "sha256"}, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def read_front(file: BinaryIO, path: Path) -> Contents:
    """All but the tensors themselves, which follow where the file then stands."""
    contents = Contents(path)
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if len(start) < 8:
        contents.problems.append(f"truncated: {size} bytes, where a checkpoint has at least 8")
    elif length > HEADER_LIMIT:
        contents.problems.append(f"the header claims {length:,} bytes, where at most {HEADER_LIMIT:,} are taken")
    elif length > size - 8:
        contents.problems.append(f"truncated: the header claims {length:,} bytes, and {size - 8:,} follow")
    if not contents.problems:
        read_header(contents, file.read(length), size - 8 - length)
    return contents


def read_header(contents: Contents, header: bytes, body: int) -> None:
    """Fill in what the header says, and note what is wrong with it; `body` bytes follow it."""
    places = []
    try:
        described = json.loads(header, object_pairs_hook=without_duplicates)
        metadata = described.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata must be strings")
        for name, entry in described.items():
            dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if not isinstance(dtype, str) or not all(type(n) is int and n >= 0 for n in [*shape, start, stop]):
                raise ValueError(f"{name} has dtype {dtype!r}, shape {shape!r} and lies from {start!r} to {stop!r}")
            places.append((start, stop, name))
            contents.described[name] = dtype, tuple(shape)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        contents.described.clear()
        contents.problems.append(f"the header is damaged: {type(error).__name__}: {error}")
        return
    places.sort()
    contents.described = {name: contents.described[name] for _, _, name in places}
    check_places(contents, places, body)
    read_metadata(contents, metadata)


def check_places(contents: Contents, places: list[tuple[int, int, str]], body: int) -> None:
    """Note what is wrong with the tensors' dtypes and sizes, and with where they lie: one after another, to the end."""
    end = max((stop for _, stop, _ in places), default=0)
    if end != body:
        what = "truncated" if end > body else "something was appended"
        contents.problems.append(f"{what}: the tensors take {end:,} bytes, and {body:,} are there")
    before = 0
    for start, stop, name in places:
        dtype, shape = contents.described[name]
        if dtype not in DTYPES:
            contents.problems.append(f"{name}: unknown dtype {dtype}, where one of {', '.join(DTYPES)} was expected")
        elif stop - start != math.prod(shape) * DTYPES[dtype].itemsize:
            contents.problems.append(f"{name}: {stop - start:,} bytes are no {dtype} of shape {shape}")
        elif len(shape) > MOST_AXES or math.prod(n or 1 for n in shape) * 8 > sys.maxsize:
            contents.problems.append(f"{name}: no array can have the shape {shape}")
        if start != before:
            contents.problems.append(
                f"the tensors' places in the file are wrong: {name} begins at {start:,}, where {before:,} was expected"
            )
        before = stop


def read_metadata(contents: Contents, metadata: dict[str, str]) -> None:
    """Take the header's strings apart."""
    if metadata.get("format") != FORMAT:
        came = repr(metadata["format"]) if "format" in metadata else "none"
        contents.problems.append(f"the metadata's format is {came}, where {FORMAT!r} was expected")
        return
    missing = [name for name in (*JSON_ENTRIES, "sha256") if name not in metadata]
    if missing:
        contents.problems.append(f"the metadata lacks {', '.join(missing)}")
        return
    contents.metadata = metadata
    try:
        contents.entries = {name: json.loads(metadata[name]) for name in JSON_ENTRIES}
    except (ValueError, RecursionError) as error:
        contents.problems.append(f"the metadata is damaged: {error}")
        return
    if not isinstance(contents.entries["versions"], dict):
        contents.problems.append(f"versions: {contents.entries['versions']!r}, where versions by name were expected")


def without_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """A JSON object in which each name comes once."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name comes twice")
    return result


def read_tensors(contents: Contents, file: BinaryIO) -> None:
    """Read the tensors that the front describes, and compare the checksum."""
    for name, (dtype, shape) in contents.described.items():
        array = np.empty(shape, DTYPES[dtype])
        into = array.reshape(-1).view(np.uint8)
        if file.readinto(into.data) != into.size:  # type: ignore[attr-defined]  # open() gives a file that can
            contents.problems.append(f"truncated: it ends within {name}")
            return
        if sys.byteorder == "big":
            array.byteswap(inplace=True)
        contents.arrays[name] = array
    if checksum(contents.arrays, contents.metadata) != contents.metadata["sha256"]:
        contents.problems.append("the checksum does not fit the contents: the file is damaged")
