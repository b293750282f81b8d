import gc
import itertools
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad.data import Kiefer, Loader
from minigrad.kernels.cpu.tools import threads

ROWS = np.arange(50)
LONG = 10.0  # seconds that nothing here takes


def workers():
    """The background threads there are."""
    return [thread for thread in threading.enumerate() if thread.name == "minigrad-prefetch"]


@pytest.fixture(autouse=True)
def no_worker_is_left():
    yield
    assert workers() == []


def together(batches):
    return np.concatenate([batch[0] for batch in batches])


def until(condition):
    """Wait until a condition holds that another thread brings about."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("depth", [1, 2, 7, 100])
@pytest.mark.parametrize("count", [0, 1, 12])
def test_batches_are_the_same_as_without(depth, count):
    plain, ahead = Loader(ROWS, batch_size=8, seed=3), Loader(ROWS, batch_size=8, seed=3, prefetch=depth)
    ours, theirs = list(ahead.steps(count)), list(plain.steps(count))
    assert [batch[0].tolist() for batch in ours] == [batch[0].tolist() for batch in theirs]
    assert ahead.state_dict() == plain.state_dict()


def test_augmented_batches_are_the_same_as_without():
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    plain, ahead = (Loader(images, batch_size=7, transform=Kiefer(), prefetch=depth) for depth in (0, 3))
    np.testing.assert_array_equal(together(ahead.steps(14)), together(plain.steps(14)))


def test_batches_are_prepared_on_another_thread_while_the_body_runs():
    made = []

    def note(batch, epoch, step):
        made.append((step, threading.current_thread()))
        return batch

    batches = Loader(ROWS, batch_size=5, transform=note, prefetch=3).steps(8)
    next(batches)
    until(lambda: len(made) == 4)  # in the body of step 0, steps 1 to 3 are made
    time.sleep(0.02)
    assert [step for step, _ in made] == [0, 1, 2, 3]
    assert threading.current_thread() not in [thread for _, thread in made]
    batches.close()


def test_state_counts_batches_handed_out_not_prepared():
    loader = Loader(ROWS, batch_size=5, prefetch=4, seed=1)
    for number, _ in enumerate(itertools.islice(loader.steps(), 7), start=1):
        assert loader.state_dict()["position"] == number
    gc.collect()
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = Loader(ROWS, batch_size=5, prefetch=2, seed=1)
    resumed.load_state_dict(state)
    np.testing.assert_array_equal(together(resumed.steps(9)), together(loader.batch(step) for step in range(7, 16)))


def test_seek_in_the_body_of_the_loop_is_followed():
    loader = Loader(ROWS, batch_size=5, prefetch=3, seed=1)
    batches = loader.steps(4)
    got = [next(batches), next(batches)]
    loader.seek(20)
    got += batches
    np.testing.assert_array_equal(together(got), together(loader.batch(step) for step in (0, 1, 20, 21)))


@pytest.mark.parametrize("end", ["close", "drop", "cycle", "exhaust"])
def test_thread_ends_with_the_iteration(end):
    batches = Loader(ROWS, batch_size=5, prefetch=3).steps(5)
    next(batches)
    assert len(workers()) == 1
    if end == "close":
        batches.close()
    elif end == "exhaust":
        assert len(list(batches)) == 4
    elif end == "drop":
        del batches
    else:
        cycle = [batches]
        cycle.append(cycle)
        del batches, cycle
        gc.collect()
    assert workers() == []


def test_thread_ends_with_a_loop_that_is_left():
    for _ in Loader(ROWS, batch_size=5, prefetch=3):
        assert len(workers()) == 1
        break
    assert workers() == []


def test_a_loader_is_freed_with_its_iterator():
    loader = Loader(ROWS, batch_size=5, prefetch=2)
    batches, alive = loader.steps(), weakref.ref(loader)
    next(batches)
    del loader, batches
    gc.collect()
    assert alive() is None


def fail_at_3(batch, epoch, step):
    if step == 3:
        raise KeyError("no such step")
    return batch


def test_exception_comes_at_its_step_with_the_traceback_of_the_transform():
    loader = Loader(ROWS, batch_size=5, transform=fail_at_3, prefetch=8)
    got = []
    with pytest.raises(KeyError, match="no such step") as caught:
        got.extend(loader.steps())
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "fail_at_3"
    assert "take" in frames
    assert loader.position == 3


def test_after_an_exception_the_same_step_can_be_tried_again():
    loader = Loader(ROWS, batch_size=5, transform=fail_at_3, prefetch=2, shuffle=False)
    with pytest.raises(KeyError):
        list(loader)
    loader.transform = None
    assert next(iter(loader))[0].tolist() == [15, 16, 17, 18, 19]
    gc.collect()


@pytest.mark.parametrize(("limit", "expected"), [(1, False), (2, True)])
def test_kernels_of_the_thread_are_serial_unless_it_may_use_more(limit, expected):
    seen = []
    loader = Loader(
        ROWS,
        batch_size=5,
        transform=lambda batch, epoch, step: seen.append(threads.may_run_parallel()) or batch,
        prefetch=1,
        prefetch_threads=limit,
    )
    list(loader.steps(2))
    assert seen == [expected] * 2
    assert threads.may_run_parallel()


@pytest.mark.parametrize("limit", [1, 2])
def test_kernels_run_on_both_threads_at_once(limit):
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    loader = Loader(images, batch_size=64, transform=Kiefer(), prefetch=2, prefetch_threads=limit)
    expected = [loader.batch(step)[0] for step in range(4)]
    x = mg.tensor(np.random.default_rng(1).standard_normal((300, 300), np.float32))
    product = (x @ x).numpy()
    for (batch,), wanted in zip(loader.steps(4), expected, strict=True):
        for _ in range(5):
            np.testing.assert_array_equal((x @ x).numpy(), product)
        np.testing.assert_array_equal(batch, wanted)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prefetch": -1}, ValueError, "prefetch must be at least 0, not -1"),
        ({"prefetch": 1.5}, TypeError, "prefetch must be an integer, not 1.5"),
        ({"prefetch_threads": 0}, ValueError, "prefetch_threads must be at least 1, not 0"),
    ],
)
def test_bad_numbers_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Loader(ROWS, batch_size=5, **options)


ABANDONED = """
    import time
    import numpy as np
    from minigrad.data import Loader

    def slow(batch, epoch, step):
        time.sleep(0.05)
        return batch

    batches = Loader(np.arange(10), batch_size=2, transform=slow, prefetch=2).steps()
    next(batches)
    print("end of the program")
