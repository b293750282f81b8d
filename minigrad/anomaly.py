"""The search for the op that made a NaN, under `mg.detect_anomaly()`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.devices import is_array

if TYPE_CHECKING:
    from minigrad.tape import Op


class AnomalyError(RuntimeError):
    """An op produced a NaN under `detect_anomaly()`."""


def has_nan(array: np.ndarray) -> bool:
    """Whether a float array, of any device, holds a NaN."""
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


def search_results(op: "Op", inputs: Iterable[np.ndarray | None], ys: Iterable[np.ndarray]) -> None:
    """Raise AnomalyError if a forward made a NaN out of inputs without one."""
    if any(map(has_nan, ys)) and not any(has_nan(a) for a in inputs if a is not None):
        name = type(op).__name__
        raise AnomalyError(f"{name} made a NaN out of inputs without one; it was called at {op.line}")


class WriteSearch:
    """Watches a backward: raises RuntimeError where an op writes into a gradient it is given, or into what it saved."""

    def before(self, op: "Op", dys: tuple[Any, ...]) -> None:
        """Keep copies."""
        self.given = [(array, np.array(array)) for array in (*dys, *(op.saved or ())) if is_array(array)]

    def after(self, op: "Op", dys: tuple[Any, ...], results: tuple[Any, ...]) -> None:
        """Compare."""
        gradients = sum(map(is_array, dys))
        for i, (array, before) in enumerate(self.given):
            if not np.array_equal(np.asarray(array), before, equal_nan=before.dtype.kind == "f"):
                what = "a gradient it was given" if len(dys) > 1 else "the gradient it was given"
                what = what if i < gradients else f"saved array {i - gradients}"
                where = f"; the op was called at {op.line}" if op.line else ""
                raise RuntimeError(
                    f"the backward of {type(op).__name__} wrote into {what} (shape {before.shape}), which others may "
                    f"refer to; write into a copy{where}"
                )


class NanSearch:
    """Watches a backward: raises AnomalyError where an op makes a NaN of gradients and saved arrays without one."""

    def before(self, op: "Op", dys: tuple[Any, ...]) -> None:
        """Note whether other ops have left a NaN in the total that this op may add to."""
        self.is_spoiled = op.total is not None and has_nan(op.total)

    def after(self, op: "Op", dys: tuple[Any, ...], results: tuple[Any, ...]) -> None:
        """Search the gradients that the op has made."""
        given = [a for a in (*dys, *(op.saved or ())) if is_array(a)]
        for i, (source, dx) in enumerate(zip(op.sources or (), results, strict=True)):
            was_spoiled = self.is_spoiled and i == op.adds_to and op.total is None
            if was_spoiled or source is None or not is_array(dx):
                continue
            if has_nan(dx) and not any(map(has_nan, given)):
                where = f"; the op was called at {op.line}" if op.line else ""
                raise AnomalyError(
                    f"the backward of {type(op).__name__} made a NaN in the gradient of input {i}{where}"
                )
