"""The list of environment variables is complete, and the page says the same."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minigrad.kernels.build import settings
from minigrad.kernels.cpu.tools import threads

ROOT = Path(__file__).resolve().parents[1]
NAMES = {variable.name for variable in settings.VARIABLES}
BY_LISTS = {
    "kernels/cpu/tools/threads.py",
    "kernels/cpu/tools/workers.py",
    "minigrad/cli/__init__.py",
    "minigrad/distributed/guard.py",
    "minigrad/distributed/processes.py",
    "minigrad/exchange/watch.py",
}  # which go through USERS_WORDS, hand all on to a process, go through the list itself, and through what mpiexec tells processes
BY_LIBRARIES = {"XDG_CACHE_HOME"}  # platformdirs

if not (ROOT / "docs").exists():
    pytest.skip("not run from the sources", allow_module_level=True)


def is_environ(node):
    return isinstance(node, ast.Attribute) and node.attr in ("environ", "environb")


def uses(source):
    """The names read of os.environ, and how many uses have another form."""
    tree, names, known = ast.parse(source), set(), set()
    for node in ast.walk(tree):
        key = inside = None
        if isinstance(node, ast.Subscript) and is_environ(node.value):
            key, inside = node.slice, node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_environ(node.func.value):
            key, inside = (node.args or [None])[0], node.func.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "getenv":
            key, inside = node.args[0], node.func
        if inside is not None and isinstance(key, ast.Constant):
            names.add(key.value)
            known.add(id(inside))
    other = [n for n in ast.walk(tree) if (is_environ(n) or getattr(n, "attr", "") == "getenv") and id(n) not in known]
    return names, len(other)


def sources():
    for room in ("minigrad", "kernels"):
        for path in (ROOT / room).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith("minigrad/kernels/"):
                yield name, path.read_text(encoding="utf-8")


def test_every_variable_that_is_read_is_listed():
    read, by_lists = set(), set()
    for name, source in sources():
        names, other = uses(source)
        read |= names
        by_lists |= {name} if other else set()
    assert by_lists == BY_LISTS
    assert read | set(threads.USERS_WORDS) | BY_LIBRARIES == NAMES


def test_uses_are_found():
    source = 'os.environ["A"]; os.environ.get("B"); os.getenv("C"); os.environ[d]; "E" in os.environ'
    assert uses(source) == ({"A", "B", "C"}, 2)


def test_page_lists_the_same():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    assert rows == [tuple(variable) for variable in settings.VARIABLES]


@pytest.mark.skipif(sys.platform == "win32", reason="the XDG folders are not those of Windows")
def test_cache_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.delenv("MINIGRAD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert settings.cache_root() == tmp_path / "minigrad"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    custom = "Library/Caches" if sys.platform == "darwin" else ".cache"
    assert settings.cache_root() == tmp_path / "home" / custom / "minigrad"


def test_platformdirs_is_asked_for_the_folder_of_minigrad_alone(monkeypatch):
    """On Windows a vendor's folder would lie above it, and one called Cache within."""
    from platformdirs.windows import Windows

    monkeypatch.delenv("MINIGRAD_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.PlatformDirs", Windows)
    monkeypatch.setattr("platformdirs.windows.get_win_folder", lambda name: f"/home/{name}")
    assert settings.cache_root() == Path("/home/CSIDL_LOCAL_APPDATA/minigrad")


def test_folders_of_a_user_need_no_library_where_the_environment_names_one(tmp_path):
    code = "import sys; from minigrad.kernels.build.settings import cache_root; print(cache_root(), 'platformdirs' in sys.modules)"
    environment = {**os.environ, "MINIGRAD_CACHE": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(tmp_path), "False"]
