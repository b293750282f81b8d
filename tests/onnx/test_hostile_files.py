"""Files of ONNX that are damaged or mean harm: a clear error, nothing read outside of their folder, nothing large allocated."""

import numpy as np
import pytest

import minigrad as mg

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def network():
    """A small network as a ModelProto, its weights as they come."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["c", "shape"], ["y"], "flat"),
    ]
    weights = [
        numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w"),
        numpy_helper.from_array(np.array([0, -1], np.int64), "shape"),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])
    graph = helper.make_graph(nodes, "graph", [given], [made], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def imported(data, folder):
    path = folder / "model.onnx"
    path.write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    return mg.onnx.import_model(path)


def test_the_network_is_sound(tmp_path):
    assert imported(network(), tmp_path)(np.ones((2, 3, 4, 4), np.float32)).shape == (2, 32)


@pytest.mark.parametrize("data", [b"", b"\x00", b"<!DOCTYPE html><title>404</title>", b"\xff" * 100], ids=len)
def test_no_file_of_onnx(data, tmp_path):
    with pytest.raises(ValueError, match=r"model\.onnx is no (whole|sound) file of ONNX"):
        imported(data, tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        mg.onnx.import_model(tmp_path / "model.onnx")


def outcome(data, folder):
    """What comes of a file: the exception, or None."""
    try:
        model = imported(data, folder)
        model(np.ones((1, 3, 4, 4), np.float32))
    except (ValueError, TypeError) as error:
        return error
    return None


@pytest.mark.parametrize("part", range(4))
def test_truncated_files_are_errors(part, tmp_path):
    data = network().SerializeToString()
    for length in range(part, len(data), 4):
        assert isinstance(outcome(data[:length], tmp_path), ValueError), length


@pytest.mark.parametrize("part", range(8))
def test_flipped_bits_are_errors_or_another_model(part, tmp_path):
    data = bytearray(network().SerializeToString())
    errors = 0
    for place in range(part, len(data), 8):
        data[place] ^= 1 << (place // 8 % 8)
        errors += outcome(bytes(data), tmp_path) is not None
        data[place] ^= 1 << (place // 8 % 8)
    assert errors


def changed(**fields):
    """The network with fields of its first weight set."""
    model = network()
    weight = model.graph.initializer[0]
    for name, value in fields.items():
        if name == "dims":
            del weight.dims[:]
            weight.dims.extend(value)
        else:
            setattr(weight, name, value)
    return model


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dims": [2, 3, 3, 4]}, r"initializer 'w' has 216 bytes, and float32\[2, 3, 3, 4\] takes 288"),
        ({"dims": [2**31, 2**31]}, "has 216 bytes"),
        ({"dims": [2**62, 8]}, "has 216 bytes"),
        ({"dims": [-2, -3, 3, 3]}, "a length below 0"),
        ({"raw_data": b"123"}, "has 3 bytes"),
        ({"data_type": TensorProto.FLOAT16}, "is of FLOAT16, which minigrad has not; convert the model to float32"),
        ({"data_type": TensorProto.STRING}, "is of STRING"),
        ({"data_type": 12345}, "is of 12345"),
        ({"name": "shape"}, "two initializers of the name 'shape'"),
        ({"name": "other"}, "no sound file"),
    ],
)
def test_weights_that_do_not_fit_their_description(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        imported(changed(**fields), tmp_path)


def test_values_that_are_too_few(tmp_path):
    model = network()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.float_data.extend([1.0] * 53)
    with pytest.raises(ValueError, match="has 53 values, and its shape .* is one of 54"):
        imported(model, tmp_path)
    weight.float_data.append(1.0)
    assert imported(model, tmp_path)


def outside(location, **entries):
    """The network with its weight in another file."""
    model = network()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=str(value))
    return model


def test_weights_in_another_file_of_the_folder(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "weights").write_bytes(b"1234" + np.ones((2, 3, 3, 3), np.float32).tobytes())
    model = imported(outside("below/weights", offset=4, length=216), tmp_path)
    np.testing.assert_array_equal(model.state_dict()["w"].numpy(), np.ones((3, 3, 3, 2)))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "below/../../secret", "link", "", "."])
def test_weights_outside_of_the_folder_are_not_read(location, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(216))
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="outside of the model's folder; nothing there is read"):
        imported(outside(location), folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, r"takes 216 bytes, and 216 from 0 of 'weights' \(100\) are named"),
        ({"offset": -10}, "216 from -10"),
        ({"length": 50}, "and 50 from 0"),
        ({"offset": "x"}, "must be numbers"),
    ],
)
def test_places_in_another_file_are_checked(entries, message, tmp_path):
    (tmp_path / "weights").write_bytes(bytes(100))
    with pytest.raises(ValueError, match=message):
        imported(outside("weights", **entries), tmp_path)


@pytest.mark.parametrize("location", ["a" * 5000, "a/b/" * 2000])
def test_names_that_no_file_can_have_are_refused(location, tmp_path):
    with pytest.raises(ValueError, match="initializer 'w' lies in 'a.*no file") as error:
        imported(outside(location), tmp_path)
    assert len(str(error.value)) < 700


def test_weights_in_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no such file beside the model; copy it there"):
        imported(outside("weights"), tmp_path)


def test_constants_of_nodes_lie_in_the_file(tmp_path):
    model = network()
    value = outside("weights").graph.initializer[0]
    model.graph.node.append(
        helper.make_node("Constant", [], ["z"], "constant", value=value)
    )  # which the checker would look for
    (tmp_path / "weights").write_bytes(bytes(216))
    with pytest.raises(ValueError, match="and only initializers may"):
        imported(model, tmp_path)


def test_file_that_is_too_large(tmp_path, monkeypatch):
    from minigrad.onnx import reading

    monkeypatch.setattr(reading, "LARGEST", 100)
    with pytest.raises(ValueError, match="can have 100"):
        imported(network(), tmp_path)


def test_sparse_weights(tmp_path):
    model = network()
    sparse = model.graph.sparse_initializer.add()
    sparse.dims.append(4)
    with pytest.raises(ValueError, match="sparse weights"):
        imported(model, tmp_path)


def test_input_that_is_no_tensor(tmp_path):
    model = network()
    model.graph.input.append(helper.make_tensor_sequence_value_info("more", TensorProto.FLOAT, [1]))
    with pytest.raises(ValueError, match="'more' is no tensor, but sequence_type"):
        imported(model, tmp_path)


def test_model_too_large_for_a_file(tmp_path, monkeypatch):
    from minigrad.onnx import exporting

    monkeypatch.setattr(exporting, "LARGEST", 100)
    with pytest.raises(ValueError, match="bytes, and a file of ONNX can have 100"):
        mg.onnx.export(mg.nn.Linear(8, 8), np.ones((1, 8), np.float32), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def of_one_node(kind, numbers=None, **attributes):
    """A network of one node, on x and perhaps numbers."""
    weights = [] if numbers is None else [numpy_helper.from_array(np.array(numbers, np.int64), "numbers")]
    node = helper.make_node(kind, ["x", "numbers"] if weights else ["x"], ["y"], "it", **attributes)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m"])
    graph = helper.make_graph([node], "graph", [given], [made], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("kind", "numbers", "attributes"),
    [
        ("Softmax", None, {"axis": 4}), ("Flatten", None, {"axis": -5}), ("Flatten", None, {"axis": 5}),
        ("ReduceMean", None, {"axes": [1, 7]}), ("Gather", [0], {"axis": 4}), ("ArgMax", None, {"axis": -5}),
        ("Squeeze", [4], {}), ("Unsqueeze", [5], {}), ("CumSum", 4, {}), ("Split", [4], {"axis": 6}),
        ("Gather", [0, 3], {"axis": 1}), ("Gather", [-4], {"axis": 1}), ("Gather", -4, {"axis": 1}),
        ("Split", [-1], {"axis": 1}), ("Split", [2], {"axis": 1}), ("Split", [4], {"axis": 1}),
    ],
)  # fmt: skip
def test_axes_and_places_that_are_not_there_are_refused(kind, numbers, attributes, tmp_path):
    """And not counted from the front again."""
    with pytest.raises(ValueError, match=f"{kind} 'it'.*(axis|index)"):
        imported(of_one_node(kind, numbers, **attributes), tmp_path)(np.ones((2, 3, 4, 4), np.float32))


def test_places_on_an_axis_without_length_are_refused(tmp_path):
    model = imported(of_one_node("Gather", [0], axis=0), tmp_path)
    assert model(np.ones((1, 3, 4, 4), np.float32)).shape == (1, 3, 4, 4)
    with pytest.raises(ValueError, match="not all on an axis of 0"):
        model(np.ones((0, 3, 4, 4), np.float32))
