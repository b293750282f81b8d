"""Each section in short, on the CPU and on a simulated GPU: every contender computes what it should, and is timed.

All frameworks work in this process here, PyTorch on the CPU; test_sides.py has the contender's own process.
"""

import itertools

import numpy as np
import pytest

from benchmarks.sections import bfloat16, conv, gemm, inception, step, where
from benchmarks.tools import mlp, networks, training
from benchmarks.tools.frameworks import OURS, framework_of
from benchmarks.tools.sides import Campaign, Here
from minigrad.kernels.cpu.vector.target import HAS_BFLOAT16
from minigrad.models import inception as model

SHORT = {"rounds": 2, "seconds": 1e-6}


def here(sides, contenders):
    """Of the contenders those whose framework takes part."""
    return [name for name in contenders if framework_of(name) in sides[0].frameworks]


def takes_part(side, name):
    """Whether the contender's framework has products in the side's precision."""
    return side.precision in side.frameworks[framework_of(name)].precisions


@pytest.mark.parametrize("shape", [(5, 7, 9, False, False), (5, 7, 9, True, False), (5, 7, 200, False, True)])
def test_products(shape, sides, monkeypatch):
    device = sides[0].device
    monkeypatch.setitem(gemm.CASES, device, {gemm.LARGE[device]: shape})
    result = gemm.compare(sides, [gemm.LARGE[device]], **SHORT)
    assert not result["failed"]
    (rates,) = result["rates"].values()
    names = here(sides, gemm.CONTENDERS[device])
    assert list(rates) == [f"{n}, {s.precision}" for n in names for s in sides if takes_part(s, n)]
    assert all(len(samples) == 2 and samples[0] > 0 for samples in rates.values())
    assert result["operations"] == {gemm.LARGE[device]: 2 * np.prod(shape[:3])}
    (errors,) = result["errors"].values()
    rounded = [error for label, error in errors.items() if label.endswith(", bf16")]
    assert len(rounded) == (0 if device == "cpu" else len(names))
    assert all(1e-4 < error < 1e-2 for error in rounded)
    assert max(error for label, error in errors.items() if not label.endswith(", bf16")) < 1e-6
    assert gemm.report(result).count("Matrix products, ") == len(sides)
    if "PyTorch" in sides[0].frameworks:
        assert [t["target"] for t in gemm.targets(result)] == [0.6, 0.5][: len(sides)]


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not multiply bfloat16")
def test_products_and_convolutions_in_bfloat16(frameworks, monkeypatch):
    monkeypatch.setattr(bfloat16, "LAYERS", ((5, 7, 9),))
    monkeypatch.setattr(bfloat16, "SHAPES", ((2, 4, 6, 5, 3),))
    side = Here(frameworks, "float32")
    cases = bfloat16.cases_of(bfloat16.LAYERS, bfloat16.SHAPES)
    result = bfloat16.compare(side, cases, **SHORT)
    assert not result["failed"]
    assert len(cases) == len(result["seconds"]) == 4
    for of_case in result["errors"].values():
        rounded, exact = of_case[bfloat16.ROUNDED], of_case["minigrad"]
        assert exact < 1e-5 < 1e-4 < rounded
    assert "GFLOP/s" in bfloat16.report({**result, "threads": 1})


def test_the_micro_kernel_is_timed_beside_the_product_it_limits(frameworks, monkeypatch):
    monkeypatch.setattr(gemm, "DEPTHS", (64,))
    monkeypatch.setattr(gemm, "PEAK_CALLS", 10)
    (micro, count), minigrad = gemm.micro_kernel(), frameworks[OURS]
    assert count / minigrad.seconds(micro) > 1e8
    spec = {"contender": OURS, "device": "cpu", "cases": [gemm.PEAK]}
    answer, burst = gemm.prepare(spec, minigrad)
    assert answer["cases"] == [gemm.PEAK]
    assert gemm.UNIT / burst(gemm.PEAK, 1e-6)["seconds"] > 1e8
    assert gemm.prepare({**spec, "contender": "NumPy"}, frameworks["NumPy"])[0]["cases"] == []
    monkeypatch.setattr(gemm, "micro_kernel", lambda: (micro, count))
    limits = where.of_this_cpu(frameworks[OURS], 2, 1000)()
    assert limits["operations"] > 2e8
    assert limits["bytes"] > 1e6


