import csv
import sys

import numpy as np
import pytest
from conftest import runs_all
from ranks import PROGRAMS, run
from targets import slow_rows

import minigrad as mg

sys.path.insert(0, str(PROGRAMS))
import training
from told import bits

sys.path.remove(str(PROGRAMS))


QUICK = [
    "straight",
    "overlapped",
    "resumed",
    "accumulated",
    "dropout",
    "dropout_resumed",
    "of_another_world",
    "callbacks",
]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def found(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    training.until(13, folder / "one", epochs=3, log_every=5)
    cases = [] if runs_all(request.config) else ["--cases", *QUICK]
    return run(request.param, "training.py", folder, *cases, timeout=240), folder


@pytest.fixture(scope="module")
def alone():
    return training.train(epochs=3, log_every=5)


def test_all_ranks_have_the_same_bits_and_history(found):
    first, *others = found[0]
    for other in others:
        for case in first:
            assert other[case]["weights"] == first[case]["weights"], case
            assert other[case]["bits"] == first[case]["bits"], case
            assert other[case]["rows"] == first[case]["rows"], case


@pytest.mark.parametrize(
    ("case", "as_in"),
    [
        ("overlapped", "straight"),
        ("resumed", "straight"),
        *slow_rows(("again", "straight"), ("eager", "straight"), ("accumulated_overlapped", "accumulated")),
    ],
)
def test_the_same_ranks_give_the_same_bits(found, case, as_in):
    first = found[0][0]
    assert first[case]["bits"] == first[as_in]["bits"]
    assert first[case]["rows"] == first[as_in]["rows"]


def test_metrics_are_those_of_all_ranks(found, alone):
    rows = training.plain_rows(alone[0])
    assert len(rows) == len(found[0][0]["straight"]["rows"]) == 3 + 33 // 5
    for one, several in zip(rows, found[0][0]["straight"]["rows"], strict=True):
        assert one.keys() == several.keys()
        for name in one:
            slack = 0.01 if "accuracy" in name else 1e-4  # an image near a border may change its class
            assert several[name] == pytest.approx(one[name], abs=slack), name


@pytest.mark.slow
def test_parts_of_a_batch_lead_where_the_whole_does(found):
    """To 1e-6 after a step of the MNIST network; what rounding makes of it later is on the page."""
    with np.load(found[1] / "trajectory.npz") as file:
        several = [file[name] for name in file.files]
    distances = [np.abs(a - b).max() for a, b in zip(several, training.trajectory()[2], strict=True)]
    assert distances[0] < 1e-6
    assert max(distances) < 1e-4
    print("after steps", training.MARKS, "parameters differ by", distances)


def test_accumulated_and_clipped_gradients_and_averages_are_those_of_one_process(found):
    one = training.plain_rows(training.case_accumulated(None)[0])
    several = found[0][0]["accumulated"]["rows"]
    assert len(one) == len(several) == 2 + 8
    for ours, theirs in zip(several, one, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5), theirs["step"]


def test_a_checkpoint_of_one_process_goes_on_in_several(found, alone):
    several = found[0][0]["of_another_world"]
    assert [row["step"] for row in several["rows"]] == [row["step"] for row in training.plain_rows(alone[0])]
    assert several["rows"][2]["loss"] == pytest.approx(alone[0].epochs[2]["loss"], abs=1e-4)


def test_a_checkpoint_of_several_processes_goes_on_in_one(found, alone):
    history, model = training.train(found[1] / "straight", epochs=4, log_every=5, resume=True)
    longer, one = training.train(epochs=4, log_every=5)
    assert history.epochs[3]["loss"] == pytest.approx(longer.epochs[3]["loss"], abs=1e-4)
    for ours, theirs in zip(model.parameters(), one.parameters(), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-3)


@pytest.mark.slow
def test_running_statistics_of_plain_batch_norm_are_averaged(found):
    assert len({rank["plain_batch_norm"]["bits"] for rank in found[0]}) == 1


def test_each_rank_drops_other_places_and_resumes_with_them(found):
    seeds = [rank["dropout"]["more"][0] for rank in found[0]]
    assert len({seed for own in seeds for seed in own}) == 3 * len(seeds)
    assert found[0][0]["dropout"]["bits"] == found[0][0]["dropout_resumed"]["bits"]


@pytest.mark.slow
def test_each_rank_draws_its_own_numbers_and_resumes_with_them(found):
    first = found[0][0]
    assert first["noise_resumed"]["bits"] == first["noise"]["bits"] != first["noise_of_one"]["bits"]
    states = mg.checkpoint.load(found[1] / "noise" / "last.safetensors").extra["run"]["random"]
    assert [state["seed"] for state in states] == [50 + rank for rank in range(len(found[0]))]


def test_what_only_looks_is_called_in_one_process_and_the_rest_in_all(found):
    called = [rank["callbacks"]["more"][0] for rank in found[0]]
    assert called == [["looks", "acts"], *[["acts"]] * (len(called) - 1)]
    assert {rank["callbacks"]["stopped"] for rank in found[0]} == {"one of them wants to"}
    with open(found[1] / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4"]


def test_the_loader_has_whole_batches_after(alone):
    assert bits(alone[1].parameters())  # a run in one process, without MPI
    assert "mpi4py" not in sys.modules or mg.distributed.world == 1
