"""Models, optimizers and captured steps handed to other processes: by multiprocessing's spawn and forkserver, by joblib."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from targets import first_only

import minigrad as mg
from minigrad.train.signals import InterruptedProgram

SCRIPT = """
import json, sys
import numpy as np
import minigrad as mg
from minigrad import checkpoint


@mg.capture
def doubled(x):
    return (x * 2.0).sum()


class Training:
    def __init__(self):
        mg.manual_seed(3)
        self.model = mg.models.MLP(6, (5,), 3, batch_norm=True)
        self.optimizer = mg.optim.Adam(self.model.parameters(), lr=0.01)

    @mg.capture
    def learn(self, x, y):
        self.optimizer.zero_grad()
        loss = mg.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def steps(self, first, last):
        for i in range(first, last):
            rng = np.random.default_rng(i)
            self.learn(rng.standard_normal((8, 6)).astype(np.float32), rng.integers(0, 3, 8))

    def bits(self):
        arrays = [t.numpy() for t in self.model.state_dict().values()] + list(self.optimizer.state_dict().values())
        return b"".join(array.tobytes() for array in arrays)


def go_on(training, first, last):
    training.steps(first, last)
    return training, training.bits()


def call(function, *arguments):
    return function(*arguments)


def product(a, b):
    return (a @ b).detach()


def load(path):
    checkpoint.load(path, model=mg.nn.Linear(2, 2))


def pool(way):
    if way == "loky":
        import joblib

        return lambda f, given: joblib.Parallel(n_jobs=2)(joblib.delayed(f)(*arguments) for arguments in given)
    import multiprocessing

    processes = multiprocessing.get_context(way).Pool(2)
    return processes.starmap


def main(way):
    run = pool(way)
    training = Training()
    training.steps(0, 3)
    mine = Training()
    mine.steps(0, 6)
    returned = run(go_on, [(training, 3, 6)] * 2)
    rng = np.random.default_rng(0)
    a, b = (mg.tensor(rng.standard_normal((200, 200)).astype(np.float32)) for _ in range(2))
    products = run(product, [(a, b)] * 2)
    sums = run(call, [(doubled, np.ones((2, 2), np.float32))] * 2)
    try:
        run(load, [(sys.argv[2],)])
        error = "none"
    except checkpoint.CheckpointError as caught:
        error = str(caught)
    there = [bits == mine.bits() and twin.bits() == bits for twin, bits in returned]
    for twin, _ in returned:
        twin.steps(6, 9)
    mine.steps(6, 9)
    print(json.dumps({
        "trained": there,
        "trained on": [twin.bits() == mine.bits() for twin, _ in returned],
        "products": [p.numpy().tobytes() == product(a, b).numpy().tobytes() for p in products],
        "sums": [float(s) for s in sums],
        "error": error,
    }))


if __name__ == "__main__":
    main(sys.argv[1])
"""


WAYS = [way for way in multiprocessing.get_all_start_methods() if way != "fork"]  # which has a file of its own


@pytest.mark.parametrize("way", first_only(*reversed(WAYS), "loky"))
def test_training_goes_on_in_other_processes_to_the_same_bits(way, tmp_path):
    if way == "loky":
        pytest.importorskip("joblib")
    script, damaged = tmp_path / "script.py", tmp_path / "a.safetensors"
    script.write_text(SCRIPT)
    damaged.write_bytes(b"x" * 100)
    root = str(Path(mg.__file__).resolve().parents[1])
    paths = os.pathsep.join([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    command = [sys.executable, str(script), way, str(damaged)]
    environment = {**os.environ, "PYTHONPATH": paths}
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    for name in ("trained", "trained on", "products"):
        assert found[name] == [True, True], name
    assert found["sums"] == [8.0, 8.0]
    assert "cannot be loaded; nothing was changed" in found["error"]


@pytest.mark.parametrize(
    "error",
    [
        mg.checkpoint.CheckpointError(Path("a"), ["one", "two"]),
        mg.train.DivergedError(3, float("nan"), "an op", None),
        mg.CaptureError("why"),
        mg.AnomalyError("where"),
        InterruptedProgram(2, 7),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_from_other_processes(error):
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), str(twin)) == (type(error), str(error))
    assert vars(twin).keys() == vars(error).keys()


@mg.capture
def tripled(x):
    return x * 3.0


def test_a_decorated_step_is_pickled_again_and_again():
    x = np.ones(3, np.float32)
    step = tripled
    for _ in range(3):
        np.testing.assert_array_equal(step(x).numpy(), [3, 3, 3])
        step = pickle.loads(pickle.dumps(step))


def test_a_step_that_no_module_knows_cannot_be_pickled():
    step = mg.capture(lambda x: x * 3.0)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(step)