def test_targets_of_products_are_shares_of_the_limit_and_of_one_thread():
    rates = {gemm.PEAK: {"minigrad, 1": [100.0]}, gemm.LARGE["cpu"]: {"minigrad, 1": [90.0], "minigrad, 2": [171.0]}}
    share, threads = gemm.targets({"device": "cpu", "threads": [1, 2], "rates": rates})
    assert (share["measured"], share["reached"]) == (pytest.approx(90), True)
    assert (threads["measured"], threads["reached"]) == (pytest.approx(1.9), True)


@pytest.mark.parametrize("shape", [(3, 5, 4, 9, 3), (3, 5, 4, 9, 1)], ids=["3x3", "1x1"])
def test_convolutions(shape, sides):
    device = sides[0].device
    for side in sides:
        result = conv.compare(side, (shape,), **SHORT)
        assert not result["failed"]
        (seconds,), (errors,) = result["seconds"].values(), result["errors"].values()
        assert list(seconds) == list(conv.PASSES[device])
        for of_pass in conv.PASSES[device]:
            names = [name for name in here(sides, conv.CONTENDERS[device]) if takes_part(side, name)]
            assert list(seconds[of_pass]) == names
            assert max(errors[of_pass].values()) < (1e-2 if side.precision == "bf16" else 1e-5)
        assert conv.report(result).count("geometric mean") == len(seconds)
        if "PyTorch" in side.frameworks:
            wanted = {"cpu": 4, "float32": 1, "tf32": 1}
            assert len(conv.targets(result)) == wanted.get("cpu" if device == "cpu" else side.precision, 0)


def test_convolutions_are_those_of_the_inception():
    convolutions = [shape for width in (0.25, 1.0) for _, shape in networks.Network(width, 1, True).convolutions()]
    assert all((size, size, c, k) in convolutions for _, c, _, k, size in (*conv.SHAPES, *conv.ALL["cuda"]))
    assert {shape[0] for shape in conv.ALL["cuda"]} == {inception.ON_GPU.batch}


@pytest.fixture
def small_mlp(monkeypatch):
    monkeypatch.setattr(mlp, "WIDTHS", (6, 5, 5, 5, 4))
    monkeypatch.setattr(mlp, "BATCH", 5)
    monkeypatch.setattr(step, "CHECKED", 2)
    monkeypatch.setattr(step, "SETTLE", 1)
    monkeypatch.setattr(step, "PREPARED", 4)
    monkeypatch.setattr(training, "WARM", 7)  # the captured steps become graphs


@pytest.mark.parametrize("batch_norm", [True, False])
def test_all_contenders_train_the_same_mlp(batch_norm, sides, small_mlp):
    device = sides[0].device
    names = [n for n in here(sides, step.CONTENDERS[device]) if "compile" not in n and "graph" not in n]
    result = step.compare(sides[0], batch_norm, rounds=1, steps=2, names=names)
    assert not result["failed"]
    assert list(result["samples"]) == names
    wanted = [both for both in step.WANTED[device] if batch_norm and {*both[:2]} <= {*names}]
    assert [t["target"] for t in step.targets(result)] == [limit for *_, limit in wanted]
    assert "minigrad eager" in step.report(result)


def test_another_mlp_is_told_and_not_timed(sides, small_mlp, monkeypatch):
    def other(parameters, device):
        return mlp.minigrad_eager(parameters, device)._replace(loss=lambda loss: loss.item() + 1)

    monkeypatch.setitem(mlp.CONTENDERS, "minigrad eager", other)
    result = step.compare(sides[0], False, rounds=1, steps=1, names=("minigrad eager",))
    assert "minigrad eager: RuntimeError: after 2 steps its loss difference" in result["failed"][0]
    assert not result["samples"]
    assert "Training step" in step.report(result)


