"""The comparison on the GPU, on a simulated one: that every contender computes what it should, and what is made of the times.

PyTorch works on the CPU here. Products and convolutions of the simulated GPU are NumPy's, since what is under test is the
comparison; the kernels have tests of their own.
"""

import json
import types

import numpy as np
import pytest

import minigrad as mg
from benchmarks import compare
from benchmarks.comparison import (
    contenders,
    gpu,
    gpu_conv,
    gpu_gemm,
    gpu_inception,
    gpu_kernel_cases,
    gpu_kernels,
    gpu_limits,
    gpu_sides,
    gpu_step,
    gpu_timing,
    gpu_training,
    gpu_where,
    inception_networks,
    operations,
)
from benchmarks.comparison.gpu_sides import OURS, THEIRS, Case, Ours, Theirs, Work
from minigrad.kernels import reference
from minigrad.models import inception as model

SHORT = {"rounds": 2, "seconds": 1e-6}


@pytest.fixture
def ours(monkeypatch):
    """minigrad on a simulated GPU, its matrix products by NumPy."""
    pytest.importorskip("greenlet", reason="the simulator needs it")
    try:
        from minigrad.devices.cuda import CudaDevice
    except ImportError as error:
        pytest.skip(str(error))
    from minigrad import devices as device
    from minigrad.kernels import cuda
    from minigrad.kernels.cuda.tools import launch
    from minigrad.kernels.cuda.tools.driver import SimulatedDriver

    for name in ("driver", "stream", "empty", "tables", "matmul_precision"):
        monkeypatch.setattr(launch.context, name, getattr(launch.context, name))
    launch.context.tables = {}
    simulated = CudaDevice(SimulatedDriver(memory=1 << 26))
    monkeypatch.setitem(device.DEVICES, "cuda", simulated)
    for family in ("gemm", "conv"):
        monkeypatch.setitem(vars(cuda), family, by_numpy(getattr(reference, family), simulated.driver))
    return Ours(simulated)


def by_numpy(family, driver):
    """The reference kernels on the memory of the simulated GPU."""

    def host(argument):
        if not hasattr(argument, "pointer"):
            return argument
        memory = driver.memory_at(argument.pointer, argument.dtype) if argument.size else np.empty(0, argument.dtype)
        return memory[: argument.size].reshape(argument.shape)

    def launched(function):
        return lambda *arguments: driver.do(lambda: function(*map(host, arguments)))

    public = {name: value for name, value in vars(family).items() if callable(value) and not name.startswith("_")}
    return types.SimpleNamespace(**{name: launched(function) for name, function in public.items()})


@pytest.fixture
def theirs():
    """PyTorch, on the CPU."""
    pytest.importorskip("torch")
    return Theirs("cpu")


SMALL_CASES = {
    "elements": 300,
    "batch": 2,
    "rows": 5,
    "classes": 7,
    "layers": ((2, 8),),
    "pools": ((3, 4, 1), (4, 4, 2)),
}
PARAMETERS = [(3, 4), (5,)]


def made():
    return gpu_kernel_cases.cases(PARAMETERS, 0, **SMALL_CASES)


@pytest.mark.parametrize("index", range(len(list(made()))))
def test_kernels_of_both_sides_compute_what_is_expected(index, ours, theirs):
    _, make = list(made())[index]
    case = make()
    for side in (ours, theirs):
        work = case.builders[side.name](side)
        assert gpu_timing.relative_error(work.results(work.call()), case.expected) < 1e-6, side.name


def test_kernels_are_timed_as_graphs(ours):
    result = gpu_kernels.compare([ours], 0, 1e12, made=list(made())[:2], **SHORT)
    assert not gpu_timing.failures(result)
    assert {name: len(case["seconds"][OURS]) for name, case in result["cases"].items()} == {"add": 2, "relu": 2}
    assert result["cases"]["add"]["bytes"] == 3 * 4 * 300
    assert "relu" in gpu_kernels.report(result)


def test_the_shapes_of_all_parameters_are_those_of_the_inception():
    assert sum(np.prod(shape) for shape in gpu_kernels.parameter_shapes()) == 5_827_034


