import numpy as np
import pytest


@pytest.fixture
def rng():
    """Random numbers, the same in every test."""
    return np.random.default_rng(2015)


@pytest.fixture(scope="session", params=["cpu", "reference"])
def device(request):
    """The devices at hand; of the session, so that hypothesis may use it."""
    return request.param