"""

FORKED = """
    import os
    import numpy as np
    from minigrad.data import Loader

    loader = Loader(np.arange(10), batch_size=2, prefetch=2, shuffle=False)
    batches = loader.steps()
    next(batches)
    pid = os.fork()
    os.write(1, f"{next(batches)[0].tolist()}\\n".encode())
    if pid == 0:
        batches.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


HANGS = """
    import os, signal, threading
    import numpy as np
    from minigrad.data import Loader, loader

    loader.PATIENCE = 1000.0  # seconds that a thread that hangs is waited for, if at all
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def transform(batch, epoch, step):
        if step == 1:
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
            threading.Event().wait()
        return batch

    try:
        for _ in Loader(np.arange(10), batch_size=2, transform=transform, prefetch=PREFETCH):
            print("batch", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
"""


def run(program):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=200, check=True
    )


def test_interpreter_exits_while_a_batch_is_prepared():
    result = run(ABANDONED)
    assert result.stdout == "end of the program\n"
    assert result.stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("prefetch", [0, 2])
def test_interrupted_program_does_not_wait_for_a_transform_that_hangs(prefetch):
    assert run(HANGS.replace("PREFETCH", str(prefetch))).stdout == "batch\ninterrupted\n"


def test_thread_that_hangs_is_left_behind_by_a_loop_that_ends(monkeypatch):
    monkeypatch.setattr("minigrad.data.loader.PATIENCE", 0.1)
    hangs, released = threading.Event(), threading.Event()

    def transform(batch, epoch, step):
        if step == 2:
            hangs.set()
            released.wait()
        return batch

    for _ in Loader(ROWS, batch_size=5, transform=transform, prefetch=2):
        if hangs.wait(0.01):
            break
    (left,) = workers()
    released.set()
    left.join(60)
    assert workers() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_iteration_goes_on_in_a_forked_child():
    assert run(FORKED).stdout == "[2, 3]\n" * 2
