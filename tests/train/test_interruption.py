"""Runs that are killed, or ended by a signal, in processes of their own; and what they come to when resumed."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from rows import untimed
from targets import first_only, slow_rows

import minigrad as mg
from minigrad.train import TrainingInterrupted, fit
from minigrad.train.resuming import go_on_drawing
from minigrad.train.signals import Signals, interruption

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

RUN = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job begins with SIGINT ignored
import numpy as np
import minigrad as mg
from minigrad.data import Loader

folder, pause, threads = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
mg.set_num_threads(threads)
mg.manual_seed(3)
rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 50)
images = (rng.standard_normal((50, 20)) + labels[:, None]).astype(np.float32)
layers = [mg.nn.Linear(20, 30), mg.nn.BatchNorm(30), mg.nn.ReLU(), mg.nn.Dropout(0.3), mg.nn.Linear(30, 3)]
model = mg.nn.Sequential(*layers).to("reference")
optimizer = mg.optim.Adam(model.parameters(), lr=0.01)

class Tell:
    def on_step(self, run):
        print(run.step, flush=True)
        time.sleep(pause)

mg.train.fit(
    model, optimizer, Loader(images, labels, batch_size=8, seed=1, prefetch=2), epochs=10, log_every=1,
    validation=[(images, labels)], schedule=mg.optim.CosineSchedule(optimizer, 70), schedule_by="step",
    checkpoint=mg.train.Checkpoints(folder, every_steps=1), resume=True,
    callbacks=[mg.train.HistoryFile(folder + "/history.jsonl", "steps"), Tell()],
)
print("done", flush=True)
"""


def start(folder, pause=0.0, threads=1):
    """The run, in another process."""
    command = [sys.executable, "-c", RUN, str(folder), str(pause), str(threads)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(folder, **options):
    """Run to the end."""
    process = start(folder, **options)
    output, errors = process.communicate(timeout=120)
    assert output.endswith("done\n"), errors


def outcome(folder):
    """All that a run leaves, without times: tensors, positions, history, and the rows of the history file."""

    found = [mg.checkpoint.load(folder / f"{name}.safetensors") for name in ("last", "best")]
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [
        *[{name: array.tobytes() for name, array in c.tensors.items()} for c in found],
        *[(c.schedule, c.loader, c.random) for c in found],
        *[untimed(found[0].extra["run"]["history"][rows]) for rows in ("epochs", "steps")],
        untimed(history),
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What the run comes to by itself."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder)
    return outcome(folder)


@pytest.mark.parametrize(
    ("seeds", "rank", "expected"),
    [([7, 8], 0, 7), ([7, 8], 1, 8), ([7, 8], 2, 99), ([7, 7], 2, 5), ([], 2, 5), ([7], 1, 5)],
)
def test_random_numbers_of_a_run_in_another_number_of_processes(seeds, rank, expected):
    """Those of the same rank; where there was none, those that the script has seeded; where all were alike, rank 0's (5)."""
    before = mg.random.state_dict()
    mg.manual_seed(5)  # rank 0's, which the checkpoint had
    run = SimpleNamespace(ranks=SimpleNamespace(rank=rank), drawing_before={"seed": 99, "streams": 0})
    go_on_drawing(run, [{"seed": seed, "streams": 0} for seed in seeds])
    assert mg.random.state_dict()["seed"] == expected
    mg.random.load_state_dict(before)


def test_killed_run_resumes_to_the_same_bits(tmp_path, uninterrupted):
    chance = random.Random(2015)
    for steps in (3, 20, 20):
        process = start(tmp_path)
        for _ in range(steps):
            assert process.stdout.readline()
        time.sleep(chance.uniform(0, 0.02))  # somewhere in a step, or in the writing of its checkpoint
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    finish(tmp_path, threads=mg.get_num_threads())
    assert outcome(tmp_path) == uninterrupted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "history.jsonl", "last.safetensors"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_signal_ends_the_step_saves_and_exits(tmp_path, uninterrupted, number, code):
    process = start(tmp_path, pause=0.02)
    for _ in range(9):
        process.stdout.readline()
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "done" not in output
    saved = mg.checkpoint.load(tmp_path / "last.safetensors")
    assert f"{number.name} after step {saved.loader['position']}; " in errors
    assert saved.loader["position"] == 9 + len(output.split())
    finish(tmp_path)
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.slow
def test_second_signal_exits_at_once(tmp_path):
    process = start(tmp_path, pause=600)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)  # the step is still at work
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=200)
    assert process.returncode == 130


