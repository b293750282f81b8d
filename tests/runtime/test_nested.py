"""Launches within launches: by kernels that call Python, by handlers of signals, by threads that a launch waits for."""

import os
import textwrap

import pytest
from targets import first_only

PRELUDE = """
import signal, threading
import numba
import numpy as np
import minigrad as mg
from minigrad.kernels.cpu.tools import threads

x = np.linspace(-1, 1, 90_000, dtype=np.float32)
found = []

def inner():
    found.append(mg.relu(mg.tensor(x)).numpy())

def in_a_thread():
    thread = threading.Thread(target=inner)
    thread.start()
    thread.join()

def is_right(times):
    return len(found) == times and all(np.array_equal(y, np.maximum(x, 0)) for y in found)
"""


@pytest.fixture
def run_nested(run_script):
    """Runs a script after the common beginning; one that waits for ever is ended, and fails."""
    return lambda code, **environment: run_script(PRELUDE + textwrap.dedent(code), **environment)


@pytest.mark.parametrize("layer", first_only("default", "workqueue"))
@pytest.mark.parametrize("call", first_only("in_a_thread", "inner", "again"))
def test_kernels_launched_by_a_kernel_of_the_users(run_nested, layer, call):
    """The first time while the layer starts, the second time while it runs."""
    run_nested(
        f"""
        @numba.njit(parallel=True)
        def double(x, y):
            with numba.objmode():
                {call}()
            for i in numba.prange(x.size):
                y[i] = 2 * x[i]

        class Double(mg.Op):
            def forward(self, x):
                y = self.empty_like(x)
                self.launch(double, x, y)
                return y

        deep = []

        def again():
            deep.append(1)
            if len(deep) % 2:
                assert np.array_equal(Double.apply(mg.tensor(x)).numpy(), 2 * x)
                inner()

        for times in (1, 2):
            assert np.array_equal(Double.apply(mg.tensor(x)).numpy(), 2 * x)
            assert is_right(times)
        """,
        NUMBA_THREADING_LAYER=layer,
    )


@pytest.mark.skipif(not hasattr(os, "kill"), reason="no signals on this system")
@pytest.mark.parametrize("call", first_only("inner", "in_a_thread"))
def test_a_handler_of_signals_launches_while_the_layer_starts(run_nested, call):
    run_nested(
        f"""
        import os

        started, signal_given = threads.start_layer, []

        def start_layer():
            os.kill(os.getpid(), signal.SIGUSR1)
            while not found:
                pass
            started()

        threads.start_layer = start_layer
        signal.signal(signal.SIGUSR1, lambda number, frame: {call}())
        inner()
        assert is_right(2)
        """
    )


def test_a_captured_step_called_within_its_replay_runs_eagerly(run_nested):
    """By a function in NumPy, which a replay calls as it is."""
    run_nested(
        """
        def twice(x, y):
            np.multiply(x, 2, out=y)
            thread = threading.current_thread()
            if thread.name == "nested":
                thread.name = "deep"
                found.append(step(x[:3]).numpy())
                found.append(step(np.ones_like(x)).numpy())

        class Twice(mg.Op):
            def forward(self, x):
                y = self.empty_like(x)
                self.launch(twice, x, y)
                return y

        step = mg.capture(lambda x: Twice.apply(x) + 1)
        x = np.arange(5, dtype=np.float32)
        for name in ("recorded", "replayed", "nested", "nested"):
            threading.current_thread().name = name
            assert np.array_equal(step(x).numpy(), 2 * x + 1)
        assert [list(y) for y in found] == [[1, 3, 5], [3] * 5] * 2
        assert sum(map(len, step.plans.values())) == 1
        """
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.slow
def test_a_captured_step_in_a_child_forked_while_another_thread_replays_it(run_nested):
    run_nested(
        """
        import os, warnings

        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork in a process with threads
        parent, wait, at_work, done = os.getpid(), [], threading.Event(), threading.Event()

        def twice(x, y):
            np.multiply(x, 2, out=y)
            if wait and os.getpid() == parent:
                at_work.set()
                done.wait(60)

        class Twice(mg.Op):
            def forward(self, x):
                y = self.empty_like(x)
                self.launch(twice, x, y)
                return y

        step = mg.capture(lambda x: Twice.apply(x) + 1)
        x = np.arange(5, dtype=np.float32)
        step(x)
        wait.append(True)
        thread = threading.Thread(target=step, args=(x,))
        thread.start()
        at_work.wait(60)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if np.array_equal(step(x).numpy(), 2 * x + 1) else 1)
        assert os.waitpid(child, 0)[1] == 0
        done.set()
        thread.join()
        """
    )
