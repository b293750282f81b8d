"""What each op of minigrad is in ONNX."""

from minigrad.onnx.elementwise_nodes import binary, comparison, convert, elementwise, power
from minigrad.onnx.formulas import write_formula
from minigrad.onnx.index_nodes import slice_, take, take_along
from minigrad.onnx.layer_nodes import (
    attention,
    batch_norm,
    embedding,
    layer_norm,
    linear,
    matmul,
    rms_norm,
    self_attention,
)
from minigrad.onnx.movement_nodes import broadcast_to, concat, flip, pad, reshape, split, transpose
from minigrad.onnx.operands import Rule, side_by_side
from minigrad.onnx.plan import Node
from minigrad.onnx.recurrent_nodes import recurrent, rows
from minigrad.onnx.reduction_nodes import (
    along_last,
    cross_entropy,
    cumsum,
    label_weights,
    maximum,
    negative_log_likelihood,
    summed,
)
from minigrad.onnx.scatter_nodes import put, scatter
from minigrad.onnx.window_nodes import conv, conv_transpose, local_response_norm, pool, resample
from minigrad.onnx.writer import Writer


def write(writer: Writer, node: Node) -> None:
    """Add to the graph what a node of the plan computes; ValueError for an op that ONNX has not."""
    writer.node = node
    if node.formula is None and node.kind not in RULES:
        reason = OTHERS.get(node.kind, "ONNX has no op for it")
        raise ValueError(f"{node.place} cannot be exported: {reason}")
    empty = [y.shape_of(0) for y in node.results if any(0 in length for length in y.shape)]
    if empty:
        raise ValueError(f"{node.place} cannot be exported: its result has no elements, shape {empty[0]}")
    if node.formula is not None:
        write_formula(writer, node, node.formula, *side_by_side(writer, node))
    else:
        RULES[node.kind](writer, node)


OTHERS = {
    "Dropout": "in training it draws random numbers; a model is exported in evaluation mode, so pass training=self.training",
    "BatchNorm": "it normalizes by the batch's own statistics, in training; pass training=self.training",
    "SyncBatchNorm": "it normalizes by the statistics of all ranks, in training; pass training=self.training",
    "SyncBranchConcat": "it normalizes by the statistics of all ranks, in training; pass training=self.training",
    "Face": "it is a gradient on the tape; export the model's result, not its derivatives",
    "BranchConcat": "it normalizes by the batch's own statistics, in training; use mg.concat",
}
"""Ops that are not exported, and why."""
RULES: dict[str, Rule] = {
    **{"Exp": elementwise("Exp"), "Log": elementwise("Log"), "Sqrt": elementwise("Sqrt"), "Tanh": elementwise("Tanh")},
    **{"Sigmoid": elementwise("Sigmoid"), "ReLU": elementwise("Relu"), "Power": power, "Convert": convert},
    **{
        "Add": binary("Add"),
        "Sub": binary("Sub"),
        "Mul": binary("Mul"),
        "Div": binary("Div"),
        "Comparison": comparison,
    },
    **{"Linear": linear, "MatMul": matmul, "BatchedMatMul": matmul, "Conv2d": conv},
    **{"DepthwiseConv2d": conv, "GroupedConv2d": conv, "Resample": resample},
    **{"ConvTranspose2d": conv_transpose, "DepthwiseConvTranspose2d": conv_transpose},
    **{"MaxPool": pool("MaxPool"), "AvgPool": pool("AveragePool"), "BatchNormInference": batch_norm},
    **{"LayerNorm": layer_norm, "RMSNorm": rms_norm, "Embedding": embedding, "Attention": attention},
    **{"SelfAttention": self_attention},
    **{"RNN": recurrent("RNN"), "LSTM": recurrent("LSTM"), "GRU": recurrent("GRU"), "Rows": rows},
    **{"LocalResponseNorm": local_response_norm, "Sum": summed, "Max": maximum},
    **{"Softmax": along_last("Softmax"), "LogSoftmax": along_last("LogSoftmax"), "CrossEntropy": cross_entropy},
    **{"NegativeLogLikelihood": negative_log_likelihood, "LabelWeights": label_weights, "CumSum": cumsum},
    **{"Reshape": reshape, "Transpose": transpose, "Concat": concat, "Split": split, "Pad": pad},
    **{"BroadcastTo": broadcast_to, "Flip": flip, "Put": put, "Scatter": scatter},
    **{"Slice": slice_, "Take": take, "TakeAlong": take_along},
}
