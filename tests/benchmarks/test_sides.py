"""Which contender works when and where, in which environment, and what becomes of one that fails."""

import pytest

from benchmarks.sections import inception, step
from benchmarks.tools import sides
from benchmarks.tools.frameworks import NumPy
from benchmarks.tools.machine import KEEP_MEMORY
from benchmarks.tools.sides import Here, Processes


def test_each_round_starts_with_another_contender():
    assert [sides.in_turn(["a", "b", "c"], i) for i in (0, 1, 5)] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


def test_only_slow_contenders_sit_out_and_not_every_round():
    seconds = {"fast": 1.0, "slower": 4.0, "slow": 6.0}
    for i in range(9):
        assert [name for name in seconds if sides.sits_out(seconds, name, i)] == ([] if i % 4 == 0 else ["slow"])


def test_variables_are_set_and_taken_away(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    kept = sides.environment(2, KEEP_MEMORY)
    assert kept["OMP_NUM_THREADS"] == "2"
    assert kept.items() >= KEEP_MEMORY.items()
    as_it_comes = sides.environment(2, KEEP_MEMORY | inception.VARIANTS[inception.AS_IT_COMES])
    assert not as_it_comes.keys() & KEEP_MEMORY.keys()
    unset = sides.environment(2, KEEP_MEMORY | inception.VARIANTS[inception.OPENMP_UNSET])
    assert kept.keys() - unset.keys() == {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}


class Counting:
    """A contender that takes as long as it is told."""

    def __init__(self, seconds, cases=None):
        self.seconds, self.bursts = seconds, 0
        self.answer = {"once": seconds, **({} if cases is None else {"cases": cases})}

    def burst(self, **request):
        self.bursts += 1
        return {"seconds": self.seconds, **request}


def test_rounds_keep_a_sample_or_none_of_each_contender_that_has_the_case():
    workers = {"fast": Counting(1.0), "slow": Counting(9.0, ["b"])}
    latest = {}
    found = sides.Party(workers, {}, []).rounds(5, {"a": {"case": 1}, "b": {"case": 2}}, latest)
    assert found == {"a": {"fast": [1.0] * 5}, "b": {"fast": [1.0] * 5, "slow": [9.0, None, None, None, 9.0]}}
    assert (workers["fast"].bursts, workers["slow"].bursts) == (10, 2)
    assert latest["slow"] == {"seconds": 9.0, "case": 2}


@pytest.mark.parametrize("side", [Processes(1), Here({"NumPy": NumPy()}, "float32")], ids=["process", "here"])
def test_a_contender_trains_in_a_process_or_here(side):
    settings = {"batch_norm": True}
    rows = {
        "by hand": (side, {"contender": "NumPy by hand", **settings}),
        "other": (side, {"contender": "NumPy", **settings}),
    }
    with sides.taking_part("step", rows) as party:
        assert party.workers["by hand"].answer["loss_difference"] <= step.TOLERANCE["cpu"]
        assert party.rounds(2, {"step": {"steps": 3}})["step"]["by hand"] > [0, 0]
        assert party.failed == ["other: KeyError: 'NumPy'"]  # there is no such contender: told, and the others go on
        assert not party.left_out


def test_what_is_not_installed_is_left_out_and_what_need_not_run_everywhere_too(monkeypatch):
    def absent(spec, framework):
        raise ModuleNotFoundError("No module named 'jax'", name="jax")

    monkeypatch.setattr(step, "prepare", absent)
    side = Here({"NumPy": NumPy(), "JAX": NumPy()}, "float32")
    with sides.taking_part("step", {n: (side, {"contender": n}) for n in ("JAX jit", "PyTorch eager")}) as party:
        assert party.left_out == {
            "JAX jit": "ModuleNotFoundError: No module named 'jax'",
            "PyTorch eager": "takes no part here",
        }
    monkeypatch.setattr(step, "prepare", lambda spec, framework: 1 / 0)
    with sides.taking_part("step", {n: (side, {"contender": n}) for n in ("JAX torch.compile", "JAX")}) as party:
        assert list(party.left_out) == ["JAX torch.compile"]
        assert party.failed == ["JAX: ZeroDivisionError: division by zero"]
