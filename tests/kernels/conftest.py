import numpy as np
import pytest
from targets import CASES, target_named


@pytest.fixture(params=CASES)
def target(request, monkeypatch):
    """What a kernel runs on: the CPU, a simulated GPU, one that shuffles its threads, one that runs the kernels' PTX."""
    return target_named(request.param, monkeypatch)


@pytest.fixture(params=["float32", pytest.param("float64", marks=pytest.mark.wide)])
def dtype(request):
    return np.dtype(request.param)
