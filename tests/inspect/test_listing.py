import subprocess
import sys

import numpy as np
import pytest

import minigrad as mg


def test_rows_are_the_ops_in_the_order_of_their_making(net):
    rows = mg.inspect.table(net().loss()).rows
    assert [row.op for row in rows] == ["MatMul", "Add", "Sigmoid", "MatMul", "Add", "CrossEntropy"]
    assert [row.number for row in rows] == [1, 2, 3, 4, 5, 6]


def test_rows_have_shape_and_dtype(net):
    rows = mg.inspect.table(net("float64").loss()).rows
    assert [row.shape for row in rows] == [(4, 3), (4, 3), (4, 3), (4, 2), (4, 2), ()]
    assert {row.dtype for row in rows} == {np.dtype("float64")}


def test_inputs_are_ops_and_named_leaves(net):
    two = net()
    rows = mg.inspect.table(two.loss(), names=two.leaves).rows
    assert [row.inputs for row in rows] == [["·", "w1"], ["#1", "b1"], ["#2"], ["#3", "w2"], ["#4", "b2"], ["#5", "·"]]


def test_leaves_without_a_name_are_numbered_by_first_use(net):
    two = net()
    rows = mg.inspect.table(two.loss(), names={"leaf1": two.leaves["w2"]}).rows
    assert [row.inputs[-1] for row in rows[:2]] == ["leaf2", "leaf3"]
    assert rows[3].inputs == ["#3", "leaf1"]


def test_model_names_its_parameters():
    model = mg.models.MLP(5, (4,), 3).to("reference")
    rows = mg.inspect.table(model(mg.tensor(np.ones((2, 5)), "float32", "reference")).sum(), model=model).rows
    assert rows[1].inputs == ["#1", "2.gamma", "2.beta"]


def test_recorded_constants_have_their_names_values_or_shapes(net):
    two = net()
    with mg.inspect.record():
        loss = two.loss() * 2.5
    rows = mg.inspect.table(loss, names={"x": two.x}).rows
    assert rows[0].inputs == ["x", "leaf1"]
    assert rows[5].inputs == ["#5", "constant (4,)"]
    assert rows[6].inputs == ["#6", "2.5"]


def test_saved_bytes_leave_out_leaves_and_count_shared_arrays_once_in_the_total(net):
    table = mg.inspect.table(net().loss())
    x, hidden, probabilities, labels = 4 * 2 * 4, 4 * 3 * 4, 4 * 2 * 4, 4 * 8
    assert [row.saved for row in table.rows] == [x, 0, hidden, hidden, 0, probabilities + labels]
    assert table.saved == x + hidden + probabilities + labels


def test_saved_bytes_count_the_statistics_of_batch_norm():
    x = mg.tensor(np.random.default_rng(0).standard_normal((6, 3)), device="reference", requires_grad=True)
    loss = mg.batch_norm(x, None, None, None, None, training=True)
    assert mg.inspect.table(loss).rows[0].saved == 2 * 3 * 8


def test_trace_notes_the_line_of_user_code(net):
    two = net()
    with mg.inspect.trace():
        y = two.leaves["w1"] * 2.0  # the line
    row = mg.inspect.table(y).rows[0]
    assert row.line.startswith(__file__ + ":")
    assert 'y = two.leaves["w1"] * 2.0  # the line' in str(mg.inspect.table(y))


def test_without_trace_there_is_no_column_of_lines(net):
    assert "source" not in str(mg.inspect.table(net().loss()))


def test_text_has_a_line_for_each_op_a_header_and_a_total(net):
    lines = str(mg.inspect.table(net().loss())).split("\n")
    assert len(lines) == 2 + 6 + 1
    assert lines[0].split() == ["#", "op", "shape", "dtype", "saved", "inputs"]
    assert lines[-1].startswith("6 ops, 144 B kept")


def test_a_freed_tape_is_an_error_that_says_so(net):
    loss = net().loss()
    loss.backward()
    with pytest.raises(RuntimeError, match=r"freed by backward.*retain_graph=True"):
        mg.inspect.table(loss)


def test_a_leaf_has_no_tape(net):
    with pytest.raises(RuntimeError, match="no tape: it is a leaf"):
        mg.inspect.table(net().leaves["w1"])


def test_what_was_made_under_no_grad_has_no_tape(net):
    with mg.no_grad():
        loss = net().loss()
    with pytest.raises(RuntimeError, match=r"no tape.*no_grad"):
        mg.inspect.table(loss)


def test_names_must_be_of_tensors(net):
    two = net()
    with pytest.raises(TypeError, match="'w1' must be a Tensor, not ndarray"):
        mg.inspect.table(two.loss(), names={"w1": two.leaves["w1"].numpy()})


def test_a_chain_of_many_ops_needs_no_recursion():
    y = mg.tensor(1.0, device="reference", requires_grad=True)
    for _ in range(5000):
        y = y * 1.0
    assert len(mg.inspect.table(y).rows) == 5000


def test_importing_minigrad_does_not_import_inspect():
    code = "import sys, minigrad as mg; assert 'minigrad.inspect' not in sys.modules; mg.inspect.table"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("activation", "shown"), [("ReLU", "BatchNorm{} + ReLU"), ("Sigmoid", "BatchNorm{} + Sigmoid")]
)
def test_what_was_run_as_one_op_is_shown(activation, shown, training):
    model = mg.nn.Sequential(mg.nn.BatchNorm(3), getattr(mg.nn, activation)())
    x = mg.tensor(np.ones((4, 3), np.float32))
    model(x)
    y = model.train(training)(x)
    shown = shown.format("" if training else "Inference")
    assert [row.op for row in mg.inspect.table(y).rows] == [shown]
    assert f">{shown}</text>" in mg.inspect.draw(y)
    assert next(mg.inspect.steps(y.sum())).op == "Sum"
    with mg.inspect.record():
        y = model(x)
    assert [row.op for row in mg.inspect.table(y).rows] == shown.split(" + ")


def test_an_op_with_several_results_is_one_row():
    x = mg.tensor(np.ones((2, 4)), "float32", "reference", requires_grad=True)
    a, b = mg.split(x, [1], axis=1)
    table = mg.inspect.table((a * b).sum(), names={"x": x})
    assert table.rows[0].shape == ((2, 1), (2, 3))
    assert [row.inputs for row in table.rows] == [["x"], ["#1[0]", "#1[1]"], ["#2"]]
    assert "Split  (2, 1), (2, 3)  float32" in str(table)
