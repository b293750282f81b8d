"""Formulas of single elements: straight-line code over arrays, an operation of NumPy's for each step; float32 in float64.

    evaluate    outputs = formula(inputs), inputs read through layouts (kernels/axes.py); kernels/expressions/ says what
                formulas are made of

Where IEEE arithmetic has an answer (1 / 0 is infinite, log -1 is NaN), that is the result. `minimum` and `maximum` are NaN
where one side is. x^p is NaN for x < 0 and a p that is not whole.
"""

import math

import numpy as np

from minigrad.kernels.axes import positions

OPERATIONS = {
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative},
    **{"abs": np.abs, "sign": np.sign, "sqrt": np.sqrt, "exp": np.exp, "expm1": np.expm1, "log": np.log},
    **{"log1p": np.log1p, "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "power": np.power},
    **{"minimum": np.minimum, "maximum": np.maximum, "where": np.where},
    **{"less": np.less, "less_equal": np.less_equal, "equal": np.equal, "not_equal": np.not_equal},
    **{"both": np.logical_and, "either": np.logical_or, "not": np.logical_not},
    "sigmoid": lambda x: np.where(x < 0, np.exp(-np.abs(x)), 1) / (1 + np.exp(-np.abs(x))),
    "erf": lambda x: np.frompyfunc(math.erf, 1, 1)(x).astype(np.float64),
}


def evaluate(formula, inputs, outputs, shape, strides):
    values = [_wide(x)[positions(shape, steps)] for x, steps in zip(inputs, strides, strict=True)]
    with np.errstate(all="ignore"):
        for operation, operands in formula.steps:
            if operation == "constant":
                values.append(np.float64(operands[0]))
            else:
                values.append(OPERATIONS[operation](*[values[i] for i in operands]))
        for y, i in zip(outputs, formula.outputs, strict=True):
            y[:] = values[i]


def _wide(x):
    """float32 in float64; integers, which formulas only choose among, and conditions as they are."""
    return x.astype(np.float64) if x.dtype == np.float32 else x
