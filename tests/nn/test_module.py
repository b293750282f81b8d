import numpy as np
import pytest

import minigrad as mg
from minigrad import nn


class Block(nn.Module):
    def __init__(self, features=3):
        self.linear = nn.Linear(features, features)
        self.norm = nn.BatchNorm(features)

    def forward(self, x):
        return mg.relu(self.norm(self.linear(x)))


class Net(nn.Module):
    """Modules as attributes, in lists and in tuples; a parameter and a buffer of its own; things that are neither."""

    def __init__(self):
        self.scale = nn.Parameter([2.0])
        self.blocks = [Block(), Block()]
        self.pair = (nn.Linear(3, 2, bias=False), "not a module")
        self.steps = mg.tensor(np.zeros(1, np.int64))
        self.name = "net"
        self.nothing = None

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.pair[0](x) * self.scale


NAMES = [
    "scale",
    "blocks.0.linear.weight",
    "blocks.0.linear.bias",
    "blocks.0.norm.gamma",
    "blocks.0.norm.beta",
    "blocks.1.linear.weight",
    "blocks.1.linear.bias",
    "blocks.1.norm.gamma",
    "blocks.1.norm.beta",
    "pair.0.weight",
]
BUFFERS = [
    "steps",
    "blocks.0.norm.running_mean",
    "blocks.0.norm.running_var",
    "blocks.1.norm.running_mean",
    "blocks.1.norm.running_var",
]


def contents(model):
    return {name: np.array(t) for name, t in model.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], strict=True, err_msg=name)


def test_parameters_and_buffers_are_found_by_name_in_order():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert sorted(name for name, _ in net.named_buffers()) == sorted(BUFFERS)
    assert [id(p) for p in net.parameters()] == [id(p) for _, p in net.named_parameters()]
    assert all(p.requires_grad for p in net.parameters())
    assert not any(b.requires_grad for _, b in net.named_buffers())


def test_modules_are_named_by_their_place():
    names = [name for name, _ in Net().modules()]
    assert names[:4] == ["", "blocks.0", "blocks.0.linear", "blocks.0.norm"]
    assert [name for name, _ in Net().children()] == ["blocks.0", "blocks.1", "pair.0"]


def test_a_shared_parameter_counts_once():
    net = Net()
    net.pair[0].weight = net.blocks[0].linear.weight
    assert len(net.parameters()) == len(NAMES) - 1


