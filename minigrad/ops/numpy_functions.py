"""NumPy's functions on tensors: ours where there is one, on arrays where nothing is lost, else an error that names ours."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.modes import is_grad_enabled
from minigrad.ops import arithmetic, comparison, elementwise, gemm, table
from minigrad.ops.pointwise import Elementwise
from minigrad.tensor import FLOATS, Tensor

ONLY_LOOK = {
    *(
        "shape",
        "ndim",
        "size",
        "result_type",
        "shares_memory",
        "may_share_memory",
        "array_equal",
        "array_equiv",
        "allclose",
    ),
    *("isnan", "isinf", "isfinite", "signbit", "argmax", "argmin"),
    *("isclose", "save", "savez", "savez_compressed", "savetxt", "array2string", "array_repr", "array_str", "copyto"),
}
"""NumPy's functions that no gradient is expected to pass."""
NUMPY_TO_OURS = {
    **{name: f"mg.{name}" for name in ("mean", "max", "reshape", "sum", "transpose", "matmul")},
    **{name: f"mg.{name}" for name in ("exp", "log", "sqrt", "tanh", "power", "equal", "less", "greater")},
    **{"add": "mg.add", "subtract": "mg.sub", "multiply": "mg.mul", "divide": "mg.div", "clip": "mg.clip"},
    **{name: f"mg.{name}" for name in table.TABLE},
    "absolute": "mg.abs",
    **{"concatenate": "mg.concat", "amax": "mg.max", "dot": "mg.matmul"},
    **dict.fromkeys(("vstack", "hstack"), "mg.concat"),
    **{
        name: f"mg.{name}"
        for name in ("broadcast_to", "expand_dims", "flip", "moveaxis", "pad", "repeat", "roll", "split")
    },
    **{
        name: f"mg.{name}"
        for name in ("squeeze", "stack", "swapaxes", "take", "take_along_axis", "tile", "tril", "triu")
    },
    **{name: f"mg.{name}" for name in ("cumsum", "einsum", "min", "outer", "prod", "std", "var")},
    **{"amin": "mg.min", "ravel": "t.reshape(-1)", "norm": "mg.norm"},
}
UFUNCS: dict[np.ufunc, Callable[..., Tensor]] = {
    **{np.add: arithmetic.add, np.subtract: arithmetic.sub, np.multiply: arithmetic.mul, np.divide: arithmetic.div},
    **{np.matmul: gemm.matmul, np.power: table.pow, np.negative: operator.neg, np.positive: operator.pos},
    **{np.exp: elementwise.exp, np.log: elementwise.log, np.sqrt: elementwise.sqrt, np.tanh: elementwise.tanh},
    **{np.equal: comparison.equal, np.not_equal: comparison.not_equal},
    **{np.less: comparison.less, np.less_equal: comparison.less_equal},
    **{np.greater: comparison.greater, np.greater_equal: comparison.greater_equal},
}
"""What NumPy's ufuncs are on tensors; the operators of its arrays call them."""
OF_TABLE: dict[np.ufunc, Elementwise] = {
    **{vars(np)[name]: op for name, op in table.TABLE.items() if isinstance(vars(np).get(name), np.ufunc)},
    **{np.absolute: table.TABLE["abs"], np.invert: table.TABLE["logical_not"]},
    **{np.bitwise_and: table.TABLE["logical_and"], np.bitwise_or: table.TABLE["logical_or"]},
}
"""What they are on tensors of a dtype that the op takes; others are seen as arrays, and so are all that are only looked at."""


def of_elements(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A ufunc, or a method of it: our op if there is one, else by arrays as other functions."""
    ours = UFUNCS.get(ufunc) if method == "__call__" and not options else None
    if ours is not None:
        return ours(*inputs)
    op = OF_TABLE.get(ufunc) if method == "__call__" and not options and ufunc.__name__ not in ONLY_LOOK else None
    if op is not None and all(takes(op, x) for x in inputs if isinstance(x, Tensor)):
        return op(*inputs)
    if any(isinstance(target, Tensor) for target in options.get("out", ())):
        raise TypeError(f"np.{ufunc.__name__} cannot write into a tensor, which the tape would not notice")

    def compute(*given: Any, **named: Any) -> Any:
        return operator.methodcaller(method, *given, **named)(ufunc)

    return on_arrays(compute, ufunc.__name__, inputs, options)


def takes(op: Elementwise, x: Tensor) -> bool:
    """Whether an op of the table takes a tensor of this dtype."""
    return x.dtype in FLOATS if op.traced.kinds[0] == "float" else x.dtype == np.bool_


def on_arrays(function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function of NumPy's on the arrays of tensors; TypeError for what requires a gradient, which it would lose."""
    off_tape: list[str] = []

    def as_arrays(value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.requires_grad and is_grad_enabled() and name not in ONLY_LOOK:
                off_tape.append(f"{value.dtype}{list(value.shape)}")
            return np.asarray(value)
        if type(value) in (list, tuple):
            return type(value)(map(as_arrays, value))
        return {key: as_arrays(item) for key, item in value.items()} if type(value) is dict else value

    given, named = as_arrays(args), as_arrays(kwargs)
    if off_tape:
        ours = NUMPY_TO_OURS.get(name)
        instead = f"use {ours}, which is on the tape" if ours else "minigrad has no such op"
        raise TypeError(
            f"np.{name} would take a tensor {off_tape[0]} that requires a gradient off the tape: {instead}; "
            "or, where no gradient is meant to pass, give it t.detach()"
        )
    return function(*given, **named)