def test_limits_are_unknown_without_pytorch(ours, theirs):
    alone = gpu_limits.compare([ours], 0, copied=300, length=8, **SHORT)
    assert gpu_limits.rate(alone, "float32") is None
    assert gpu_limits.report(alone).count("unknown") == 2
    both = gpu_limits.compare([ours, theirs], 0, copied=300, length=8, **SHORT)
    assert gpu_limits.rate(both, "tf32") > 0
    assert gpu_limits.bandwidth(both) > 0


@pytest.mark.parametrize("shape", [(5, 7, 9, False, False), (5, 7, 9, True, False), (5, 7, 200, False, True)])
def test_products(shape, ours, theirs):
    result = gpu_gemm.compare([ours, theirs], 0, shapes={gpu_gemm.LARGE: shape}, **SHORT)
    assert not gpu_timing.failures(result)
    assert [t["target"] for t in gpu_gemm.targets(result)] == [0.6, 0.5]
    for precision in ("float32", "tf32"):
        case = result["precisions"][precision][gpu_gemm.LARGE]
        assert case["operations"] == 2 * np.prod(shape[:3])
        assert max(case["errors"].values()) < 1e-6


@pytest.mark.parametrize("shape", [(3, 5, 4, 9, 3), (3, 5, 4, 9, 1)], ids=["3x3", "1x1"])
def test_convolutions(shape, ours, theirs):
    result = gpu_conv.compare([ours, theirs], 0, shapes=(shape,), **SHORT)
    assert not gpu_timing.failures(result)
    assert len(gpu_conv.targets(result)) == 2
    for cases in result["precisions"].values():
        (case,) = cases.values()
        assert list(case["passes"]) == list(gpu_conv.PASSES)
        assert all(max(of_pass["errors"].values()) < 1e-6 for of_pass in case["passes"].values())
    assert gpu_conv.report(result).count("geometric mean") == 2


def test_convolutions_are_those_of_the_inception_at_batch_250():
    convolutions = [shape for _, shape in inception_networks.Network(1.0, 250, True).convolutions()]
    assert all(n == 250 and (size, size, c, k) in convolutions for n, c, _, k, size in gpu_conv.SHAPES)


def case_of(side, call, expected):
    """A case whose work is a function."""
    return Case(
        "work", 8, 1, [np.array(expected)], {side.name: lambda side: Work(call, lambda found: [np.array(found)])}
    )


def test_a_side_that_computes_something_else_is_told_and_not_timed(theirs, capsys):
    for wrong in ([1.0, 2.1], [1.0, np.nan], [1.0]):
        case = case_of(theirs, lambda wrong=wrong: wrong, [1.0, 2.0])
        found = gpu_timing.measured(case, [theirs], "tf32", tolerance=1e-3, cache=0, **SHORT)
        assert found["seconds"] == {}
        assert "at most 0.001 was expected" in found["failed"][0]
        assert gpu_timing.failures({"a": {"b": found}}) == found["failed"]
        assert gpu_timing.rates(found, 1.0)[0] == "FAILED"


def test_sets_of_inputs_are_four_caches_together():
    assert gpu_timing.sets_of(1 << 20, 1 << 20) == 4
    assert gpu_timing.sets_of(1 << 30, 1 << 20) == 1
    assert gpu_timing.sets_of(100, 1 << 20) == gpu_timing.MOST_SETS


def test_precision_is_set_inside_only(ours, theirs):
    import torch

    import minigrad as mg

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for side in (ours, theirs):
        with side.precision("tf32"):
            inside = mg.matmul_precision.current if side is ours else torch.backends.cuda.matmul.allow_tf32
            assert inside in ("tf32", True)
    assert mg.matmul_precision.current == "float32"
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


@pytest.fixture
def small_mlp(monkeypatch):
    monkeypatch.setattr(contenders, "WIDTHS", (6, 5, 5, 5, 4))
    monkeypatch.setattr(contenders, "BATCH", 5)
    monkeypatch.setattr(gpu_step, "CHECKED", 2)
    monkeypatch.setattr(gpu_training, "WARM", 1)


RUN_HERE = tuple(n for n in gpu_step.CONTENDERS if n != gpu_step.COMPILED and "CUDA graph" not in n)


