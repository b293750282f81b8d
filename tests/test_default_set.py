"""What `pytest` leaves out must not be a whole subject: each file of tests keeps some of its tests, apart from those named here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
LEFT_OUT_WHOLE = {
    "tests/benchmarks",  # what is timed, run for real: minutes of compiling that no user's program does
    "tests/ops/test_large.py",  # 8 GB of addresses, which the system takes its time to map
    "tests/cuda/test_barriers.py",  # translates and runs a kernel anew for each barrier that it takes out
    "tests/cuda/test_resuming.py",  # a whole run for each step it may end after; tests/train does the same on the reference
    "tests/examples/test_cifar10_studies.py",  # every script is run by test_cifar10_scripts.py, on fewer images
}


@pytest.fixture(scope="module")
def default_set():
    """The tests that `pytest` would run."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "--collect-only", "-p", "no:cacheprovider"]
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"
    }  # as the README has it
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, env=environment)
    assert listed.returncode == 0, listed.stdout[-2000:] + listed.stderr[-2000:]
    return [line for line in listed.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_every_file_keeps_some_of_its_tests(default_set):
    kept = {test.partition("::")[0] for test in default_set}
    there = {path.relative_to(ROOT).as_posix() for path in TESTS.rglob("test_*.py") if path != Path(__file__)}
    missed = {file for file in there - kept if not {file, file.rpartition("/")[0]} & LEFT_OUT_WHOLE}
    assert not missed
    assert kept <= there


@pytest.mark.slow
def test_every_example_is_run(default_set):
    of_helpers = {"cifar10_network", "cifar10_study", "points", "reporting"}  # imported by the others
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")} - of_helpers
    run_by_tests_of_their_own = {
        "mnist_batchnorm": "tests/test_mnist_example.py::test_batch_normalization_learns_faster",
        "see_the_tape": "tests/docs/test_pages.py::",
        "char_transformer": "tests/examples/test_char_transformer.py::test_a_tiny_one_learns_and_writes",
        "char_lstm": "tests/examples/test_char_lstm.py::test_a_small_one_learns_and_writes",
        "recurrent_batchnorm": "tests/examples/test_recurrent_studies.py::test_recurrent_batchnorm",
        "cifar10_resnet": "tests/examples/test_image_networks.py::test_both_networks_of_the_resnet_begin_alike_and_are_trained",
        "mnist_autoencoder": "tests/examples/test_image_networks.py::test_both_autoencoders_are_trained",
        "covariate_shift": "tests/examples/test_covariate_shift.py::test_the_study_writes_what_it_measures",
        "adabn": "tests/examples/test_recurrent_studies.py::test_adabn",
        "draw_models": "tests/inspect/test_model_drawing.py::",  # what it calls; the script itself draws large models, for minutes
    }
    for script in scripts:
        name = run_by_tests_of_their_own.get(script, f"[{script}]")
        assert any(name in test for test in default_set), script


@pytest.mark.slow
def test_the_command_that_runs_every_op_is_in_it(default_set):
    assert "tests/test_cli.py::test_verify_passes" in default_set
