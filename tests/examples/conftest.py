"""The CIFAR-10 scripts, run in this process on a few small images whose colour tells their class."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from minigrad.data.cifar10 import FILES, RECORD

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """The folder of the scripts among those that imports are looked for in, as when one of them is run."""
    if not EXAMPLES.exists():
        pytest.skip("not run from the sources")
    for name in ("matplotlib", "typer", "rich", "safetensors"):
        pytest.importorskip(name)
    sys.path.insert(0, str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def small():
    """Options that make every script short."""
    return ["--width", "0.01", "--images", "80", "--test-images", "30", "--epochs", "2", "--bn-decay", "0.5"]


@pytest.fixture(scope="module")
def study(scripts):
    return importlib.import_module("cifar10_study")


@pytest.fixture(scope="module")
def cifar10_network(scripts):
    return importlib.import_module("cifar10_network")


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """A folder in the layout of the binary distribution, 40 images in each file."""
    folder = tmp_path_factory.mktemp("cifar10")
    rng = np.random.default_rng(7)
    colours = rng.integers(30, 226, (10, 3))
    for name in FILES:
        records = np.zeros((40, RECORD), np.uint8)
        records[:, 0] = rng.permutation(40) % 10
        planes = colours[records[:, 0]][:, :, None] + rng.integers(-30, 30, (40, 3, 1024))
        records[:, 1:] = planes.reshape(40, -1)
        (folder / name).write_bytes(records.tobytes())
    return folder


@pytest.fixture(scope="module")
def start(cifar10, scripts, small):
    """A function that runs a script in this process; returns (exit code, what it printed)."""
    import typer
    from typer.testing import CliRunner

    def run(script, output, *options):
        app = typer.Typer()
        app.command()(importlib.import_module(script).main)
        arguments = ["--data", str(cifar10), "--output", str(output), *small, *map(str, options)]
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"}, catch_exceptions=False)
        return result.exit_code, result.output

    return run


@pytest.fixture
def results_of(scripts, tmp_path):
    """A function that runs a script in this process, into the folder `out`; gives what it printed and its results.json."""
    import typer
    from typer.testing import CliRunner

    def run(script, *options):
        app = typer.Typer()
        app.command()(importlib.import_module(script).main)
        arguments = ["--output", str(tmp_path / "out"), *map(str, options)]
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"}, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output, json.loads((tmp_path / "out" / "results.json").read_text())

    return run
