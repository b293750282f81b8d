"""GPUs that exchange by nccl4py: minigrad's calls of it, between simulated GPUs or hosts as GPUs, with a stand-in for NCCL."""

import importlib.util
import inspect
import operator
import re

import pytest
from conftest import SIMULATOR
from ranks import PROGRAMS, command, ended, run, start
from targets import first_only

from minigrad.distributed.processes import choose_gpu

STAND_IN = PROGRAMS.parent / "stand_in"
HOST = {"MINIGRAD_CUDA": "host", "before": [STAND_IN]}  # whose kernels the compiler takes a second each for
SIMULATED = {"MINIGRAD_CUDA": "simulator", "before": [STAND_IN]}
each_kind = pytest.mark.parametrize("kind", first_only(SIMULATED, HOST), ids=["simulator", "host"])
needs_compiler = pytest.mark.skipif(not SIMULATOR, reason="needs NVIDIA's compiler and the simulator's parts")


ranks = pytest.fixture(scope="module", params=[2, 4])


@ranks
def found(request):
    return run(request.param, "gpus.py", timeout=400, **HOST)


@ranks
def others(request):
    """Of further runs."""
    return run(request.param, "gpus.py", "others", timeout=400, **HOST)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("case", ["bits", "bits, eager"])
def test_all_ranks_have_the_same_bits(found, case):
    assert len({rank[case] for rank in found}) == 1


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("case", ["uneven", "plain"])
def test_other_runs_have_the_same_bits_in_all_ranks_and_come_where_the_processors_do(others, case):
    assert len({rank[f"bits, {case}"] for rank in others}) == 1
    for rank in others:
        assert rank[f"distance, {case}"] < 2e-5


@needs_compiler
@pytest.mark.slow
def test_a_captured_step_has_the_bits_of_the_eager_one_and_of_its_repetition(found):
    for rank in found:
        assert rank["device"] == "host"
        assert rank["graph"] == "CudaGraph"
        assert rank["bits"] == rank["bits, eager"]


@needs_compiler
@pytest.mark.slow
def test_exchanges_are_launches_that_the_graph_repeats_by_itself(found):
    """One Concat and one BatchNorm, in each direction, and the gradients."""
    both = ["exchange.swap", "exchange.collect"]
    for rank in found:
        assert rank["exchanges"] == ["exchange.collect"] * 2 + both * 3
        assert rank["replayed"] == {"alltoall asked": 0, "alltoall done": 3, "allgather asked": 0, "allgather done": 5}


@needs_compiler
@pytest.mark.slow
def test_gpus_come_where_the_processors_do(found):
    for rank in found:
        assert rank["distance"] < 2e-5


@needs_compiler
@pytest.mark.slow
def test_another_exchange_is_told_before_anyone_waits_for_its_gpu(found):
    for rank in found:
        assert "rank 0 is at 'gradients of" in rank["told"]
        assert "of 84 bytes" in rank["told"]
        assert "of 72 bytes" in rank["told"]


@needs_compiler
@pytest.mark.slow
def test_fit_trains_on_all_gpus_together(others):
    for rank in others:
        losses, accuracy, bits = rank["fit"]
        assert bits == others[0]["fit"][2]
        assert losses == pytest.approx(rank["fit on the CPU"][0], rel=1e-4)
        assert accuracy == pytest.approx(rank["fit on the CPU"][1])
        assert losses[-1] < losses[0]


@needs_compiler
@each_kind
def test_gpus_come_where_the_processors_do_and_an_error_of_nccl_ends_all(kind):
    ran = ended(start(command(2, "gpus.py", "fault"), **kind), 60, 2)
    assert ran.status != 0
    first, second = ran.results
    assert first["bits"] == second["bits"]
    assert max(first["distance"], second["distance"]) < 2e-5
    assert "it failed in an exchange between GPUs: NCCL's error 6: a fault of the stand-in" in ran.errors


@needs_compiler
@each_kind
@pytest.mark.parametrize("step", ["eager", pytest.param("captured", marks=pytest.mark.slow)])
def test_a_gpu_that_hangs_is_told_by_all_within_the_bound(kind, step):
    """Both GPUs stop in an exchange: in one of them, and where the other waits for it."""
    ran = ended(start(command(2, "gpus.py", "hang", step), **kind), 120, 2)
    assert ran.status != 0
    lines = dict(re.findall(r"^minigrad: rank (\d) of 2 (.*)$", ran.errors, re.MULTILINE))
    assert sorted(lines) == ["0", "1"], ran.errors
    for rank, line in lines.items():
        other = line.rpartition(f"rank {1 - int(rank)} ")[2]
        assert re.search(r"its GPU has been at work for \d+ s", other), line
    assert re.search(r"has waited [4-9] s for its GPU, which hangs or waits in an exchange for another one", lines["0"])
    assert "the stand-in's communicator was aborted" in ran.errors


def test_without_nccl4py_the_error_says_how_to_install_it():
    if importlib.util.find_spec("nccl") is not None:
        pytest.skip("nccl4py is installed")
    from minigrad.exchange.gpus import library

    with pytest.raises(ImportError, match=r"needs nccl4py and NCCL: pip install 'minigrad-bn\[nccl\]'"):
        library()


def test_the_stand_in_has_the_signatures_of_nccl4py():
    theirs = pytest.importorskip("nccl.core", reason="needs nccl4py")
    specification = importlib.util.spec_from_file_location("stand_in", STAND_IN / "nccl" / "core.py")
    ours = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(ours)
    methods = ["__init__", "init", "alltoall", "allgather", "abort", "get_async_error", "get_last_error"]
    for name in [*[f"Communicator.{method}" for method in methods], "get_unique_id", "UniqueId.from_bytes"]:
        found = [operator.attrgetter(name)(module) for module in (theirs, ours)]
        parameters = [inspect.signature(function).parameters.values() for function in found]
        first, second = [[(p.name, p.kind, p.default) for p in given] for given in parameters]
        assert first == second, name
    assert len(bytes(theirs.UniqueId())) == ours.ID_BYTES


@pytest.mark.parametrize(
    ("seen", "place", "chosen"),
    [(None, 0, "0"), (None, 3, "3"), ("4,5", 1, "5"), ("GPU-a, GPU-b", 2, "GPU-a"), ("7", 3, "7"), ("", 1, "")],
)
def test_each_process_of_a_machine_sees_a_gpu_of_its_own(seen, place, chosen):
    environment = {} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}
    choose_gpu(place, environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": chosen}
