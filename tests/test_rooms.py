"""The map of rooms in CONTRIBUTING.md against every import, and the circles of imports."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "draw_imports.py"

if not TOOL.exists():
    pytest.skip("not run from the sources", allow_module_level=True)

specification = importlib.util.spec_from_file_location("draw_imports", TOOL)
tool = importlib.util.module_from_spec(specification)
specification.loader.exec_module(tool)

ROOMS = tool.rooms()

# A tensor's operators are ops, and ops make tensors: the one circle of modules that is in the nature of things.
TENSORS_AND_OPS = {
    *("gradients", "results", "tape", "tensor"),
    *(
        "ops.arithmetic",
        "ops.biased",
        "ops.checks",
        "ops.comparison",
        "ops.elementwise",
        "ops.forms",
        "ops.gemm",
        "ops.indexing",
    ),
    *(
        "ops.movement",
        "ops.numpy_functions",
        "ops.pointwise",
        "ops.reduce",
        "ops.shape_functions",
        "ops.statistics",
        "ops.table",
    ),
}

# Circles that only the type checker goes round.
OF_TYPES = [
    TENSORS_AND_OPS | {"anomaly", "modes", "ops.launches", "ops.shapes", "types"},
    {"devices.cuda", "devices.cuda_staging"},
    {"exchange.gpus", "exchange.session", "exchange.watch"},
    {"train.callbacks", "train.progress", "train.resuming", "train.run", "train.settings"},
]


def edges(*kinds):
    return {
        name: {other for other, found in targets.items() if found & set(kinds)}
        for name, targets in tool.graph().items()
    }


def named(circles):
    return sorted(sorted(name.removeprefix("minigrad.") for name in circle) for circle in circles)


def test_modules_import_in_no_circle_but_one():
    assert named(tool.circles(edges("import", "late"))) == named([TENSORS_AND_OPS])


def test_modules_name_types_in_few_circles():
    assert named(tool.circles(edges("import", "late", "types"))) == named(OF_TYPES)


@pytest.fixture(scope="module")
def uses():
    return tool.uses(ROOMS)  # raises for a module in no room


def test_rooms_use_one_another_in_no_circle_but_one(uses):
    circle = {"minigrad/gradients.py", "minigrad/ops/", "minigrad/results.py", "minigrad/tape.py", "minigrad/tensor.py"}
    assert tool.circles(uses) == [circle]


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "minigrad/__init__.py"])
def test_room_uses_what_the_map_says(room, uses):
    assert sorted(uses[room]) == sorted(ROOMS[room])


def test_public_names_are_from_rooms_of_the_map(uses):
    assert uses["minigrad/__init__.py"] <= ROOMS["minigrad/__init__.py"]
    assert "minigrad/ops/" in uses["minigrad/__init__.py"]


def test_module_without_a_room_is_found():
    with pytest.raises(ValueError, match=r"minigrad/tape.py is in no room of the map in CONTRIBUTING.md"):
        tool.room_of("minigrad.tape", set(ROOMS) - {"minigrad/tape.py"})


def test_rooms_of_the_map_are_there():
    assert [room for room in ROOMS if not (ROOT / room).exists()] == []


@pytest.mark.parametrize("room", tool.BY_NAME)
def test_room_that_finds_others_by_name_does(room):
    paths = [path for module, path in tool.modules().items() if tool.room_of(module, ROOMS) == room]
    assert any('import_module(f"minigrad.' in path.read_text() for path in paths)
    assert tool.BY_NAME[room] <= set(ROOMS)


def test_picture_is_of_the_code():
    pictures = (ROOT / "docs" / "figures" / "imports.svg").read_text(), tool.picture()
    kept, now = (re.sub(r"\d+(\.\d+)?", "", picture) for picture in pictures)  # places may differ by a rounding
    assert kept == now, "run: python tools/draw_imports.py"


def test_imports_are_told_apart_by_when_they_happen():
    source = """
import a
from b import c
if typing.TYPE_CHECKING:
    from d import e
else:
    import f
def g():
    import h
    class I:
        import j
class K:
    import l
    def m(self):
        if TYPE_CHECKING:
            import n
try:
    import o
except ImportError:
    pass
"""
    assert tool.imports(source) == [
        ("a", "import"),
        ("b.c", "import"),
        ("d.e", "types"),
        ("f", "import"),
        ("h", "late"),
        ("j", "late"),
        ("l", "import"),
        ("n", "types"),
        ("o", "import"),
    ]


def test_circles_are_found():
    assert tool.circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}) == [
        {"a", "b", "c"},
        {"d", "e"},
    ]


@pytest.mark.parametrize("sources", [{"a": {"b"}, "b": set()}, {"a": {"b", "c"}, "b": {"c"}, "c": set()}])
def test_a_graph_without_circles_has_none(sources):
    assert tool.circles(sources) == []
