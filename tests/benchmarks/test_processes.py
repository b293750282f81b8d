"""Which contender works when, and in which environment."""

from benchmarks.comparison import inception, processes
from benchmarks.comparison.machine import KEEP_MEMORY


def test_each_round_starts_with_another_contender():
    assert [processes.in_turn(["a", "b", "c"], i) for i in (0, 1, 5)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
    ]


def test_only_slow_contenders_sit_out_and_not_every_round():
    seconds = {"fast": 1.0, "slower": 4.0, "slow": 6.0}
    for i in range(9):
        assert [name for name in seconds if processes.sits_out(seconds, name, i)] == ([] if i % 4 == 0 else ["slow"])


def test_variables_are_set_and_taken_away(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    kept = processes.environment(2, KEEP_MEMORY)
    assert kept["OMP_NUM_THREADS"] == "2"
    assert kept.items() >= KEEP_MEMORY.items()
    as_it_comes = processes.environment(2, KEEP_MEMORY | inception.VARIANTS[inception.AS_IT_COMES])
    assert not as_it_comes.keys() & KEEP_MEMORY.keys()
    unset = processes.environment(2, KEEP_MEMORY | inception.VARIANTS[inception.OPENMP_UNSET])
    assert kept.keys() - unset.keys() == {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}
