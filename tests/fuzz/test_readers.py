"""Every reader of files, fed with damaged ones: loaded rightly, or refused by the documented error, in little memory and time."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fuzz.feed import READERS

TESTS = Path(__file__).resolve().parents[1]
NEEDS = {"weights": "safetensors", "tables": "pyarrow", "pictures": "PIL", "onnx": "onnx"}


def fed(readers, first, count, timeout):
    """What `feed.py` says of each reader, and what it wrote to the error stream."""
    command = [sys.executable, "-m", "fuzz.feed", str(first), str(count), *readers]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=TESTS)
    said = map(json.loads, result.stdout.splitlines())
    return {found["reader"]: found for found in said}, result.stderr[-3000:]


@pytest.fixture(scope="module")
def found():
    """Of the first files, of all readers whose libraries are there."""
    there = [reader for reader in READERS if find_spec(NEEDS.get(reader, "numpy"))]
    return fed(there, 0, 200, timeout=240)


def check(said, reader):
    """Nothing went wrong, and both outcomes came."""
    results, errors = said
    assert reader in results, errors
    found = results[reader]
    assert not found["wrong"], "\n".join(f"file number {number}:\n{what}" for number, what in found["wrong"][:5])
    assert found["loaded"] > 0
    assert found["refused"] > 0


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_loaded_rightly_or_refused(reader, found):
    pytest.importorskip(NEEDS.get(reader, "numpy"))
    check(found, reader)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("reader", READERS)
def test_thousands_of_damaged_files_are_loaded_rightly_or_refused(reader):
    pytest.importorskip(NEEDS.get(reader, "numpy"))
    check(fed([reader], 1000, 5000, timeout=1700), reader)
