"""A small run, its checkpoint, and ways to change the file."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

import minigrad as mg
from minigrad import checkpoint
from minigrad.checkpoint import CheckpointError, contents
from minigrad.data import Loader


def _make(seed=0, hidden=4, batch_size=4):
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
    parts = _make()
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


def _state(parts):
    """All that a checkpoint can change, as one comparable value."""
    return (
        {name: t.numpy().tobytes() for name, t in parts["model"].state_dict().items()},
        {name: a.tobytes() for name, a in parts["optimizer"].state_dict().items()},
        parts["schedule"].state_dict(),
        parts["loader"].state_dict(),
        mg.random.state_dict(),
    )


def _refused(path, match=None, **options):
    """The problems that loading a file into new parts finds, after which they must be unchanged."""
    parts = options.pop("parts", None) or _make(seed=1)
    before = _state(parts)
    with pytest.raises(CheckpointError, match=match) as error:
        checkpoint.load(path, **parts, random=True, **options)
    assert _state(parts) == before
    return error.value.problems


def _header_of(data):
    """(header, where the tensors begin)."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), 8 + length


def _rewritten(path, change):
    """Write the file anew with its header changed, the tensors' bytes as they are."""
    data = path.read_bytes()
    header, start = _header_of(data)
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[start:])


def _signed(path, change):
    """Write the file anew with its metadata changed, a dict that `change` gets parsed, and a checksum that fits."""
    tensors = dict(checkpoint.load(path).tensors)
    metadata = _header_of(path.read_bytes())[0]["__metadata__"]
    parsed = {name: json.loads(metadata[name]) for name in contents.JSON_ENTRIES}
    change(parsed)
    metadata.update({name: json.dumps(value) for name, value in parsed.items()})
    metadata["sha256"] = contents.checksum(tensors, metadata)
    path.write_bytes(safetensors.numpy.save(tensors, metadata))


def _resaved(path, change):
    """Write the file anew with other tensors, the checksum and all."""
    found = checkpoint.load(path)
    tensors = dict(found.tensors)
    change(tensors)
    metadata = _header_of(path.read_bytes())[0]["__metadata__"]
    del metadata["sha256"]
    metadata["sha256"] = checkpoint.checksum(tensors, metadata)
    path.write_bytes(safetensors.numpy.save(tensors, metadata))


@pytest.fixture
def make():
    """`_make`, for tests."""
    return _make


@pytest.fixture
def state():
    """`_state`, for tests."""
    return _state


@pytest.fixture
def refused():
    """`_refused`, for tests."""
    return _refused


@pytest.fixture
def header_of():
    """`_header_of`, for tests."""
    return _header_of


@pytest.fixture
def rewritten():
    """`_rewritten`, for tests."""
    return _rewritten


@pytest.fixture
def resaved():
    """`_resaved`, for tests."""
    return _resaved


@pytest.fixture
def signed():
    """`_signed`, for tests."""
    return _signed
