"""Batch Normalization put into the layer before it, in a plan."""

from minigrad.kernels.activations import RELU
from minigrad.nn.statistics import folded_weight
from minigrad.onnx.plan import Array, ModelPlan, Node


def folded(plan: ModelPlan) -> ModelPlan:
    """The plan with each BatchNorm that alone reads a Linear or convolution put into its weight and bias.

    Raises ValueError if there are some and none could be.
    """
    makers = {y: node for node in plan.nodes for y in node.results}
    readers = [x for node in plan.nodes for x in node.inputs if x is not None] + list(plan.outputs.values())
    replaced: dict[Node, list[Node]] = {}
    norms = [node for node in plan.nodes if node.kind == "BatchNormInference"]
    for norm in norms:
        x = norm.inputs[0]
        layer = None if x is None else makers.get(x)
        if x is not None and layer is not None and readers.count(x) == 1 and can_fold(layer, norm):
            replaced[layer] = []
            replaced[norm] = put_into(layer, norm)
    if norms and not replaced:
        raise ValueError(
            f"none of the {len(norms)} BatchNorm layers alone reads a Linear or convolution with a weight of its own, so none "
            "can be folded; export with fold=False"
        )
    nodes = [new for node in plan.nodes for new in replaced.get(node, [node])]
    return ModelPlan(plan.inputs, nodes, plan.outputs)


def can_fold(layer: Node, norm: Node) -> bool:
    """Whether it is a layer, and all that goes into its new weight and bias is constant."""
    if layer.kind not in ("Linear", "Conv2d", "DepthwiseConv2d", "GroupedConv2d"):
        return False
    return all(x is None or x.data is not None for x in [*layer.inputs[1:], *norm.inputs[1:]])


def put_into(layer: Node, norm: Node) -> list[Node]:
    """The layer with the result of the BatchNorm, and the activation that came with that."""
    x, w, b = layer.inputs
    if w is None:
        raise AssertionError("a layer has a weight")
    parts = [None if a is None else a.data for a in (w, b, *norm.inputs[1:])]
    weight, bias = folded_weight(*parts, eps=norm["eps"])
    name = b.name if b is not None else w.name.removesuffix("weight") + "bias" if w.name else ""
    runs = len(layer.parameters)
    given = [
        x,
        Array(w.shape, w.dtype, weight, w.name),
        Array(tuple((n,) * runs for n in bias.shape), w.dtype, bias, name),
    ]
    activation = norm.parameters[0].get("activation", 0)
    if not activation:
        return [Node(layer.kind, given, layer.parameters, norm.results, layer.module, layer.line)]
    between = Array(norm.result.shape, norm.result.dtype)
    kind = "ReLU" if activation == RELU else "Sigmoid"
    return [
        Node(layer.kind, given, layer.parameters, [between], layer.module, layer.line),
        Node(kind, [between], ({},) * runs, norm.results, norm.module, norm.line),
    ]
