"""After os.fork, a child gets right results, whatever the parent's threads were doing."""

import os
import textwrap

import pytest
from targets import first_only

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

PRELUDE = """
import os, signal, sys, threading, warnings
import numpy as np
import minigrad as mg

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork in a process with threads
rng = np.random.default_rng(0)
a = mg.tensor(rng.standard_normal((300, 300)).astype(np.float32))
w = mg.tensor(rng.standard_normal((300, 300)).astype(np.float32), requires_grad=True)

def work():
    w.zero_grad()
    y = mg.sigmoid(a @ w)
    loss = mg.cross_entropy(y, np.arange(300)) + (y * y).mean()
    loss.backward()
    return loss.numpy().tobytes() + w.grad.numpy().tobytes()

def in_child(function):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if function() else 1)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"the child ended with {status}"
"""


@pytest.fixture
def run_forking(run_script):
    """Runs a script after the common beginning, under each threading layer that is there."""

    def run(code, **environment):
        return run_script(PRELUDE + textwrap.dedent(code), **environment)

    return run


@pytest.mark.parametrize("layer", first_only("default", "workqueue"))
def test_child_of_a_parent_that_ran_parallel_kernels(run_forking, layer):
    run_forking(
        """
        expected = work()
        in_child(lambda: work() == expected)
        assert work() == expected
        """,
        NUMBA_THREADING_LAYER=layer,
    )


@pytest.mark.slow
@pytest.mark.parametrize("layer", first_only("default", "workqueue"))
def test_child_of_a_parent_that_ran_a_parallel_kernel_of_its_own(run_forking, layer):
    run_forking(
        """
        import numba

        @numba.njit(parallel=True)
        def double(x, y):
            for i in numba.prange(x.size):
                y[i] = 2 * x[i]

        class Double(mg.Op):
            def forward(self, x):
                y = self.empty_like(x)
                self.launch(double, x, y)
                return y

        x = np.arange(1000, dtype=np.float32)
        step = mg.capture(Double.apply)
        doubled = lambda: all(np.array_equal(f(x if f is step else mg.tensor(x)).numpy(), 2 * x) for f in (Double.apply, step))
        assert doubled()
        in_child(doubled)
        assert doubled()
        """,
        NUMBA_THREADING_LAYER=layer,
    )


@pytest.mark.slow
def test_child_of_a_parent_that_ran_nothing(run_forking):
    run_forking(
        """
        in_child(lambda: work() == work())
        assert work() == work()
        """
    )


@pytest.mark.slow
def test_grandchild(run_forking):
    run_forking(
        """
        expected = work()

        def child():
            in_child(lambda: work() == expected)
            return work() == expected

        in_child(child)
        """
    )


@pytest.mark.slow
def test_child_of_a_parent_whose_own_numba_code_ran_in_parallel(run_forking):
    run_forking(
        """
        import numba

        @numba.njit(parallel=True)
        def total(x):
            s = 0.0
            for i in numba.prange(x.size):
                s += x[i]
            return s

        total(np.ones(10_000))
        in_child(lambda: work() == work())
        """
    )


def test_child_forked_while_another_thread_launches(run_forking):
    run_forking(
        """
        from minigrad.kernels.cpu.tools import threads

        expected = work()
        threads._layer_started = threads._concurrent = False  # as if the other thread's launch were the first
        launched, done = threading.Event(), threading.Event()

        def launch():
            with threads.parallel_region():
                launched.set()
                done.wait(60)

        thread = threading.Thread(target=launch)
        thread.start()
        launched.wait(60)
        in_child(lambda: work() == expected)
        done.set()
        thread.join()
        """
    )


@pytest.mark.slow
def test_child_may_set_the_number_of_threads(run_forking):
    run_forking(
        """
        expected = work()

        def child():
            mg.set_num_threads(1)
            one = work()
            mg.set_num_threads(mg.get_num_threads())
            return one == expected

        in_child(child)
        """
    )


@pytest.mark.slow
def test_captured_step_goes_on_in_a_child(run_forking):
    run_forking(
        """
        step = mg.capture(lambda x: mg.sigmoid(x @ a).sum())
        x = rng.standard_normal((300, 300)).astype(np.float32)
        expected = step(x).item()
        assert step(x).item() == expected
        in_child(lambda: step(x).item() == expected)
        """
    )


@pytest.mark.slow
def test_multiprocessing_pool_of_forked_workers(run_script):
    run_script(
        PRELUDE
        + textwrap.dedent(
            """
            import multiprocessing

            def job(i):
                return work()

            expected = work()
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(job, range(4)) == [expected] * 4
            """
        )
    )
