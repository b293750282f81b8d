"""What an optimizer is given: parameters, in groups or not, and hyperparameters, each in its range."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minigrad.tensor import FLOATS, Tensor

Params = Iterable[Tensor] | Iterable[Mapping[str, Any]]
"""Parameters, or as in PyTorch groups of them: dicts of "params" and of the settings that are the group's own."""

FLAGS = ("nesterov", "centered")  # hyperparameters that are True or False
BELOW_ONE = ("momentum", "alpha", "ema", "betas[0]", "betas[1]")


def checked(name: str, value: float) -> float:
    """A hyperparameter as a float in its range."""
    name = {"beta1": "betas[0]", "beta2": "betas[1]"}.get(name, name)  # as users know them
    below_one = name in BELOW_ONE
    try:
        number = float(value)
    except OverflowError:  # an integer larger than any float
        number = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, not {value!r}") from None
    if not 0 <= number < (1 if below_one else math.inf):
        raise ValueError(f"{name} must be at least 0 and {'below 1' if below_one else 'finite'}, not {value!r}")
    if name in FLAGS and number not in (0, 1):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return number


def out_of_range(name: str, value: float) -> str:
    """Why a number is no such hyperparameter; empty if it is one."""
    try:
        checked(name, value)
    except ValueError as error:
        return str(error)
    return ""


def pair_of(name: str, values: object) -> tuple[float, float]:
    """The two, unless something else came."""
    if not isinstance(values, Sequence) or len(values) != 2:
        raise TypeError(f"{name} must be two numbers, such as (0.9, 0.999), not {values!r}")
    return values[0], values[1]


def groups_of(params: Params) -> list[tuple[list[Tensor], dict[str, object]]]:
    """(parameters, settings of its own) of each group; TypeError for what is neither parameters nor groups."""
    if isinstance(params, Tensor):
        raise TypeError("params must be a list of tensors, not one tensor: [p]")
    if isinstance(params, Mapping):
        raise TypeError('params must be a list of groups, not one: [{"params": ..., "lr": ...}]')
    given: list[Any] = list(params)
    if not given:
        raise ValueError("the optimizer got no parameters")
    if not any(isinstance(entry, Mapping) for entry in given):
        return [(given, {})]
    groups = []
    for i, entry in enumerate(given):
        if not isinstance(entry, Mapping):
            raise TypeError(f"params must be all tensors or all groups; entry {i} is a {type(entry).__name__}")
        if "params" not in entry:
            raise ValueError(f'group {i} has no "params"; it has {", ".join(map(repr, entry)) or "nothing"}')
        own = [entry["params"]] if isinstance(entry["params"], Tensor) else list(entry["params"])
        if not own:
            raise ValueError(f"group {i} has no parameters")
        groups.append((own, {name: value for name, value in entry.items() if name != "params"}))
    return groups


def check_params(params: list[Tensor]) -> None:
    """Raise unless these are leaves of float32 or float64, each once, on one device."""
    for i, p in enumerate(params):
        if not isinstance(p, Tensor) or p.dtype not in FLOATS:
            what = p.dtype if isinstance(p, Tensor) else type(p).__name__
            raise TypeError(f"parameter {i} must be a float32 or float64 Tensor, not {what}")
        if p._op is not None:
            raise ValueError(
                f"parameter {i} (shape {p.shape}) is the result of an op, not a leaf; it cannot be trained"
            )
        if not p._data.flags.writeable:
            raise ValueError(
                f"parameter {i} (shape {p.shape}) is read-only, as another library lent it; pass its copy()"
            )
    if len({id(p) for p in params}) != len(params):
        raise ValueError("a parameter is given twice")
    if len({p.device for p in params}) > 1:
        raise ValueError("the parameters are on different devices; use one optimizer for each device")
