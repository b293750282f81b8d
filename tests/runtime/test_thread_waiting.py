"""How threads wait: they sleep soon, unless the user says otherwise."""

import os
import sys

import numba
import pytest

from minigrad.kernels.cpu.tools import threads

WAITS = """
import os, subprocess, sys, time
{first}
import numba
import numpy as np
import minigrad as mg

before = dict(os.environ)
x = mg.tensor(np.ones((300, 300), np.float32))
spent = []
for _ in range(5):
    (x @ x).numpy()
    start = time.process_time()
    time.sleep(0.1)
    spent.append(time.process_time() - start)
assert os.environ == before
shell = [sys.executable, "-c", "import os; print('GOMP_SPINCOUNT' in os.environ or 'OMP_WAIT_POLICY' in os.environ)"]
inherited = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.strip()
print(numba.threading_layer(), inherited, sorted(spent)[2])
"""
OWN_WORDS = {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "10000000"}


@pytest.fixture
def processor_time_of_waiting(run_script, monkeypatch):
    """Seconds of processor time that a process takes in the tenth of a second after a large product, as it does nothing."""
    if threads.available_threads() < 2 or not sys.platform.startswith("linux"):
        pytest.skip("needs two CPUs and libgomp")
    for name in threads.USERS_WORDS:
        monkeypatch.delenv(name, raising=False)

    def measure(first="", **environment):
        result = run_script(WAITS.format(first=first), NUMBA_THREADING_LAYER="omp", **environment).stdout.split()
        assert result[:2] == ["omp", str(bool(environment))]
        return float(result[2])

    return measure


@pytest.mark.slow
def test_threads_sleep_soon(processor_time_of_waiting):
    assert processor_time_of_waiting() < 0.002


@pytest.mark.slow
@pytest.mark.parametrize("environment", OWN_WORDS, ids=str)
def test_threads_wait_as_the_user_says(processor_time_of_waiting, environment):
    assert processor_time_of_waiting(**environment) > 0.004


@pytest.mark.slow
def test_threads_sleep_soon_beside_a_library_with_an_openmp_of_its_own(processor_time_of_waiting):
    pytest.importorskip("torch")
    assert processor_time_of_waiting("import torch") < 0.002


@pytest.fixture
def seen(monkeypatch):
    """What the environment says of waiting whenever the layer is asked for, which may load it."""
    found = []
    monkeypatch.setattr(numba, "get_num_threads", lambda: found.append(words()))
    for name in threads.USERS_WORDS:
        monkeypatch.delenv(name, raising=False)
    return found


def words():
    return {name: os.environ[name] for name in threads.USERS_WORDS if name in os.environ}


def test_waiting_is_set_while_the_layer_starts_and_then_taken_back(seen):
    threads.start_layer()
    assert (seen, words()) == ([threads.WAITING], {})


@pytest.mark.parametrize("name", threads.USERS_WORDS)
def test_users_word_on_waiting_is_left_alone(seen, monkeypatch, name):
    monkeypatch.setenv(name, "7")
    threads.start_layer()
    assert (seen, words()) == ([{name: "7"}], {name: "7"})


def test_environment_is_as_before_when_the_layer_does_not_start(seen, monkeypatch):
    def fail():
        raise ValueError("No threading layer could be loaded.")

    monkeypatch.setattr(numba, "get_num_threads", fail)
    with pytest.raises(ValueError, match="could be loaded"):
        threads.start_layer()
    assert words() == {}


def test_first_launch_starts_the_layer(set_threads, monkeypatch):
    started = []
    monkeypatch.setattr(threads, "start_layer", lambda: started.append(threads._layer_started))
    monkeypatch.setattr(threads, "_layer_started", False)
    monkeypatch.setattr(threads, "_concurrent", False)
    for _ in range(2):
        with threads.parallel_region():
            pass
    assert started == [False]
