"""The reader of ONNX, fed with damaged files as the others are in test_readers.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")


def test_damaged_files_of_onnx_are_loaded_rightly_or_refused():
    command = [sys.executable, Path(__file__).parent / "feed.py", "onnx", "0", "200"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    assert not found["wrong"], "\n".join(f"file number {number}:\n{what}" for number, what in found["wrong"][:5])
    assert found["loaded"] > 0
    assert found["refused"] > 0
