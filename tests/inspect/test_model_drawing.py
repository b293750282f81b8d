import runpy
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.inspect.model_graph import blocks_of, units_of

SVG = "{http://www.w3.org/2000/svg}"
ROOT = Path(__file__).parents[2]


class Block(nn.Module):
    """Reads its input twice."""

    def __init__(self, features):
        self.body = nn.Sequential(nn.Linear(features, features, bias=False), nn.BatchNorm(features))

    def forward(self, x):
        return mg.relu(self.body(x) + x)


class Far(nn.Module):
    """Adds its input to what its last module reads."""

    def __init__(self):
        self.one, self.two = Block(4), Block(4)

    def forward(self, x):
        return self.two(self.one(x)) + x


def units(model, shape):
    x = mg.tensor(np.zeros(shape, np.float32), device="reference", requires_grad=True)
    return units_of(model.to("reference"), x)


def drawn(model, shape, **options):
    return ET.fromstring(mg.inspect.draw_model(model.to("reference"), shape, **options))


def texts(picture):
    return [text.text for text in picture.iter(SVG + "text")]


def test_normalization_and_activation_stand_in_the_box_of_what_they_follow():
    found = units(mg.models.MLP(12, (5, 4), 3), (2, 12))
    assert [(u.title, u.kind, u.shape, u.parameters, u.sources) for u in found] == [
        ("input", "input", (12,), 0, []),
        ("linear, BN, Sigmoid", "dense", (5,), 70, [0]),
        ("linear, BN, Sigmoid", "dense", (4,), 28, [1]),
        ("linear", "dense", (3,), 15, [2]),
    ]
    assert found[1].modules == ["1", "2", "3"]


def test_a_layer_that_two_read_is_not_drawn_as_one_with_what_follows():
    class Twice(nn.Module):
        def __init__(self):
            self.first, self.activation = nn.Linear(3, 3), nn.ReLU()

        def forward(self, x):
            h = self.first(x)
            return self.activation(h) + h

    assert [(u.title, u.sources) for u in units(Twice(), (1, 3))] == [
        ("input", []),
        ("linear", [0]),
        ("ReLU", [1]),
        ("add", [2, 1]),
    ]


def test_a_layer_used_twice_is_two_boxes_with_its_parameters_once():
    layer = nn.Linear(4, 4)
    found = units(nn.Sequential(layer, nn.ReLU(), layer), (1, 4))
    assert [u.parameters for u in found] == [0, 20, 0]


def test_dropout_is_told_of_though_it_does_nothing_here():
    found = units(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)), (1, 4))
    assert [u.title for u in found] == ["input", "linear, ReLU, dropout", "linear"]


def test_windows_and_strides_are_in_the_title():
    model = nn.Sequential(
        nn.Conv2d(3, 4, (3, 5), stride=2), nn.MaxPool2d(2), nn.AvgPool2d(3, stride=1), nn.GlobalAvgPool()
    )
    titles = [u.title for u in units(model, (1, 20, 20, 3))]
    assert titles == ["input", "3×5 conv /2", "2×2 max pool /2", "3×3 average pool", "global average"]


def test_modules_that_follow_one_another_are_blocks():
    model = nn.Sequential(nn.Linear(4, 4), Block(4), Block(4), nn.Linear(4, 2))
    found = units(model, (1, 4))
    assert [(block.name, len(block.units)) for block in blocks_of(found)] == [
        ("", 1),
        ("", 1),
        ("1", 2),
        ("2", 2),
        ("", 1),
    ]
    assert [u.title for u in found[2:4]] == ["linear, BN", "add, ReLU"]
    assert found[3].sources == [2, 1]


def test_a_model_in_a_model_has_the_blocks_of_the_inner_one():
    found = units(nn.Sequential(nn.Sequential(Block(4), Block(4))), (1, 4))
    assert [block.name for block in blocks_of(found)] == ["", "0.0", "0.1"]


def test_what_reads_from_further_up_is_drawn_without_frames():
    found = units(Far(), (1, 4))
    assert [len(block.units) for block in blocks_of(found)] == [len(found)]
    picture = drawn(Far(), (1, 4))
    assert len([path for path in picture.iter(SVG + "path") if path.get("marker-end")]) == 8


def test_inception_is_drawn_with_a_frame_for_each_module():
    model = mg.models.Inception(width=0.05)
    picture = drawn(model, (1, 8, 8, 3))
    names = [t for t in texts(picture) if t in mg.models.inception.MODULES]
    assert names == ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
    assert texts(picture).count("concatenate") == 9
    total = sum(p.size for p in model.parameters())
    assert f"Inception: {total:,} parameters" in texts(picture)
    counts = [int(t.rpartition(" · ")[2].replace(",", "")) for t in texts(picture) if " · " in t and "par" not in t]
    assert sum(counts) == total


@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize("model", [mg.models.Inception(width=0.05), nn.Sequential(Block(4), nn.Flatten(), Block(4))])
def test_everything_is_within_the_picture_and_boxes_do_not_overlap(model, columns):
    picture = drawn(model, (1, 8, 8, 3) if isinstance(model, mg.models.Inception) else (1, 4), columns=columns)
    width, height = float(picture.get("width")), float(picture.get("height"))
    boxes = []

    def walk(element, x, y):
        shift = element.get("transform")
        if shift:
            dx, dy = map(float, shift.removeprefix("translate(").removesuffix(")").split())
            x, y = x + dx, y + dy
        for child in element:
            if child.tag == SVG + "rect" and child.get("height") == "40":
                left, upper = x + float(child.get("x")), y + float(child.get("y"))
                boxes.append((left, upper, left + float(child.get("width")), upper + 40))
            walk(child, x, y)

    walk(picture, 0.0, 0.0)
    assert len(boxes) > 3
    for i, (left, upper, right, lower) in enumerate(boxes):
        assert left >= 0
        assert upper >= 0
        assert right <= width
        assert lower <= height
        for other in boxes[:i]:
            assert right <= other[0] or other[2] <= left or lower <= other[1] or other[3] <= upper


def test_pointing_at_a_box_shows_the_modules():
    titles = [title.text for title in drawn(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), (1, 3)).iter(SVG + "title")]
    assert titles == ["Sequential: 12 parameters", "the batch's inputs", "0, 1"]


def test_the_model_is_as_before_and_the_file_is_written(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm(3)).to("reference")
    before = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    picture = mg.inspect.draw_model(model, np.ones((2, 3), np.float32), tmp_path / "a.svg")
    assert model.training
    assert all(np.array_equal(t.numpy(), before[name]) for name, t in model.state_dict().items())
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == picture


@pytest.mark.parametrize(
    ("example", "options", "error", "message"),
    [
        ("cat.png", {}, TypeError, "draw_model needs the shape of a batch, such as"),
        ((1, 3), {"columns": 0}, ValueError, "columns must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(example, options, error, message):
    with pytest.raises(error, match=message):
        mg.inspect.draw_model(nn.Linear(3, 3).to("reference"), example, **options)


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "examples").is_dir(), reason="not run from the sources")
def test_the_figures_in_the_documentation_are_what_the_example_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["draw_models.py", "--folder", str(tmp_path)])
    runpy.run_path(str(ROOT / "examples" / "draw_models.py"), run_name="__main__")
    for path in tmp_path.iterdir():
        assert path.read_text() == (ROOT / "docs" / "figures" / path.name).read_text(), path.name
