"""What each op of ONNX is here. A reader looks at a node of the file once; what it gives runs with the node's inputs."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.onnx import numbers
from minigrad.onnx.elementwise_runs import (
    arithmetic,
    cast,
    clip,
    elementwise,
    gelu,
    hard_sigmoid,
    of_numbers,
    power,
    prelu,
    scaled,
    selu,
    several,
    where,
)
from minigrad.onnx.index_runs import (
    gather,
    gather_elements,
    gather_nd,
    scatter_elements,
    scatter_nd,
    slice_,
    split,
)
from minigrad.onnx.layer_runs import (
    batch_norm,
    einsum,
    gemm,
    group_norm,
    instance_norm,
    layer_norm,
    local_response_norm,
    matmul,
)
from minigrad.onnx.movement_runs import (
    concat,
    expand,
    flatten,
    pad,
    reshape,
    squeeze,
    tile,
    transpose,
    triangle,
    unsqueeze,
)
from minigrad.onnx.number_runs import constant, constant_of_shape, counted, dropout, same, shape, size
from minigrad.onnx.recurrent_runs import recurrent
from minigrad.onnx.reduction_runs import along, cumsum, of_labels, place_of, reduction
from minigrad.onnx.source import Reader
from minigrad.onnx.window_runs import average_pool, conv, conv_transpose, max_pool, over_pixels, resize


def compared(function: Callable[..., Any], on_numbers: Callable[..., Any]) -> Reader:
    """A relation, which gives truth values."""
    return arithmetic(function, on_numbers, keeps=False)


READERS: dict[str, Reader] = {
    # of one input
    "Relu": elementwise(ops.relu, lambda x: np.maximum(x, 0)),
    "Sigmoid": elementwise(ops.sigmoid),
    "Tanh": elementwise(ops.tanh, np.tanh),
    "Exp": elementwise(ops.exp, np.exp),
    "Log": elementwise(ops.log, np.log),
    "Sqrt": elementwise(ops.sqrt, np.sqrt),
    "Neg": elementwise(lambda x: -x, np.negative),
    "Reciprocal": elementwise(lambda x: 1 / x, lambda x: 1 / x),
    "Abs": elementwise(ops.abs, np.abs),
    "Sign": elementwise(ops.sign, np.sign),
    "Erf": elementwise(ops.erf),
    "Sin": elementwise(ops.sin, np.sin),
    "Cos": elementwise(ops.cos, np.cos),
    "Tan": elementwise(ops.tan, np.tan),
    "Not": elementwise(ops.logical_not, np.logical_not),
    "IsNaN": elementwise(ops.isnan),
    "Softplus": elementwise(ops.softplus),
    "Softsign": elementwise(lambda x: x / (1 + ops.abs(x))),
    "Mish": elementwise(ops.mish),
    "HardSwish": elementwise(lambda x: x * ops.hard_sigmoid(x)),
    "Gelu": gelu,
    "LeakyRelu": scaled(ops.leaky_relu, 0.01),
    "Elu": scaled(ops.elu, 1.0),
    "Selu": selu,
    "HardSigmoid": hard_sigmoid,
    "Cast": cast,
    "Floor": of_numbers(np.floor),
    "Ceil": of_numbers(np.ceil),
    "Round": of_numbers(np.round),
    # of several, which are broadcast
    "Add": arithmetic(ops.add, np.add),
    "Sub": arithmetic(ops.sub, np.subtract),
    "Mul": arithmetic(ops.mul, np.multiply),
    "Div": arithmetic(ops.div, numbers.divided),
    "Mod": of_numbers(numbers.remainder),
    "Pow": power,
    "PRelu": prelu,
    "Sum": several(ops.add, np.add),
    "Min": several(ops.minimum, np.minimum),
    "Max": several(ops.maximum, np.maximum),
    "Where": where,
    "Clip": clip,
    "And": compared(ops.logical_and, np.logical_and),
    "Or": compared(ops.logical_or, np.logical_or),
    "Equal": compared(ops.equal, np.equal),
    "Less": compared(ops.less, np.less),
    "Greater": compared(ops.greater, np.greater),
    "LessOrEqual": compared(ops.less_equal, np.less_equal),
    "GreaterOrEqual": compared(ops.greater_equal, np.greater_equal),
    # windows, layers, products
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Resize": resize,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": over_pixels(ops.mean),
    "GlobalMaxPool": over_pixels(ops.max),
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LayerNormalization": layer_norm,
    "LRN": local_response_norm,
    "Gemm": gemm,
    "MatMul": matmul,
    "Einsum": einsum,
    "Dropout": dropout,
    "RNN": recurrent("RNN"),
    "LSTM": recurrent("LSTM"),
    "GRU": recurrent("GRU"),
    # over axes
    "Softmax": along(ops.softmax),
    "LogSoftmax": along(ops.log_softmax),
    "SoftmaxCrossEntropyLoss": of_labels(ops.cross_entropy),
    "NegativeLogLikelihoodLoss": of_labels(ops.nll_loss),
    "ReduceSum": reduction(ops.sum, np.sum, 13),
    "ReduceMean": reduction(ops.mean, np.mean, 18),
    "ReduceMax": reduction(ops.max, np.max, 18),
    "ReduceMin": reduction(ops.min, np.min, 18),
    "ReduceProd": reduction(ops.prod, np.prod, 18),
    "ReduceL1": reduction(lambda x, **how: ops.sum(ops.abs(x), **how), lambda x, **how: np.sum(np.abs(x), **how), 18),
    "ReduceL2": reduction(
        lambda x, **how: ops.sqrt(ops.sum(x * x, **how)), lambda x, **how: np.sqrt(np.sum(x * x, **how)), 18
    ),
    "ReduceSumSquare": reduction(lambda x, **how: ops.sum(x * x, **how), lambda x, **how: np.sum(x * x, **how), 18),
    "ReduceLogSumExp": reduction(ops.logsumexp, lambda x, **how: np.log(np.sum(np.exp(x), **how)), 18),
    "ArgMax": place_of(ops.argmax),
    "ArgMin": place_of(ops.argmin),
    "CumSum": cumsum,
    # elements elsewhere
    "Concat": concat,
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Expand": expand,
    "Tile": tile,
    "Pad": pad,
    "Trilu": triangle,
    "Slice": slice_,
    "Split": split,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    # numbers
    "Shape": shape,
    "Size": size,
    "Range": counted,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Identity": same,
}
