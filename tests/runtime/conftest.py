"""Scripts in processes of their own, with an environment of their own."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def run_script(tmp_path):
    """A function that runs Python code with variables added to the environment and returns the finished process."""

    def run(code, timeout=120, check=True, **environment):
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )
        if check:
            assert result.returncode == 0, f"exit status {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result

    return run
