"""Models as files of ONNX: its checker passes them, and onnxruntime computes the same, on batches of any length."""

import numpy as np
import pytest
from onnx_models import ALL, IMAGE, LAYERS, OPS, ROWS, Of, batch, ready, result

import minigrad as mg
import minigrad.ops
from minigrad.ops import to

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from minigrad.kernels import expressions  # noqa: E402
from minigrad.onnx import formulas, nodes, plan  # noqa: E402
from minigrad.ops.pointwise import Pointwise  # noqa: E402

nn = mg.nn
EXPENSIVE = {"BNInception"}


def names(*tables):
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in EXPENSIVE else name for table in tables for name in table
    ]


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def computed(runner, *inputs):
    given = {value.name: np.ascontiguousarray(x) for value, x in zip(runner.get_inputs(), inputs, strict=True)}
    return runner.run(None, given)


def kinds(path, *left_out):
    return [node.op_type for node in onnx.load(path).graph.node if node.op_type not in ("Constant", *left_out)]


def channels_first(x):
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@pytest.mark.parametrize("name", names(ALL))
def test_onnxruntime_computes_the_same_on_any_batch(name, layout, tmp_path):
    model, x = ready(name)
    mg.onnx.export(model, x, tmp_path / "model.onnx", layout=layout)
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    runner = session(tmp_path / "model.onnx")
    for rows in (len(x), 1, 5):
        given = batch(x, rows)
        expected = result(model, given)
        if layout == "channels_first":
            given, expected = channels_first(given), channels_first(expected)
        (came,) = computed(runner, given)
        assert came.shape == expected.shape
        np.testing.assert_allclose(came, expected, rtol=1e-5, atol=1e-5)


def test_every_op_is_exported_or_says_why_not():
    ops = {
        op for op in subclasses(mg.Op) if op.__module__.startswith("minigrad.ops.") and not issubclass(op, Pointwise)
    }
    bases = {"Unary", "OverLastAxis", "RowNorm", "Form", "Biased"}
    assert {op.__name__ for op in ops} - bases == {*nodes.RULES, *nodes.OTHERS}


def test_every_step_of_a_formula_is_exported():
    two = {"constant", "expm1", "log1p", "not_equal"}
    assert expressions.OPERATIONS.keys() - two == formulas.KINDS.keys()


def subclasses(kind):
    for sub in kind.__subclasses__():
        yield sub
        yield from subclasses(sub)


def test_every_op_that_is_exported_is_in_a_model_here():
    models = [ready(name) for name in [*LAYERS, *OPS]]
    used = [node for model, x in models for node in plan.planned(model, (x,), True).nodes]
    there = {node.kind for node in used if node.formula is None}
    assert there | {"CrossEntropy"} == nodes.RULES.keys()


def test_every_layer_is_in_a_model_here():
    layers = {name for name in mg.nn.__all__ if isinstance(getattr(nn, name), type)}
    used = {type(module).__name__ for model, _ in LAYERS.values() for _, module in model.modules()}
    holders = {"Embedding", "Module", "Parameter", "ParameterList", "ModuleDict", "ModuleList"}
    assert layers - holders <= used


def test_loss_is_exported(tmp_path, rng):
    model = Of(
        lambda x, labels, w: mg.cross_entropy(mg.linear(x, w), labels), w=rng.standard_normal((4, 3)).astype("f4")
    )
    model.to("reference")
    x, labels = rng.standard_normal((5, 4)).astype(np.float32), rng.integers(0, 3, 5)
    mg.onnx.export(model, (x, labels), tmp_path / "model.onnx")
    for rows in (5, 2):
        (came,) = computed(session(tmp_path / "model.onnx"), x[:rows], labels[:rows])
        np.testing.assert_allclose(came, result(model, x[:rows], labels[:rows]), rtol=1e-5)


def test_table_of_rows_by_integers(tmp_path, rng):
    model = Of(lambda rows, w: w[rows] * 2, w=rng.standard_normal((6, 3)).astype(np.float32)).to("reference")
    rows = rng.integers(0, 6, (4, 2))
    mg.onnx.export(model, rows, tmp_path / "model.onnx")
    for given in (rows, rows[:1]):
        (came,) = computed(session(tmp_path / "model.onnx"), given)
        np.testing.assert_allclose(came, result(model, given), rtol=1e-6)


def test_float64(tmp_path, rng):
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).to("reference").to("float64"), rng.standard_normal((2, 4))
    mg.onnx.export(model, x, tmp_path / "model.onnx")
    (came,) = ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"input": x})
    np.testing.assert_allclose(came, result(model, x), rtol=1e-13)


@pytest.mark.parametrize("name", ["Residual", "BatchNorm of images", "BatchNorm without gamma", "Inception"])
def test_folded_graph_has_no_batch_norm_and_computes_the_same(name, tmp_path):
    model, x = ready(name)
    mg.onnx.export(model, x, tmp_path / "model.onnx", fold=True)
    assert "BatchNormalization" not in kinds(tmp_path / "model.onnx")
    (came,) = computed(session(tmp_path / "model.onnx"), x)
    np.testing.assert_allclose(came, result(model, x), rtol=1e-5, atol=1e-5)


