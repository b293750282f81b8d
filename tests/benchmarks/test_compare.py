"""The command: what it writes besides the numbers, what it says of a busy machine, and what becomes of a section that fails."""

import json
import sys
import types

import pytest

from benchmarks import compare
from benchmarks.sections import gemm, limits
from benchmarks.tools import machine, tables
from benchmarks.tools.frameworks import OURS

QUIET = {"load_before": 0.1, "cores_busy_before": 0.02, "busy": False}
BUSY = {"load_before": 2.5, "cores_busy_before": 1.9, "busy": True}


def section(result=None, text="A table\n"):
    """One that measures nothing, or fails where there is no result."""

    def measure():
        if result is None:
            raise RuntimeError("illegal address")
        return result

    return types.SimpleNamespace(
        plan=lambda run: [("a thing", measure)],
        report=lambda found: text,
        targets=lambda found: [tables.target("speed", 2.0, 1.0, at_least=True, unit="x")],
    )


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """The command with these sections on a machine with this load: what it printed, wrote, and how it ended."""

    def start(load, *arguments, **sections):
        monkeypatch.setattr(machine, "load", lambda: load)
        monkeypatch.setitem(compare.SECTIONS, "cpu", sections)
        output = tmp_path / "found.json"
        end = None
        try:
            compare.main([*arguments, "--output", str(output)])
        except SystemExit as error:
            end = str(error)
        return capsys.readouterr().out, json.loads(output.read_text()), end

    return start


def test_a_result_says_where_when_and_of_what_it_is(run):
    printed, kept, end = run(QUIET, "--threads", "1", step=section({"a": 1}))
    about = kept["machine"]
    assert {"cpu", "simd_bits", "physical_cores", "caches", "date", "commit", "command", "versions"} <= about.keys()
    assert about.items() >= QUIET.items()
    assert kept["step"] == [{"a": 1}]
    assert [t["reached"] for t in kept["targets"]] == [True]
    assert end is None
    assert "disturbed" not in printed
    assert "A table" in printed


def test_a_busy_machine_is_told_in_the_file_and_below_every_table(run):
    printed, kept, _ = run(BUSY, "--threads", "1", step=section({"a": 1}), gemm=section({"b": 2}, "Another table\n"))
    assert kept["machine"]["busy"]
    warning = "busy before this was measured (load 2.5, 1.9 cores at work): these numbers are disturbed"
    assert printed.count(warning) == 4  # the machine's description, two sections, targets
    for text in ("A table", "Another table"):
        assert warning in printed.partition(text)[2].splitlines()[1]


def test_load_is_the_average_before_and_the_cores_at_work_now(monkeypatch):
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (0.6, 9.0, 9.0))
    seconds = iter([100.0, 100.75])
    monkeypatch.setattr(machine, "busy_seconds", lambda: next(seconds))
    found = machine.load()
    assert (found["load_before"], found["busy"]) == (0.6, True)
    assert found["cores_busy_before"] == pytest.approx(1.5, rel=0.2)
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (0.5, 9.0, 9.0))
    monkeypatch.setattr(machine, "busy_seconds", lambda: None)
    assert machine.load() == {"load_before": 0.5, "cores_busy_before": None, "busy": False}


def test_the_load_is_taken_before_anything_is_measured(run, monkeypatch):
    order = []
    first = section({})
    first.plan = lambda run: [("a thing", lambda: order.append("section") or {})]
    monkeypatch.setattr(compare.machine, "describe", lambda load: order.append("load") or {**machine_here(), **load})
    run(QUIET, "--threads", "1", step=first)
    assert order == ["load", "section"]


def machine_here():
    here = {"cpu": "a CPU", "physical_cores": 1, "simd_bits": 256, "caches": {"L1 data": 32768}, "system": "Linux"}
    return {**here, "versions": {}, "numpy_blas": "blas", "pinned": True}


def test_libraries_are_held_to_vectors_by_the_environment_of_a_process_that_begins_anew(monkeypatch):
    assert machine.held_to() is None
    assert "max_isa" not in machine.environment(1)["XLA_FLAGS"]
    started = []
    monkeypatch.setattr(compare.os, "execve", lambda *call: started.append(call) or sys.exit("began anew"))
    with pytest.raises(SystemExit, match="began anew"):
        compare.main(["--simd", "avx2"])
    ((_, command, variables),) = started
    assert command[1:] == sys.orig_argv[1:]
    for name in machine.AVX2_ONLY:
        monkeypatch.setenv(name, variables[name])
    assert machine.held_to() == "avx2"
    assert machine.environment(1)["XLA_FLAGS"].endswith("--xla_cpu_max_isa=AVX2")


def test_a_section_that_fails_is_told_and_the_others_go_on(run):
    printed, kept, end = run(QUIET, "--threads", "1", gemm=section(), step=section({"failed": ["x: it was wrong"]}))
    assert kept["failed"] == ["a thing: RuntimeError: illegal address", "a thing: x: it was wrong"]
    assert all(why in end for why in kept["failed"])
    assert "A table" in printed
    assert "gemm" not in kept


def test_only_some_sections_and_numbers_of_threads(run):
    printed, kept, _ = run(QUIET, "--threads", "1", "999", "--only", "step", gemm=section(), step=section({}))
    assert "Left out: 999 threads" in printed
    assert "step" in kept
    assert not kept["failed"]
    with pytest.raises(SystemExit, match="no number of threads is left"):
        compare.on_cpu([999])


def test_sections_belong_to_a_device(capsys):
    assert compare.arguments(["--device", "cuda"]).only == list(compare.SECTIONS["cuda"])
    assert compare.arguments([]).only == list(compare.SECTIONS["cpu"])
    with pytest.raises(SystemExit):
        compare.arguments(["--device", "cuda", "--only", "start"])
    assert "unknown section 'start'" in capsys.readouterr().err


def test_on_a_gpu_limits_come_first_and_what_goes_by_them_is_left_out_without(simulated, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compare, "on_gpu", lambda about: compare.sides_of(simulated, about))
    monkeypatch.setattr(compare, "pytorch", lambda: (None, "not installed"))
    monkeypatch.setattr(machine, "load", lambda: QUIET)
    monkeypatch.setattr(limits, "COPIED", 300)
    monkeypatch.setattr(gemm, "compare", lambda *given, **settings: 1 / 0)
    output = tmp_path / "found.json"
    with pytest.raises(SystemExit, match="matrix products: ZeroDivisionError"):
        compare.main(["--device", "cuda", "--quick", "--only", "gemm,where", "--output", str(output)])
    kept, printed = json.loads(output.read_text()), capsys.readouterr().out
    assert kept["limits"][0]["bytes"] == 8 * 300
    assert list(kept["limits"][0]["copy"]) == [OURS]
    assert kept["machine"]["gpu"]["name"] == "simulator"
    assert "Left out: PyTorch (not installed)" in printed
    assert "Left out: where (it goes by limits that are not known here)" in printed