def test_all_parameters_get_a_gradient(device, rng):
    net = Net().to(device)
    net(mg.tensor(rng.standard_normal((5, 3)), dtype="float32", device=device)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_calling_passes_on_arguments_and_results():
    class Options(nn.Module):
        def forward(self, *inputs, **options):
            return inputs, options

    assert Options()(1, 2, a=3) == ((1, 2), {"a": 3})


def test_a_module_without_forward_says_so():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty has no forward"):
        Empty()(1)


def test_training_mode_reaches_every_module():
    net = Net()
    assert all(module.training for _, module in net.modules())
    assert net.eval() is net
    assert not any(module.training for _, module in net.modules())
    assert net.train() is net
    assert all(module.training for _, module in net.modules())


def test_state_dict_holds_copies_of_everything():
    net = Net()
    state = net.state_dict()
    assert sorted(state) == sorted(NAMES + BUFFERS)
    before = contents(net)
    for t in state.values():
        t[...] = 77
    assert_same(contents(net), before)


@pytest.mark.parametrize("state_of", [nn.Module.state_dict, contents])
def test_state_goes_from_one_model_to_another_as_tensors_or_arrays(state_of):
    mg.manual_seed(1)
    source, target = Net(), Net()
    target.load_state_dict(state_of(source))
    assert_same(contents(target), contents(source))


def test_loading_writes_into_the_same_tensors_and_arrays():
    source, target = Net(), Net()
    tensors = dict(target.named_parameters()) | dict(target.named_buffers())
    arrays = {name: t.data for name, t in tensors.items()}
    target.load_state_dict(source.state_dict())
    for name, t in [*target.named_parameters(), *target.named_buffers()]:
        assert t is tensors[name]
        assert t.data is arrays[name]


def test_loading_does_not_keep_the_callers_arrays():
    net = Net()
    state = contents(Net())
    net.load_state_dict(state)
    before = contents(net)
    for array in state.values():
        array[...] = 77
    assert_same(contents(net), before)


def test_a_state_that_does_not_fit_is_listed_whole_and_changes_nothing():
    net = Net()
    before = contents(net)
    state = contents(Net())
    del state["scale"], state["blocks.0.norm.running_var"]
    state["extra"] = np.zeros(1, np.float32)
    state["pair.0.weight"] = np.zeros((2, 3), np.float32)
    state["blocks.1.norm.beta"] = np.zeros(3, np.float64)
    with pytest.raises(ValueError, match="nothing was loaded") as caught:
        net.load_state_dict(state)
    for line in (
        "does not fit Net",
        "missing: scale",
        "missing: blocks.0.norm.running_var",
        "unknown: extra",
        "pair.0.weight: shape (2, 3), expected (3, 2)",
        "blocks.1.norm.beta: dtype float64, expected float32",
    ):
        assert line in str(caught.value)
    assert_same(contents(net), before)


def test_without_strict_only_what_is_there_is_loaded():
    net = Net()
    before = contents(net)
    net.load_state_dict({"scale": np.array([5], np.float32), "extra": np.zeros(1)}, strict=False)
    assert_same(contents(net), before | {"scale": np.array([5], np.float32)})


@pytest.mark.parametrize("strict", [True, False])
def test_names_under_a_prefix_are_explained(strict):
    net = Net()
    before = contents(net)
    state = {f"model.{name}": value for name, value in contents(Net()).items()}
    with pytest.raises(ValueError, match="nothing was loaded") as caught:
        net.load_state_dict({**state, "optimizer.hyper": np.zeros(3)}, strict=strict)
    lines = str(caught.value).split("\n")
    assert lines[1:] == [
        "  unknown: optimizer.hyper",
        f"  all {len(state)} that are missing are there under the prefix 'model.'; pass",
        "  {k.removeprefix('model.'): v for k, v in state.items() if k.startswith('model.')}",
    ]
    assert_same(contents(net), before)
    net.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})


def test_names_that_lack_a_prefix_are_explained():
    inner = nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r"all 2 names that came are those of this module without the prefix '0\.'"):
        nn.Sequential(nn.Linear(2, 3)).load_state_dict(inner.state_dict())


def test_a_prefix_that_explains_only_some_names_is_not_named():
    net = Net()
    state = {f"model.{name}": value for name, value in contents(net).items()}
    del state["model.scale"]
    with pytest.raises(ValueError, match="missing: scale") as caught:
        net.load_state_dict(state)
    assert "prefix" not in str(caught.value)


def test_without_strict_a_wrong_shape_is_still_refused():
    with pytest.raises(ValueError, match=r"scale: shape \(2,\), expected \(1,\)"):
        Net().load_state_dict({"scale": np.zeros(2, np.float32)}, strict=False)


def test_loading_between_forward_and_backward_is_noticed(rng):
    net = Net()
    y = net(mg.tensor(rng.standard_normal((5, 3)), dtype="float32"))
    net.load_state_dict(Net().state_dict())
    with pytest.raises(RuntimeError, match="changed in"):
        y.sum().backward()


def test_to_float64_and_back(device, rng):
    net = Net().to(device).eval()
    tensors = [t for _, t in [*net.named_parameters(), *net.named_buffers()]]
    net.load_state_dict(net.state_dict())  # its statistics count as real
    x = rng.standard_normal((5, 3))
    single = net(mg.tensor(x, dtype="float32", device=device)).numpy()
    assert net.to("float64") is net
    assert [t for _, t in [*net.named_parameters(), *net.named_buffers()]] == tensors
    for name, t in [*net.named_parameters(), *net.named_buffers()]:
        assert t.dtype == (np.int64 if name == "steps" else np.float64)
        assert t.requires_grad == (name in NAMES)
    double = net(mg.tensor(x, device=device)).numpy()
    assert double.dtype == np.float64
    np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-6)
    net.to(np.float32)
    np.testing.assert_array_equal(net(mg.tensor(x, dtype="float32", device=device)).numpy(), single)