def test_nothing_to_fold_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="none of the 1 BatchNorm layers"):
        mg.onnx.export(
            nn.Sequential(nn.ReLU(), nn.BatchNorm(4)).to("reference"), np.ones(ROWS, "f4"), tmp_path / "m", fold=True
        )


@pytest.mark.parametrize(
    ("name", "layout", "count"),
    [
        ("Inception", "channels_last", 1),  # in front of the first convolution
        ("Inception", "channels_first", 0),
        ("Flatten, BatchNorm, Dropout", "channels_last", 1),
        ("Residual", "channels_first", 0),
        ("squeeze and excite", "channels_first", 0),
        ("reductions of channels", "channels_first", 0),
        ("softmax of channels", "channels_first", 0),
        ("MLP of images", "channels_last", 0),
        ("Linear on an input of images", "channels_last", 0),
        ("BatchNorm of an input of images", "channels_last", 0),
        ("transpose of channels", "channels_first", 0),
    ],
)
def test_nothing_is_transposed_but_what_must_be(name, layout, count, tmp_path):
    mg.onnx.export(*ready(name), tmp_path / "model.onnx", layout=layout)
    assert kinds(tmp_path / "model.onnx").count("Transpose") == count


def test_initializers_are_named_as_in_state_dict(tmp_path):
    model, x = ready("Flatten, BatchNorm, Dropout")
    mg.onnx.export(model, x, tmp_path / "model.onnx")
    kept = {t.name for t in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert kept == {name for name in model.state_dict() if not name.endswith("counter")}


def test_nodes_are_named_by_the_module_they_are_of(tmp_path):
    mg.onnx.export(*ready("Inception"), tmp_path / "model.onnx")
    assert "3a.1.0/Conv" in {node.name for node in onnx.load(tmp_path / "model.onnx").graph.node}


def test_recurrent_layer_is_one_node_with_the_weights_of_state_dict(tmp_path):
    model, x = ready("LSTM, two layers, bidirectional")
    mg.onnx.export(model, x, tmp_path / "model.onnx")
    nodes = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "LSTM"]
    assert [onnx.helper.get_node_attr_value(node, "direction") for node in nodes] == [b"forward", b"reverse"] * 2
    kept = {t.name: t for t in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert kept.keys() == {name for name, _ in model.named_parameters() if name.startswith("0.")}
    i, f, g, o = np.split(model.state_dict()["0.weight_ih_l0"].numpy().T, 4)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept["0.weight_ih_l0"]), [np.concatenate([i, o, f, g])])


