"""The table of where a step's time goes: what the limits make of recorded launches."""

import numpy as np
import pytest

from benchmarks.sections import where
from minigrad.capture.launches import Launch


def launch(op, kernel, given, times):
    return Launch(op, kernel, given, None, (), "", 0, times)


def test_summary_adds_the_launches_of_a_kernel_and_compares_them_with_the_longer_limit():
    a, b, c = (np.zeros(shape, np.float32) for shape in ((10, 20), (20, 5), (10, 5)))
    product = a, b, np.zeros(0, np.float32), c, False, False  # 2,000 operations, 1,400 bytes
    slow = (*product[:1], np.zeros((20, 500), np.float32), *product[2:])  # 41,000 bytes
    images = np.zeros((10, 10), np.float32)
    found = where.summary(
        [
            launch("Linear", "gemm.gemm", product, [4.0, 2.0, 3.0]),
            launch("Linear", "gemm.gemm", slow, [5.0]),
            launch("Linear backward", "gemm.gemm", product, [1.0]),
            launch("ReLU", "elementwise.relu_forward", (images, images), [10.0]),
        ],
        {"operations": 1000.0, "bytes": 1000.0},
    )
    assert [(row["kernel"], row["op"], row["launches"], row["seconds"]) for row in found] == [
        ("elementwise.relu_forward", "ReLU", 1, 10.0),
        ("gemm.gemm", "Linear", 2, 8.0),
        ("gemm.gemm", "Linear backward", 1, 1.0),
    ]
    assert [row["operations"] for row in found] == [None, 4000, 2000]
    assert [row["bytes"] for row in found] == [800, 1400 + 41000, 1400]
    assert [row["least"] for row in found] == [pytest.approx(0.8), pytest.approx(2 + 41), pytest.approx(2)]


def test_report_shows_rates_shares_and_the_fraction_of_the_limit():
    row = {"kernel": "gemm.gemm", "op": "Conv2d", "launches": 3, "seconds": 0.003, "bytes": 6_000_000}
    rows = [
        {**row, "operations": 900_000_000, "least": 0.0015},
        {**row, "kernel": "norm.fused", "op": "BatchNorm", "operations": None, "seconds": 0.001, "least": 0.0005},
    ]
    network = {"width": 0.25, "batch": 32, "batch_norm": True, "side": 32}
    limits = {"operations": 600e9, "bytes": 30e9}
    text = where.report({**network, "threads": 2, "kernels": rows, "limits": limits, "step": 0.0041})
    lines = [line.split() for line in text.splitlines()]
    assert lines[3] == ["gemm.gemm", "Conv2d", "3", "3.00", "75.0%", "300", "2.0", "50%"]
    assert lines[4] == ["norm.fused", "BatchNorm", "3", "1.00", "25.0%", "6.0", "50%"]
    assert "The step takes 4.1 ms, its launches 4.0 ms, their limits 2.0 ms" in text
    assert "0.9 GFLOP alone would take 1.5 ms: 21333 images/s" in text
