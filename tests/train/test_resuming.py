"""A run on the CPU's kernels that is ended after any of its steps and gone on with, by another number of threads."""

import pytest
import resumable
from resumable import STEPS

import minigrad as mg
from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.tools.launch import GRAIN

BATCH, SIDE, CHANNELS = 8, 16, 16


def run(*arguments, count=1, **options):
    """What a run by so many threads gives."""
    before = threads.get_num_threads()
    mg.set_num_threads(min(count, threads.available_threads()))
    try:
        return resumable.run(*arguments, **options, batch=BATCH, side=SIDE, channels=CHANNELS)
    finally:
        mg.set_num_threads(before)


@pytest.fixture(scope="module")
def straight():
    assert BATCH * SIDE * SIDE * CHANNELS >= GRAIN  # so that several threads work
    return run(STEPS)


@pytest.mark.parametrize("end", range(1, STEPS))
def test_a_run_ended_after_any_step_resumes_to_the_same_bits_on_the_cpu(straight, tmp_path, end):
    run(end, tmp_path, count=1 + end % 2)
    numbers, rows = run(STEPS, tmp_path, resume=True, count=2 - end % 2, capture=end % 3 != 0)
    assert rows == straight[1]
    for name, expected in straight[0].items():
        assert numbers[name] == expected, name


def test_a_run_ended_after_every_step_resumes_to_the_same_bits_on_the_cpu(straight, tmp_path):
    for end in range(1, STEPS + 1):
        found = run(end, tmp_path, resume=True, count=1 + end % 2)
    assert found == straight
