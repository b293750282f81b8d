"""Kill processes of a run at random moments, go on from the last checkpoint, and compare the bits at the end.

    python tests/distributed/kills.py 100

kills a process of two a hundred times. A run that comes to its end is compared with one that nobody disturbed, and another
one begins. Prints a line for each run, and at the end how many kills there were, and how long the others took to end.
"""

import contextlib
import random
import signal
import statistics
import sys
import tempfile
import time
from os import kill
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ranks import command, ended, start

RANKS = 2
STEPS = 2_000
LONGEST = 1.5  # seconds from the start of the training to the kill, at most


def finished(folder, steps):
    """What an undisturbed run, or the rest of one, has at its end."""
    found = ended(start(command(RANKS, "killed.py", folder, steps)), 120, RANKS)
    assert found.status == 0, found.errors
    return found.results


def killed(folder, steps, draw):
    """Start the run, or go on with it, and kill one process; (what it has at its end, or None; seconds until all ended)."""
    pids = [folder / f"{rank}.pid" for rank in range(RANKS)]
    for pid in pids:
        pid.unlink(missing_ok=True)
    process = start(command(RANKS, "killed.py", folder, steps))
    while process.poll() is None and not all(pid.exists() and pid.read_text() for pid in pids):
        time.sleep(0.01)
    time.sleep(draw.uniform(0, LONGEST))
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may be done
        kill(int(draw.choice(pids).read_text()), signal.SIGKILL)
    began = time.monotonic()
    found = ended(process, 60, RANKS)
    assert not list(folder.glob("*.safetensors.*")) or found.status != 0
    return found.results if found.status == 0 else None, time.monotonic() - began


def main(count, steps=STEPS, say=print, seed=0):
    """Kill so many times; raises AssertionError for other bits. Returns the seconds until all had ended, for each kill."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        quiet = Path(name) / "undisturbed"
        quiet.mkdir()
        expected = finished(quiet, steps)
        took, kills, run = [], 0, 0
        while kills < count:
            run += 1
            folder = Path(name) / str(run)
            folder.mkdir()
            of_this, found = 0, None
            while found is None and kills < count:
                found, seconds = killed(folder, steps, draw)
                if found is None:
                    took.append(seconds)
                    kills, of_this = kills + 1, of_this + 1
            assert (found or finished(folder, steps)) == expected, f"run {run} has other bits or rows"
            say(f"run {run}: {of_this} kills, the same bits and rows; {kills} in all")
    say(
        f"{kills} kills; until all processes had ended: median {statistics.median(took):.2f} s, at most {max(took):.2f} s"
    )
    return took


if __name__ == "__main__":
    main(int(sys.argv[1]))
