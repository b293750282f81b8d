"""ModuleList, ModuleDict and ParameterList, and what happens to modules and parameters that are held in anything else."""

import copy
import pickle
from collections import deque

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn


def linears(n):
    return [nn.Linear(2, 2) for _ in range(n)]


def scales(n):
    return [nn.Parameter([float(i)]) for i in range(n)]


class Net(nn.Module):
    """One of each, one in another."""

    def __init__(self):
        self.blocks = nn.ModuleList([nn.ModuleList(linears(2)), nn.Linear(2, 2, bias=False)])
        self.heads = nn.ModuleDict({"digits": nn.Linear(2, 3), "letters": nn.Linear(2, 5, bias=False)})
        self.scales = nn.ParameterList(scales(2))

    def forward(self, x):
        for layer in self.blocks[0]:
            x = layer(x)
        for scale in self.scales:
            x = x * scale
        return mg.concat([head(self.blocks[1](x)) for head in self.heads.values()])


NAMES = [
    *(f"blocks.0.{i}.{name}" for i in range(2) for name in ("weight", "bias")),
    "blocks.1.weight",
    *("heads.digits.weight", "heads.digits.bias", "heads.letters.weight"),
    *("scales.0", "scales.1"),
]


def test_parameters_are_named_by_number_and_key():
    net = Net()
    assert sorted(name for name, _ in net.named_parameters()) == sorted(NAMES)
    assert list(net.state_dict()) == [name for name, _ in net.named_parameters()]


def test_all_are_trained(device, rng):
    net = Net().to(device)
    net(mg.tensor(rng.standard_normal((3, 2)), dtype="float32", device=device)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_modes_reach_them():
    net = Net().eval()
    assert not any(module.training for _, module in net.modules())
    assert not net.blocks[0][1].training
    assert not net.heads["digits"].training


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_state_goes_to_another_and_copies_compute_the_same(duplicate, rng):
    x = mg.tensor(rng.standard_normal((3, 2)), dtype="float32")
    net, other = Net(), Net()
    other.load_state_dict(net.state_dict())
    for twin in (other, duplicate(net)):
        np.testing.assert_array_equal(twin(x).numpy(), net(x).numpy())


def test_folding_goes_into_them():
    net = Net()
    net.blocks.append(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm(2)))
    folded = nn.fold_batch_norm(net)
    assert len(folded.blocks[2]) == 1
    assert len(net.blocks[2]) == 2
    assert folded.blocks[0][0] is not net.blocks[0][0]


def test_captured_steps_see_what_is_changed(rng):
    net = nn.ModuleList(linears(2))
    step = mg.capture(lambda x: net[len(net) - 1](x))
    x = rng.standard_normal((3, 2)).astype(np.float32)
    for change in (lambda: None, lambda: net.append(nn.Linear(2, 2)), net.pop, lambda: net.insert(0, nn.Linear(2, 2))):
        change()
        np.testing.assert_array_equal(step(x).numpy(), net[len(net) - 1](mg.tensor(x)).numpy())


@pytest.mark.parametrize(
    ("kind", "make"),
    [(nn.ModuleList, linears), (nn.ParameterList, scales), (nn.Sequential, linears), (nn.Concat, linears)],
)
def test_they_are_lists(kind, make):
    items = make(5)
    held, expected = kind(items[:3]) if kind in (nn.ModuleList, nn.ParameterList) else kind(*items[:3]), items[:3]
    held.append(items[3])
    expected.append(items[3])
    held.insert(1, items[4])
    expected.insert(1, items[4])
    assert list(map(id, held)) == list(map(id, expected))
    assert len(held) == 5
    assert held.pop() is expected.pop()
    held[-1] = expected[-1] = items[3]
    del held[0], expected[0]
    held += [items[0]]
    expected += [items[0]]
    assert list(map(id, held)) == list(map(id, expected))
    assert [held[i] is expected[i] for i in (0, 1, -1)] == [True] * 3
    for index in (slice(2), slice(1, None), slice(None, None, -1)) if kind is not nn.Concat else ():
        part = held[index]
        assert type(part) is kind
        assert list(map(id, part)) == list(map(id, expected[index]))
    assert items[3] in held
    assert items[2] not in held
    assert list(map(id, held.extend(iter(make(0))))) == list(map(id, expected))
    with pytest.raises(IndexError):
        held[len(held)]


def test_a_layer_is_replaced_in_a_captured_step(rng):
    model = nn.Sequential(nn.Linear(2, 3), nn.Concat(nn.ReLU(), nn.Tanh()))
    step, x = mg.capture(lambda x: model(x)), rng.standard_normal((4, 2)).astype(np.float32)

    def replace():
        model[0] = nn.Linear(2, 3)

    def replace_branch():
        model[1][0] = nn.Sigmoid()

    for change in (lambda: None, replace, replace_branch, lambda: model.append(nn.Linear(6, 2)), model.pop):
        change()
        np.testing.assert_array_equal(step(x).numpy(), model(mg.tensor(x)).numpy())
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias"]


def test_layers_with_names_of_their_own_are_replaced_only():
    model = mg.models.Inception(width=0.125)
    names = list(dict(model.children()))
    model[0] = model[0]
    assert list(dict(model.children())) == names
    with pytest.raises(TypeError, match=r"layers of Inception have names: one may be replaced, none be added or taken"):
        model.append(nn.ReLU())
    assert list(dict(model.children())) == names


