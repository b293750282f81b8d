import gzip
import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from minigrad.data import CIFAR10, cifar10, load_cifar10
from minigrad.data.cifar10 import ARCHIVE, FILES, FOLDER, RECORD, read_archive, read_batch

DECODER = Path(__file__).parents[3] / "shared" / "datasets" / "decode-cifar10"


@pytest.fixture
def contents():
    """Six files in the official format with 4 images each, by name."""
    rng = np.random.default_rng(0)
    files = {}
    for name in FILES:
        records = rng.integers(0, 256, (4, RECORD), dtype=np.uint8)
        records[:, 0] %= 10
        files[name] = records.tobytes()
    return files


@pytest.fixture
def place(contents):
    """A function that writes the six files to a folder."""

    def write(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        return folder

    return write


@pytest.fixture
def expected(contents):
    """The dataset that the six files hold, decoded value by value."""
    images, labels = [], []
    for data in contents.values():
        for start in range(0, len(data), RECORD):
            record = np.frombuffer(data[start : start + RECORD], np.uint8)
            labels.append(record[0])
            images.append(np.stack([plane.reshape(32, 32) for plane in np.split(record[1:], 3)], axis=-1))
    images, labels = np.array(images), np.array(labels, np.int64)
    return CIFAR10(images[:20], labels[:20], images[20:], labels[20:])


def member(name, data=b"", **attributes):
    """A member of a tar file and its content."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def tar_gz(members):
    """The bytes of an archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def official(contents):
    """The members of an archive as it is distributed."""
    return [member(f"{FOLDER}/{name}", data) for name, data in contents.items()]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder, and no MINIGRAD_DATA."""
    monkeypatch.delenv("MINIGRAD_DATA", raising=False)
    monkeypatch.setattr(cifar10, "cache_root", lambda: tmp_path / "cache")
    (tmp_path / "cache" / "cifar10").mkdir(parents=True)
    return tmp_path / "cache" / "cifar10"


@pytest.fixture
def small_is_official(monkeypatch, contents):
    """The bytes of a small archive that is the one with the official checksum."""
    data = tar_gz(official(contents))
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(cifar10, "SIZE", len(data))
    return data


def assert_equal(data, expected):
    for ours, theirs in zip(data, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("subfolder", ["", FOLDER])
def test_files_of_a_folder_are_read(subfolder, place, expected, tmp_path):
    place(tmp_path / "data" / subfolder)
    assert_equal(load_cifar10(tmp_path / "data"), expected)


@pytest.mark.parametrize("subfolder", ["", FOLDER])
def test_files_of_minigrad_data_are_read(subfolder, place, expected, cache, monkeypatch, tmp_path):
    place(tmp_path / "data" / subfolder)
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path / "data"))
    assert_equal(load_cifar10(download=False), expected)


def test_an_archive_in_a_folder_is_read(contents, expected, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(tar_gz(official(contents)))
    assert_equal(load_cifar10(tmp_path), expected)


def test_the_archive_of_the_cache_is_read(small_is_official, expected, cache):
    (cache / ARCHIVE).write_bytes(small_is_official)
    assert_equal(load_cifar10(download=False), expected)


def test_images_are_contiguous_and_writable(place, tmp_path):
    for array in load_cifar10(place(tmp_path)):
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_another_archive_in_the_cache_is_not_taken_for_the_official(contents, cache):
    (cache / ARCHIVE).write_bytes(tar_gz(official(contents)))
    with pytest.raises(FileNotFoundError, match=r"already there\): \d.* bytes came with SHA-256"):
        load_cifar10(download=False)


def test_archive_is_downloaded_once(site, monkeypatch, small_is_official, expected, cache):
    monkeypatch.setattr(cifar10, "MIRRORS", (site.url("/bad/"), site.url("/good/")))
    site.answers[f"/good/{ARCHIVE}"] = small_is_official
    assert_equal(load_cifar10(), expected)
    assert_equal(load_cifar10(), expected)
    assert site.asked == [f"/bad/{ARCHIVE}", f"/good/{ARCHIVE}"]


def test_a_wrong_archive_in_the_cache_is_downloaded_anew(site, monkeypatch, small_is_official, expected, cache):
    monkeypatch.setattr(cifar10, "MIRRORS", (site.url("/good/"),))
    site.answers[f"/good/{ARCHIVE}"] = small_is_official
    (cache / ARCHIVE).write_bytes(b"<!DOCTYPE html>")
    assert_equal(load_cifar10(), expected)


def test_no_data_and_no_network_lists_places_files_and_mirrors(site, monkeypatch, cache, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path / "empty"))
    monkeypatch.setattr(cifar10, "MIRRORS", (site.url("/bad/"),))
    with pytest.raises(FileNotFoundError) as caught:
        load_cifar10()
    wanted = [str(tmp_path / "empty"), FOLDER, str(cache), "/bad/", "404", "MINIGRAD_DATA", "load_binary_mnist", *FILES]
    assert [part for part in wanted if part not in str(caught.value)] == []


def test_an_empty_folder_is_not_replaced_by_the_cache(small_is_official, cache, tmp_path):
    (cache / ARCHIVE).write_bytes(small_is_official)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"(?s)Looked in.*empty.*only place looked in"):
        load_cifar10(tmp_path / "empty")


def test_a_folder_that_does_not_exist_is_an_error(cache, monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the argument names .*absent"):
        load_cifar10(tmp_path / "absent")
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path / "typo"))
    with pytest.raises(FileNotFoundError, match=r"MINIGRAD_DATA names .*typo"):
        load_cifar10()


def test_a_part_of_the_files_is_an_error(place, tmp_path):
    (place(tmp_path) / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"but not data_batch_3\.bin"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("name", ["data_batch_1", "cifar-10-python.tar.gz"])
def test_pickles_are_refused_with_the_reason(name, tmp_path):
    (tmp_path / name).write_bytes(pickle.dumps({"labels": [1]}))
    with pytest.raises(ValueError, match=rf"(?s){name} belongs to the Python.*can run any code.*{ARCHIVE}"):
        load_cifar10(tmp_path)


def test_a_pickle_under_a_binary_name_is_refused_with_a_hint(place, tmp_path):
    (place(tmp_path) / "test_batch.bin").write_bytes(pickle.dumps({b"labels": list(range(500))}))
    with pytest.raises(ValueError, match=r"test_batch\.bin.*looks like a pickled batch"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (3 * RECORD - 1, r"9,218 bytes.*multiple of 3073.*offset 6146 has 3072 bytes"),
        (3 * RECORD + 1, r"9,220 bytes.*offset 9219 has 1 bytes"),
        (0, r"0 bytes.*offset 0 has 0 bytes"),
    ],
)
def test_a_size_that_is_no_whole_records_is_refused_with_the_offset(size, message, place, tmp_path):
    (place(tmp_path) / "data_batch_2.bin").write_bytes(bytes(size))
    with pytest.raises(ValueError, match=rf"data_batch_2\.bin: {message}"):
        load_cifar10(tmp_path)


def test_a_label_above_9_is_refused_with_the_offset():
    data = bytearray(4 * RECORD)
    data[2 * RECORD] = 10
    with pytest.raises(ValueError, match="somewhere: the label at offset 6146 is 10, where 0 to 9"):
        read_batch(bytes(data), "somewhere")


def test_a_huge_file_is_refused_unread(place, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar10, "MAX_BYTES", 2 * RECORD)
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: 12,292 bytes, where at most 6,146"):
        load_cifar10(place(tmp_path))


def test_only_the_named_members_are_read(contents, tmp_path):
    extra = [
        member(f"../{FOLDER}/data_batch_1.bin", b"up"),
        member("/etc/data_batch_1.bin", b"absolute"),
        member("data_batch_1.bin", b"elsewhere"),
        member(f"{FOLDER}/deeper/data_batch_1.bin", b"deeper"),
        member(f"{FOLDER}/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member(f"{FOLDER}/device", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        member(FOLDER, type=tarfile.DIRTYPE),
        member(f"{FOLDER}/readme.html", b"<html>"),
    ]
    before = sorted(tmp_path.parent.rglob("*"))
    path = tmp_path / ARCHIVE
    path.write_bytes(tar_gz([*extra, *official(contents), *extra]))
    assert read_archive(path) == contents
    assert sorted(tmp_path.parent.rglob("*")) == sorted([*before, path])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_named_member_that_is_no_file_is_refused(kind, contents, tmp_path):
    members = official(contents)
    members[2] = member(f"{FOLDER}/{FILES[2]}", type=kind, linkname="/etc/passwd")
    (tmp_path / ARCHIVE).write_bytes(tar_gz(members))
    with pytest.raises(ValueError, match=r"data_batch_3\.bin is no regular file"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members[:-1], r"doesn't hold .*test_batch\.bin"),
        (lambda members: [*members, members[0]], r"data_batch_1\.bin is there twice"),
    ],
    ids=["missing", "twice"],
)
def test_an_archive_with_other_files_is_refused(change, message, contents, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(tar_gz(change(official(contents))))
    with pytest.raises(ValueError, match=message):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_archive_is_refused(share, contents, tmp_path):
    data = tar_gz(official(contents))
    (tmp_path / ARCHIVE).write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=rf"{ARCHIVE}: .*(damaged|doesn't hold)"):
        load_cifar10(tmp_path)


def outcome(path):
    """What an archive holds, or what is said of it."""
    try:
        return read_archive(path)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.6, 0.8, 0.99995])
def test_a_changed_bit_in_an_archive_is_found_or_harmless(share, contents, flip, tmp_path):
    data = tar_gz(official(contents))
    (tmp_path / ARCHIVE).write_bytes(data)
    for bit in range(int(8 * len(data) * share), 8 * len(data), 29)[:12]:
        (tmp_path / ARCHIVE).write_bytes(flip(data, bit))
        found = outcome(tmp_path / ARCHIVE)
        assert found == contents or ARCHIVE in found  # harmless is a change of the time in gzip's header


def test_an_html_page_under_the_archives_name_is_refused(tmp_path):
    (tmp_path / ARCHIVE).write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match=ARCHIVE):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_archive_that_unpacks_to_too_much_is_refused(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar10, "MAX_BYTES", 1 << 20)
    bomb = member("bomb", bytes(1 << 22))[0].tobuf()[:156] + kind + member("bomb", bytes(1 << 22))[0].tobuf()[157:]
    header = bytearray(bomb)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / ARCHIVE).write_bytes(gzip.compress(bytes(header) + bytes(1 << 22)))
    with pytest.raises(ValueError, match="more than 1,048,576 bytes unpacked"):
        load_cifar10(tmp_path)


@pytest.fixture(scope="session")
def decoded(tmp_path_factory):
    """The folder of all 60,000 images, JPEG re-encoded; the test is skipped where they are not at hand."""
    pytest.importorskip("PIL")
    if not DECODER.is_file():
        pytest.skip("the CIFAR-10 images are not at hand")
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, DECODER, folder], check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_all_60000_images_are_read(decoded):
    data = load_cifar10(decoded)
    assert [array.shape for array in data] == [(50000, 32, 32, 3), (50000,), (10000, 32, 32, 3), (10000,)]
    assert np.bincount(data.train_labels).tolist() == [5000] * 10
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
    # the channels' means are known from the literature; JPEG moves them by less
    np.testing.assert_allclose(data.train_images.mean(axis=(0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=2e-3)


def header(name, size, kind=b"0"):
    """A tar header whose size field holds these bytes."""
    fields = name.encode().ljust(100, b"\0") + b"0000644\0" * 3 + size.ljust(12, b"\0") + b"00000000000\0"
    fields = fields.ljust(148, b"\0") + b" " * 8 + kind + b"\0" * 100 + b"ustar\x0000"
    fields = fields.ljust(512, b"\0")
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("size", "message"),
    [
        (b"-0000001000", "-512 bytes"),
        (b"\x80" + b"\xff" * 11, "not octal"),  # the GNU way to write numbers that need more digits
        (b"77777777777", "it ends within a file|multiple of 3073"),
        (b"00000000089", "not octal"),
        (b"wrong", "not octal"),
    ],
)
@pytest.mark.parametrize("name", ["other", f"{FOLDER}/{FILES[0]}"])
def test_sizes_that_no_archive_has_are_refused(size, message, name, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(gzip.compress(header(name, size) + bytes(2048)))
    with pytest.raises(ValueError, match=f"({message})"):
        read_archive(tmp_path / ARCHIVE)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "extension",
    [
        b"1" * (8 << 20),  # tarfile reads it as one number, for minutes
        b"29 size=99999999999999999999\n",
        b"22 GNU.sparse.size=3000000000000\n",
        b"\xff" * 100,
    ],
    ids=["digits", "size", "sparse", "no text"],
)
def test_extended_headers_are_passed_over(extension, contents, tmp_path):
    """They speak of a name, size or holes of the member after them, and none of the six needs that."""
    padding = bytes(-len(extension) % 512)
    archive = header("PaxHeaders/x", b"%011o" % len(extension), b"x") + extension + padding
    archive += gzip.decompress(tar_gz(official(contents)))
    (tmp_path / ARCHIVE).write_bytes(gzip.compress(archive, 1))
    assert read_archive(tmp_path / ARCHIVE) == contents


@pytest.mark.timeout(20)
def test_sparse_member_is_no_regular_file(contents, tmp_path):
    archive = header(f"{FOLDER}/{FILES[0]}", b"00000000000", b"S") + bytes(1024)
    (tmp_path / ARCHIVE).write_bytes(gzip.compress(archive))
    with pytest.raises(ValueError, match="data_batch_1.bin is no regular file"):
        read_archive(tmp_path / ARCHIVE)


@pytest.mark.parametrize("member", [0, 1])
@pytest.mark.parametrize("flag", [0x20, 0x40, 0x80])
def test_gzip_with_reserved_flags_is_refused(contents, tmp_path, member, flag):
    archive = gzip.decompress(tar_gz(official(contents)))
    members = [bytearray(gzip.compress(part)) for part in (archive[:2000], archive[2000:])]
    (tmp_path / ARCHIVE).write_bytes(b"".join(members) + bytes(100))  # zeros may follow
    assert read_archive(tmp_path / ARCHIVE) == contents
    members[member][3] |= flag
    (tmp_path / ARCHIVE).write_bytes(b"".join(members))
    with pytest.raises(ValueError, match="damaged gzip data .*unknown header flags"):
        read_archive(tmp_path / ARCHIVE)


def test_member_that_no_images_fill_is_refused_before_it_is_read(contents, tmp_path):
    name, size = f"{FOLDER}/{FILES[0]}", RECORD * 100_000
    for more, claim in ((1, "307,300,001 bytes, where a multiple of 3073"), (0, "it ends within a file")):
        packed = header(name, b"%o" % (size + more)) + bytes(1 << 20)
        (tmp_path / ARCHIVE).write_bytes(gzip.compress(packed))
        tracemalloc.start()
        with pytest.raises(ValueError, match=claim):
            read_archive(tmp_path / ARCHIVE)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5e6
