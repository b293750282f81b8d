"""docs/array-api.md: the suite's tests that it lists as left out are those of names that are not there."""

import re
import runpy
from pathlib import Path

import pytest

import minigrad as mg

ROOT = Path(__file__).parents[2]
if not (ROOT / "docs").exists():
    pytest.skip("not run from the sources", allow_module_level=True)
LEFT_OUT = runpy.run_path(str(ROOT / "tools" / "array_api_suite.py"))["left_out"]()
HAS_NAME = re.compile(r"array_api_tests/test_has_names\.py::test_has_names\[(\w+)-(.*)\]")


def test_names_are_written_out():
    assert not [name for name in LEFT_OUT if "{" in name or "}" in name]
    assert len(set(LEFT_OUT)) == len(LEFT_OUT)
    assert "array_api_tests/test_sorting_functions.py::test_sort" in LEFT_OUT


def test_what_is_left_out_is_not_there_and_what_is_not_there_is_left_out():
    xp, t = mg.tensor([1.0]).__array_namespace__(), mg.tensor([1.0])
    named = [match.groups() for name in LEFT_OUT if (match := HAS_NAME.fullmatch(name))]
    methods = {name for kind, name in named if kind == "array_method"}
    functions = {name for kind, name in named if kind not in ("array_method", "linalg", "fft")}
    assert [name for name in methods if hasattr(t, name)] == []
    page = (ROOT / "docs" / "array-api.md").read_text(encoding="utf-8")
    (standard,) = re.findall(r'^standard = """(.*?)"""$', page, re.MULTILINE | re.DOTALL)
    assert functions == {name for name in standard.split() if not hasattr(xp, name)}
