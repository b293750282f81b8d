import gzip
import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minigrad.data import read_idx

HUGE = 2**32 - 1


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)


def write(path, data):
    path.write_bytes(data)
    return path


def peak_bytes(call):
    """The largest amount of memory allocated while the call runs into its ValueError."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"claims|follow"):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@given(
    array=hnp.arrays(
        st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"]), hnp.array_shapes(max_dims=5, min_side=0, max_side=4)
    )
)
@settings(deadline=None, max_examples=60)
def test_reads_back_every_type_and_shape(array, compress, idx_bytes, tmp_path_factory):
    path = write(tmp_path_factory.getbasetemp() / "array.idx", compress(idx_bytes(array)))
    read = read_idx(path)
    assert read.dtype == array.dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


def test_array_is_writable_and_contiguous(images, idx_bytes, tmp_path):
    read = read_idx(write(tmp_path / "images", idx_bytes(images)))
    assert read.flags.writeable
    assert read.flags.c_contiguous


def test_gzip_is_known_by_content_not_by_name(images, idx_bytes, tmp_path):
    np.testing.assert_array_equal(read_idx(write(tmp_path / "a", gzip.compress(idx_bytes(images)))), images)
    np.testing.assert_array_equal(read_idx(write(tmp_path / "a.gz", idx_bytes(images))), images)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"<!DOCTYPE html><html>", "not an IDX file.*<!DO"),
        (b"\0\x01\x08\x01\0\0\0\0", "not an IDX file"),
        (b"\0\0\x0a\x01\0\0\0\0", "not an IDX file"),
        (b"\0\0\x08\x00", "0 axes"),
        (b"\0\0\x08\xff" + bytes(4 * 255), "255 axes"),
        (b"\0\0\x08\x03\0\0\0\x01", "4 of the 12 bytes"),
    ],
)
def test_what_is_no_idx_file_is_refused(data, message, tmp_path):
    with pytest.raises(ValueError, match=f"(?s)thing.*{message}"):
        read_idx(write(tmp_path / "thing", data))


def test_another_rank_is_refused(images, idx_bytes, tmp_path):
    with pytest.raises(ValueError, match=r"images.*3 axes.*1 were expected"):
        read_idx(write(tmp_path / "images", idx_bytes(images)), ndim=1)


def test_another_type_is_refused(images, idx_bytes, tmp_path):
    with pytest.raises(ValueError, match=r"images.*int16.*uint8 was expected"):
        read_idx(write(tmp_path / "images", idx_bytes(images.astype("i2"))), dtype=np.uint8)


def test_another_checksum_is_refused(images, idx_bytes, tmp_path):
    data = idx_bytes(images)
    path = write(tmp_path / "images", data)
    np.testing.assert_array_equal(read_idx(path, sha256=hashlib.sha256(data).hexdigest()), images)
    with pytest.raises(ValueError, match=r"images: SHA-256 is \w{64}, where 00"):
        read_idx(path, sha256="00" * 32)


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_truncation_at_every_byte_is_refused(compress, images, idx_bytes, tmp_path):
    data = compress(idx_bytes(images))
    for length in range(len(data)):
        with pytest.raises(ValueError, match="images"):
            read_idx(write(tmp_path / "images", data[:length]))


def test_gzip_of_a_truncated_array_is_refused(images, idx_bytes, tmp_path):
    with pytest.raises(ValueError, match=r"truncated: 50 of 60 bytes"):
        read_idx(write(tmp_path / "images.gz", gzip.compress(idx_bytes(images)[:-10])))


@pytest.mark.parametrize(
    "spoil",
    [lambda data: data + b"\0", lambda data: gzip.compress(data + b"\0"), lambda data: gzip.compress(data) + b"rest"],
    ids=["plain", "in gzip", "after gzip"],
)
def test_trailing_bytes_are_refused(spoil, images, idx_bytes, tmp_path):
    with pytest.raises(ValueError, match=r"images.*(follow|damaged gzip)"):
        read_idx(write(tmp_path / "images", spoil(idx_bytes(images))))


def test_every_bit_flip_in_the_header_is_refused(images, idx_bytes, flip, tmp_path):
    data = idx_bytes(images)
    for bit in range(8 * 16):
        with pytest.raises(ValueError, match="images"):
            read_idx(write(tmp_path / "images", flip(data, bit)), ndim=3, dtype=np.uint8)


def test_every_bit_flip_in_the_body_is_refused_by_the_checksum(images, idx_bytes, flip, tmp_path):
    data = idx_bytes(images)
    for bit in range(8 * 16, 8 * len(data)):
        with pytest.raises(ValueError, match="SHA-256"):
            read_idx(write(tmp_path / "images", flip(data, bit)), sha256=hashlib.sha256(data).hexdigest())


def test_no_bit_flip_in_gzip_data_gives_another_array(images, idx_bytes, flip, tmp_path):
    data = gzip.compress(idx_bytes(images), mtime=0)
    refused = set()
    for bit in range(8 * len(data)):
        path = write(tmp_path / "images.gz", flip(data, bit))
        try:
            np.testing.assert_array_equal(read_idx(path, ndim=3, dtype=np.uint8), images)
        except ValueError:
            refused.add(bit // 8)
    magic_and_method, checksum_and_length = set(range(3)), set(range(len(data) - 8, len(data)))
    assert refused >= magic_and_method | checksum_and_length


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(HUGE,), (HUGE, 28, 28), (HUGE,) * 64])
def test_an_impossible_claim_is_refused_before_allocation(shape, compress, tmp_path):
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    path = write(tmp_path / "huge", compress(header + bytes(100)))
    assert peak_bytes(lambda: read_idx(path)) < 200_000


def test_an_empty_array_of_impossible_shape_is_refused(tmp_path):
    header = b"\0\0\x08\x03" + np.array([0, HUGE, HUGE], ">u4").tobytes()
    with pytest.raises(ValueError, match=r"huge: .*\(0, 4294967295, 4294967295\).*larger than an array can have"):
        read_idx(write(tmp_path / "huge", header))


def test_a_gzip_bomb_behind_a_small_claim_is_not_unpacked(tmp_path):
    path = write(tmp_path / "bomb.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\x0a" + bytes(50_000_000)))
    assert peak_bytes(lambda: read_idx(path)) < 500_000


def test_a_claim_above_max_bytes_is_refused_before_allocation(tmp_path):
    header = b"\0\0\x08\x01" + (50_000_000).to_bytes(4, "big")
    path = write(tmp_path / "bomb.gz", gzip.compress(header + bytes(50_000_000)))
    assert peak_bytes(lambda: read_idx(path, max_bytes=1_000_000)) < 500_000


def test_max_bytes_counts_the_whole_file(images, idx_bytes, tmp_path):
    path = write(tmp_path / "images", idx_bytes(images))
    assert read_idx(path, max_bytes=76).shape == (5, 4, 3)
    with pytest.raises(ValueError, match="76 bytes, where at most 75 were expected"):
        read_idx(path, max_bytes=75)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        read_idx(tmp_path / "absent")
