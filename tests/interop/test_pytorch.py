"""Weights to and from PyTorch: the same logits, the same bits back, every key accounted for."""

import numpy as np
import pytest

import minigrad as mg

torch = pytest.importorskip("torch")

from torch_twins import BNInception, OurResNet18, ResNet18, inception_names, logits, our_logits, randomize  # noqa: E402

nn = torch.nn


def images(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def assert_round_trip(model, theirs, **options):
    back = mg.interop.to_torch(model, num_batches_tracked=7, **options)
    state = theirs.state_dict()
    assert sorted(back) == sorted(state)
    for name, value in state.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value), name


def test_resnet18(rng):
    x = images(rng, 2, 64, 48, 3)
    theirs = randomize(ResNet18(width=8, classes=10))
    model = OurResNet18(width=8, classes=10).to("reference")
    mg.interop.from_torch(model, theirs.state_dict(), example=x)
    np.testing.assert_allclose(our_logits(model, x), logits(theirs, x), rtol=0, atol=1e-5)
    assert_round_trip(model, theirs, example=x)


@pytest.mark.slow
def test_bn_inception(rng):
    x = images(rng, 1, 64, 64, 3)
    theirs = randomize(BNInception(classes=10))
    model = mg.models.BNInception(classes=10)
    names = inception_names()
    mg.interop.from_torch(model, theirs.state_dict(), names=names, example=x)
    np.testing.assert_allclose(our_logits(model, x), logits(theirs, x), rtol=0, atol=1e-5)
    assert_round_trip(model, theirs, names=names, example=x)


def flattening():
    theirs = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.BatchNorm1d(4 * 2 * 3), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 5),
    )  # fmt: skip
    ours = mg.nn.Sequential(
        mg.nn.Conv2d(3, 4, 3, padding=1), mg.nn.ReLU(), mg.nn.MaxPool2d(2), mg.nn.Flatten(),
        mg.nn.BatchNorm(24), mg.nn.ReLU(), mg.nn.Linear(24, 24), mg.nn.ReLU(), mg.nn.Linear(24, 5),
    )  # fmt: skip
    return randomize(theirs), ours.to("reference")


def test_linear_and_batch_norm_after_a_flatten_get_their_inputs_in_our_order(rng):
    x = images(rng, 2, 4, 6, 3)
    theirs, model = flattening()
    mg.interop.from_torch(model, theirs, example=x)
    np.testing.assert_allclose(our_logits(model, x), logits(theirs, x), rtol=0, atol=1e-5)
    assert_round_trip(model, theirs, example=x)


def test_flatten_without_an_example_is_refused():
    theirs, model = flattening()
    with pytest.raises(ValueError, match="3 is a Flatten, which may flatten images"):
        mg.interop.from_torch(model, theirs.state_dict())


def test_what_is_left_on_both_sides_is_listed_and_nothing_changed(rng):
    x = images(rng, 2, 4, 6, 3)
    theirs, model = flattening()
    state = theirs.state_dict()
    state["extra"] = state.pop("8.weight")
    before = model.state_dict()["0.weight"].numpy()
    with pytest.raises(ValueError, match=r"(?s)only here: 8.weight.*only in PyTorch: extra"):
        mg.interop.from_torch(model, state, example=x)
    assert (model.state_dict()["0.weight"].numpy() == before).all()


@pytest.mark.parametrize(
    ("options", "message"), [({"eps": 1e-3}, "eps 1e-05 here"), ({"momentum": 0.3}, "decay 0.9 here")]
)
def test_other_eps_or_momentum_is_refused(options, message):
    theirs = nn.Sequential(nn.BatchNorm1d(3, **options))
    with pytest.raises(ValueError, match=message):
        mg.interop.from_torch(mg.nn.Sequential(mg.nn.BatchNorm(3)), theirs)


@pytest.mark.parametrize("layout", ["torch", "minigrad"])
def test_square_weight_in_a_file_that_says_whose_layout_it_is(layout, tmp_path):
    pytest.importorskip("safetensors")
    model, other = (mg.nn.Sequential(mg.nn.Linear(4, 4)) for _ in range(2))
    mg.interop.save_safetensors(model, tmp_path / "w.safetensors", layout=layout)
    mg.interop.load_safetensors(other, tmp_path / "w.safetensors")
    assert (other[0].weight.numpy() == model[0].weight.numpy()).all()


def test_file_that_does_not_say_its_layout_is_refused(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"0.weight": np.ones((4, 4), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="does not say whose layout"):
        mg.interop.load_safetensors(mg.nn.Sequential(mg.nn.Linear(4, 4, bias=False)), tmp_path / "w.safetensors")


def test_file_of_pytorch_is_read_by_itself(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    theirs = nn.Sequential(nn.Linear(4, 4))
    safetensors.save_file(theirs.state_dict(), tmp_path / "w.safetensors", {"format": "pt"})
    model = mg.interop.load_safetensors(mg.nn.Sequential(mg.nn.Linear(4, 4)), tmp_path / "w.safetensors")
    assert (model[0].weight.numpy() == theirs[0].weight.detach().numpy().T).all()
