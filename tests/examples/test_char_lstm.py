"""The character-level LSTM: its readers go on where they ended, and a small one learns and writes."""

import re

import numpy as np
import pytest


@pytest.fixture
def example(scripts):
    import char_lstm

    return char_lstm


def test_readers_go_on_where_they_ended(example):
    text = np.arange(10_000)
    first, second = example.batches(text, 2)
    for numbers, following in (first, second):
        assert numbers.shape == (example.BATCH, example.STEPS)
        np.testing.assert_array_equal(following, numbers + 1)
    np.testing.assert_array_equal(second[0][:, 0], first[0][:, -1] + 1)


@pytest.mark.parametrize("beside_pytorch", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_small_one_learns_and_writes(example, capsys, beside_pytorch):
    if beside_pytorch:
        pytest.importorskip("torch")
    example.main(steps=25, units=16, learning_rate=0.01, characters=30, beside_pytorch=beside_pytorch)
    out = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"step +\d+: ([0-9.]+)", out)]
    assert losses[0] == pytest.approx(np.log(len(set("".join(example.topics.values())))), abs=0.1)
    assert losses[12] < losses[0] - 0.5
    assert ("PyTorch" in out) == beside_pytorch
