"""Several threads and processes that make batches for a Loader."""

import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
from sample_sets import (
    Broken,
    BrokenOddly,
    Global,
    Growing,
    Hangs,
    Leaves,
    Named,
    Numbers,
    Pairs,
    as_lists,
    doubled,
    noisy,
)
from targets import slow_rows

from minigrad.data import Loader, workers
from minigrad.data.prefetch import END, LocalMaker, Prefetcher

KINDS = [("thread", 1), ("thread", 3), ("process", 1), pytest.param("process", 2, marks=pytest.mark.slow)]
ROOT = Path(__file__).parents[2]


def workers_alive():
    """The processes that make batches for this one; other tests may have left a pool of joblib's."""
    return [process for process in multiprocessing.active_children() if process.name == "minigrad-worker"]


@pytest.fixture(autouse=True)
def nobody_is_left(monkeypatch):
    own = f"{os.getpid():x}"  # in the names of blocks of shared memory: other tests have theirs
    numbers = itertools.count()
    monkeypatch.setattr(workers.secrets, "token_hex", lambda size: f"{own}.{next(numbers)}")
    yield
    gc.collect()
    assert workers_alive() == []
    assert list(Path("/dev/shm").glob(f"mg_{own}.*")) == []
    assert [thread for thread in threading.enumerate() if thread.name == "minigrad-prefetch"] == []


def same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
    return True


@pytest.mark.parametrize(("worker", "count"), KINDS)
def test_batches_are_the_same_whatever_the_number_of_workers(worker, count):
    options = {"batch_size": 8, "seed": 3, "sample_transform": noisy, "transform": doubled}
    plain = Loader(Pairs(), **options)
    ours = Loader(Pairs(), workers=count, worker=worker, **options)
    assert same(ours.steps(15), plain.steps(15))
    assert ours.state_dict() == plain.state_dict()


@pytest.mark.parametrize(("worker", "count"), KINDS)
def test_a_run_goes_on_from_the_state_of_another_number_of_workers(worker, count):
    first = Loader(Pairs(), batch_size=8, seed=3, workers=2)
    batches = first.steps()
    for _ in range(9):
        next(batches)
    state = first.state_dict()
    batches.close()
    second = Loader(Pairs(), batch_size=8, seed=3, workers=count, worker=worker)
    second.load_state_dict(state)
    assert same(second.steps(4), [first.batch(step) for step in range(9, 13)])


@pytest.mark.slow
def test_processes_send_dicts_and_what_collate_makes():
    loader = Loader(Named(), batch_size=8, workers=1, worker="process", keys=("image", "label"))
    assert same(loader, [loader.batch(step) for step in range(7)])
    made = Loader(Pairs(), batch_size=8, workers=1, worker="process", collate=as_lists, shuffle=False)
    assert [batch["sizes"] for batch in made] == [[8]] * 6 + [[2]]


@pytest.mark.slow
def test_large_batches_come_through_shared_memory_fresh_and_writable():
    loader = Loader(Pairs(40, (64, 64)), batch_size=16, workers=1, worker="process")
    batches = [images for images, _ in loader]
    for step, images in enumerate(batches):
        assert images.flags.c_contiguous
        np.testing.assert_array_equal(images, loader.batch(step)[0])
        images[:] = -1
    assert [len(images) for images in batches] == [16, 16, 8]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="looks into /dev/shm")
@pytest.mark.parametrize("seconds", [0.5, pytest.param(0.1, marks=pytest.mark.slow)])
def test_no_shared_memory_is_left_when_the_loop_ends_early(seconds):
    """The worker is at a batch that needs a larger block, or has made one that nobody takes."""
    for batch in Loader(Growing(5), batch_size=1, shuffle=False, workers=1, worker="process", prefetch=1):
        assert batch[0].shape == (1, 20_000)
        time.sleep(seconds)
        break  # the blocks are looked for when the test ends


def test_a_batch_goes_through_the_pipe_where_there_is_no_shared_memory(monkeypatch):
    monkeypatch.setattr(workers.Packer, "holds", lambda self, size: False)
    packed = workers.Packer("mg_test").packed((np.arange(100_000), 3))
    assert packed[1:] == ([], None)
    (array, number) = workers.Worker(b"", 1).unpacked(*packed)
    assert number == 3
    np.testing.assert_array_equal(array, np.arange(100_000))


