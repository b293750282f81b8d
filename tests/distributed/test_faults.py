"""One process of several fails, and all end, each with a line that says which it was and what, in seconds."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import ranks
from ranks import PROGRAMS, command, ended, start

from minigrad import checkpoint
from minigrad.distributed import launch

BOUND = 60  # seconds, the start of Python and the import of minigrad on a busy machine among them


def fails(case, folder, n=2, given=None):
    """What a run that must fail has written."""
    found = ended(start(given or command(n, "faults.py", case, folder)), BOUND + 30, n)
    assert found.status != 0, found.output
    return found.errors


def lines_of(errors, n):
    """By rank, what its line says."""
    found = dict(re.findall(r"^minigrad: rank (\d) of \d (.*)$", errors, re.MULTILINE))
    assert sorted(found) == [str(rank) for rank in range(n)], errors
    return [found[str(rank)] for rank in range(n)]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("shapes", r"the processes differ in the model:\n  rank 1: bias is .*\n  rank 1: weight is 'float32\[3, 5\]', where rank 0 has 'float32\[3, 4\]'"),
        pytest.param("configuration", r"the processes differ in the training:\n  rank 1: configuration.optimizer.lr is 0.2, where rank 0 has 0.1", marks=pytest.mark.slow),
        pytest.param("version", r"version or script:\n  rank 1: minigrad is '9.9', where rank 0 has", marks=pytest.mark.slow),
        pytest.param("data", r"rank 1: loader.length is 600, where rank 0 has 630", marks=pytest.mark.slow),
        ("momentum", r"in the optimizer's state:\n  rank 1: average_counts of 0.bias is '1 update', where rank 0 has '0 updates'\n(?s:.*?)  rank 1: velocity of 0.weight is 'float32\[\d, \d\] of checksum \w{8}', where rank 0 has 'float32\[\d, \d\] of zeros'\n(?s:.*?)load the same checkpoint in all processes"),
        pytest.param("momentum_of_a_loop", r"optimizer's state:\n  rank 1: velocity of 0.bias is '.* of checksum \w{8}', where rank 0 has '.* of checksum \w{8}'", marks=pytest.mark.slow),
        pytest.param("groups", r"optimizer's state:\n  rank 1: 0.bias is 'parameter 1, in group 1', where rank 0 has 'parameter 1, in group 0'\n  rank 1: 1.bias is 'nothing', where", marks=pytest.mark.slow),
        pytest.param("schedule", r"the state to go on from:\n  rank 1: schedule.best is 1.0, where rank 0 has None", marks=pytest.mark.slow),
        ("rows", r"in the data:\n  rank 1: array 0 of the loader is '40 rows of checksum \w{8}', where rank 0 has '40 rows of checksum \w{8}'\n  rank 1: array 1 of the loader is(?s:.*?)make them alike in all processes"),
        pytest.param("validation_rows", r"in the data:\n  rank 1: array 0 of the validation is '20 rows of checksum \w{8}'", marks=pytest.mark.slow),
        pytest.param("estimator", r"in the estimator's random numbers:\n  rank 1: seed is \d+, where rank 0 has \d+\nset random_state=", marks=pytest.mark.slow),
        pytest.param("gradients", r"rank 0 is at 'gradients of \w{8}' of .*, rank 1 is at 'gradients of \w{8}' of ", marks=pytest.mark.slow),
        pytest.param("other_code", r"rank 0 is at 'accuracies' of 24 bytes, its exchange \d+, rank 1 is at 'losses'", marks=pytest.mark.slow),
        ("lengths", r"rank 0 is at 'accuracies' of 24 bytes, its exchange \d+, rank 1 is at 'losses' of 2,400 bytes"),
        pytest.param("kinds", r"rank 0 is at 'random numbers' of .*, rank 1 is at 'comparing the model' of", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_every_rank_says_who_differs_and_in_what(tmp_path, case, told):
    errors = fails(case, tmp_path)
    assert len(re.findall(r"^minigrad\.exchange\.errors\.RanksDiffer: ", errors, re.MULTILINE)) == 2, errors
    assert len(re.findall(told, errors)) == 2, errors


@pytest.mark.slow
def test_what_may_differ_is_not_told(tmp_path):
    found = ended(start(command(2, "faults.py", "alike", tmp_path)), BOUND + 30, 2)
    assert found.status == 0, found.errors


@pytest.mark.slow
def test_folders_may_differ_where_rank_0_alone_writes(tmp_path):
    found = ended(start(command(2, "faults.py", "own_folder", tmp_path)), BOUND + 30, 2)
    assert found.status == 0, found.errors
    checkpoint.load(tmp_path / "0" / "last.safetensors")
    assert not (tmp_path / "1" / "last.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lengths", "kinds"])
def test_three_ranks_say_who_differs(tmp_path, case):
    told = re.findall(
        r"^minigrad\.exchange\.errors\.RanksDiffer: .*, rank 2 is at .*", fails(case, tmp_path, 3), re.MULTILINE
    )
    assert len(told) == 3


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4])
def test_a_rank_that_does_not_come_to_init_does_not_hold_up_the_others(tmp_path, n):
    errors = fails("absent", tmp_path, n)
    assert "ValueError: no such data" in errors
    waiting = re.findall(
        r"^minigrad: rank (\d) of \d ends: it has waited 5 s in mg\.distributed\.init\(\)", errors, re.MULTILINE
    )
    assert waiting
    assert "0" not in waiting


@pytest.mark.slow
def test_other_arguments_are_told(tmp_path):
    one = [sys.executable, str(PROGRAMS / "faults.py"), "arguments", str(tmp_path)]
    given = [launch.mpiexec(), "-n", "1", *one, ":", "-n", "1", *one, "more"]
    assert len(re.findall("rank 1: its arguments is .*'more'", fails("", tmp_path, given=given))) == 2


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_rank_that_hangs_is_told_by_all_with_where_it_is(tmp_path, n):
    began = time.monotonic()
    lines = lines_of(fails("hang", tmp_path, n), n)
    assert time.monotonic() - began < BOUND
    for line in lines[:-1]:
        assert re.search(
            rf"has waited \d+ s in exchange \d+ \(.*\).*rank {n - 1} is in no exchange, .*/faults.py:\d+ in hang", line
        ), line
    assert "it is in no exchange" in lines[-1]
    assert "faults.py" in lines[-1]


@pytest.mark.slow
def test_a_rank_that_does_not_answer_is_told(tmp_path):
    errors = fails("stop", tmp_path)
    assert "rank 1 does not answer: its process or its machine hangs" in errors


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_an_error_in_one_rank_ends_all(tmp_path, n):
    errors = fails("error", tmp_path, n)
    for rank in range(n - 1):
        assert f"minigrad: rank {rank} of {n} ends, since rank {n - 1} failed: ValueError: no such thing\n" in errors
    assert "ValueError: no such thing" in errors.partition("Traceback")[2]


@pytest.mark.slow
def test_a_rank_that_leaves_is_told(tmp_path):
    assert re.search(r"minigrad: rank 0 of 2 ends: it has waited .*, and rank 1 ended before", fails("leave", tmp_path))


@pytest.mark.slow
def test_a_killed_rank_is_named_by_the_launcher(tmp_path):
    given = launch.command(2, [str(PROGRAMS / "faults.py"), "kill", str(tmp_path)])
    errors = fails("kill", tmp_path, given=given)
    assert "minigrad: rank 1 was ended by SIGKILL on " in errors
    checkpoint.load(tmp_path / "last.safetensors")


def test_sigterm_to_one_rank_saves_and_ends_all(tmp_path):
    found = ended(start(command(2, "faults.py", "terminate", tmp_path)), BOUND + 30, 2)
    assert found.status == 143, found.errors
    assert len(re.findall("^minigrad: SIGTERM after step 4; .* goes on from it$", found.errors, re.MULTILINE)) == 2
    assert checkpoint.load(tmp_path / "last.safetensors").extra["run"]["step"] == 4


@pytest.mark.slow
def test_a_full_disk_of_rank_0_ends_all(tmp_path):
    errors = fails("full_disk", tmp_path)
    assert "OSError: [Errno 27] File too large" in errors
    assert re.search(r"RankFailed: rank 0 failed at writing .*last.safetensors: OSError: .*File too large", errors)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_told_with_its_rank(tmp_path):
    errors = fails("diverge", tmp_path)
    assert errors.count("the loss became inf in step 1: it was inf of rank 1;") >= 2


@pytest.mark.slow
def test_a_process_that_multiprocessing_starts_is_told_to_leave_mpi_alone():
    for said in ranks.run(2, "child.py"):
        assert "RuntimeError: mg.distributed.init() was called in a process that multiprocessing has started" in said


def test_the_guard_passes_on_status_and_signals(tmp_path):
    guard = [sys.executable, str(launch.GUARD), sys.executable, "-c"]
    assert subprocess.run([*guard, "raise SystemExit(7)"]).returncode == 7
    script = "import signal, time; signal.signal(15, lambda *_: exit(9)); print('ready', flush=True); time.sleep(60)"
    process = subprocess.Popen([*guard, script], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.terminate()
    assert process.wait(timeout=100) == 9
    process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /dev/shm")
def test_nothing_is_left_of_shared_memory_however_a_run_ends():
    """Its name is gone once all have it open, so that neither an abort nor a kill leaves it behind."""
    for mapped in ranks.run(2, "memory.py"):
        assert mapped
        assert all(name.endswith(" (deleted)") for name in mapped), mapped


def test_tests_are_of_this_copy():
    assert os.fspath(ranks.ROOT) in os.fspath(launch.GUARD)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_has_the_bits_of_one_that_was_not():
    sys.path.insert(0, str(PROGRAMS.parent))
    try:
        import kills
    finally:
        sys.path.pop(0)
    assert len(kills.main(4, steps=800, say=lambda line: None, seed=1)) == 4


@pytest.mark.slow
def test_minigrad_launch_starts_a_script_with_its_own_arguments(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nimport minigrad as mg\nmg.distributed.init()\n"
        "sys.stdout.write(f'{mg.distributed.rank} of {mg.distributed.world}: {sys.argv[1:]}\\n')\n"
    )
    tool = [sys.executable, "-c", "from minigrad.cli import main; main()", "launch", "-n", "2"]
    found = ended(start([*tool, str(script), "-n", "5", "--more"]), 60, 2)
    assert sorted(found.output.splitlines()) == ["0 of 2: ['-n', '5', '--more']", "1 of 2: ['-n', '5', '--more']"]
    missing = ended(start([*tool, str(tmp_path / "none.py")]), 60, 2)
    assert missing.status == 2
    assert "there is no file" in missing.errors
    nowhere = ended(start([*tool, "--hosts", str(tmp_path / "none.txt"), str(script)]), 60, 2)
    assert nowhere.status == 2
    assert "there is no file of hosts" in nowhere.errors


LISTENS = """
import signal, sys, time
came = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: came.append(number))
sys.stdout.write("ready\\n")
sys.stdout.flush()
until = time.monotonic() + 20
while not came and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.5)
sys.stdout.write(f"{came}\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_comes_to_each_process_once(tmp_path, number):
    """A second one would end a run at once, before its checkpoint is written."""
    script = tmp_path / "listens.py"
    script.write_text(LISTENS)
    process = start(launch.command(2, [str(script)]))
    for _ in range(2):
        assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    found = ended(process, 60, 2)
    lines = [line for line in found.output.splitlines() if not line.startswith("[mpiexec")]
    assert lines == [str([int(number)])] * 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's death on Linux")
def test_a_process_ends_with_its_guard(tmp_path):
    script = tmp_path / "sleeps.py"
    script.write_text("import os, sys, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    guard = subprocess.Popen([sys.executable, str(launch.GUARD), sys.executable, str(script)], stdout=subprocess.PIPE)
    assert guard.stdout.readline()
    began = time.monotonic()
    guard.kill()
    guard.wait()
    guard.stdout.read()  # until the child, which has it too, is gone
    guard.stdout.close()
    assert time.monotonic() - began < 200
