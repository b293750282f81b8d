"""Checks of plain arguments: numbers in a range, better and worse. The errors say what came and what was expected."""

import math
import operator

import numpy as np

MOST = 2**31 - 1  # what kernels count up to along an axis


def integer(name: str, value: object, low: int = 1, high: int | None = None) -> int:
    """The value as an int from `low` to `high`; TypeError for what is no integer, as a bool is none, else ValueError."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        found = operator.index(value)  # type: ignore[arg-type]  # whether it can is what is asked
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if found < low or (high is not None and found > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {bounds}, not {found}")
    return found


def number(name: str, value: float, below: float) -> float:
    """The value as a float from 0 to below a bound; TypeError for what is no number, else ValueError."""
    refuse_other_than_numbers(name, value)
    try:
        found = float(value)
    except OverflowError:  # an integer larger than any float
        found = math.inf
    if not 0 <= found < below:
        raise ValueError(f"{name} must be from 0 to below {below}, not {value!r}")
    return found


def share(name: str, value: float) -> float:
    """The value as a float from 0 to 1, both included; TypeError for what is no number, else ValueError."""
    refuse_other_than_numbers(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {value!r}")
    return float(value)


def refuse_other_than_numbers(name: str, value: object) -> None:
    """TypeError for what is no number, as a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, not {value!r}")


def sign_of(monitor: str, mode: str | None) -> int:
    """1 if more of a metric is better, -1 if less is; by `mode` ("max" or "min"), or by its name: accuracies shall be large."""
    if mode is None:
        mode = "max" if monitor.endswith(("accuracy", "acc")) else "min"
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', not {mode!r}")
    return 1 if mode == "max" else -1