def test_a_block_grows_and_takes_arrays_of_any_size():
    worker = workers.Worker(b"", 1)
    packer = workers.Packer(worker.name)
    for shapes in [((100_000,), (0, 3)), ((3,), (200_000,)), ((150_000,), (7,))]:
        batch = {str(i): np.arange(np.prod(shape), dtype=np.float64).reshape(shape) for i, shape in enumerate(shapes)}
        got = worker.unpacked(*packer.packed(batch))
        for name, array in batch.items():
            np.testing.assert_array_equal(got[name], array, strict=True)
    packer.block.close()
    worker.block.close()


@pytest.mark.slow
def test_processes_seed_global_generators_by_the_step():
    one, two = (Loader(Global(), batch_size=8, workers=n, worker="process") for n in (1, 2))
    first, second = list(one), list(two)
    assert same(first, second)
    draws = np.concatenate([numbers for numbers, _ in first])
    assert len(np.unique(draws[:, 0])) == 50


@pytest.mark.slow
def test_each_rank_has_numbers_of_its_own():
    ranks = [
        next(iter(Loader(Global(), batch_size=8, shuffle=False, workers=1, worker="process", rank=rank, world=2)))[0]
        for rank in range(2)
    ]
    assert not np.isin(ranks[0], ranks[1]).any()


@pytest.mark.parametrize(("worker", "count"), [*KINDS[:2], *slow_rows(("process", 1), ("process", 2))])
def test_an_error_comes_out_at_its_step_with_its_place(worker, count):
    loader = Loader(Broken(), batch_size=8, shuffle=False, workers=count, worker=worker)
    got = []
    with pytest.raises(KeyError, match="no such file") as caught:
        got.extend(loader)
    assert len(got) == loader.position == 2
    text = "".join(traceback.format_exception(caught.value))
    assert "sample 17 of the Broken" in text
    assert "step 2, in epoch 0" in text
    assert 'raise KeyError("no such file")' in text  # the line, in the traceback of the worker


def test_an_error_that_cannot_be_sent_is_told_of():
    with pytest.raises(RuntimeError, match="Unsendable: this and that") as caught:
        list(Loader(BrokenOddly(), batch_size=8, shuffle=False, workers=1, worker="process"))
    assert "sample 17 of the BrokenOddly" in caught.value.__notes__


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("kill", "was ended by SIGKILL; .*memory"),
        pytest.param("exit", "ended with exit code 3", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_is_gone_is_an_error(how, message):
    loader = Loader(Leaves(how), batch_size=8, shuffle=False, workers=2, worker="process")
    with pytest.raises(RuntimeError, match=f"the worker process [0-9]+, which made step 2, {message}"):
        list(loader)
    assert loader.position == 2


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.slow
def test_a_killed_process_is_told_at_once():
    batches = Loader(Hangs(), batch_size=8, shuffle=False, workers=1, worker="process").steps()
    next(batches), next(batches)
    time.sleep(0.3)  # it hangs now
    (worker,) = workers_alive()
    os.kill(worker.pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="SIGKILL"):
        next(batches)
    assert time.monotonic() - began < 100  # on a busy machine; the sample takes 600


@pytest.mark.parametrize(
    "end", ["close", *(pytest.param(end, marks=pytest.mark.slow) for end in ("error", "drop", "cycle", "break"))]
)
def test_processes_end_with_the_iteration(end):
    batches = Loader(Hangs(), batch_size=8, shuffle=False, workers=2, worker="process").steps()
    next(batches)
    assert len(workers_alive()) == 2
    began = time.monotonic()
    if end == "close":
        batches.close()
    elif end == "drop":
        del batches
    elif end == "cycle":
        cycle = [batches]
        cycle.append(cycle)
        del batches, cycle
        gc.collect()
    elif end == "break":
        for _ in batches:
            break
        del batches
    else:
        with pytest.raises(RuntimeError, match="mine"):
            batches.throw(RuntimeError("mine"))
    assert workers_alive() == []
    assert time.monotonic() - began < 100  # on a busy machine; the sample takes 600


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"transform": lambda batch, epoch, step: batch}, "transform by pickle"),
        ({"collate": lambda samples: samples}, "collate by pickle"),
        ({"sample_transform": lambda sample, epoch, number: sample}, "sample_transform by pickle"),
    ],
)
def test_functions_that_cannot_be_sent_are_named(options, what):
    with pytest.raises(TypeError, match=rf"{what}.*lambda.*top of a module.*worker=.thread."):
        next(iter(Loader(Pairs(), batch_size=8, workers=1, worker="process", **options)))


