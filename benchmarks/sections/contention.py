"""A training step beside other work on the same cores: processes that only compute, and another training.

What it is about is how threads wait, so minigrad takes part as it comes, with threads that spin as long as libgomp's do by
themselves, with threads that sleep at once, and with one thread.

A fair share: on c cores, beside k processes that only compute, c threads get c of c + k parts and take (c + k) / c times as
long.
"""

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.tools import machine, mlp, networks
from benchmarks.tools.networks import Network
from benchmarks.tools.sides import Burst, Campaign, Processes, in_words, taking_part
from benchmarks.tools.tables import left_out, median, ratio, table, target
from benchmarks.tools.training import burst_of, losses_of

OURS = "minigrad"
SPINNING, SLEEPING, ONE = f"{OURS}, spinning", f"{OURS}, sleeping at once", f"{OURS}, one thread"
VARIABLES: dict[str, dict[str, str | None]] = {
    SPINNING: {"GOMP_SPINCOUNT": "300000"},
    SLEEPING: {"OMP_WAIT_POLICY": "passive"},
}
ALONE, TRAINING = "alone", "another training"
BURSTS = {  # how many, and of how many steps
    "MNIST, captured": (7, 300),
    "MNIST, eager": (7, 150),
    "Inception of width 0.25, captured": (3, 1),
}
PEERS = {"MNIST, eager": "PyTorch eager", "Inception of width 0.25, captured": "PyTorch channels_last"}
NETWORK = Network(0.25, 128, True)
QUIET = 1.03  # times as long as spinning, at most, alone
SHARED = 1.5  # times as long as a fair share explains, at most
TWO = 2.2  # times as long as alone, at most, beside another training

BUSY = """
import os, sys
parent = os.getppid()
if sys.argv[1:]:
    os.sched_setaffinity(0, map(int, sys.argv[1:]))
print("at work", flush=True)
while os.getppid() == parent:  # at the latest, it ends with the process that started it
    sum(range(10_000))
"""
TRAIN = """
import sys
root, work, *cores = sys.argv[1:]
sys.path.append(root)
from benchmarks.sections.contention import train
train(work, [int(core) for core in cores])
"""


def make(work: str, contender: str, device: str) -> tuple[Any, list]:
    """A network in training, and batches."""
    if work.startswith("MNIST"):
        return mlp.CONTENDERS[contender](mlp.initial_parameters(batch_norm=True), device), mlp.batches(32)
    network = networks.CONTENDERS[contender](NETWORK, networks.initial_arrays(NETWORK), device)
    return network, networks.batches(NETWORK, 4)


def prepare(spec: dict, framework: Any) -> tuple[dict, Burst]:
    """A contender that has done a few steps, and the function that does a burst of them."""
    contender, data = make(spec["work"], spec["contender"], framework.device)
    losses_of(contender, data[:3])
    return {"compiled": framework.compiled()}, burst_of(framework, contender, data, settle=1)


def train(work: str, cores: list[int]) -> None:
    """In a process of its own: train on all these cores until the process that started it ends."""
    import minigrad as mg

    machine.pin(cores)
    mg.set_num_threads(len(cores))
    parent = os.getppid()
    contender, data = make(work, contender_of(work), "cpu")
    losses_of(contender, data[:3])
    print("at work", flush=True)
    for batch in itertools.cycle(data):
        contender.step(*batch)
        if os.getppid() != parent:
            return


def contender_of(work: str) -> str:
    """minigrad's way of doing this work."""
    return f"minigrad {work.rpartition(', ')[2]}"


@contextlib.contextmanager
def running(code: str, count: int, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[list]:
    """Python processes that run `code`, each after it wrote its first line; they are ended afterwards."""
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", code, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append(process)
        for process in started:
            if not process.stdout.readline():
                raise RuntimeError(f"a process ended with {process.wait()} before it was ready")
        yield started


def company(work: str, threads: int) -> dict[str, tuple[int, list[str]]]:
    """What else there is, by name: how many processes of which program and arguments."""
    cores = [str(core) for core in machine.physical_cores()[:threads]]
    counts = sorted({max(1, threads // 2), threads})
    busy = {f"{n} busy process{'es' * (n > 1)}": (n, [BUSY, *cores]) for n in counts}
    return {ALONE: (0, [""]), **busy, TRAINING: (1, [TRAIN, str(machine.ROOT), work, *cores])}


def plan(run: Campaign) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Each step, with the most threads: one thread waits for nobody."""
    side = run.sides[-1]
    if isinstance(side, Processes) and side.threads > 1:
        for work, (rounds, steps) in BURSTS.items():
            length = {"rounds": 2, "steps": max(1, steps // 10)} if run.quick else {"rounds": rounds, "steps": steps}
            yield f"{work}, beside other work", lambda work=work, length=length: compare(side, work, **length)


def compare(side: Processes, work: str, *, rounds: int, steps: int) -> dict:
    """Time all contenders in turn, in each company for a round, `rounds` times."""
    settings = {"contender": contender_of(work), "work": work}
    rows = {
        name: (side._replace(variables={**side.variables, **VARIABLES.get(name, {})}), settings)
        for name in (OURS, SPINNING, SLEEPING)
    }
    rows[ONE] = (Processes(1, side.variables), settings)
    if work in PEERS:
        rows[PEERS[work]] = (side, {**settings, "contender": PEERS[work]})
    with taking_part("contention", rows) as party:
        samples: dict[str, dict[str, list]] = {}
        for _ in range(rounds):
            for name, (count, (code, *given)) in company(work, side.threads).items():
                with running(code, count, *given, environment=machine.environment(side.threads)):
                    if count:
                        time.sleep(0.5)
                    found = party.rounds(1, {"step": {"steps": steps}})["step"]
                for label, values in found.items():
                    samples.setdefault(name, {}).setdefault(label, []).extend(values)
        return {
            "work": work,
            **side.setting,
            "cores": len(machine.physical_cores()[: side.threads]),
            "rounds": rounds,
            "left_out": party.left_out,
            "failed": party.failed,
            "samples": samples,
        }


def report(result: dict) -> str:
    """Microseconds in each company."""
    samples = result["samples"]
    rows = [
        [label, *(f"{1e6 * median(of_company[label]):,.0f}" for of_company in samples.values())]
        for label in samples[ALONE]
    ]
    title = f"{result['work']}, beside other work, {in_words(result)}: microseconds of a step"
    return "\n".join([table(title, ["", *samples], rows), *left_out(result)])


def targets(result: dict) -> list[dict]:
    """That spinning is no faster alone, and what it takes beside others against a fair share."""
    samples = result["samples"]
    alone = samples[ALONE]
    if not {OURS, SPINNING} <= alone.keys():
        return []
    slower = ratio(alone[OURS], alone[SPINNING])
    found = [target(f"{result['work']}, alone, against spinning", slower, QUIET, at_least=False, unit="x")]
    for name, of_company in samples.items():
        longer = ratio(of_company[OURS], alone[OURS])
        if name == TRAINING:
            found.append(target(f"{result['work']}, beside {name}", longer, TWO, at_least=False, unit="x"))
        elif name != ALONE:
            fair = 1 + int(name.split()[0]) / result["cores"]
            what = f"{result['work']}, beside {name}, against a fair share"
            found.append(target(what, longer / fair, SHARED, at_least=False, unit="x"))
    return found
