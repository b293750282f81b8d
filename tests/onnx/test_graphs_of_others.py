"""Graphs as other tools write them, node by node: what is imported computes as ONNX says, or the node is named."""

import numpy as np
import pytest
from onnx_models import random, result

import minigrad as mg

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def listed(names):
    """Names out of a line of them, "-" being for what is left out."""
    return [name.strip("-") for name in names.split()]


def graph_of(nodes, inputs, weights=(), outputs=("y",), opset=17, **options):
    """A file's bytes: (kind, inputs, output, attributes) of nodes, shapes of inputs, weights by name."""
    made = [
        helper.make_node(kind, listed(given), listed(out), f"the {kind}" + " again" * i, **attributes)
        for i, (kind, given, out, attributes) in enumerate(nodes)
    ]
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT if kind == "f" else TensorProto.INT64, shape)
        for name, (kind, *shape) in inputs.items()
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    kept = [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(weights).items()]
    body = helper.make_graph(made, "graph", given, results, kept)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)  # for the ranks of the results, which must be told
    for value in model.graph.output:
        value.type.tensor_type.shape.SetInParent()
    return model.SerializeToString()


def imported(data, path):
    (path / "model.onnx").write_bytes(data)
    return mg.onnx.import_model(path / "model.onnx").to("reference")


def ints(*numbers):
    return np.array(numbers, np.int64)