def test_all_contenders_train_the_same_mlp(ours, theirs, small_mlp, monkeypatch):
    monkeypatch.setattr(gpu_training, "WARM", 7)  # the captured steps become graphs
    result = gpu_step.compare([ours, theirs], True, rounds=1, steps=2, names=RUN_HERE)
    assert not gpu_timing.failures(result)
    assert list(result["samples"]) == list(RUN_HERE)
    (reached,) = gpu_step.targets(result)
    assert reached["target"] == 3.0
    assert "minigrad eager" in gpu_step.report(result)


def test_another_network_is_told(ours, small_mlp, monkeypatch, capsys):
    monkeypatch.setattr(contenders, "numpy_by_hand", lambda p, dtype: other(contenders.minigrad_eager(p)))
    result = gpu_step.compare([ours], False, rounds=1, steps=1, names=("minigrad eager",))
    assert "does not compute the same" in gpu_timing.failures(result)[0]
    assert "Training step" in gpu_step.report(result)


def other(contender):
    return contender._replace(loss=lambda loss: loss.item() + 1)


@pytest.fixture
def small_inception(monkeypatch):
    few = {"5b": inception_networks.MODULES["5b"]}
    monkeypatch.setattr(inception_networks, "MODULES", few)
    monkeypatch.setattr(model, "MODULES", few)
    monkeypatch.setattr(gpu_training, "WARM", 1)
    return inception_networks.Network(0.05, 3, True, side=2)


def test_all_contenders_train_the_same_inception(ours, theirs, small_inception, monkeypatch):
    monkeypatch.setattr(gpu_training, "WARM", 7)
    rows = gpu_inception.ROWS[:2]
    result = gpu_inception.compare([ours, theirs], rounds=1, steps=1, network=small_inception, rows=rows)
    assert not gpu_timing.failures(result)
    assert [name for name, _ in rows] == [name.removesuffix(", tf32") for name in result["samples"]]
    assert "images/s" in gpu_inception.report(result)


def test_launches_of_the_step_are_counted_as_on_the_cpu(ours, small_inception):
    limits = {precision: {"operations": 1e9, "bytes": 1e9} for precision in ("float32", "tf32")}
    result = gpu_where.compare([ours], limits, rounds=1, network=small_inception)
    rows = result["precisions"]["tf32"]["kernels"]
    products = 3 * (2 * 2)  # pixels of the images
    expected = 3 * 2 * products * sum(np.prod(shape) for _, shape in small_inception.convolutions())
    first = sum(c for name, (_, _, _, c) in small_inception.convolutions() if "reduce" in name or "1x1" in name)
    of_images = 2 * products * 3 * first  # the images themselves want no gradient, those of the pool neither
    of_images += 2 * products * 3 * 8
    dense = 3 * 2 * 3 * small_inception.last_channels() * 10
    assert sum(row["operations"] or 0 for row in rows) == expected - of_images + dense
    assert "conv.conv_backward_w" in gpu_where.report(result)


def test_product_that_adds_to_a_gradient_is_counted_as_on_the_cpu(ours):
    x = mg.tensor(np.ones((24, 10), np.float32), device="cuda", requires_grad=True)
    weights = [mg.tensor(np.ones((10, 3), np.float32), device="cuda") for _ in range(2)]

    @mg.capture(device="cuda")
    def step(dy):
        x.grad = None
        h = x * 1.0
        (mg.linear(h, weights[0]) + mg.linear(h, weights[1])).backward(dy)

    step(np.ones((24, 3), np.float32))
    (added,) = [launch for launch in step.plan.launches if launch.kernel == "gemm.gemm_add"]
    assert operations.operations(added, on_gpu=True) == 2 * 24 * 10 * 3
    assert operations.bytes_moved(added) == 4 * (24 * 3 + 10 * 3 + 2 * 24 * 10)


def inception_result(ours, theirs):
    samples = {"minigrad captured, tf32": [ours], "PyTorch channels_last, tf32": [theirs]}
    contenders = {name: {"differences": {"changes": 0.1}} for name in samples}
    return {**gpu_inception.NETWORK._asdict(), "samples": samples, "contenders": contenders, "left_out": {}}


