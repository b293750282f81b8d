"""The experiment of the paper's Figure 1, in little: what it writes, and that the seed decides every bit of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.vector.target import HAS_BFLOAT16

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "mnist_batchnorm.py"
PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="not run from the sources")


@pytest.fixture(scope="module", autouse=True)
def extras():
    for name in ("matplotlib", "typer", "rich"):
        pytest.importorskip(name)


def run(folder, *options, steps=60):
    """Runs the example in an empty folder; returns what it printed and the numbers it wrote."""
    folder.mkdir()
    fast = ["--learning-rate", "0.5", "--sigma", "0.1"]  # so that few steps show the difference
    command = [sys.executable, SCRIPT, "--steps", str(steps), "--output", "out", *fast, *map(str, options)]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert sorted(p.name for p in folder.iterdir()) == ["out"]
    return result.stdout, json.loads((folder / "out" / "history.json").read_text())


def without_times(history):
    """The numbers that the seed decides."""
    networks = {
        name: {key: value for key, value in network.items() if key != "seconds"}
        for name, network in history["networks"].items()
    }
    return history["configuration"], networks


@pytest.fixture(scope="module")
def one_thread(tmp_path_factory):
    return run(tmp_path_factory.mktemp("example") / "run", "--threads", 1)


def test_history_has_every_number(one_thread):
    _, history = one_thread
    configuration = history["configuration"]
    assert configuration == {
        "steps": 60, "batch": 60, "learning_rate": 0.5, "sigma": 0.1, "seed": 0, "unit": 0, "device": "cpu",
        "precision": "float32",
    }  # fmt: skip
    assert history["versions"]["minigrad"] == mg.__version__
    assert history["versions"]["numpy"] == np.__version__
    assert history["machine"]["threads"] == 1
    assert history["machine"]["cpu"]
    assert history["seconds"] > 0
    assert list(history["networks"]) == ["without BN", "with BN"]
    for network in history["networks"].values():
        assert network["steps"][-1] == 60
        assert network["diverged_at"] is None
        assert network["seconds"] > 0
        for name in ("test_accuracy", "loss", "percentiles"):
            assert len(network[name]) == len(network["steps"]), name
        assert all(0 <= value <= 1 for value in network["test_accuracy"])
        assert all(low <= middle <= high for low, middle, high in network["percentiles"])


@pytest.mark.slow
@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not multiply bfloat16")
def test_products_in_bfloat16_train_alike(one_thread, tmp_path):
    exact, rounded = one_thread[1]["networks"], run(tmp_path / "run", "--precision", "bf16")[1]["networks"]
    for name in exact:
        assert rounded[name]["loss"][-1] != exact[name]["loss"][-1]
        assert rounded[name]["loss"][-1] == pytest.approx(exact[name]["loss"][-1], rel=0.01)
        assert rounded[name]["test_accuracy"][-1] == pytest.approx(exact[name]["test_accuracy"][-1], abs=0.02)


def test_batch_normalization_learns_faster(one_thread):
    networks = one_thread[1]["networks"]
    assert networks["with BN"]["test_accuracy"][-1] > 0.5
    assert networks["with BN"]["test_accuracy"][-1] > networks["without BN"]["test_accuracy"][-1] + 0.2
    assert (
        abs(networks["with BN"]["test_accuracy_population_statistics"] - networks["with BN"]["test_accuracy"][-1]) < 0.1
    )


@pytest.mark.slow
def test_figure_is_a_picture(tmp_path, one_thread):
    run(tmp_path / "run", steps=1)
    content = (tmp_path / "run" / "out" / "figure1.png").read_bytes()
    assert content.startswith(PNG)
    from matplotlib import image

    pixels = image.imread(tmp_path / "run" / "out" / "figure1.png")
    assert pixels.shape[1] > 2 * pixels.shape[0]  # three panels in a row
    assert pixels[..., :3].std() > 0.01


def test_terminal_shows_a_table(one_thread):
    printed, history = one_thread
    accuracy = history["networks"]["with BN"]["test_accuracy"][-1]
    for text in ("test accuracy", "without BN", "with BN", f"{accuracy:.3f}", "figure1.png", "history.json"):
        assert text in printed


@pytest.mark.slow
@pytest.mark.skipif(threads.available_threads() < 2, reason="needs two CPUs")
def test_same_seed_gives_the_same_bits_on_any_number_of_threads(tmp_path, one_thread):
    _, history = run(tmp_path / "run", "--threads", 2)
    assert history["machine"]["threads"] == 2
    assert without_times(history) == without_times(one_thread[1])


@pytest.mark.slow
def test_another_seed_gives_other_numbers(tmp_path, one_thread):
    _, history = run(tmp_path / "run", "--seed", 1)
    assert history["configuration"]["seed"] == 1
    for name, network in history["networks"].items():
        assert network["loss"] != one_thread[1]["networks"][name]["loss"]


@pytest.mark.slow
def test_diverging_network_is_recorded_as_such(tmp_path):
    printed, history = run(tmp_path / "run", "--learning-rate", "1e38")
    assert [network["diverged_at"] for network in history["networks"].values()] == [60, 60]
    assert "diverged" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "0"), "steps"),
        (("--threads", "0"), "threads"),
        (("--device", "tpu"), "device"),
        (("--unit", "100"), "unit"),
        (("--learning-rate", "-1"), "lr"),
    ],
)
def test_wrong_options_are_refused_and_write_nothing(tmp_path, options, message):
    command = [sys.executable, SCRIPT, "--steps", "1", "--output", "out", *options]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode != 0
    assert message in result.stderr.lower() + result.stdout.lower()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_the_gpu_learns_what_the_cpu_learns(one_thread, tmp_path):
    _, expected = one_thread
    _, history = run(tmp_path / "gpu", "--device", "cuda")
    assert history["configuration"]["device"] == "cuda"
    for name, network in expected["networks"].items():
        np.testing.assert_allclose(history["networks"][name]["test_accuracy"], network["test_accuracy"], atol=0.02)
