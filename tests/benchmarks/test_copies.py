"""That a stale copy of minigrad is not measured in place of the sources."""

import shutil
import sys
from types import SimpleNamespace

import pytest

from benchmarks.tools import copies


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """(folder of the sources, folder of a copy of them that is imported)."""
    sources, place = tmp_path / "sources", tmp_path / "site-packages"
    for name in ("minigrad", "kernels"):
        (sources / name).mkdir(parents=True)
        (sources / name / "__init__.py").write_text(f"name = {name!r}")
    shutil.copytree(sources / "minigrad", place / "minigrad")
    shutil.copytree(sources / "kernels", place / "minigrad" / "kernels")
    kernels = SimpleNamespace(__file__=str(place / "minigrad" / "kernels" / "__init__.py"))
    monkeypatch.setattr(
        copies, "minigrad", SimpleNamespace(__file__=str(place / "minigrad" / "__init__.py"), kernels=kernels)
    )
    monkeypatch.setattr(copies, "ROOT", sources)
    return sources, place


def test_a_copy_like_the_sources_is_fine(installed):
    copies.check_copy()


@pytest.mark.parametrize("name", ["minigrad", "kernels"])
def test_a_copy_that_differs_is_refused(name, installed):
    sources, _ = installed
    (sources / name / "__init__.py").write_text("changed = True")
    with pytest.raises(ImportError, match=r"which differs from the sources in .*; install .*: pip install -e \."):
        copies.check_copy()


def test_the_environments_of_asv_are_taken_as_they_are(installed, monkeypatch):
    sources, _ = installed
    (sources / "minigrad" / "new.py").write_text("")
    monkeypatch.setattr(sys, "prefix", str(sources / ".asv" / "env" / "1"))
    copies.check_copy()


def test_the_sources_themselves_are_fine():
    copies.check_copy()
