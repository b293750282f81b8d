import pytest
from ranks import run

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def found():
    return run(2, "parts.py", timeout=120)


def test_gradients_of_other_parameters_are_told(found):
    assert all("gradients" in rank["told"] for rank in found)


def test_validation_by_the_training_loader_sees_every_sample(found):
    for rank in found:
        came, expected = rank["validation"]
        assert came == pytest.approx(expected, rel=1e-6)


def test_samples_of_which_there_is_no_average_are_told(found):
    for rank in found:
        negative, unknown, none = rank["samples"]
        assert "samples must be from 0 to below inf, not -1.0" in negative
        assert "not nan" in unknown
        assert "an average over all processes needs samples, and their numbers add up to 0.0" in none


def test_an_estimator_goes_back_to_its_best_epoch_in_all_processes(found):
    assert found[0]["early_stopped"] == found[1]["early_stopped"]