PIXELS, STEPS = ("f", "n", 3, 7, 6), ("f", 3, "n", 4)
OF_OTHERS = {
    "ceil_mode": ([("MaxPool", "x", "y", {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1})], PIXELS, {}),
    "ceil_mode, padded": (
        [("MaxPool", "x", "y", {"kernel_shape": [2, 3], "strides": [3, 2], "pads": [1, 1, 0, 1], "ceil_mode": 1})], PIXELS, {},
    ),
    "ceil_mode of averages": ([("AveragePool", "x", "y", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1})], PIXELS, {}),
    "padding that counts": (
        [("AveragePool", "x", "y", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1], "count_include_pad": 1})],
        PIXELS, {},
    ),
    "SAME_UPPER": ([("Conv", "x w", "y", {"auto_pad": "SAME_UPPER", "strides": [2, 2]})], PIXELS, {"w": (4, 3, 3, 2)}),
    "VALID": ([("Conv", "x w b", "y", {"auto_pad": "VALID", "dilations": [2, 1]})], PIXELS, {"w": (4, 3, 3, 2), "b": (4,)}),
    "GlobalMaxPool": ([("GlobalMaxPool", "x", "z", {}), ("Flatten", "z", "y", {"axis": -3})], PIXELS, {}),
    "Gemm with its factors": (
        [("Gemm", "x w b", "y", {"alpha": 0.5, "beta": 2.0, "transA": 1})], ("f", 4, "n"), {"w": (4, 5), "b": (1, 5)},
    ),
    "Gemm, transposed": ([("Gemm", "x w b", "y", {"transB": 1})], ("f", "n", 4), {"w": (5, 4), "b": (5,)}),
    "BatchNormalization of sequences": (
        [("BatchNormalization", "x g b m v", "y", {"epsilon": 0.01})], ("f", "n", 4, 3), {"g": (4,), "b": (4,), "m": (4,), "v": (4,)},
    ),
    "LRN": ([("LRN", "x", "y", {"size": 3, "alpha": 0.4, "bias": 1.5})], PIXELS, {}),
    "channels scaled": ([("Mul", "x s", "z", {}), ("Conv", "z w", "c", {}), ("Add", "c b", "y", {})], PIXELS,
                        {"s": (3, 1, 1), "w": (4, 3, 1, 1), "b": (1, 4, 1, 1)}),
    "Split": ([("Split", "x", "a b", {"axis": 1}), ("Mul", "a b", "y", {})], ("f", "n", 4), {}),
    "Sum": ([("Sum", "x x w", "y", {})], ("f", "n", 4), {"w": (4,)}),
    "Neg, Reciprocal, Dropout, Identity": (
        [("Neg", "x", "a", {}), ("Reciprocal", "a", "b", {}), ("Dropout", "b", "c", {}), ("Identity", "c", "y", {})], ("f", "n", 4), {},
    ),
    "Squeeze and Unsqueeze": (
        [("Unsqueeze", "x one", "a", {}), ("Squeeze", "a one", "b", {}), ("Unsqueeze", "b ends", "y", {})],
        ("f", "n", 4), {"one": ints(1), "ends": ints(0, -1)},
    ),
    "a shape computed as PyTorch does": (
        [
            ("Shape", "x", "s", {}), ("Gather", "s zero", "n", {"axis": 0}), ("Unsqueeze", "n zeros", "ns", {}),
            ("Concat", "ns rest", "shape", {"axis": 0}), ("Reshape", "x shape", "y", {}),
        ],
        PIXELS, {"zero": np.int64(0), "zeros": ints(0), "rest": ints(-1, 6)},
    ),
    "a shape divided": (
        [
            ("Shape", "x", "s", {}), ("Slice", "s zeros end", "n", {}), ("Mul", "n three", "m", {}), ("Div", "m six", "h", {}),
            ("Concat", "h rest", "shape", {"axis": 0}), ("Reshape", "x shape", "y", {}),
        ],
        ("f", "n", 4), {"zeros": ints(0), "end": ints(1), "three": ints(3), "six": ints(6), "rest": ints(-1)},
    ),
    "reductions by attributes": ([("ReduceMean", "x", "a", {"axes": [-1, 1], "keepdims": 1}), ("ReduceMax", "a", "y", {"axes": [2], "keepdims": 0})], PIXELS, {}),
    "Slice": ([("Slice", "x from to axes steps", "y", {})], PIXELS,
              {"from": ints(-1, 1), "to": ints(-(2**63), 2**63 - 1), "axes": ints(3, -2), "steps": ints(-2, 2)}),
    "Gather of places": ([("Gather", "x places", "y", {"axis": 2})], PIXELS, {"places": ints(3, 0, -1)}),
    "Softmax": ([("Softmax", "x", "a", {"axis": 1}), ("LogSoftmax", "a", "y", {})], PIXELS, {}),
    "activations": (
        [
            ("LeakyRelu", "x", "a", {}), ("Elu", "a", "b", {"alpha": 0.5}), ("Selu", "b", "c", {}), ("Softplus", "c", "d", {}),
            ("HardSigmoid", "d", "e", {}), ("Erf", "e", "f", {}), ("Clip", "f low high", "g", {}), ("HardSwish", "g", "y", {}),
        ],
        ("f", "n", 4), {"low": np.float32(0.1), "high": np.float32(0.7)},
    ),
    "Min, Max, Where, Abs, Pow": (
        [
            ("Min", "x w x", "a", {}), ("Max", "a zero", "b", {}), ("Greater", "x zero", "c", {}), ("Where", "c x b", "d", {}),
            ("Abs", "d", "e", {}), ("Pow", "e w", "y", {}),
        ],
        PIXELS, {"w": (3, 1, 1), "zero": np.float32(0)},
    ),
    "SAME_LOWER": ([("Conv", "x w", "a", {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
                    ("MaxPool", "a", "y", {"kernel_shape": [2, 4], "auto_pad": "SAME_LOWER"})], PIXELS, {"w": (4, 3, 4, 2)}),
    "SAME_UPPER of averages": ([("AveragePool", "x", "y", {"kernel_shape": [4, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"})], PIXELS, {}),
    "ceil_mode, padding that counts": (
        [("AveragePool", "x", "y", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1, "count_include_pad": 1})],
        PIXELS, {},
    ),
    "pools of sequences": (
        [
            ("MaxPool", "x", "a", {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
            ("AveragePool", "a", "b", {"kernel_shape": [2], "pads": [1, 0], "count_include_pad": 1}), ("GlobalMaxPool", "b", "m", {}),
            ("GlobalAveragePool", "b", "c", {}), ("Add", "c m", "d", {}), ("Mul", "d b", "y", {}),
        ],
        ("f", "n", 3, 9), {},
    ),
    "convolution of sequences": (
        [("Conv", "x w b", "a", {"strides": [2], "dilations": [2], "pads": [1, 2]}), ("Conv", "a v", "y", {"group": 2})], ("f", "n", 3, 9),
        {"w": (4, 3, 3), "b": (4,), "v": (6, 2, 2)},
    ),
    "Pad": (
        [
            ("Conv", "x w", "c", {}), ("Pad", "c some half axes", "a", {}), ("Pad", "a round", "b", {"mode": "reflect"}),
            ("Pad", "b round", "d", {"mode": "edge"}), ("Pad", "d less half", "y", {}),
        ],
        PIXELS,
        {"w": (4, 3, 1, 1), "some": ints(1, 0, 0, 2), "half": np.float32(0.5), "axes": ints(-1, 2), "round": ints(0, 0, 2, 1, 0, 0, 0, 3), "less": ints(0, -1, 0, 2, 0, 0, -2, -1)},
        18,
    ),
    "ConstantOfShape, Range, Where, Trilu, Equal": (
        [
            ("Shape", "x", "s", {}), ("Gather", "s one", "m", {}), ("Range", "zero m one", "r", {}), ("Unsqueeze", "r last", "column", {}),
            ("Less", "r column", "below", {}), ("Where", "below x none", "a", {}), ("Slice", "s zeros ends", "square", {}),
            ("ConstantOfShape", "square", "o", {"value": numpy_helper.from_array(np.ones(1, np.float32))}), ("Trilu", "o", "t", {"upper": 0}),
            ("Mul", "a t", "b", {}), ("Trilu", "b one", "y", {"upper": 1}),
        ],
        ("f", "n", 4, 4), {"one": np.int64(1), "zero": np.int64(0), "last": ints(-1), "none": np.float32(-3), "zeros": ints(1), "ends": ints(3)},
    ),
    "floats computed of a shape": (
        [
            ("Shape", "x", "s", {}), ("ReduceMax", "s", "m", {"keepdims": 0}), ("ReduceProd", "s", "p", {"keepdims": 1}), ("Cast", "m", "f", {"to": 1}),
            ("Sqrt", "f", "root", {}), ("Div", "x root", "a", {}), ("Floor", "root", "low", {}), ("Cast", "low", "k", {"to": 7}),
            ("Unsqueeze", "k zeros", "ks", {}), ("Min", "ks two", "step", {}), ("Mod", "p step", "rest", {}), ("Slice", "a rest ends one step", "y", {}),
        ],
        ("f", "n", 4), {"zeros": ints(0), "two": ints(2), "ends": ints(99), "one": ints(1)},
    ),
    "numbers as tensors": (
        [("Shape", "x", "s", {}), ("Cast", "s", "f", {"to": 1}), ("Sigmoid", "f", "g", {}), ("MatMul", "x w", "a", {}), ("Add", "a g", "y", {})],
        ("f", "n", 4), {"w": (4, 2)},
    ),
    "axes of numbers and exponents": (
        [("Pow", "x two", "a", {}), ("Squeeze", "a zeros", "b", {}), ("ReduceSum", "b zeros", "c", {"keepdims": 0}), ("Add", "c one", "d", {}), ("Mul", "d x", "y", {})],
        ("f", "n", 4), {"two": np.full((1, 1, 1), 2, "f4"), "zeros": ints(0), "one": np.full((1, 1), 1, "i8").astype("f4")},
    ),
    "Clip by crossing numbers": (
        [("Clip", "x high low", "a", {}), ("ReduceMean", "x", "m", {"keepdims": 0}), ("Clip", "x m", "b", {}), ("Add", "a b", "y", {})],
        ("f", "n", 4), {"low": np.float32(-0.1), "high": np.float32(0.7)},
    ),
    "Expand and Tile": (
        [("Expand", "x s", "a", {}), ("Tile", "a times", "b", {}), ("Expand", "b less", "y", {})],
        ("f", "n", 1), {"s": ints(3, 1, 4), "times": ints(1, 2, 3), "less": ints(1)},
    ),
    "CumSum": (
        [("Conv", "x w", "c", {}), ("CumSum", "c axis", "a", {"exclusive": 1}), ("CumSum", "a last", "b", {"reverse": 1}), ("CumSum", "b axis", "y", {"exclusive": 1, "reverse": 1})],
        PIXELS, {"w": (4, 3, 1, 1), "axis": np.int64(1), "last": np.int64(-1)},
    ),
    "GatherElements and GatherND": (
        [("GatherElements", "x index", "a", {"axis": 1}), ("GatherND", "x places", "b", {}), ("Add", "a b", "y", {})],
        ("f", "n", 4), {"index": np.array([[-1, 0], [2, 2]]), "places": np.array([[0, 3], [1, -1]])},
    ),
    "ScatterElements and ScatterND": (
        [
            ("ScatterElements", "x index v", "a", {"axis": 1}), ("ScatterElements", "a twice v", "b", {"axis": 1, "reduction": "add"}),
            ("ScatterND", "b rows r", "c", {}), ("ScatterND", "c rows r", "d", {"reduction": "add"}), ("ScatterND", "d places s", "y", {}),
        ],
        ("f", "n", 4),
        {"index": np.array([[-1, 0], [2, 1]]), "twice": np.array([[1, 1], [3, 0]]), "v": (2, 2), "rows": np.array([[1]]), "r": (1, 4), "places": np.array([[0, 3]]), "s": (1,)},
    ),
    "norms of groups and of single channels": (
        [("InstanceNormalization", "x g b", "a", {"epsilon": 0.01}), ("Conv", "a w", "c", {}), ("PRelu", "c p", "y", {})],
        PIXELS, {"g": (3,), "b": (3,), "w": (4, 3, 1, 1), "p": (4, 1, 1)},
    ),
    "Einsum": ([("Einsum", "x w", "y", {"equation": "nij,kj->nik"})], ("f", "n", 3, 4), {"w": (2, 4)}),
    "reductions of other kinds": (
        [
            (f"Reduce{kind}", "x", f"r{i}", {"axes": [1, 3], "keepdims": 1})
            for i, kind in enumerate(["Min", "L1", "L2", "SumSquare", "LogSumExp", "Prod"])
        ] + [("Concat", "r0 r1 r2 r3 r4 r5", "y", {"axis": 1})],
        PIXELS, {},
    ),
    "ArgMax": (
        [("Conv", "x w", "c", {}), ("ArgMax", "c", "a", {"axis": 1}), ("ArgMin", "c", "b", {"axis": 0, "keepdims": 0}), ("Cast", "a", "s", {"to": 1}), ("Cast", "b", "t", {"to": 1}), ("Add", "s t", "y", {})],
        PIXELS, {"w": (4, 3, 1, 1)},
    ),
    "losses by labels": (
        [
            ("ArgMax", "x", "labels", {"axis": 1, "keepdims": 0}), ("SoftmaxCrossEntropyLoss", "x labels w", "a p", {"ignore_index": 1}),
            ("NegativeLogLikelihoodLoss", "p labels w", "b", {"reduction": "none"}), ("SoftmaxCrossEntropyLoss", "x labels", "c", {"reduction": "sum"}),
            ("Mul", "a b", "d", {}), ("Add", "d c", "y", {}),
        ],
        PIXELS, {"w": (3,)},
    ),
    "ConvTranspose": (
        [("ConvTranspose", "x w b", "y", {"strides": [2, 1], "pads": [1, 0, 0, 1], "output_padding": [1, 0], "dilations": [1, 2]})],
        PIXELS, {"w": (3, 4, 3, 2), "b": (4,)},
    ),
    "ConvTranspose in groups": ([("ConvTranspose", "x w", "y", {"strides": [2, 2], "group": 3})], PIXELS, {"w": (3, 2, 2, 3)}),
    "Resize": (
        [
            ("Conv", "x w", "c", {}), ("Resize", "c none scales", "a", {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
            ("Shape", "x", "s", {}), ("Slice", "s zero two", "n", {}), ("Concat", "n lengths", "size", {"axis": 0}),
            ("Resize", "a none none size", "b", {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}),
            ("Resize", "b none scales", "y", {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
        ],
        PIXELS, {"w": (3, 3, 1, 1), "none": np.zeros(0, "f4"), "scales": np.array([1, 1, 2, 1.5], "f4"), "zero": ints(0), "two": ints(2), "lengths": ints(9, 5)},
    ),
    "RNN": (
        [
            ("RNN", "x w r b", "a h", {"hidden_size": 2, "direction": "bidirectional", "activations": ["Relu", "Tanh"]}),
            ("RNN", "x v s", "z", {"direction": "reverse", "hidden_size": 2}), ("Concat", "a z", "c", {"axis": 1}),
            ("ReduceSum", "c zero", "d", {"keepdims": 0}), ("Concat", "d h", "y", {"axis": 0}),
        ],
        STEPS, {"w": random(2, 2, 4), "r": random(2, 2, 2), "b": random(2, 4), "v": random(1, 2, 4), "s": random(1, 2, 2), "zero": ints(0)},
    ),
    "LSTM": (
        [
            ("Slice", "x zero two zero", "i", {}), ("MatMul", "i p", "h", {}), ("Tanh", "h", "c", {}),
            ("LSTM", "x w r b - h c", "- last cell", {"hidden_size": 2, "direction": "bidirectional"}),
            ("Concat", "last cell", "y", {"axis": 0}),
        ],
        STEPS, {"w": random(2, 8, 4), "r": random(2, 8, 2), "b": random(2, 16), "p": random(4, 2), "zero": ints(0), "two": ints(2)},
    ),
    "GRU": (
        [
            ("GRU", "x w r", "a", {"hidden_size": 2, "linear_before_reset": 1}), ("Squeeze", "a one", "z", {}),
            ("GRU", "z v r b", "- y", {"hidden_size": 2, "linear_before_reset": 1, "direction": "reverse"}),
        ],
        STEPS, {"w": random(1, 6, 4), "r": random(1, 6, 2), "v": random(1, 6, 2), "b": random(1, 12), "one": ints(1)},
    ),
    "Concat of a weight": ([("Concat", "x w", "y", {"axis": 0})], ("f", "n", 4), {"w": (1, 4)}),
}  # fmt: skip


def weights_of(shapes, rng):
    return {
        name: rng.uniform(0.5, 1.5, shape).astype(np.float32) if isinstance(shape, tuple) else shape
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("name", OF_OTHERS)
def test_graphs_of_other_tools(name, tmp_path, rng):
    nodes, (kind, *shape), shapes, *opset = OF_OTHERS[name]
    data = graph_of(nodes, {"x": (kind, *shape)}, weights_of(shapes, rng), opset=(*opset, 17)[0])
    model = imported(data, tmp_path)
    for rows in (2, 4):
        x = rng.standard_normal([rows if n == "n" else n for n in shape]).astype(np.float32)
        (expected,) = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
        came = result(model, x)
        assert came.shape == expected.shape
        np.testing.assert_allclose(came, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in OF_OTHERS if "Scatter" not in name])
def test_captured_graphs_of_other_tools_give_the_same_bits(name, tmp_path, rng):
    nodes, (kind, *shape), shapes, *opset = OF_OTHERS[name]
    data = graph_of(nodes, {"x": (kind, *shape)}, weights_of(shapes, rng), opset=(*opset, 17)[0])
    model = imported(data, tmp_path)
    captured = mg.capture(lambda x: model(x))
    for rows in (2, 3, 2):
        x = mg.tensor(rng.standard_normal([rows if n == "n" else n for n in shape]).astype("f4"), device="reference")
        with mg.no_grad():
            np.testing.assert_array_equal(captured(x).numpy(), model(x).numpy())


@pytest.mark.parametrize(
    ("nodes", "weights", "options", "message"),
    [
        ([("Celu", "x", "a", {}), ("Det", "a", "y", {})], {}, {}, r"(?s)Celu 'the Celu': minigrad has no such op.*Det 'the Det again'"),
        ([("Conv", "x w", "y", {"group": 2})], {"w": (3, 1, 1, 1)}, {}, "Conv 'the Conv': group=2 does not divide the 3 output"),
        ([("Conv", "x w", "y", {"kernel_shape": [1, 1]})], {"w": (3, 3, 1)}, {}, r"its weight has shape \(3, 3, 1\)"),
        ([("Conv", "x w", "y", {})], {"w": (3, 3, 1, 1, 1)}, {}, "its window has 3 axes"),
        ([("MaxPool", "x", "y", {"kernel_shape": [2, 2], "dilations": [2, 2]})], {}, {}, "dilations=.2, 2. is not supported"),
        ([("MaxPool", "x", "y", {"kernel_shape": [2, 2, 2]})], {}, {}, "window has 3 axes"),
        ([("Resize", "x r s", "y", {"mode": "cubic"})], {"r": np.zeros(0, "f4"), "s": np.ones(4, "f4")}, {}, "mode='cubic' is not"),
        ([("ConvTranspose", "x w", "y", {})], {"w": (3, 3, 1, 1, 1)}, {}, "with two axes"),
        ([("GatherND", "x i", "y", {"batch_dims": 1})], {"i": ints([[0]])}, {}, "batch_dims=1 is not supported"),
        ([("ScatterND", "x i u", "y", {"reduction": "mul"})], {"i": ints([[0]]), "u": (1, 3, 4, 4)}, {}, "reduction='mul' is not"),
        ([("ConstantOfShape", "s", "y", {"value": numpy_helper.from_array(np.ones(2, "f4"))})], {"s": ints(1)}, {}, "has 2 elements"),
        ([("MaxPool", "x", "y z", {"kernel_shape": [2, 2]})], {}, {}, "second result"),
        ([("LRN", "x", "y", {"size": 4})], {}, {}, "size=4: windows of even size"),
        ([("ReduceSum", "x x", "y", {})], {}, {}, "input 1, 'x', must be a constant"),
        ([("Selu", "x", "y", {"alpha": 2.0})], {}, {}, "not the numbers that selu was made with"),
        ([("Cast", "x", "y", {"to": TensorProto.FLOAT16})], {}, {}, "a cast to FLOAT16"),
        ([("Reshape", "x s", "y", {})], {"s": ints(-1)}, {"opset": 10}, "of opset 10; 11 to 25 are read"),
        ([("Relu", "x", "y", {})], {}, {"opset": 99}, "of opset 99"),
        ([("Dropout", "x p t", "y", {})], {"p": np.float32(0.5), "t": np.bool_(True)}, {}, "drops elements, as in training"),
        ([("BatchNormalization", "x g g g g", "y a b", {"training_mode": 1})], {"g": (3,)}, {}, "training_mode=1 is not"),
        ([("Relu", "z", "y", {})], {}, {}, "no sound file of ONNX"),
        ([("LSTM", "x w w - s", "y", {})], {"w": (1, 8, 2), "s": ints(3).astype("i4")}, {}, "sequence_lens, input 4, 's', is not"),
        ([("LSTM", "x w w - - - - p", "y", {})], {"w": (1, 8, 2), "p": (1, 6)}, {}, "P, input 7, 'p', is not .*peepholes"),
        ([("LSTM", "x w w", "y", {"clip": 1.0, "input_forget": 0})], {"w": (1, 8, 2)}, {}, "its attribute clip is not"),
        ([("LSTM", "x w w", "y", {"input_forget": 1})], {"w": (1, 8, 2)}, {}, "input_forget=1 is not"),
        ([("LSTM", "x w w", "y", {"layout": 1})], {"w": (1, 8, 2)}, {}, "layout=1 is not"),
        ([("GRU", "x w w", "y", {})], {"w": (1, 6, 2)}, {}, "linear_before_reset=0, where r comes"),
        ([("GRU", "x w w", "y", {"activations": ["Tanh", "Tanh"]})], {"w": (1, 6, 2)}, {}, "GRU': activations=.'Tanh', 'Tanh'. is not"),
        ([("RNN", "x w w", "y", {"activations": ["Affine"]})], {"w": (1, 2, 2)}, {}, "only .'Tanh'. or .'Relu'. for each"),
        ([("RNN", "x w w", "y", {"direction": "backward"})], {"w": (1, 2, 2)}, {}, "direction='backward' is not"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(nodes, weights, options, message, tmp_path, rng):
    with pytest.raises(ValueError, match=message):
        imported(graph_of(nodes, {"x": ("f", 1, 3, 4, 4)}, weights_of(weights, rng), **options), tmp_path)


@pytest.mark.parametrize(
    ("given", "shapes", "message"),
    [
        ("x w r", {"w": (1, 8, 4), "r": (1, 4, 2)}, r"R must have shape \(1, 8, 2\), not \(1, 4, 2\)"),
        ("x w r", {"w": (2, 8, 4), "r": (1, 8, 2)}, r"W must have shape \(1, 8, 4\), not \(2, 8, 4\)"),
        ("x w r b", {"w": (1, 8, 4), "r": (1, 8, 2), "b": (1, 8)}, r"B must have shape \(1, 16\), not \(1, 8\)"),
        (
            "x w r - - h",
            {"w": (1, 8, 4), "r": (1, 8, 2), "h": (1, 1, 2)},
            r"initial_h must have shape \(1, 3, 2\), not",
        ),
    ],
)
def test_recurrent_layers_check_their_arrays(given, shapes, message, tmp_path, rng):
    model = imported(graph_of([("LSTM", given, "y", {})], {"x": ("f", 5, "n", 4)}, weights_of(shapes, rng)), tmp_path)
    with pytest.raises(ValueError, match=f"LSTM 'the LSTM': {message}"):
        result(model, np.ones((5, 3, 4), np.float32))


def test_op_of_another_domain_is_refused(tmp_path):
    node = helper.make_node("Relu", ["x"], ["y"], "own", domain="com.example")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    body = helper.make_graph([node], "graph", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    with pytest.raises(ValueError, match="own': it is of the domain 'com.example'"):
        imported(helper.make_model(body, opset_imports=opsets, ir_version=8).SerializeToString(), tmp_path)


def test_what_goes_wrong_while_it_runs_names_the_node(tmp_path):
    model = imported(graph_of([("Reshape", "x s", "y", {})], {"x": ("f", "n", 4)}, {"s": ints(3, -1)}), tmp_path)
    with pytest.raises(ValueError, match=r"Reshape 'the Reshape': cannot reshape \(2, 4\)"):
        result(model, np.ones((2, 4), np.float32))


def test_initializer_named_as_an_attribute_of_modules(tmp_path):
    data = graph_of([("Add", "x training", "y", {})], {"x": ("f", "n", 4)}, {"training": np.ones(4, np.float32)})
    model = imported(data, tmp_path)
    assert [*model.state_dict()] == ["training_"]
    np.testing.assert_array_equal(result(model.eval(), np.ones((2, 4), np.float32)), np.full((2, 4), 2))
