"""A file that is damaged in any way is refused, and changes nothing."""

import struct

import numpy as np
import pytest
import safetensors.numpy

from minigrad import checkpoint
from minigrad.checkpoint import CheckpointError


@pytest.mark.parametrize("section", ["length", "header", "metadata", "tensors"])
def test_flipped_bit_is_found_anywhere(saved, section, header_of, make, state):
    data = saved.read_bytes()
    start = header_of(data)[1]
    metadata = data.index(b"__metadata__")
    end = data.index(b"}", metadata)
    places = {
        "length": range(8),
        "header": [i for i in range(8, start) if not metadata <= i < end],
        "metadata": range(metadata, end, 3),
        "tensors": range(start, len(data), 5),
    }[section]
    parts = make(seed=1)
    before = state(parts)
    with open(saved, "r+b", buffering=0) as file:
        for place in places:
            file.seek(place)
            file.write(bytes([data[place] ^ 1 << place % 8]))
            with pytest.raises(CheckpointError):
                checkpoint.load(saved, **parts, random=True)
            file.seek(place)
            file.write(data[place : place + 1])
    assert state(parts) == before
    checkpoint.load(saved, **parts)


def test_truncated_file_is_found_at_every_section(saved, header_of, make, state):
    data = saved.read_bytes()
    start = header_of(data)[1]
    parts = make(seed=1)
    before = state(parts)
    for length in [*range(10), start // 2, start - 1, start, start + 1, (start + len(data)) // 2, len(data) - 1]:
        saved.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            checkpoint.load(saved, **parts)
    assert state(parts) == before


def test_appended_bytes_are_found(saved, refused):
    saved.write_bytes(saved.read_bytes() + b"\0")
    refused(saved, "something was appended")


def test_huge_header_is_refused_before_it_is_read(saved, monkeypatch, refused):
    with open(saved, "r+b") as file:
        file.write(struct.pack("<Q", 1 << 40))
        file.truncate(1 << 42)  # the file is as large as it claims, without taking any disk
    refused(saved, "the header claims 1,099,511,627,776 bytes")


def test_deeply_nested_header_is_refused(saved, refused):
    text = b"[" * 100_000
    saved.write_bytes(struct.pack("<Q", len(text)) + text)
    refused(saved, "header is damaged")


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"3", b"null", b'{"__metadata__": 3}', b'{"__metadata__": {"a": 1}}', b'{"a": 1}', b'{"a": {}}', b"\xff\xfe",
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": 3, "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": 7, "shape": [], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 1e9]}}',
    ],
)  # fmt: skip
def test_header_of_another_form_is_refused(saved, header, refused):
    saved.write_bytes(struct.pack("<Q", len(header)) + header)
    refused(saved, "header is damaged")


def test_name_that_comes_twice_is_refused(saved, refused):
    data = saved.read_bytes()
    saved.write_bytes(data.replace(b'"model.0.bias"', b'"model.3.bias"', 1))
    refused(saved, "twice")


def test_overlapping_tensors_are_refused(saved, refused, rewritten):
    def overlap(header):
        names = sorted((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
        header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]

    rewritten(saved, overlap)
    refused(saved, "places in the file are wrong")


def test_safetensors_file_of_another_kind_is_refused(saved, refused):
    saved.write_bytes(safetensors.numpy.save({"weight": np.zeros(3)}, {"format": "pt"}))
    assert "the metadata's format is 'pt', where 'minigrad checkpoint 1' was expected" in refused(saved)


def test_metadata_that_lacks_something_is_refused(saved, refused, rewritten):
    rewritten(saved, lambda header: header["__metadata__"].pop("loader"))
    refused(saved, "the metadata lacks loader")