def test_to_another_device_moves_everything(rng):
    net = Net()
    x = rng.standard_normal((5, 3)).astype(np.float32)
    y = net(mg.tensor(x))
    y.sum().backward()
    before = contents(net)
    assert net.to("reference") is net
    assert {t.device for _, t in [*net.named_parameters(), *net.named_buffers()]} == {"reference"}
    assert all(p.grad is None for p in net.parameters())
    assert_same(contents(net), before)
    moved = net(mg.tensor(x, device="reference"))
    np.testing.assert_allclose(moved.numpy(), y.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("int64", TypeError, "float32 or float64, not int64"),
        (np.float16, TypeError, "float32 or float64, not float16"),
        (None, ValueError, "None is neither a device"),
        ("nowhere", ValueError, "'nowhere' is neither a device"),
        ("cuda:1", RuntimeError, "works on one GPU"),
    ],
)
def test_to_what_is_not_there_changes_nothing(target, error, message):
    net = Net()
    before = contents(net)
    with pytest.raises(error, match=message):
        net.to(target)
    assert_same(contents(net), before)
    assert {t.device for _, t in [*net.named_parameters(), *net.named_buffers()]} == {"cpu"}


def test_repr_shows_the_tree():
    text = repr(nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm(2, gamma=False), nn.ReLU(), nn.Dropout(0.3)))
    assert text.splitlines() == [
        "Sequential(",
        "  0: Linear(3, 2, bias=False)",
        "  1: BatchNorm(2, decay=0.9, eps=1e-05, gamma=False)",
        "  2: ReLU()",
        "  3: Dropout(0.3)",
        ")",
    ]


def test_repr_shows_the_settings_of_a_module_with_children():
    text = repr(nn.Sequential(nn.MultiheadAttention(6, 2, bias=False)))
    assert text.splitlines() == [
        "Sequential(",
        "  0: MultiheadAttention(",
        "    6, 2, bias=False",
        "    out_proj: Linear(6, 6, bias=False)",
        "  )",
        ")",
    ]


def test_arrays_go_in_as_tensors_of_the_modules_device(device, rng):
    model = mg.nn.Sequential(mg.nn.Linear(5, 4), mg.nn.ReLU(), mg.nn.Linear(4, 3)).to(device)
    x = rng.standard_normal((6, 5)).astype(np.float32)
    y = model(x)
    assert y.device == device
    assert y.requires_grad
    np.testing.assert_array_equal(y.numpy(), model(mg.tensor(x, device=device)).numpy())
    np.testing.assert_array_equal(model(x[::-1]).numpy(), model(x).numpy()[::-1])


def test_arrays_and_tensors_may_be_mixed(rng):
    class Difference(mg.nn.Module):
        def forward(self, x, y, scale):
            return (x - y) * scale

    x, y = rng.standard_normal((2, 3, 4))
    np.testing.assert_array_equal(Difference()(x, mg.tensor(y), 2.0).numpy(), (x - y) * 2)


def test_arrays_keep_their_dtype():
    with pytest.raises(TypeError, match=r"x is float64, w is float32, .*astype\(np.float32\)"):
        mg.nn.Linear(3, 2)(np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("module", "shape", "mend"),
    [
        (mg.nn.Conv2d(3, 2, 3), (1, 8, 8, 3), r"mg.data.Scale\(\)"),
        (mg.nn.Linear(4, 2), (1, 4), r"astype\(np.float32\) / 255"),
    ],
)
def test_error_for_pixels_leads_to_numbers_from_0_to_1(module, shape, mend):
    with pytest.raises(TypeError, match=f"not uint8; pixels of 0 to 255 become float32 from 0 to 1 by .*{mend}$"):
        module(np.zeros(shape, np.uint8))


