"""Gradients exchanged while backward goes on are those exchanged after it, and end a run as surely where one process fails."""

import re
import time

import pytest
from ranks import PROGRAMS, command, ended, run, start

import minigrad as mg
from minigrad.distributed import launch

BOUND = 60  # seconds, the start of Python and the import of minigrad on a busy machine among them
CASES = [
    *("captured", "eager", "plain batch norm", "uneven", "reference", "a hook", "added to", "added to, eager"),
    *("1 buckets", "2 buckets", "9 buckets"),
]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def found(request):
    return run(request.param, "overlap.py", timeout=240)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_bits_are_those_without_in_all_ranks(found, case):
    for rank in found:
        assert rank["cases"][case]["while"] == found[0]["cases"][case]["after"]


@pytest.mark.slow
def test_exchanges_begin_between_the_launches_of_backward(found):
    """A bucket for the last layers, whose exchange begins long before the first layer's gradient is computed."""
    for rank in found:
        launches = rank["cases"]["captured"]["launches"]
        assert launches.count("exchange.start") == 4
        assert launches.count("exchange.finish") == 1
        first, last = launches.index("exchange.start"), launches.index("exchange.finish")
        assert launches.index("loss.cross_entropy_backward") < first
        assert "conv.conv_backward_w" in launches[first:last]
        assert rank["cases"]["1 buckets"]["launches"].count("exchange.start") == 1


@pytest.mark.slow
def test_a_gradient_that_changes_on_its_way_is_told(found):
    for rank in found:
        assert "the gradient of 2.weight was changed after it went to the other processes" in rank["changed"]


@pytest.mark.slow
def test_processes_with_other_gradients_are_told(found):
    for rank in found:
        assert re.search(
            r"the processes do not do the same: rank 0 is at 'gradients of \w{8}' of .* bytes", rank["differing"]
        )


def test_a_process_killed_in_the_middle_of_an_exchange_ends_all():
    given = launch.command(2, [str(PROGRAMS / "overlap.py"), "kill", "60"])
    began = time.monotonic()
    errors = ended(start(given), BOUND + 30, 2).errors
    assert time.monotonic() - began < BOUND
    assert "minigrad: rank 1 was ended by SIGKILL on " in errors


@pytest.mark.slow
def test_a_process_that_hangs_in_the_middle_of_an_exchange_is_told_by_all():
    found = ended(start(command(2, "overlap.py", "hang", "2")), BOUND + 30, 2)
    assert found.status != 0
    lines = dict(re.findall(r"^minigrad: rank (\d) of 2 (.*)$", found.errors, re.MULTILINE))
    assert sorted(lines) == ["0", "1"], found.errors
    assert re.search(r"has waited \d+ s in exchange \d+ \(gradients of \w{8}\).*rank 1 is in no exchange", lines["0"])


def test_buckets_are_at_least_one():
    with pytest.raises(ValueError, match="buckets must be at least 1, not 0"):
        mg.distributed.backward(mg.tensor(1.0, requires_grad=True), mg.nn.Linear(2, 1), buckets=0)
