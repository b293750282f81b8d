"""The command `minigrad`: what it prints, what it refuses and with which exit status."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import cli
from minigrad.cli import verification
from minigrad.kernels.build import cache
from minigrad.kernels.build.settings import cache_root

pytest.importorskip("typer")
from typer.testing import CliRunner


@pytest.fixture
def run(monkeypatch):
    """A function that runs a command line: (exit status, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")

    def invoke(*arguments):
        result = CliRunner().invoke(cli.application(), arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_the_commands(run, option):
    status, out, _ = run(option)
    assert status == 0
    for command in ("info", "warmup", "verify", "data", "bench", "cache"):
        assert f" {command} " in out


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(run, option):
    assert run(option) == (0, f"minigrad {mg.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "--device", "gpu"), "--device: unknown device 'gpu'; there are 'cpu', 'reference', 'cuda', 'auto'"),
        (("warmup", "--device", "gpu"), "--device: unknown device 'gpu'; there are"),
        (("warmup", "--processes", "0"), "--processes must be at least 1, not 0"),
        (
            ("warmup", "--precision", "fp16"),
            "--precision: the precision of products is one of 'float32', 'bf16_3x', 'tf32', 'bf16'",
        ),
        (("warmup", "--model", "lstm"), "--model: unknown model 'lstm'; there are 'mnist', 'inception', 'all'"),
        (("bench", "--device", "gpu"), "--device: unknown device 'gpu'; there are"),
        (("bench", "--steps", "-5"), "--steps must be at least 1, not -5"),
        (("bench", "--steps", "0"), "--steps must be at least 1, not 0"),
        (("data", "--name", "cifar"), "--name: unknown dataset 'cifar'; there are 'mnist', 'cifar10'"),
    ],
)
def test_arguments_that_make_no_sense_get_one_line(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"minigrad: {message}")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["verify", "warmup", "bench"])
def test_a_device_that_does_not_work_gets_one_line(run, monkeypatch, command):
    def missing(name):
        raise RuntimeError("numba-cuda is not installed")

    monkeypatch.setattr(cli, "get_device", missing)
    with pytest.raises(SystemExit, match="^minigrad: numba-cuda is not installed$"):
        getattr(cli, command)(device="cuda")


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_data_that_is_not_there_is_told(run, name, tmp_path):
    with pytest.raises(SystemExit) as ended:
        cli.data(name, tmp_path / "none")
    assert str(ended.value).startswith("minigrad: ")
    assert str(tmp_path / "none") in str(ended.value)


def test_verify_has_a_line_for_every_family_of_kernels():
    from minigrad.kernels import contract

    families = set(contract.Kernels.__annotations__)
    assert len(families) >= 13
    checked = {name.partition(":")[0] for name in verification.op_cases()} | {"optim", "augment"}
    assert checked == families


@pytest.mark.parametrize("name", verification.op_cases())
def test_ops_pass_on_the_reference(name):
    verification.check_op("reference", *verification.op_cases()[name])


def test_verify_passes(run):
    """On the device that compiles nothing; the CPU's kernels have tests of their own."""
    status, out, _ = run("verify", "--device", "reference")
    assert status == 0
    assert all(line.startswith("ok      ") for line in out.splitlines())
    assert len(out.splitlines()) == len(verification.op_cases()) + 3


@pytest.mark.slow
def test_verify_passes_on_the_cpu(run):
    status, out, _ = run("verify")
    assert (status, out.count("ok      ")) == (0, len(verification.op_cases()) + 3)


def test_verify_tells_what_fails(run, monkeypatch):
    monkeypatch.setattr(cli, "op_cases", lambda: {"gemm: linear": (lambda a: a * a.detach(), (np.ones(2),))})
    monkeypatch.setattr(cli, "check_capture", lambda device: None)
    status, out, _ = run("verify", "--device", "reference")
    assert status == 1
    assert out.startswith("FAILED  gemm: linear\n        gradient of input 0, element (0,): backward gives")


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """A cache with kernels of two versions, data, and something that is none of ours."""
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path))
    files = {
        "now": tmp_path / "kernels" / cache.sources_hash("cpu") / "gemm.kernel",
        "old": tmp_path / "kernels" / ("0" * 20) / "gemm.kernel",
        "other": tmp_path / "kernels" / "notes" / "text",
        "data": tmp_path / "mnist" / "images.gz",
    }
    for path in files.values():
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 200_000)
    return files


@pytest.mark.parametrize(
    ("options", "removed"),
    [((), set()), (("--clear-old",), {"old"}), (("--clear",), {"old", "now"})],
    ids=["show", "old", "all"],
)
def test_cache_shows_and_clears_kernels(run, kept, options, removed):
    status, out, _ = run("cache", *options)
    assert status == 0
    assert {name for name, path in kept.items() if not path.exists()} == removed
    assert out.count("removed") == len(removed)
    assert "  1 file, 0.2 MB  this version, CPU" in out
    assert "  1 file, 0.2 MB  another version" in out
    assert out.endswith(": 1 file, 0.2 MB\n")


def test_one_variable_moves_all_that_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "here"))
    assert cache_root() == cache.cache_root() == tmp_path / "here"


def test_info_tells_the_variables(run, monkeypatch, tmp_path):
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path))
    status, out, _ = run("info")
    assert status == 0
    assert f"$MINIGRAD_DATA          {tmp_path}" in out
    assert "$MINIGRAD_CACHE         " in out
    assert "downloaded data         " in out
