"""A run on the GPU that is ended after any of its steps and gone on with."""

import pytest
from resumable import STEPS, run

SIZES = {"batch": 2, "side": 2, "channels": 2, "device": "cuda"}


def check(tmp_path, ends, steps):
    """Ended after each of these steps, it gives what it gives when nobody ends it."""
    straight = run(steps, **SIZES)
    for end in ends:
        folder = tmp_path / str(end)
        run(end, folder, **SIZES)
        assert run(steps, folder, resume=True, capture=end % 3 != 0, **SIZES) == straight, f"ended after step {end}"


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
def test_a_run_ended_within_an_epoch_resumes_to_the_same_bits_in_the_simulator(tmp_path):
    check(tmp_path, [1], steps=2)


@pytest.mark.slow
@pytest.mark.usefixtures("host_gpu")
def test_a_run_ended_after_any_step_resumes_to_the_same_bits_on_the_host(tmp_path):
    check(tmp_path, range(1, STEPS), STEPS)
