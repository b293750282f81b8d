"""The character-level transformer: what it reads comes before what it is asked for, and a tiny one learns."""

import re

import numpy as np
import pytest

import minigrad as mg


@pytest.fixture
def example(scripts):
    import char_transformer

    return char_transformer


def test_a_character_is_told_by_those_before_it_alone(example, rng):
    model = example.Transformer(7, 6, 1, 8, 2)
    x = rng.integers(0, 7, (1, 6))
    before = model(mg.tensor(x)).numpy()
    x[0, 4] = (x[0, 4] + 1) % 7
    after = model(mg.tensor(x)).numpy()
    np.testing.assert_array_equal(after[0, :4], before[0, :4])
    assert (after[0, 4:] != before[0, 4:]).any(axis=1).all()


def test_batches_ask_for_the_next_character(example):
    x, y = next(example.batches(np.arange(100), 5, 3, 0))
    assert x.shape == y.shape == (3, 5)
    np.testing.assert_array_equal(y, x + 1)


def test_a_tiny_one_learns_and_writes(example, capsys):
    example.main(blocks=1, features=16, heads=2, context=16, batch=8, steps=40, rate=3e-3, seed=1, quick=True)
    out = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"loss ([0-9.]+)", out)]
    assert losses[-1] < losses[0] - 0.5
    assert out.split("\n\n", 1)[1].startswith("The ")
