"""What a checkpoint says of schedule, loader, random numbers and run is tried before anything is changed."""

import json
import re
import struct
import time
import tracemalloc

import numpy as np
import pytest

import minigrad as mg
from minigrad import checkpoint
from minigrad.checkpoint import CheckpointError
from minigrad.data import Loader
from minigrad.train import Checkpoints, EarlyStop, fit

NAN = float("nan")
STATES = {
    "schedule": [
        5, "x", [], [1, 2], True, NAN, {}, {"initial": 0.1}, {"initial": "x", "count": 1}, {"initial": -1, "count": 1},
        {"initial": NAN, "count": 1}, {"initial": 1e999, "count": 1}, {"initial": None, "count": 1},
        {"initial": True, "count": 1}, {"initial": 0.1, "count": 10**23}, {"initial": 0.1, "count": -1},
        {"initial": 0.1, "count": 1.5}, {"initial": 0.1, "count": NAN}, {"initial": 0.1, "count": [1]},
        {"initial": 10**400, "count": 1}, {"initial": 0.1, "count": 1, "more": 1},
    ],
    "loader": [
        5, "position", [], NAN, {}, {"position": 1}, {"position": -1}, {"position": 10**23}, {"position": "x"},
        {"position": 1.5}, {"position": None}, {"position": True}, {"seed": 5}, {"seed": [1]}, {"length": NAN},
    ],
    "random": [
        5, None, [], "seed", {}, {"seed": 1}, {"seed": 1, "streams": -1}, {"seed": 1, "streams": 10**23},
        {"seed": 1, "streams": 0.5}, {"seed": -1, "streams": 1}, {"seed": 2**64, "streams": 1},
        {"seed": NAN, "streams": 1}, {"seed": True, "streams": 1}, {"seed": 1, "streams": 1, "more": 1},
    ],
}  # fmt: skip


@pytest.mark.parametrize("entry", STATES)
def test_state_that_is_none_is_refused_and_nothing_changed(saved, refused, signed, entry):
    for value in STATES[entry]:

        def change(parsed, value=value):
            whole = entry == "loader" and isinstance(value, dict) and len(value) == 1 and value != {"position": 1}
            parsed[entry] = {**parsed[entry], **value} if whole else value

        before = saved.read_bytes()
        signed(saved, change)
        problems = refused(saved)
        assert [problem for problem in problems if problem.startswith(f"{entry}:")] == problems, value
        assert len(problems) == 1, (value, problems)
        saved.write_bytes(before)


def test_all_states_that_are_none_are_listed(saved, refused, signed):
    signed(saved, lambda parsed: parsed.update(schedule=5, loader=6, random=7))
    assert [problem.partition(":")[0] for problem in refused(saved)] == ["schedule", "loader", "random"]


def test_trying_a_state_leaves_a_learning_rate_set_by_hand(saved, refused, signed, make, state):
    parts = make(seed=1)
    parts["optimizer"].lr = 0.7
    signed(saved, lambda parsed: parsed.update(random=7))
    refused(saved, parts=parts)  # which compares the optimizer's state
    assert parts["optimizer"].lr == 0.7


def test_schedule_that_leads_to_no_learning_rate_is_refused(saved, make, state, signed):
    signed(saved, lambda parsed: parsed.update(schedule={"initial": 0.1, "count": 5000}))
    parts = make(seed=1)
    parts["schedule"] = mg.optim.ExponentialSchedule(parts["optimizer"], factor=2.0)
    before = state(parts)
    with pytest.raises(CheckpointError, match="schedule: after 5000 steps from 0.1 the learning rate is no float"):
        checkpoint.load(saved, **parts)
    assert state(parts) == before


class Own:
    """Somebody's own schedule, which raises what it likes after it has changed itself."""

    def __init__(self):
        self.phase, self.more = 1, 2

    def state_dict(self):
        return {"phase": self.phase, "more": self.more}

    def load_state_dict(self, state):
        self.phase = state["phase"]
        self.more = {2: 2}[state["more"]]  # KeyError, for most

    def __eq__(self, other):
        return vars(self) == vars(other)


def test_own_schedule_may_raise_anything(saved, refused, signed, make):
    signed(saved, lambda parsed: parsed.update(schedule={"phase": 7, "more": 3}))
    parts = make() | {"schedule": Own()}
    assert refused(saved, parts=parts) == ["schedule: KeyError(3)"]
    assert parts["schedule"].phase == 1


@pytest.mark.parametrize("value", [NAN, np.inf, -1.0])
@pytest.mark.parametrize("place", [0, 1])
def test_hyperparameter_out_of_its_range_is_refused(saved, refused, resaved, make, place, value):
    resaved(saved, lambda tensors: tensors["optimizer.hyper"].__setitem__(place, value))
    (problem,) = refused(saved)
    assert re.match(r"optimizer\.hyper: (lr|betas\[0\]) must be at least 0 and (finite|below 1), not ", problem)
    optimizer = make()["optimizer"]
    state = {**optimizer.state_dict(), "hyper": np.full(5, value)}
    with pytest.raises(ValueError, match="hyper: lr must be at least 0"):
        optimizer.load_state_dict(state)


