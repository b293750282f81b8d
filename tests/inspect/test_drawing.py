import xml.etree.ElementTree as ET

import numpy as np
import pytest

import minigrad as mg
from minigrad.inspect.drawing import ports

SVG = "{http://www.w3.org/2000/svg}"


def boxes(picture):
    """(first text, fill) of every box."""
    groups = [g for g in ET.fromstring(picture).iter(SVG + "g") if g.find(SVG + "title") is not None]
    return [(g.find(SVG + "text").text, g.find(SVG + "rect").get("fill")) for g in groups]


def arrows(picture):
    return [path for path in ET.fromstring(picture).iter(SVG + "path") if path.get("marker-end")]


def test_picture_has_a_box_for_each_op_and_leaf(net):
    two = net()
    titles = [title for title, _ in boxes(mg.inspect.draw(two.loss(), names=two.leaves))]
    assert sorted(titles) == sorted(
        ["MatMul", "Add", "Sigmoid", "MatMul", "Add", "CrossEntropy", "w1", "b1", "w2", "b2"]
    )


def test_picture_has_an_arrow_for_each_input_on_the_tape(net):
    assert len(arrows(mg.inspect.draw(net().loss()))) == 5 + 4


def test_recorded_constants_are_drawn(net):
    two = net()
    with mg.inspect.record():
        loss = two.loss()
    picture = mg.inspect.draw(loss, names={"x": two.x, "labels": two.labels})
    assert {"x", "labels"} <= {title for title, _ in boxes(picture)}
    assert len(arrows(picture)) == 5 + 4 + 2


def test_leaves_ops_and_the_result_differ_in_colour(net):
    two = net()
    fill = dict(boxes(mg.inspect.draw(two.loss(), names=two.leaves)))
    assert len({fill["w1"], fill["Sigmoid"], fill["CrossEntropy"]}) == 3
    assert fill["w1"] == fill["b2"]


def test_tooltip_has_the_formula_and_the_line(net):
    two = net()
    with mg.inspect.trace():
        y = mg.sigmoid(two.leaves["w1"])
    root = ET.fromstring(mg.inspect.draw(y))
    tooltips = [title.text for title in root.iter(SVG + "title")]
    assert any("dx = dy y (1 - y)" in tip and 'mg.sigmoid(two.leaves["w1"])' in tip for tip in tooltips)


def test_boxes_are_within_the_picture(net):
    root = ET.fromstring(mg.inspect.draw(net().loss()))
    width, height = float(root.get("width")), float(root.get("height"))
    rects = [g.find(SVG + "rect") for g in root.iter(SVG + "g") if g.find(SVG + "title") is not None]
    for rect in rects:
        x, y, w, h = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
        assert x >= 0
        assert y >= 0
        assert x + w + 32 <= width + 1
        assert y + h + 32 <= height + 1


def test_names_are_escaped(net):
    two = net()
    picture = mg.inspect.draw(two.loss(), names={"a<b & c": two.leaves["w1"]})
    assert "a<b & c" in {title for title, _ in boxes(picture)}


def test_file_holds_the_picture(net, tmp_path):
    picture = mg.inspect.draw(net().loss(), tmp_path / "tape.svg")
    assert (tmp_path / "tape.svg").read_text(encoding="utf-8") == picture


def test_notebooks_show_it(net):
    picture = mg.inspect.draw(net().loss())
    assert picture._repr_svg_() == picture


def test_an_op_used_twice_by_another_has_two_arrows():
    x = mg.tensor(np.ones(3), device="reference", requires_grad=True)
    h = mg.exp(x)
    assert len(arrows(mg.inspect.draw(h * h))) == 3


def test_arrow_from_right_above_meets_the_middle():
    assert ports([100.0, 150.0, 20.0], 100.0, 120.0) == [0.0, 18.0, -18.0]


def test_arrows_meet_the_box_however_many():
    offsets = ports([float(x) for x in range(30)], 15.0, 80.0)
    assert max(map(abs, offsets)) <= 40
    assert offsets == sorted(offsets)


@pytest.mark.parametrize("steps", [1, 12])
def test_shared_weights_are_drawn_once(steps):
    rng = np.random.default_rng(0)
    w = mg.tensor(rng.standard_normal((3, 3)), device="reference", requires_grad=True)
    h = mg.tensor(rng.standard_normal((2, 3)), device="reference")
    for _ in range(steps):
        h = mg.tanh(h @ w)
    assert [title for title, _ in boxes(mg.inspect.draw(h, names={"w": w}))].count("w") == 1


def test_an_op_with_several_results_is_one_box():
    x = mg.tensor(np.ones((2, 4)), "float32", "reference", requires_grad=True)
    a, b = mg.split(x, [1], axis=1)
    picture = mg.inspect.draw((a * b).sum(), names={"x": x})
    assert [title for title, _ in boxes(picture)] == ["x", "Split", "Mul", "Sum"]
    assert len(arrows(picture)) == 4
    assert "results float32[2, 1], float32[2, 3]" in picture
