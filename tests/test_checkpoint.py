"""Checkpoints hold everything, and a file that is wrong in any way changes nothing."""

import errno
import json
import os
import struct
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

import minigrad as mg
from minigrad import checkpoint
from minigrad.checkpoint import CheckpointError
from minigrad.data import Loader


def make(seed=0, hidden=4, batch_size=4):
    """Model, optimizer, schedule and loader, small enough to flip every byte of their checkpoint."""
    mg.manual_seed(seed)
    layers = [mg.nn.Linear(3, hidden), mg.nn.BatchNorm(hidden), mg.nn.Dropout(0.5), mg.nn.Linear(hidden, 2)]
    model = mg.nn.Sequential(*layers).to("reference")
    optimizer = mg.optim.Adam(model.parameters(), lr=0.1)
    schedule = mg.optim.StepSchedule(optimizer, every=2)
    loader = Loader(np.zeros((10, 3), np.float32), batch_size=batch_size)
    return {"model": model, "optimizer": optimizer, "schedule": schedule, "loader": loader}


@pytest.fixture
def trained():
    """The parts after two steps."""
    parts = make()
    rng = np.random.default_rng(0)
    for _ in range(2):
        parts["optimizer"].zero_grad()
        x = mg.tensor(rng.standard_normal((5, 3)), "float32", "reference")
        mg.cross_entropy(parts["model"](x), [0, 1, 0, 1, 1]).backward()
        parts["optimizer"].step()
        parts["schedule"].step()
    parts["loader"].seek(7)
    return parts


@pytest.fixture
def saved(trained, tmp_path):
    """A checkpoint of them."""
    path = tmp_path / "run" / "last.safetensors"
    checkpoint.save(path, **trained, configuration={"width": 0.25, "layers": [1, 2]}, extra={"note": "å"})
    return path


def state(parts):
    """All that a checkpoint can change, as one comparable value."""
    return (
        {name: t.numpy().tobytes() for name, t in parts["model"].state_dict().items()},
        {name: a.tobytes() for name, a in parts["optimizer"].state_dict().items()},
        parts["schedule"].state_dict(),
        parts["loader"].state_dict(),
        mg.random.state_dict(),
    )


def refused(path, match=None, **options):
    """The problems that loading a file into new parts finds, after which they must be unchanged."""
    parts = options.pop("parts", None) or make(seed=1)
    before = state(parts)
    with pytest.raises(CheckpointError, match=match) as error:
        checkpoint.load(path, **parts, random=True, **options)
    assert state(parts) == before
    return error.value.problems


def header_of(data):
    """(header, where the tensors begin)."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), 8 + length


def rewritten(path, change):
    """Write the file anew with its header changed, the tensors' bytes as they are."""
    data = path.read_bytes()
    header, start = header_of(data)
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[start:])


def resaved(path, change):
    """Write the file anew with other tensors, the checksum and all."""
    found = checkpoint.load(path)
    tensors = dict(found.tensors)
    change(tensors)
    metadata = header_of(path.read_bytes())[0]["__metadata__"]
    del metadata["sha256"]
    metadata["sha256"] = checkpoint.checksum(tensors, metadata)
    path.write_bytes(safetensors.numpy.save(tensors, metadata))


def test_everything_comes_back(trained, saved):
    expected = state(trained)
    parts = make(seed=1)
    found = checkpoint.load(saved, **parts, random=True)
    assert state(parts) == expected
    assert found.configuration == {"width": 0.25, "layers": [1, 2]}
    assert found.extra == {"note": "å"}
    assert found.versions["minigrad"] == mg.__version__


def test_a_checkpoint_shows_one_line_and_prints_all(trained, saved):
    found = mg.checkpoint.load(saved)
    assert len(repr(found).split("\n")) == 1
    assert f"{len(found.tensors)} tensors" in repr(found)
    lines = str(found).split("\n")
    assert len(lines) == 1 + len(found.tensors) + 6
    assert lines[1].split() == ["model.0.bias", "float32[4]"]
    assert max(map(len, lines[1:])) < 130


def test_random_streams_go_on_where_they_were(trained, saved):
    expected = mg.random.stream().random(3)
    mg.manual_seed(99)
    checkpoint.load(saved, random=True)
    np.testing.assert_array_equal(mg.random.stream().random(3), expected)


def test_weights_alone_leave_the_rest(trained, saved):
    mg.manual_seed(5)
    parts = make(seed=1)
    rest = state(parts)[1:]
    checkpoint.load(saved, model=parts["model"])
    assert state(parts)[0] == state(trained)[0]
    assert state(parts)[1:] == rest


