"""The training step of the MNIST network beside other work: processes that only compute, and another training.

What it guards is how threads wait. Divide by the row without other work: two threads and a busy process on two cores share
them three to four, so 1.5 is fair with one process, and 2 with two. Two trainings should take at most 2.2 times as long as one.
"""

import itertools
import sys
import time
from pathlib import Path

import minigrad as mg

from .bench_training import MODES
from .measure import Benchmark
from .sections.contention import BUSY, running
from .tools import mlp as contenders

ROOT = Path(__file__).resolve().parents[1]
STEPS = 1000
TRAINING = "import sys; sys.path.append(sys.argv[1]); from benchmarks.bench_contention import train; train()"


def steps(mode):
    """A function that trains for one step, with the next of the batches, ready to go."""
    contender = MODES[mode](contenders.initial_parameters(batch_norm=True))
    batches = itertools.cycle(contenders.batches(32))

    def step():
        return contender.loss(contender.step(*next(batches)))

    for _ in range(3):
        step()
    return step


def train():
    """In a process of its own: train for as many steps as a line of input says, whenever one comes."""
    step = steps("captured")
    with mg.no_compile():
        print("ready", flush=True)
        for line in sys.stdin:
            for _ in range(int(line)):
                step()
            print("done", flush=True)


class Step(Benchmark):
    """Forward, backward and SGD on all threads, the loss read, beside processes that only compute."""

    params = ([0, 1, 2], list(MODES))
    param_names = ("busy", "mode")

    def setup(self, busy, mode):
        self.use("cpu")
        self.work = steps(mode)

    def time_step(self, busy, mode):
        with running(BUSY, busy):
            self.sample(self.work)


class Trainings:
    """How long trainings take that start at once, each a process with all threads, until the last is done."""

    params = ([1, 2],)
    param_names = ("at_once",)
    unit = "s"

    def track_seconds(self, at_once):
        with running(TRAINING, at_once, str(ROOT)) as trainings:
            start = time.perf_counter()
            for process in trainings:
                process.stdin.write(f"{STEPS}\n")
                process.stdin.flush()
            if any(process.stdout.readline() != "done\n" for process in trainings):
                raise RuntimeError("a training ended early")
            return time.perf_counter() - start