@pytest.fixture
def small_inception(monkeypatch):
    few = {"5b": networks.MODULES["5b"]}
    monkeypatch.setattr(networks, "MODULES", few)
    monkeypatch.setattr(model, "MODULES", few)
    monkeypatch.setattr(training, "WARM", 7)
    return networks.Network(0.05, 3, True, side=2)


def rows_of(sides, network):
    """By label, as the section has them on this device."""
    if sides[0].device == "cuda":
        return inception.rows_on_gpu(sides, network, inception.ROWS_ON_GPU[:2])
    names = [n for n in here(sides, networks.CONTENDERS) if "compile" not in n]
    return {name: (sides[0], name, network) for name in names}


def test_all_contenders_train_the_same_inception(sides, small_inception, monkeypatch):
    for limits in inception.LIMITS.values():
        monkeypatch.setitem(limits, "changes", 1e-2)  # one module amplifies no rounding yet
    rows = rows_of(sides, small_inception)
    result = inception.compare(small_inception, rows, rounds=1, steps=1)
    assert not result["failed"]
    assert list(result["samples"]) == [label for label in rows if label not in result["left_out"]]
    assert "images/s" in inception.report(result)
    assert inception.targets(result) or sides[0].device == "cpu"


def test_another_inception_is_told_and_not_timed(sides, small_inception, monkeypatch):
    labels = list(rows_of(sides, small_inception))
    other = labels[0] if sides[0].device == "cuda" else "minigrad eager"
    name = framework_of(other) + other.removeprefix(framework_of(other)).partition(",")[0]
    make = networks.CONTENDERS[name]
    wrong = lambda network, arrays, device: make(network, {n: 2 * a for n, a in arrays.items()}, device)  # noqa: E731
    monkeypatch.setitem(networks.CONTENDERS, name, wrong)
    rows = {label: row for label, row in rows_of(sides, small_inception).items() if label in (labels[0], other)}
    result = inception.compare(small_inception, rows, rounds=1, steps=1)
    assert f"{other}: it does not compute the same: its first loss differ" in result["failed"][0]
    assert other not in result["samples"]


def test_launches_of_the_step_are_counted_alike_on_every_device(sides, small_inception):
    limits = {"operations": 1e9, "bytes": 1e9}
    result = where.compare(sides[0], small_inception, rounds=1, limits=limits)
    assert result["limits"] == limits
    products = 3 * (2 * 2)  # pixels of the images
    expected = 3 * 2 * products * sum(np.prod(shape) for _, shape in small_inception.convolutions())
    first = sum(c for name, (_, _, _, c) in small_inception.convolutions() if "reduce" in name or "1x1" in name)
    of_images = 2 * products * 3 * first  # the images themselves want no gradient, those of the pool neither
    of_images += 2 * products * 3 * 8
    dense = 3 * 2 * 3 * small_inception.last_channels() * 10
    assert sum(row["operations"] or 0 for row in result["kernels"]) == expected - of_images + dense
    assert "conv.conv_backward_w" in where.report(result)


def test_every_section_plans_something_on_its_device(sides):
    limits = {"bytes": 8, "copy": {OURS: [1.0]}, "operations": 16, "products": {"float32": [1.0], "tf32": [1.0]}}
    for quick, section in itertools.product((True, False), (gemm, conv)):
        assert all(callable(measure) for _, measure in section.plan(Campaign(sides, quick, {})))
    if sides[0].device == "cuda":
        run = Campaign(sides, True, {"limits": [limits]})
        assert len(list(where.plan(run))) == 2
        assert len(list(conv.plan(run))) == 4  # one for each precision
        assert len(list(step.plan(run))) == 2
        assert [what for what, _ in inception.plan(run)] == ["training step of Inception, width 1, batch 250, with BN"]
        assert list(where.plan(run._replace(results={}))) == []