class Sends:
    """Sends this process a signal in a step."""

    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_step(self, run):
        if run.step == self.step:
            signal.raise_signal(self.number)


@pytest.fixture
def handlers():
    """The handlers of before, and Python's own during the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_handlers_are_put_back(parts, handlers):
    p = parts()
    during = []
    fit(p.model, p.optimizer, p.loader, steps=1, callbacks=[lambda *_: during.append(signal.getsignal(signal.SIGTERM))])
    assert during[0] is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_handlers_are_put_back_after_leaving(parts, handlers):
    p = parts()
    with pytest.raises(SystemExit) as error:
        fit(p.model, p.optimizer, p.loader, steps=9, callbacks=[Sends(signal.SIGTERM, 4)])
    assert error.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert p.loader.position == 4


def test_signal_during_validation_leaves_before_its_end_and_resumes_with_it(parts, handlers, tmp_path, same_bits):
    whole, first, second = parts(), parts(), parts()
    expected = fit(whole.model, whole.optimizer, whole.loader, epochs=2, validation=whole.validation)
    batches = []

    def signalling(outputs, targets):
        if len(targets) == 30:
            signal.raise_signal(signal.SIGINT)
        batches.append(len(targets))
        return 0.0

    options = {"epochs": 2, "checkpoint": tmp_path}
    with pytest.raises(SystemExit) as error:
        fit(
            first.model, first.optimizer, first.loader, validation=first.validation,
            metrics={"accuracy": signalling}, **options,
        )  # fmt: skip
    assert error.value.code == 130
    assert batches == [8] * 6 + [2, 30]
    assert mg.checkpoint.load(tmp_path / "last.safetensors").loader["position"] == 7
    history = fit(second.model, second.optimizer, second.loader, validation=second.validation, resume=True, **options)
    same_bits(whole, second)
    assert history.column("validation_loss") == expected.column("validation_loss")


def test_ignored_signal_stays_ignored(handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Signals(interruption(signal.SIGINT)) as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_train_without_handlers(parts, handlers):
    p = parts()
    during = []
    options = {"steps": 1, "callbacks": [lambda *_: during.append(signal.getsignal(signal.SIGTERM))]}
    thread = threading.Thread(target=fit, args=(p.model, p.optimizer, p.loader), kwargs=options)
    thread.start()
    thread.join(60)
    assert during == [signal.SIG_DFL]


@pytest.mark.parametrize(
    ("number", "prompt", "kinds"),
    [
        (signal.SIGINT, False, {KeyboardInterrupt, SystemExit}),
        (signal.SIGINT, True, {KeyboardInterrupt}),
        (signal.SIGTERM, False, {SystemExit}),
        (signal.SIGTERM, True, {SystemExit}),
    ],
)
def test_interruption_has_the_history_and_the_model(parts, handlers, monkeypatch, same_bits, number, prompt, kinds):
    if prompt:
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    p, twin = parts(), parts()
    with pytest.raises(TrainingInterrupted) as caught:
        fit(p.model, p.optimizer, p.loader, steps=9, callbacks=[Sends(number, 8)])
    error = caught.value
    assert {kind for kind in (KeyboardInterrupt, SystemExit) if isinstance(error, kind)} == kinds
    assert (error.signal, error.code, error.step, error.checkpoint) == (number, 128 + number, 8, None)
    assert error.model is p.model
    assert [row["step"] for row in error.history.epochs] == [7]
    fit(twin.model, twin.optimizer, twin.loader, steps=8)
    same_bits(p, twin)


@pytest.mark.parametrize(("options", "rows"), [({}, [1, 2, 3, 4]), ({"validate_every": 4}, [1, 2, 3])])
def test_interruption_has_the_row_of_the_last_step_unless_it_is_to_be_validated(parts, handlers, options, rows):
    p = parts()
    if options:
        options = {**options, "validation": parts().loader}
    with pytest.raises(TrainingInterrupted) as caught:
        fit(p.model, p.optimizer, p.loader, steps=9, log_every=1, callbacks=[Sends(signal.SIGINT, 4)], **options)
    assert [row["step"] for row in caught.value.history.steps] == rows


def test_after_an_interruption_the_training_goes_on_where_it_was(parts, handlers, same_bits):
    p, whole = parts(), parts()
    with pytest.raises(KeyboardInterrupt):
        fit(p.model, p.optimizer, p.loader, steps=20, callbacks=[Sends(signal.SIGINT, 8)])
    fit(p.model, p.optimizer, p.loader, steps=12)
    fit(whole.model, whole.optimizer, whole.loader, steps=20)
    same_bits(p, whole)


def test_interruption_says_where_the_checkpoint_is(parts, handlers, tmp_path):
    p = parts()
    with pytest.raises(TrainingInterrupted, match="SIGTERM after step 4; .*last.safetensors is written") as caught:
        fit(p.model, p.optimizer, p.loader, steps=9, checkpoint=tmp_path, callbacks=[Sends(signal.SIGTERM, 4)])
    assert mg.checkpoint.load(caught.value.checkpoint).loader["position"] == 4


CAUGHT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
import minigrad as mg

model = mg.nn.Linear(4, 2).to("reference")
loader = mg.data.Loader(np.zeros((6, 4), np.float32), np.zeros(6, int), batch_size=2)
sends = lambda run, row: signal.raise_signal(getattr(signal, sys.argv[1]))
try:
    mg.train.fit(model, mg.optim.SGD(model.parameters(), 0.1), loader, epochs=9, callbacks=[sends])
except KeyboardInterrupt as stop:
    print("caught after step", stop.step, "with", len(stop.history.epochs), "epoch")
"""


