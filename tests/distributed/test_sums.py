import pytest
from ranks import run


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def found(request):
    return run(request.param, "sums.py", timeout=240)


def test_averages_are_exact_to_their_rounding(found):
    """The weighted numbers are rounded, their sum, and the quotient: half a unit each, and the weights are exact."""
    for rank in found:
        for size, average in rank["averages"].items():
            more = len(found) / 2 if size.startswith("float64") else 0  # sums of float32 are exact, nearly
            assert average["error"] <= 1.5 + more, size


def test_all_ranks_have_the_same_bits(found):
    first = found[0]
    for rank in found[1:]:
        assert rank["averages"].keys() == first["averages"].keys()
        for size in first["averages"]:
            assert rank["averages"][size]["bits"] == first["averages"][size]["bits"], size
        for name in ("statistics", "statistics of a large mean"):
            assert rank[name]["bits"] == first[name]["bits"]
        for name in ("bits", "bits, plain batch norm", "bits, uneven"):
            assert rank[name] == first[name], name


def test_short_and_long_sums_are_the_same(found):
    assert all(rank["short_and_long_agree"] for rank in found)


@pytest.mark.parametrize("case", ["statistics", "statistics of a large mean"])
def test_statistics_of_uneven_parts_are_those_of_the_whole(found, case):
    for rank in found:
        assert rank[case]["mean"] < 1e-8  # in deviations; of 1e6 and 0.1, a float64 mean has an error of 1e-9 of these
        assert max(rank[case]["var"], rank[case]["unbiased"]) < 1e-8


def test_a_captured_step_has_the_bits_of_the_eager_one(found):
    assert all(rank["bits"] == rank["bits, eager"] for rank in found)


@pytest.mark.parametrize("case", ["distance", "distance, uneven", "distance, reference", "distance in evaluation"])
def test_ranks_with_parts_of_a_batch_are_as_one_with_all_of_it(found, case):
    for rank in found:
        assert rank[case] < 2e-5, case  # of numbers about 1, after twenty steps of SGD in float32


def test_without_synchronized_statistics_they_are_not(found):
    """So the test before this one can fail."""
    assert all(rank["distance, plain batch norm"] > 1e-3 for rank in found)