def test_scalar_empty_and_double_tensors_come_back(tmp_path):
    class Odd(mg.nn.Module):
        def __init__(self, value):
            self.scalar = mg.nn.Parameter(np.float64(value))
            self.empty = mg.nn.Parameter(np.zeros((0, 3), np.float32))
            self.cube = mg.nn.Parameter(np.full((2, 3, 4), value).transpose(2, 0, 1))

    path = checkpoint.save(tmp_path / "a.safetensors", model=Odd(1 / 3).to("reference"))
    model = Odd(0.0).to("reference")
    checkpoint.load(path, model=model)
    assert model.scalar.item() == 1 / 3
    assert (model.cube.numpy() == 1 / 3).all()


def test_file_is_one_that_safetensors_reads(trained, saved):
    tensors = safetensors.numpy.load_file(saved)
    np.testing.assert_array_equal(tensors["model.0.weight"], trained["model"][0].weight.numpy())
    np.testing.assert_array_equal(tensors["optimizer.hyper"], trained["optimizer"].hyper)
    assert tensors["model.2.counter"].dtype == np.uint64


def test_strings_and_paths_and_numpy_numbers_may_be_configuration(trained, tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, **trained, configuration={"path": tmp_path, "n": np.int64(3), "x": np.float32(0.5)})
    assert checkpoint.load(path).configuration == {"path": str(tmp_path), "n": 3, "x": 0.5}


def test_other_objects_may_not_be_configuration(trained, tmp_path):
    with pytest.raises(TypeError, match="configuration must be made of"):
        checkpoint.save(tmp_path / "a.safetensors", **trained, configuration={"x": object()})
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.safetensors")


def test_missing_library_says_how_to_get_it(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"pip install 'minigrad\[checkpoint\]'"):
        checkpoint.load(saved)


# Damage


@pytest.mark.parametrize("section", ["length", "header", "metadata", "tensors"])
def test_flipped_bit_is_found_anywhere(saved, section):
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