def test_states_are_inputs(tmp_path, rng):
    def function(x, h):
        y, last = model.layer(x, mg.transpose(h, (1, 0, 2)))
        return y, mg.transpose(last, (1, 0, 2))

    model = Of(function)
    model.layer = nn.GRU(4, 3, num_layers=2)
    model.to("reference")
    x, h = rng.standard_normal((3, 5, 4)).astype("f4"), rng.standard_normal((3, 2, 3)).astype("f4")
    mg.onnx.export(model, (x, h), tmp_path / "model.onnx")
    for rows in (3, 1):
        expected = model(mg.tensor(x[:rows], device="reference"), mg.tensor(h[:rows], device="reference"))
        for came, wanted in zip(computed(session(tmp_path / "model.onnx"), x[:rows], h[:rows]), expected, strict=True):
            np.testing.assert_allclose(came, wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_several_inputs_and_outputs(tmp_path, rng):
    model = Of(lambda x, y: {"sum": x + y, "first": x, "same": x + y}).to("reference")
    a, b = rng.standard_normal((2, 3, 4)).astype(np.float32)
    mg.onnx.export(model, (a, b), tmp_path / "model.onnx")
    runner = session(tmp_path / "model.onnx")
    assert [value.name for value in runner.get_outputs()] == ["sum", "first", "same"]
    for came, expected in zip(computed(runner, a[:2], b[:2]), (a + b, a, a + b), strict=True):
        np.testing.assert_array_equal(came, expected[:2])


def test_axes_are_named(tmp_path):
    mg.onnx.export(*ready("Residual"), tmp_path / "model.onnx", batch="images")
    (given,), (made,) = session(tmp_path / "model.onnx").get_inputs(), session(tmp_path / "model.onnx").get_outputs()
    assert (given.shape, made.shape) == (["images", *IMAGE[1:]], ["images", 4])


def test_fixed_shapes(tmp_path):
    model, x = ready("Residual")
    mg.onnx.export(model, x, tmp_path / "model.onnx", batch=None)
    (given,) = session(tmp_path / "model.onnx").get_inputs()
    assert given.shape == [*x.shape]


def test_model_is_left_as_it_was(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm(4), nn.Dropout()).to("reference")
    model[1].eval()
    before = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    mg.onnx.export(model, np.ones(ROWS, np.float32), tmp_path / "model.onnx")
    assert [module.training for _, module in model.modules()] == [True, True, False, True]
    assert not model[1].has_statistics
    for name, t in model.state_dict().items():
        np.testing.assert_array_equal(t.numpy(), before[name])


class Square(mg.Op):
    def forward(self, x):
        return x * x


def of_two_lengths(x):
    return mg.sum(x[: (x.shape[0] + 1) // 2], axis=0)


class Halves(mg.Op):
    """x / 2, twice."""

    def forward(self, x):
        return x / 2, x / 2


def of_three_batches(x):
    n = x.shape[0]
    return (x.reshape(n, 1, 1, 4) * x.reshape(1, n, 1, 4) * x.reshape(1, 1, n, 4)).reshape(n * n, 2, 2, n)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Square.apply, r"Square in 1 \(called at .*onnx_models.py:\d+\) cannot be exported: ONNX has no op for it"),
        (lambda x: Halves.apply(x)[1], r"Halves in 1 \(called at .*\) cannot be exported: ONNX has no op for it"),
        (
            lambda x: mg.concat(mg.split(x, [x.shape[0] - 1]), axis=0),
            "Split in 1 .*the lengths of the parts depend on the batch, .*cut it into equal parts, or another axis",
        ),
        (lambda x: mg.dropout(x, 0.5, training=True, seed=0), "Dropout in 1 .*it draws random numbers"),
        (
            lambda x: mg.scaled_dot_product_attention(x, x, x, dropout_p=0.5, seed=0),
            "Attention in 1 .*it drops weights by random numbers",
        ),
        (lambda x: mg.batch_norm(x, None, None, None, None, training=True), "BatchNorm in 1 .*batch's own statistics"),
        (lambda x: x * mg.tensor(x.numpy() > 0, "float32", "reference"), "Mul in 1 .*computed in NumPy or in Python"),
        (lambda x: x * x.numpy().max().item(), "Mul in 1 .*computed in NumPy or in Python"),
        (lambda x: x / x.shape[0], "Div in 1 .*depends on the length of the batch"),
        (lambda x: x if x.numpy()[0, 0] > x.numpy()[0, 1] else -x, "something else for other values"),
        (lambda x: x + float(x.numpy()[0, 0] > x.numpy()[0, 1]), "Add in 1 .*computed in NumPy or in Python"),
        (of_two_lengths, "an index depends on the batch"),
        (lambda x: x[np.arange(x.shape[0])[::-1]], "indexes by numbers that depend on the batch"),
        (lambda x: mg.reshape(x, (3, 4)), r"runs on the example, a batch of 3, and not on one of 4 \(ValueError: cannot"),
        (of_three_batches, "not in proportion"),
        (lambda x: x[:, :0], "Slice in 1 .*no elements"),
        (lambda x: [x.numpy()], "returns a tensor, or a tuple"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_says_what_and_where(function, message, tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), Of(function)).to("reference")
    with pytest.raises((ValueError, TypeError), match=message):
        mg.onnx.export(model, np.random.default_rng(3).standard_normal(ROWS).astype("f4"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        (np.ones((0, 4), "f4"), {}, "empty batch"),
        ((np.ones((2, 4), "f4"), np.ones((3, 4), "f4")), {}, r"batch is axis 0 of every input, .*\(2, 4\), \(3, 4\)"),
        ([[1.0]], {}, "example must be an input"),
        (np.ones((2, 4), "f4"), {"layout": "NCHW"}, "layout must be"),
        (np.ones((2, 4), "f4"), {"batch": 3}, "batch must be a name"),
    ],
)
def test_wrong_arguments_are_told(example, options, message, tmp_path):
    with pytest.raises((ValueError, TypeError), match=message):
        mg.onnx.export(Of(lambda *xs: xs[0] + 1).to("reference"), example, tmp_path / "model.onnx", **options)


def test_constant_that_is_always_the_same_is_kept(tmp_path):
    table = mg.tensor(np.arange(4, dtype=np.float32), device="reference")
    model = Of(lambda x: x + table).to("reference")
    x = np.ones(ROWS, np.float32)
    mg.onnx.export(model, x, tmp_path / "model.onnx")
    np.testing.assert_array_equal(computed(session(tmp_path / "model.onnx"), x)[0], result(model, x))


def test_without_onnx_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'minigrad-bn\[onnx\]'"):
        mg.onnx.export(nn.Linear(4, 4), np.ones(ROWS, np.float32), tmp_path / "model.onnx")


def test_dtypes_that_are_converted(tmp_path):
    model = Of(lambda x: to(x * 3, "float64") * 2).to("reference")
    mg.onnx.export(model, np.ones(ROWS, np.float32), tmp_path / "model.onnx")
    (made,) = computed(session(tmp_path / "model.onnx"), np.ones(ROWS, np.float32))
    assert made.dtype == np.float64