def test_data_that_cannot_be_sent_is_named():
    data = Pairs()
    data.lock = threading.Lock()
    with pytest.raises(TypeError, match="the data by pickle.*lock"):
        next(iter(Loader(data, batch_size=8, workers=1, worker="process")))


@pytest.mark.slow
def test_streams_are_read_here_and_collated_there():
    options = {"batch_size": 4, "shuffle": False, "transform": doubled}
    plain = list(Loader(Numbers(), **options).steps(14))
    for worker, count in (("thread", 1), ("thread", 3), ("process", 1), ("process", 2)):
        assert same(Loader(Numbers(), workers=count, worker=worker, **options).steps(14), plain)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"worker": "fork"}, ValueError, "worker must be 'thread' or 'process', not 'fork'"),
        ({"workers": -1}, ValueError, "workers must be at least 0"),
        ({"workers": 2, "prefetch": 0}, ValueError, "prefetch must be at least 1"),
    ],
)
def test_bad_settings_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Loader(Pairs(), batch_size=8, **options)


def test_prefetcher_keeps_the_order_of_tasks():
    delays = [0.03, 0.0, 0.02, 0.0, 0.01]
    makers = [LocalMaker(lambda i: (time.sleep(delays[i]), i)[1]) for _ in range(3)]
    ahead = Prefetcher(iter(range(5)), makers, depth=4, most_threads=1)
    assert [ahead.take() for _ in range(5)] == list(range(5))
    assert ahead.take() is END
    ahead.close()


# Programs

INTERRUPTED = """
    import signal, sys
    from minigrad.data import Loader
    from sample_sets import Hangs

    if __name__ == "__main__":
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            for _ in Loader(Hangs(), batch_size=8, shuffle=False, workers=2, worker="process"):
                print("batch", flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""

UNGUARDED = """
    from minigrad.data import Loader
    from sample_sets import Pairs

    for _ in Loader(Pairs(), batch_size=8, workers=1, worker="process"):
        pass
"""

LEFT = """
    from minigrad.data import Loader
    from sample_sets import Pairs

    if __name__ == "__main__":
        batches = iter(Loader(Pairs(), batch_size=8, workers=2, worker="process"))
        next(batches)
        print("end of the program")
"""


@pytest.fixture
def program(tmp_path):
    """A function that starts a program, in a session of its own, as a terminal does."""
    started = []

    def start(text):
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(text))
        paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        started.append(
            subprocess.Popen(
                [sys.executable, str(path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def members(session):
    """The processes of a session that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def gone(session, seconds):
    """Whether a session has no processes after so many seconds at most."""
    deadline = time.monotonic() + seconds
    while members(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not members(session)


linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")


@pytest.mark.slow
@linux
def test_ctrl_c_ends_a_program_and_its_workers(program):
    process = program(INTERRUPTED)
    assert process.stdout.readline() == "batch\n"
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # to the workers as well, as a terminal does
    out, err = process.communicate(timeout=100)
    assert out.endswith("interrupted\n")
    assert err == ""
    assert gone(process.pid, 60)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_the_program_is_killed(program, number):
    process = program(INTERRUPTED)
    assert process.stdout.readline() == "batch\n"
    time.sleep(0.5)
    assert len(members(process.pid)) >= 3
    os.kill(process.pid, number)
    assert gone(process.pid, 60)


@pytest.mark.slow
@linux
def test_workers_end_with_a_program_that_left_its_loop_open(program):
    process = program(LEFT)
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("end of the program\n", "")
    assert gone(process.pid, 60)


@pytest.mark.slow
def test_a_script_without_a_guard_is_told(program):
    _, err = program(UNGUARDED).communicate(timeout=60)
    assert "ended with exit code 1" in err
    assert '`if __name__ == "__main__":`' in err