def test_truncated_file_is_found_at_every_section(saved):
    data = saved.read_bytes()
    start = header_of(data)[1]
    parts = make(seed=1)
    before = state(parts)
    for length in [*range(10), start // 2, start - 1, start, start + 1, (start + len(data)) // 2, len(data) - 1]:
        saved.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            checkpoint.load(saved, **parts)
    assert state(parts) == before


def test_appended_bytes_are_found(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    refused(saved, "something was appended")


def test_huge_header_is_refused_before_it_is_read(saved, monkeypatch):
    with open(saved, "r+b") as file:
        file.write(struct.pack("<Q", 1 << 40))
        file.truncate(1 << 42)  # the file is as large as it claims, without taking any disk
    refused(saved, "the header claims 1,099,511,627,776 bytes")


def test_deeply_nested_header_is_refused(saved):
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
def test_header_of_another_form_is_refused(saved, header):
    saved.write_bytes(struct.pack("<Q", len(header)) + header)
    refused(saved, "header is damaged")


def test_name_that_comes_twice_is_refused(saved):
    data = saved.read_bytes()
    saved.write_bytes(data.replace(b'"model.0.bias"', b'"model.3.bias"', 1))
    refused(saved, "twice")


def test_overlapping_tensors_are_refused(saved):
    def overlap(header):
        names = sorted((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
        header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]

    rewritten(saved, overlap)
    refused(saved, "places in the file are wrong")


def test_safetensors_file_of_another_kind_is_refused(saved):
    saved.write_bytes(safetensors.numpy.save({"weight": np.zeros(3)}, {"format": "pt"}))
    assert "the metadata's format is 'pt', where 'minigrad checkpoint 1' was expected" in refused(saved)


def test_metadata_that_lacks_something_is_refused(saved):
    rewritten(saved, lambda header: header["__metadata__"].pop("loader"))
    refused(saved, "the metadata lacks loader")


# Misfits


def test_all_misfits_are_listed(saved):
    def change(header):
        header["model.3.weight"]["dtype"] = "F8_E4M3"

    def other(tensors):
        tensors["model.5.weight"] = tensors.pop("model.0.weight")
        tensors["model.0.bias"] = np.zeros(5, np.float32)
        tensors["optimizer.means.0"] = tensors["optimizer.means.0"].astype(np.float64)
        tensors["strange"] = np.zeros(1)

    resaved(saved, other)
    rewritten(saved, change)
    problems = refused(saved)
    assert sorted(line for line in problems if "checksum" not in line and "places" not in line) == [
        "missing: model.0.weight",
        "model.0.bias: shape (5,), expected (4,)",
        "model.3.weight: unknown dtype F8_E4M3, where one of " + ", ".join(checkpoint.DTYPES) + " was expected",
        "optimizer.means.0: dtype float64, expected float32",
        "unknown: model.5.weight",
        "unknown: strange",
    ]


def test_checkpoint_without_optimizer_does_not_resume_one(trained, tmp_path):
    path = checkpoint.save(tmp_path / "weights.safetensors", model=trained["model"])
    problems = refused(path)
    assert "missing: optimizer.hyper" in problems
    assert "loader: the checkpoint was saved without one" in problems
    assert any(line.startswith("schedule: the state has none") for line in problems)


def test_another_loader_is_refused(saved):
    refused(saved, "batch_size 4 against 5", parts=make(seed=1, batch_size=5))


def test_another_schedule_is_refused(trained, saved):
    class Cycle:
        def state_dict(self):
            return {"phase": 1}

    refused(
        saved,
        r"schedule: the state has \['count', 'initial'\], where \['phase'\]",
        parts=make() | {"schedule": Cycle()},
    )


def test_another_configuration_lists_what_differs(saved):
    problems = refused(saved, configuration={"width": 0.5, "layers": [1, 2], "seed": 1})
    assert problems == [
        "configuration.width: 0.25 in the checkpoint, 0.5 now",
        "configuration.seed: not there in the checkpoint, 1 now",
    ]


def test_same_configuration_loads(saved):
    checkpoint.load(saved, **make(seed=1), configuration={"layers": (1, 2), "width": 0.25})


def test_nan_loads_with_a_warning_that_names_it(trained, tmp_path):
    trained["model"][0].weight.data[1, 1] = np.nan
    path = checkpoint.save(tmp_path / "a.safetensors", **trained)
    parts = make(seed=1)
    with pytest.warns(UserWarning, match=r"holds NaN in model\.0\.weight$"):
        checkpoint.load(path, **parts)
    assert np.isnan(parts["model"][0].weight.numpy()[1, 1])


# Writing


class FullDisk:
    """Stands in for a file: takes some bytes, and then the disk is full."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.file.write(data[: self.room])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


@pytest.mark.parametrize("room", [0, 1, 500])
def test_full_disk_leaves_the_last_good_file(trained, saved, monkeypatch, room):
    before = saved.read_bytes()
    trained["loader"].seek(8)
    monkeypatch.setattr(checkpoint, "open", lambda *given: FullDisk(open(*given), room), raising=False)  # noqa: SIM115 - FullDisk closes it
    with pytest.raises(OSError, match="No space left on device; the file before is untouched") as error:
        checkpoint.save(saved, **trained)
    assert error.value.filename == str(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["last.safetensors"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a small file system of Linux")
def test_disk_that_is_really_full_leaves_the_last_good_file(tmp_path):
    script = f"""
import numpy as np, minigrad as mg
from minigrad import checkpoint
model = mg.nn.Linear(100, 100).to('reference')
path = {str(tmp_path / "small" / "a.safetensors")!r}
checkpoint.save(path, model=model)
before = open(path, "rb").read()
open({str(tmp_path / "small" / "filler")!r}, "wb").write(bytes(20_000))
try:
    checkpoint.save(path, model=model)
except OSError as error:
    assert error.errno == 28, error
else:
    raise SystemExit("the disk was not full")
assert open(path, "rb").read() == before
checkpoint.load(path, model=model)
import os
assert sorted(os.listdir({str(tmp_path / "small")!r})) == ["a.safetensors", "filler"]
print("kept")
"""
    (tmp_path / "small").mkdir()
    mount = f'mount -t tmpfs -o size=64k tmpfs {tmp_path / "small"} && exec {sys.executable} -c "$SCRIPT"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    try:
        result = subprocess.run(command, env={**os.environ, "SCRIPT": script}, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip(f"no file system can be mounted here: {result.stderr.strip()}")
    assert (result.stdout, result.stderr) == ("kept\n", "")


def test_kill_in_the_middle_of_writing_leaves_the_last_good_file(saved):
    before = saved.read_bytes()
    script = f"""
import os, signal
from pathlib import Path
from minigrad import checkpoint
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
checkpoint.write_atomically(Path({str(saved)!r}), b"half")
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert saved.read_bytes() == before
    assert [path.name for path in checkpoint.remove_leftovers(saved.parent)] == ["last.safetensors.part"]
    assert [path.name for path in saved.parent.iterdir()] == ["last.safetensors"]


def test_leftover_does_not_disturb_the_next_save(trained, saved):
    (saved.parent / "last.safetensors.part").write_bytes(b"x" * 100_000)
    checkpoint.save(saved, **trained)
    checkpoint.load(saved, **trained)
    assert [path.name for path in saved.parent.iterdir()] == ["last.safetensors"]


def test_header_that_could_not_be_read_back_is_not_written(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "HEADER_LIMIT", 10_000)
    with pytest.raises(ValueError, match="header of 2[0-9],[0-9]{3} bytes, where 10,000 are the most"):
        checkpoint.save(tmp_path / "a.safetensors", **trained, extra="x" * 20_000)
    assert list(tmp_path.iterdir()) == []


def test_data_is_on_the_disk_before_the_file_gets_its_name(trained, tmp_path, monkeypatch):
    calls = []
    real = SimpleNamespace(fsync=os.fsync, replace=os.replace)
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), real.fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), real.replace(*paths)))
    checkpoint.save(tmp_path / "a.safetensors", **trained)
    assert calls == (["fsync", "replace"] if os.name == "nt" else ["fsync", "replace", "fsync"])