def test_array_inside_a_captured_step_is_refused():
    model, constant = mg.nn.Linear(3, 2), np.ones((1, 3), np.float32)
    with pytest.raises(mg.CaptureError, match="array"):
        mg.capture(lambda x: model(x) + model(constant))(np.ones((1, 3), np.float32))


@pytest.mark.parametrize("value", [[[1.0, 2.0, 3.0]], "text"])
def test_what_is_no_array_is_refused(value):
    with pytest.raises(TypeError, match="needs a Tensor, not .*mg.tensor"):
        mg.nn.Linear(3, 2)(value)


# Weights from elsewhere


class Both(nn.Module):
    """A layer of each kind."""

    def __init__(self):
        self.linear = nn.Linear(2, 3)
        self.conv = nn.Conv2d(2, 4, (3, 5))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("linear.weight", (3, 2), "transposed it would fit.*pass its .T"),
        ("conv.weight", (4, 2, 3, 5), r"here it is \(kh, kw, in, out\): pass .transpose\(2, 3, 1, 0\)"),
    ],
)
def test_a_weight_in_pytorchs_layout_is_told(name, shape, message):
    net = Both()
    before = contents(net)
    with pytest.raises(ValueError, match=message):
        net.load_state_dict({**contents(Both()), name: np.zeros(shape, np.float32)})
    assert_same(contents(net), before)


def test_a_weight_that_fits_in_no_layout_is_only_the_wrong_shape():
    with pytest.raises(ValueError, match=r"shape \(5, 2\), expected \(2, 3\)$"):
        Both().load_state_dict({"linear.weight": np.zeros((5, 2), np.float32)}, strict=False)


def test_tensors_of_pytorch_with_several_axes_are_refused():
    torch = pytest.importorskip("torch")
    square = nn.Linear(3, 3)
    before = contents(square)
    layer = torch.nn.Linear(3, 3)
    with pytest.raises(
        TypeError, match=r"weight is a tensor of PyTorch's.*outputs of a layer on the first axis.*numpy\(\).T"
    ):
        square.load_state_dict(layer.state_dict())
    assert_same(contents(square), before)
    square.load_state_dict({"weight": layer.weight.detach().numpy().T, "bias": layer.bias.detach()})
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = layer(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(square(mg.tensor(x)).numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "value",
    [np.ones((3, 2), np.float32), mg.tensor(np.ones((3, 2), np.float32)), 0.5],
    ids=["array", "tensor", "number"],
)
def test_what_is_no_parameter_cannot_take_the_place_of_one(value):
    layer = nn.Linear(3, 2)
    weight = layer.weight
    with pytest.raises(TypeError, match=rf"Linear\.weight is a Parameter, and a {type(value).__name__} in its place"):
        layer.weight = value
    assert layer.weight is weight
    other = nn.Parameter(np.ones((3, 2), np.float32))
    layer.weight = other
    assert layer.parameters()[0] is other
    layer.weight = None
    assert len(layer.parameters()) == 1


def test_the_result_of_an_op_cannot_take_the_place_of_a_parameter():
    layer = nn.Linear(3, 2)
    with pytest.raises(
        TypeError, match=r"Linear\.weight is a Parameter, and a Tensor in its place would not be trained"
    ):
        layer.weight = layer.weight * 0.5
    weight = layer.weight.detach()
    del layer.weight
    layer.weight = weight
    assert sorted(layer.state_dict()) == ["bias", "weight"]


def test_an_array_cannot_take_the_place_of_a_buffer():
    norm = nn.BatchNorm(3)
    with pytest.raises(
        TypeError, match=r"BatchNorm\.running_mean is a Tensor, and an array in its place would not be saved"
    ):
        norm.running_mean = np.zeros(3, np.float32)
    norm.running_mean = mg.tensor(np.zeros(3, np.float32))
    assert "running_mean" in norm.state_dict()


def test_a_state_that_is_no_mapping_is_refused():
    with pytest.raises(TypeError, match="a state dict is a mapping of arrays by name, not list"):
        nn.Linear(3, 2).load_state_dict([1, 2])
