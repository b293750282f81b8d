import copy

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn


def images(*shape):
    return mg.tensor(np.random.default_rng(0).standard_normal(shape), "float32", "reference")


def model(**options):
    return mg.models.MLP(6, (5, 4), 3, **options).to("reference")


class Block(nn.Module):
    """Two ops of its own beside a child, which runs twice."""

    def __init__(self):
        self.inner = nn.Linear(4, 4, bias=False)
        self.scale = nn.Parameter(np.ones(4, "float32"))

    def forward(self, x):
        return self.inner(self.inner(x)) * self.scale + x


def test_activations_are_the_outputs_of_the_named_modules():
    net, x = model(), images(7, 6)
    with mg.inspect.activations(net, ["2", "6"]) as outputs:
        net(x)
    assert set(outputs) == {"2", "6"}
    expected = net[2](net[1](net[0](x)))
    np.testing.assert_array_equal(outputs["2"], expected)


def test_activations_without_names_are_those_of_all_modules():
    net = model()
    with mg.inspect.activations(net) as outputs:
        net(images(7, 6))
    assert set(outputs) == set("01234567")


def test_activations_are_off_the_tape():
    net = model()
    with mg.inspect.activations(net, "1") as outputs:
        net(images(7, 6))
    assert not outputs["1"].requires_grad


def test_activations_do_not_change_what_the_model_computes():
    net, x = model().eval(), images(7, 6)
    nn.recompute_statistics(net, [x])
    plain = net.eval()(x)
    with mg.inspect.activations(net) as outputs:
        watched = net(x)
    np.testing.assert_array_equal(plain, watched)
    np.testing.assert_array_equal(outputs["7"], plain)


def test_a_model_is_as_before_after_activations():
    net = model()
    before = [dict(vars(module)) for _, module in net.modules()]
    with pytest.raises(KeyError), mg.inspect.activations(net):
        raise KeyError
    assert [dict(vars(module)) for _, module in net.modules()] == before


def test_a_forward_of_the_instance_comes_back():
    net = nn.Sequential(nn.ReLU())
    net[0].forward = own = lambda x: x * 2.0
    with mg.inspect.activations(net, ["0"]) as outputs:
        net(images(2, 2))
    assert net[0].forward is own
    np.testing.assert_array_equal(outputs["0"], images(2, 2).numpy() * 2)


def test_an_unknown_name_is_an_error_that_lists_what_there_is():
    with pytest.raises(ValueError, match=r"'hidden'; there are 0, 1, 2"), mg.inspect.activations(model(), ["hidden"]):
        pass


def test_activations_inside_a_captured_step_are_an_error():
    net = model()
    step = mg.capture(lambda x: net(x).sum(), device="reference")
    with pytest.raises(mg.CaptureError, match="return the tensors"), mg.inspect.activations(net, ["1"]):
        step(images(7, 6))


def test_summary_has_shapes_and_parameters_of_each_layer():
    layers = mg.inspect.summary(model(), (7, 6)).layers
    assert [row.name for row in layers] == list("01234567")
    assert layers[1].layer == "Linear(6, 5, bias=False)"
    assert [row.shape for row in layers] == [(7, 6)] + [(7, 5)] * 3 + [(7, 4)] * 3 + [(7, 3)]
    assert [row.parameters for row in layers] == [0, 30, 10, 0, 20, 8, 0, 15]


def test_summary_adds_up():
    net = model()
    summary = mg.inspect.summary(net, (7, 6))
    assert summary.parameters == sum(t.size for t in net.parameters()) == 83
    assert summary.multiply_adds == 7 * (6 * 5 + 5 + 5 * 4 + 4 + 4 * 3)
    assert summary.activation == 4 * 7 * (3 * 5 + 3 * 4 + 3)


def test_summary_of_a_view_takes_no_memory():
    assert mg.inspect.summary(model(), (7, 2, 3)).layers[0].activation == 0


def test_summary_knows_ops_that_a_module_runs_itself():
    layers = mg.inspect.summary(nn.Sequential(Block()).to("reference"), (3, 4)).layers
    block = next(row for row in layers if row.layer == "Block")
    assert (block.name, block.parameters, block.activation) == ("0", 4, 3 * 4 * 4)


def test_summary_counts_matrix_products_outside_of_layers():
    class Product(nn.Module):
        def __init__(self):
            self.w = nn.Parameter(np.ones((4, 5), "float32"))

        def forward(self, x):
            return x @ self.w

    assert mg.inspect.summary(Product().to("reference"), (2, 3, 4)).multiply_adds == 2 * 3 * 4 * 5


def test_summary_counts_parameters_of_a_module_that_runs_twice_once():
    summary = mg.inspect.summary(nn.Sequential(Block()).to("reference"), (3, 4))
    inner = [row for row in summary.layers if row.name == "0.inner"]
    assert [row.parameters for row in inner] == [16, 0]
    assert [row.multiply_adds for row in inner] == [3 * 16, 3 * 16]
    assert summary.parameters == 20


def test_summary_leaves_the_model_as_it_was():
    net = nn.Sequential(model(), nn.Dropout(0.5).to("reference"))
    state = {name: t.numpy() for name, t in net.state_dict().items()}
    before = [copy.copy(vars(module)) for _, module in net.modules()]
    mg.inspect.summary(net, (7, 6))
    assert [vars(module) for _, module in net.modules()] == before
    assert all(np.array_equal(t, state[name]) for name, t in net.state_dict().items())
    assert all(t.grad is None for t in net.parameters())


def test_summary_works_under_no_grad():
    with mg.no_grad():
        assert mg.inspect.summary(model(), (7, 6)).multiply_adds == 7 * (6 * 5 + 5 + 5 * 4 + 4 + 4 * 3)


def test_summary_takes_the_dtype_of_the_parameters():
    summary = mg.inspect.summary(model().to("float64"), (7, 6))
    assert summary.activation == 8 * 7 * (3 * 5 + 3 * 4 + 3)


def test_summary_takes_a_batch_for_its_shape(rng):
    expected = str(mg.inspect.summary(model(), (7, 6)))
    batch = rng.standard_normal((7, 6)).astype(np.float32)
    assert str(mg.inspect.summary(model(), mg.tensor(batch))) == expected
    assert str(mg.inspect.summary(model(), batch)) == expected


@pytest.mark.parametrize("shape", [784, "784", (7, 6.0), None])
def test_summary_of_what_is_no_shape_is_refused(shape):
    with pytest.raises(TypeError, match=r"summary needs the shape of a batch, such as \(60, 784\), or a batch itself"):
        mg.inspect.summary(model(), shape)


def test_summary_text_has_a_line_for_each_layer_and_a_total():
    lines = str(mg.inspect.summary(model(), (7, 6))).split("\n")
    assert len(lines) == 2 + 8 + 1
    assert lines[-1].split()[:2] == ["total", "83"]
