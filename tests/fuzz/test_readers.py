"""Every reader of files, fed with damaged ones: loaded rightly, or refused by the documented error, in little memory and time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.feed import READERS

TESTS = Path(__file__).resolve().parents[1]
NEEDS = {"weights": "safetensors", "tables": "pyarrow", "pictures": "PIL", "onnx": "onnx"}


def fed(reader, first, count, timeout):
    """What `feed.py` says."""
    command = [sys.executable, "-m", "fuzz.feed", reader, str(first), str(count)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=TESTS)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


def check(found):
    """Nothing went wrong, and both outcomes came."""
    assert not found["wrong"], "\n".join(f"file number {number}:\n{what}" for number, what in found["wrong"][:5])
    assert found["loaded"] > 0
    assert found["refused"] > 0


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_loaded_rightly_or_refused(reader):
    pytest.importorskip(NEEDS.get(reader, "numpy"))
    check(fed(reader, 0, 200, timeout=240))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("reader", READERS)
def test_thousands_of_damaged_files_are_loaded_rightly_or_refused(reader):
    pytest.importorskip(NEEDS.get(reader, "numpy"))
    check(fed(reader, 1000, 5000, timeout=1700))