@pytest.mark.parametrize(
    ("name", "code", "output"), [("SIGINT", 0, "caught after step 3 with 1 epoch\n"), ("SIGTERM", 143, "")]
)
@pytest.mark.slow
def test_program_that_catches_ctrl_c_goes_on_and_still_ends_when_terminated(name, code, output):
    result = subprocess.run([sys.executable, "-c", CAUGHT, name], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (code, output)
    assert f"minigrad: {name} after step 3; the model keeps its weights" in result.stderr
    assert "Traceback" not in result.stderr


HANGS = """
import os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
import minigrad as mg
from minigrad.data import Loader, loader as of_loader

of_loader.PATIENCE = 1000.0  # seconds that a thread that hangs is waited for, if at all
folder, where, prefetch, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])

def transform(batch, epoch, step):
    if step == 5:
        os.write(1, b"hangs\\n")  # in one piece, as print is not: another thread prints the steps
        hang = threading.Event().wait
        ThreadPoolExecutor().submit(hang).result() if where == "pool" else hang()
    return batch

def loader(transform):
    return Loader(np.ones((16, 4), np.float32), np.zeros(16, int), batch_size=2, transform=transform, prefetch=prefetch)

def tell(run):
    os.write(1, b"%d\\n" % run.step)
    time.sleep(pause)

class Tell:
    on_step = staticmethod(tell)

model = mg.nn.Linear(4, 2).to("reference")
mg.train.fit(
    model, mg.optim.SGD(model.parameters(), 0.1), loader(transform if where != "validation" else None), epochs=1,
    validation=loader(transform if where == "validation" else None), callbacks=[Tell()], checkpoint=folder,
)
"""


@pytest.fixture
def hanging(tmp_path):
    """A function that starts a run whose transform hangs, in another process; back when it hangs and so many steps are done."""
    processes = []

    def begin(where, steps, prefetch, pause=0.0):
        process = subprocess.Popen(
            [sys.executable, "-c", HANGS, str(tmp_path), where, str(prefetch), str(pause)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        missing = {"hangs\n", f"{steps}\n"}
        while missing:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            missing.discard(line)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("where", "position"), [("training", 5), *slow_rows(("validation", 8))])
@pytest.mark.parametrize("prefetch", first_only(2, 0))
def test_signal_saves_and_leaves_where_a_transform_hangs(hanging, tmp_path, where, position, prefetch):
    process = hanging(where, position, prefetch)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 130, errors
    assert mg.checkpoint.load(tmp_path / "last.safetensors").loader["position"] == position


def test_second_signal_leaves_at_once_where_a_transform_hangs_and_a_step_lasts(hanging):
    process = hanging("training", steps=1, prefetch=8, pause=600)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=200)
    assert process.returncode == 130


@pytest.mark.slow
def test_second_signal_ends_a_program_that_would_wait_for_threads_of_the_transform(hanging, tmp_path):
    process = hanging("pool", steps=5, prefetch=2)
    process.send_signal(signal.SIGINT)
    while "SIGINT after step 5" not in process.stderr.readline():
        assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=200)
    assert process.returncode == 130
    assert mg.checkpoint.load(tmp_path / "last.safetensors").loader["position"] == 5
