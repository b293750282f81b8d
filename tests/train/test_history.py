"""What a History shows of itself."""

import pytest

from minigrad.train import History

ROW = {"epoch": 1, "step": 40, "loss": 0.123456, "accuracy": 0.5, "lr": 0.1, "images_per_second": None, "seconds": 2.0}


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (History(), "<history of 0 epochs, 0 rows of steps>"),
        (History([ROW]), "<history of 1 epoch, 0 rows of steps; the last: loss 0.1235, accuracy 0.5>"),
        (History([], [ROW] * 2), "<history of 0 epochs, 2 rows of steps; the last: loss 0.1235, accuracy 0.5>"),
        (History(stopped="EarlyStop"), "<history of 0 epochs, 0 rows of steps; stopped: EarlyStop>"),
    ],
)
def test_shown_as_one_line(history, expected):
    assert repr(history) == expected


def test_printed_as_tables():
    validated = {**ROW, "epoch": 2, "step": 80, "validation_loss": 0.25, "images_per_second": 30591.4}
    text = str(History([ROW, validated], [ROW], "enough"))
    assert text.split("\n") == [
        "epochs",
        "epoch  step    loss  accuracy   lr  images/s  seconds  validation_loss",
        "    1    40  0.1235       0.5  0.1         -        2                -",
        "    2    80  0.1235       0.5  0.1    30,591        2             0.25",
        "",
        "steps",
        "epoch  step    loss  accuracy   lr  images/s  seconds",
        "    1    40  0.1235       0.5  0.1         -        2",
        "",
        "stopped: enough",
    ]
    assert str(History()) == repr(History())
