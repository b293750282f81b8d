"""Models from files of ONNX: they compute what the file does, train, and keep the file's names; what cannot be is refused."""

import copy
import pickle

import numpy as np
import pytest
from onnx_models import ALL, MODELS, Of, batch, ready, result

import minigrad as mg

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

nn = mg.nn
EXPENSIVE = {"BNInception"}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in EXPENSIVE else name for name in ALL]


def round_trip(model, x, path, **options):
    mg.onnx.export(model, x, path / "model.onnx", **options)
    return mg.onnx.import_model(path / "model.onnx").to("reference")


@pytest.mark.parametrize("name", NAMES)
def test_what_was_exported_computes_the_same(name, tmp_path):
    model, x = ready(name)
    back = round_trip(model, x, tmp_path)
    for rows in (len(x), 1, 5):
        given = batch(x, rows)
        np.testing.assert_allclose(result(back, given), result(model, given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["Inception", "Residual", "Flatten, BatchNorm, Dropout", "MaxPool2d", "squeeze and excite"]
)
def test_channels_last_of_a_file_with_channels_first(name, tmp_path):
    model, x = ready(name)
    mg.onnx.export(model, x, tmp_path / "model.onnx", layout="channels_first")
    back = mg.onnx.import_model(tmp_path / "model.onnx", layout="channels_last").to("reference")
    np.testing.assert_allclose(result(back, x), result(model, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if not isinstance(name, str) or name in MODELS])
def test_state_has_the_names_of_the_model(name, tmp_path):
    model, x = ready(name)
    back = round_trip(model, x, tmp_path)
    expected = {name: t for name, t in model.state_dict().items() if not name.endswith("counter")}
    assert back.state_dict().keys() == expected.keys()
    assert {n for n, _ in back.named_parameters()} == {n for n, _ in model.named_parameters()}
    for key, value in back.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), expected[key].numpy())


def test_gradients_are_those_of_the_model(tmp_path, rng):
    model, x = ready("Flatten, BatchNorm, Dropout")
    back = round_trip(model, x, tmp_path)
    for network in (model, back):
        mg.sum(network(mg.tensor(x, device="reference")) ** 2).backward()
    expected = {name: p.grad.numpy() for name, p in model.named_parameters()}
    order = np.arange(120).reshape(6, 5, 4).transpose(2, 0, 1).reshape(-1)  # of flattened channels
    for name, p in back.named_parameters():
        wanted = expected[name][order] if len(expected[name]) == 120 else expected[name]
        np.testing.assert_allclose(p.grad.numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_gradients_of_recurrent_layers_are_those_of_the_model(tmp_path):
    model, x = ready("LSTM, two layers, bidirectional")
    back = round_trip(model, x, tmp_path)
    for network in (model, back):
        mg.sum(network(mg.tensor(x, device="reference")) ** 2).backward()
    found = {name: p.grad.numpy() for name, p in back.named_parameters()}
    for name, p in model[0].named_parameters():
        i, f, g, o = np.split(p.grad.numpy(), 4, axis=-1)
        wanted = np.concatenate([i, o, f, g], axis=-1)  # as ONNX has the gates
        np.testing.assert_allclose(found[f"0.{name}"][0], wanted, rtol=1e-4, atol=1e-5)


def test_imported_model_trains_and_keeps_up_its_statistics(tmp_path, rng):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm(8, decay=0.6), nn.ReLU(), nn.Linear(8, 3)).to("reference")
    x = rng.standard_normal((16, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 16)
    back = round_trip(model, x, tmp_path)
    losses = []
    for network in (model.train(), back.train()):
        optimizer = mg.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            loss = mg.cross_entropy(network(mg.tensor(x, device="reference")), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    np.testing.assert_allclose(losses[5:], losses[:5], rtol=1e-4)
    assert losses[4] < losses[0]
    for name in ("1.running_mean", "1.running_var"):
        np.testing.assert_allclose(back.state_dict()[name].numpy(), model.state_dict()[name].numpy(), rtol=1e-4)


def test_captured_step_gives_the_same_bits(tmp_path, rng):
    model, x = ready("Flatten before a Linear")
    back = round_trip(model, x, tmp_path).to("cpu")
    captured = mg.capture(lambda x: back(x))
    with mg.no_grad():
        for given in (x, batch(x, len(x)), x):
            np.testing.assert_array_equal(captured(given).numpy(), back(given).numpy())


@pytest.mark.parametrize(
    "twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_copies_compute_the_same_bits(twin, tmp_path):
    model, x = ready("BatchNorm without gamma")
    back = round_trip(model, x, tmp_path)
    np.testing.assert_array_equal(result(twin(back), x), result(back, x))


def test_another_dtype(tmp_path):
    model, x = ready("Residual")
    back = round_trip(model, x, tmp_path).to("float64")
    with pytest.raises(TypeError, match="input must be of float32, not float64"):
        back(x.astype(np.float64))


def test_it_says_what_is_in_it(tmp_path):
    model, x = ready("Flatten before a Linear")
    assert repr(round_trip(model, x, tmp_path)) == "ImportedModel(1 Transpose, 1 Conv, 1 Relu, 1 Reshape, 1 Gemm)"


def test_state_of_a_file_is_exported_again(tmp_path):
    model, x = ready("Residual")
    first = round_trip(model, x, tmp_path)
    second = round_trip(first, x, tmp_path)
    assert first.state_dict().keys() == second.state_dict().keys()
    np.testing.assert_allclose(result(second, x), result(model, x), rtol=1e-5, atol=1e-5)


def test_several_inputs_and_outputs(tmp_path, rng):
    model = Of(lambda x, y: {"sum": x + y, "difference": x - y}).to("reference")
    a, b = rng.standard_normal((2, 3, 4)).astype(np.float32)
    mg.onnx.export(model, (a, b), tmp_path / "model.onnx")
    back = mg.onnx.import_model(tmp_path / "model.onnx")
    outputs = back(a, b)
    np.testing.assert_array_equal(outputs["sum"].numpy(), a + b)
    np.testing.assert_array_equal(outputs["difference"].numpy(), a - b)
    with pytest.raises(ValueError, match=r"takes 2 inputs \(input_0, input_1\), not 1"):
        back(a)


def test_inputs_are_checked(tmp_path):
    back = round_trip(*ready("Conv2d"), tmp_path)
    with pytest.raises(ValueError, match=r"input must have shape \(batch, 6, 5, 3\), not \(2, 5, 6, 3\)"):
        back(np.ones((2, 5, 6, 3), np.float32))
    with pytest.raises(TypeError, match="must be a tensor or an array, not int"):
        back(3)