def test_configuration_nested_too_deeply_is_refused(saved, refused, rewritten):
    deep = '{"a":' * 900 + "1" + "}" * 900
    rewritten(saved, lambda header: header["__metadata__"].update(configuration=deep))
    refused(saved, "nested too deeply|metadata is damaged|there in the checkpoint", configuration={"width": 0.25})


# Sizes


def test_sizes_are_compared_before_anything_is_read(saved, refused):
    """A file with a hole of a terabyte for one tensor more takes no memory and no time."""
    data = saved.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    end = len(data) - 8 - length
    huge = 1 << 40
    header["model.more"] = {"dtype": "U8", "shape": [huge], "data_offsets": [end, end + huge]}
    text = json.dumps(header).encode()
    try:
        with open(saved, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + data[8 + length :])
            file.truncate(8 + len(text) + end + huge)
    except OSError:
        pytest.skip("there can be no such holes here")
    began = time.process_time()
    tracemalloc.start()
    assert refused(saved) == ["unknown: model.more"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6
    assert time.process_time() - began < 2


def test_reading_takes_the_memory_of_the_tensors_once(tmp_path):
    model = mg.nn.Linear(1000, 5000).to("reference")
    path = checkpoint.save(tmp_path / "a.safetensors", model=model)
    tracemalloc.start()
    checkpoint.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * path.stat().st_size  # the search for NaN takes a quarter more


@pytest.mark.parametrize(
    ("shape", "dtype", "why"),
    [
        ([1 << 61, 8], "F32", "bytes are no F32 of shape"),
        ([0, 1 << 62], "F32", "no array can have the shape"),
        ([1] * 65, "F32", "no array can have the shape"),
        ([3], "F64", "bytes are no F64 of shape"),
    ],
)
def test_shape_that_no_array_can_have_is_refused(saved, rewritten, shape, dtype, why):
    def change(header):
        (name,) = [name for name, entry in header.items() if name != "__metadata__" and entry["data_offsets"][0] == 0]
        if shape[0] == 1:
            header[name]["data_offsets"] = [0, 4]
        if shape[0] == 0:
            header[name]["data_offsets"] = [0, 0]
        header[name].update(shape=shape, dtype=dtype)

    rewritten(saved, change)
    with pytest.raises(CheckpointError, match=why):
        checkpoint.load(saved)


# Runs


RUNS = [
    None, 5, {}, [], {"run": None}, {"run": {}}, ("start", -1), ("step", "x"), ("step", 10**23), ("lr", NAN), ("lr", "x"),
    ("seconds", -1), ("seconds", None), ("in_epoch", {}), ("in_epoch", 3), ("in_row", {"rows": 1}), ("history", {}),
    ("history", {"epochs": 3}), ("history", {"epochs": [3], "steps": []}), ("history", {"more": []}),
    ("history", {"epochs": [], "steps": [], "stopped": 7}), ("callbacks", 5), ("callbacks", {"EarlyStop": {}}),
    ("callbacks", {"EarlyStop": {"best": "x", "waited": 1}}), ("callbacks", {"EarlyStop": {"best": 1.0, "waited": -1}}),
    ("callbacks", {"Checkpoints": {"best": [1]}}), ("callbacks", {"Checkpoints": 3}),
]  # fmt: skip


def test_run_that_none_is_is_refused_and_nothing_changed(tmp_path, signed):
    def parts(seed):
        mg.manual_seed(seed)
        model = mg.nn.Sequential(mg.nn.Linear(3, 2)).to("reference")
        rng = np.random.default_rng(seed)
        loader = Loader(rng.standard_normal((8, 3), np.float32), rng.integers(0, 2, 8), batch_size=4, seed=1)
        return model, mg.optim.SGD(model.parameters(), lr=0.1), loader

    def run(model, optimizer, loader, **options):
        callbacks = [EarlyStop(patience=9, monitor="loss")]
        folder = Checkpoints(tmp_path, best="loss")
        return fit(
            model, optimizer, loader, epochs=2, loss=mg.cross_entropy, checkpoint=folder, capture=False,
            callbacks=callbacks, **options,
        )  # fmt: skip

    run(*parts(0))
    path = tmp_path / "last.safetensors"
    whole = path.read_bytes()
    model, optimizer, loader = parts(1)
    before = {name: t.numpy().tobytes() for name, t in model.state_dict().items()}
    for change in RUNS:

        def put(parsed, change=change):
            if isinstance(change, tuple):
                name, value = change
                parsed["extra"]["run"][name] = value
            else:
                parsed["extra"] = change

        signed(path, put)
        with pytest.raises(CheckpointError, match="extra: |callback "):
            run(model, optimizer, loader, resume=True)
        assert {name: t.numpy().tobytes() for name, t in model.state_dict().items()} == before, change
        assert (optimizer.lr, loader.position) == (0.1, 0)
        path.write_bytes(whole)
    run(model, optimizer, loader, resume=True)
    assert loader.position == 4
