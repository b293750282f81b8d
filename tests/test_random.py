import numpy as np
import pytest

import minigrad as mg
from minigrad import random


def test_streams_are_numpys_philox_keyed_by_seed_and_number():
    mg.manual_seed(42)
    for number in range(3):
        expected = np.random.Generator(np.random.Philox(key=np.array([42, number], np.uint64)))
        np.testing.assert_array_equal(random.stream().standard_normal(5), expected.standard_normal(5))


def test_a_dropout_counter_starts_at_zero_with_a_seed_of_its_own():
    mg.manual_seed(0)
    first, second = random.counter_state(), random.counter_state()
    assert first.dtype == np.uint64
    assert first[1] == second[1] == 0
    assert first[0] != second[0]


@pytest.mark.parametrize("seed", [0, 2**64 - 1, -1, 2**70 + 3, np.int32(5), np.uint64(2**63)])
def test_any_integer_is_a_seed(seed):
    mg.manual_seed(seed)
    first = random.stream().integers(1 << 60)
    mg.manual_seed(int(seed))
    assert random.stream().integers(1 << 60) == first


@pytest.mark.parametrize("seed", [1.0, "1", None, True])
def test_what_is_no_integer_is_refused(seed):
    with pytest.raises(TypeError, match="the seed must be an integer"):
        mg.manual_seed(seed)
