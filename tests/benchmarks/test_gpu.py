"""What only the comparison on a GPU has, on a simulated one, PyTorch on the CPU."""

import numpy as np
import pytest

import minigrad as mg
from benchmarks import compare
from benchmarks.sections import gemm, inception, kernels, limits, step
from benchmarks.tools import kernel_cases, machine, networks, timing
from benchmarks.tools.frameworks import OURS, Minigrad, NumPy, Torch
from benchmarks.tools.sides import Here

SHORT = {"rounds": 2, "seconds": 1e-6}
SMALL = {"ELEMENTS": 300, "BATCH": 2, "ROWS": 5, "CLASSES": 7, "LAYERS": ((2, 8),), "POOLS": ((3, 4, 1), (4, 4, 2))}


@pytest.fixture
def gpu(simulated):
    """minigrad on the simulated GPU, PyTorch on the CPU."""
    pytest.importorskip("torch")
    return Here({OURS: Minigrad(home=simulated), "PyTorch": Torch()}, "float32")


@pytest.fixture
def small_cases(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(kernel_cases, name, value)
    monkeypatch.setattr(networks, "MODULES", {"5b": networks.MODULES["5b"]})
    monkeypatch.setattr(kernel_cases, "NETWORK", networks.Network(0.01, 1, False))


@pytest.mark.parametrize("index", range(16))
def test_kernels_of_both_sides_compute_what_is_expected(index, gpu, small_cases):
    made = kernel_cases.cases(0)
    assert len(made) == 16
    name, (_, make) = list(made.items())[index]
    case = make(name)
    for contender, framework in gpu.frameworks.items():
        work = case.builders[contender](framework)
        assert timing.relative_error(work.results(work.call()), case.expected) < 1e-6, contender


def test_kernels_are_timed_as_graphs(gpu, small_cases, monkeypatch):
    made = dict(list(kernel_cases.cases(0).items())[:2])
    monkeypatch.setattr(kernels, "cases", lambda cache: made)
    result = kernels.compare(gpu, 1e12, **SHORT)
    assert not result["failed"]
    seconds = {name: len(case["seconds"][OURS]) for name, case in result["cases"].items()}
    assert seconds == {"add": 2, "relu": 2}
    assert result["cases"]["add"]["bytes"] == 3 * 4 * 300
    assert "Of copying: add" in kernels.report(result)


def test_batch_norm_reads_twice_what_no_cache_holds(small_cases):
    x = 4 * 2 * 2 * 2 * 8
    of_features = 4 * 8 * 2 + 8 * 8 * 2
    for cache, forward, backward in ((x, 2, 5), (2 * x, 2, 3), (0, 3, 5)):
        (first, second) = (c for c in kernel_cases.cases(cache).items() if "BN" in c[0])
        assert first[1][1](first[0]).nbytes == forward * x + of_features
        assert second[1][1](second[0]).nbytes == backward * x + of_features + 4 * 8 * 2


def test_limits_are_unknown_without_pytorch(gpu, monkeypatch):
    monkeypatch.setattr(limits, "COPIED", 300)
    monkeypatch.setattr(limits, "LENGTH", 8)
    both = limits.compare([gpu, gpu._replace(precision="tf32")], **SHORT)
    assert not both["failed"]
    assert limits.rate(both, "tf32") > 0
    assert limits.bandwidth(both) > 0
    assert limits.report(both).count("TFLOP/s") == 2
    alone = limits.compare([gpu._replace(frameworks={OURS: gpu.frameworks[OURS]})], **SHORT)
    assert limits.rate(alone, "float32") is None
    assert "Left out: PyTorch" in limits.report(alone)


def case_of(call, expected):
    """A case whose work is a function."""
    return timing.Case(
        "work", 1, 8, [np.array(expected)], {"NumPy": lambda _: timing.Job(call, lambda found: [np.array(found)])}
    )


@pytest.mark.parametrize("wrong", [[1.0, 2.1], [1.0, np.nan], [1.0]])
def test_a_contender_that_computes_something_else_is_not_timed(wrong):
    spec = {"contender": "NumPy", "device": "cuda", "precision": "tf32"}
    assert timing.prepare(spec, NumPy(), [case_of(lambda: [1.0, 2.001], [1.0, 2.0])])[0]["cases"] == ["work"]
    with pytest.raises(RuntimeError, match=r"work: its relative error is .*, at most 0.003 was expected"):
        timing.prepare(spec, NumPy(), [case_of(lambda: wrong, [1.0, 2.0])])


def test_one_wrong_element_of_many_is_noticed_on_the_cpu():
    right = np.ones(1_000_000)
    wrong = right.copy()
    wrong[5] = 1.01
    assert timing.relative_error([wrong], [right]) < 1e-4
    assert timing.relative_error([wrong], [right], each=True) == pytest.approx(0.01)


def test_sets_of_inputs_are_four_caches_together():
    assert timing.sets_of(1 << 20, 1 << 20) == 4
    assert timing.sets_of(1 << 30, 1 << 20) == 1
    assert timing.sets_of(100, 1 << 20) == timing.MOST_SETS


def test_precision_is_set_inside_only(gpu):
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with gpu.frameworks[OURS].precision("tf32"), gpu.frameworks["PyTorch"].precision("tf32"):
        assert mg.matmul_precision.current == "tf32"
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    assert mg.matmul_precision.current == "float32"
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_targets_of_kernels_are_the_lowest_share_of_each_group():
    def case(group, seconds):
        return {"group": group, "bytes": 1000, "seconds": {OURS: seconds} if seconds else {}, "errors": {}}

    cases = {
        "add": case("element-wise", [1.0]),
        "exp": case("element-wise", [2.0]),
        "softmax": case("other", [9.0]),
        "sgd": case("optimizer", None),
    }
    found = kernels.targets({"copying": 1000.0, "cases": cases})
    assert [(t["measured"], t["reached"]) for t in found] == [(50.0, False), (0.0, False)]
    assert "lowest (exp)" in found[0]["what"]


def test_without_a_gpu_the_comparison_says_why(monkeypatch):
    def none(name):
        raise RuntimeError("no NVIDIA driver was found")

    monkeypatch.setattr("minigrad.devices.get_device", none)
    with pytest.raises(SystemExit, match="no NVIDIA driver was found"):
        compare.main(["--device", "cuda"])


def test_pytorch_without_a_gpu_is_left_out():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("PyTorch has a GPU here")
    found, why = compare.pytorch()
    assert found is None
    assert "finds no GPU" in why


@pytest.fixture
def real():
    from minigrad.devices import get_device

    sides, _ = compare.sides_of(get_device("cuda"), {})
    return sides


@pytest.mark.gpu
def test_a_product_is_timed_on_the_gpu(real, monkeypatch):
    monkeypatch.setitem(gemm.CASES["cuda"], "512 x 512 x 512", (512, 512, 512, False, False))
    result = gemm.compare(real, ["512 x 512 x 512"], rounds=2, seconds=1e-3)
    assert not result["failed"]
    assert len(result["rates"]["512 x 512 x 512"]) == 2 * len(real[0].frameworks)
    assert machine.gpu_cache(real[0].frameworks[OURS].home) > 0


@pytest.mark.gpu
def test_pytorch_in_a_cuda_graph_trains_the_same_mlp(real):
    if "PyTorch" not in real[0].frameworks:
        pytest.skip("PyTorch takes no part")
    result = step.compare(real[0], True, rounds=2, steps=3, names=(step.CAPTURED, "PyTorch CUDA graph"))
    assert not result["failed"]
    assert inception.ON_GPU.batch == 250