def test_more_than_ten_stay_in_order():
    held = nn.ParameterList(scales(12))
    held.insert(0, nn.Parameter([-1.0]))
    assert [p.item() for p in held] == list(range(-1, 12))
    assert [name for name, _ in held.named_parameters()] == [str(i) for i in range(13)]


def test_module_dict_is_a_dict():
    a, b, c = linears(3)
    held = nn.ModuleDict([("a", a)])
    held["b"] = b
    held.update({"a": c})
    assert list(held) == list(held.keys()) == ["a", "b"]
    assert list(held.values()) == [c, b]
    assert dict(held.items()) == {"a": c, "b": b}
    assert "a" in held
    assert len(held) == 2
    assert held.pop("a") is c
    del held["b"]
    assert len(held) == 0
    assert not list(held.parameters())
    with pytest.raises(KeyError):
        held["a"]


def test_what_they_do_not_hold():
    with pytest.raises(TypeError, match="ModuleList holds Modules, not Parameter"):
        nn.ModuleList(scales(1))
    with pytest.raises(TypeError, match="ParameterList holds Parameters, not Tensor"):
        nn.ParameterList([mg.tensor([1.0])])
    with pytest.raises(TypeError, match="ModuleDict holds Modules, not function"):
        nn.ModuleDict({"f": mg.relu})
    for name in ("", "a.b", "forward", "training", "items"):
        with pytest.raises(ValueError, match="cannot be a module's name"):
            nn.ModuleDict({name: nn.ReLU()})
    with pytest.raises(TypeError, match="must be a string, not 3"):
        nn.ModuleDict({3: nn.ReLU()})


def test_a_refused_change_leaves_a_list_as_it_was():
    held = nn.ModuleList(linears(2))
    before = list(held)
    with pytest.raises(TypeError):
        held.extend([nn.ReLU(), None])
    assert list(held) == before


def test_they_show_what_they_hold():
    assert repr(nn.ModuleList([nn.ReLU()])) == "ModuleList(\n  0: ReLU()\n)"
    assert repr(nn.ParameterList(scales(2))) == "ParameterList((1,), (1,))"
    with pytest.raises(NotImplementedError, match="ModuleList has no forward"):
        nn.ModuleList()(1)


# What is held in anything else

HIDDEN = {
    "a parameter in a list": ([nn.Parameter([1.0])], r"held\[0\] is a Parameter", "ParameterList"),
    "a parameter in a tuple": ((1, nn.Parameter([1.0])), r"held\[1\] is a Parameter", "ParameterList"),
    "a parameter in a dict": ({"w": nn.Parameter([1.0])}, r"held\['w'\] is a Parameter", "ParameterList"),
    "a parameter in a set": ({nn.Parameter([1.0])}, r"held\[0\] is a Parameter", "ParameterList"),
    "a frozen parameter": ([nn.Parameter([1.0], requires_grad=False)], r"held\[0\] is a Parameter", "ParameterList"),
    "a tensor to be trained": ([mg.tensor([1.0], requires_grad=True)], r"held\[0\] is a Tensor", "ParameterList"),
    "a module in a dict": ({"a": nn.ReLU()}, r"held\['a'\] is a ReLU", "ModuleList or mg.nn.ModuleDict"),
    "a module in a deque": (deque([nn.ReLU()]), r"held\[0\] is a ReLU", "ModuleList"),
    "a module in a nested list": ([nn.ReLU(), [nn.Linear(1, 1)]], r"held\[1\]\[0\] is a Linear", "ModuleList"),
    "a module deeper down": ({"a": [0, ({3: nn.ReLU()},)]}, r"held\['a'\]\[1\]\[0\]\[3\] is a ReLU", "ModuleList"),
}


def holding(value):
    """A module with one attribute."""
    module = nn.Module()
    module.held = value
    return module


@pytest.mark.parametrize("ask", [nn.Module.parameters, nn.Module.state_dict, lambda module: module.to("float64")])
@pytest.mark.parametrize(("value", "what", "mend"), HIDDEN.values(), ids=HIDDEN.keys())
def test_what_would_not_be_found_is_an_error(ask, value, what, mend):
    for model in (holding(value), nn.Sequential(nn.ReLU(), holding(value))):
        with pytest.raises(TypeError, match=rf"Module\.{what}.*neither trained nor saved; hold it in mg.nn.{mend}"):
            ask(model)


def test_a_plain_tensor_to_be_trained_is_an_error():
    with pytest.raises(TypeError, match=r"Module\.held is a Tensor that requires a gradient.* make it mg.nn.Parameter"):
        holding(mg.tensor([1.0], requires_grad=True)).parameters()


def test_what_is_found_elsewhere_may_also_stand_in_a_container():
    module = holding(nn.Sequential(*linears(2)))
    module.by_name = {"first": module.held[0], "weights": [module.held[1].weight]}
    module.everything = module.parameters()
    assert len(module.parameters()) == 4


def test_containers_of_other_things_are_left_alone():
    x = mg.tensor([1.0], requires_grad=True)
    around = [1, "a", mg.tensor([1.0]), x * 2.0, np.zeros(3)]
    around.append(around)
    module = holding(around)
    module.activations = {"y": x * 2.0}
    assert module.parameters() == []
    assert list(module.state_dict()) == []


def test_lists_and_tuples_of_modules_are_searched():
    module = holding([nn.Linear(1, 1), "other", nn.ReLU()])
    module.pair = (nn.Linear(1, 1, bias=False),)
    assert list(module.state_dict()) == ["held.0.weight", "held.0.bias", "pair.0.weight"]