def test_thirty_epochs_are_six_thousand_steps():
    result = inception_result(0.05, 0.04)
    speed, whole = gpu_inception.targets(result)
    assert (speed["measured"], speed["target"], speed["reached"]) == (pytest.approx(0.8), 0.7, True)
    assert (whole["measured"], whole["reached"]) == (pytest.approx(30 * 200 * 0.05 / 60), True)
    assert gpu_inception.report(result).splitlines()[3].split()[-5:] == ["0%", "5000", "5.0", "0.80", "0.10"]


def test_targets_of_kernels_are_the_lowest_share_of_each_group():
    def case(group, seconds):
        return {"group": group, "bytes": 1000, "seconds": {OURS: seconds}, "errors": {}, "failed": []}

    cases = {
        "add": case("element-wise", [1.0]),
        "exp": case("element-wise", [2.0]),
        "softmax": case("other", [9.0]),
        "sgd": {**case("optimizer", [1.0]), "seconds": {}},
    }
    found = gpu_kernels.targets({"copying": 1000.0, "cases": cases})
    assert [(t["measured"], t["reached"]) for t in found] == [(50.0, False), (0.0, False)]
    assert "lowest (exp)" in found[0]["what"]


def test_a_section_that_fails_does_not_end_the_run(ours, theirs, monkeypatch, tmp_path, capsys):
    def broken(*given, **settings):
        raise RuntimeError("illegal address")

    limits = gpu_limits.compare([ours], 0, copied=300, length=8, **SHORT)
    monkeypatch.setattr(gpu_limits, "compare", lambda *given, **settings: limits)
    monkeypatch.setattr(gpu_gemm, "compare", broken)
    monkeypatch.setattr(compare, "gpu_here", lambda: ours.device)
    monkeypatch.setattr(gpu, "pytorch", lambda: (None, "not installed"))
    output = tmp_path / "found.json"
    with pytest.raises(SystemExit) as end:
        compare.main(["--device", "cuda", "--only", "limits,gemm", "--output", str(output)])
    assert "matrix products: RuntimeError: illegal address" in str(end.value)
    kept = json.loads(output.read_text())
    assert kept["limits"][0]["bytes"] == limits["bytes"]
    assert kept["machine"]["gpu"]["name"] == "simulator"
    assert "Left out: PyTorch (not installed)" in capsys.readouterr().out


def test_without_a_gpu_the_comparison_says_why(monkeypatch):
    def none(name):
        raise RuntimeError("no NVIDIA driver was found")

    monkeypatch.setattr(compare, "get_device", none)
    with pytest.raises(SystemExit, match="no NVIDIA driver was found"):
        compare.main(["--device", "cuda"])


def test_sections_belong_to_a_device(capsys):
    assert compare.arguments(["--device", "cuda"]).only == list(gpu.SECTIONS)
    assert compare.arguments([]).only == list(compare.SECTIONS["cpu"])
    with pytest.raises(SystemExit):
        compare.arguments(["--device", "cuda", "--only", "start"])
    assert "unknown section 'start'" in capsys.readouterr().err


def test_pytorch_without_a_gpu_is_left_out():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("PyTorch has a GPU here")
    side, why = gpu_sides.pytorch()
    assert side is None
    assert "finds no GPU" in why


@pytest.mark.gpu
def test_a_product_is_timed_on_the_gpu():
    from minigrad.devices import get_device

    device = get_device("cuda")
    sides = [Ours(device), *filter(None, [gpu_sides.pytorch()[0]])]
    shapes = {gpu_gemm.LARGE: (512, 512, 512, False, False)}
    result = gpu_gemm.compare(sides, gpu_sides.cache_bytes(device), shapes=shapes, rounds=2, seconds=1e-3)
    assert not gpu_timing.failures(result)
    assert {side.name for side in sides} == set(result["precisions"]["tf32"][gpu_gemm.LARGE]["seconds"])


@pytest.mark.gpu
def test_pytorch_in_a_cuda_graph_trains_the_same_mlp():
    from minigrad.devices import get_device

    side, why = gpu_sides.pytorch()
    if side is None:
        pytest.skip(why)
    names = (gpu_step.CAPTURED, f"{THEIRS} CUDA graph")
    result = gpu_step.compare([Ours(get_device("cuda")), side], True, rounds=2, steps=3, names=names)
    assert not gpu_timing.failures(result)
