"""One process for each contender, all alive at once, of which one at a time works: what keeps a comparison fair.

Libraries with thread pools disturb each other inside one process. So every contender has its own, pinned to the same cores
and told the same number of threads; the parent gives each a short burst of work in turn, many rounds, and whatever else
the machine does meets them all alike. Parent and child exchange lines of JSON.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.comparison import machine

Burst = Callable[..., dict]  # what a workload does when its turn comes: a request by keywords, an answer

ROOT = Path(__file__).resolve().parents[2]
PAUSE = 0.2  # seconds between bursts: pools of threads go on spinning after their work is done, OpenBLAS's for 0.1
SLOW = 5  # times as long as the fastest
SELDOM = 4  # of so many rounds, a slow contender takes part in the first


class Worker:
    """The parent's end of one contender's process.

    `variables` are environment variables besides those that tell the number of threads; None takes one away.
    `answer` is what preparing gave: imports and first step timed, results to compare. It is {"missing": reason} if the
    contender is not installed or does not run here.
    """

    def __init__(self, workload: str, threads: int, variables: dict[str, str | None] | None = None, **settings):
        cores = machine.physical_cores()[:threads]
        spec = {"workload": workload, "threads": threads, "cores": cores, "started": time.monotonic(), **settings}
        # -P keeps the working folder off the path: a minigrad installed from a wheel must not be hidden by sources.
        code = f"import sys; sys.path.append({str(ROOT)!r}); from benchmarks.comparison.processes import work; work()"
        self.name = settings.get("contender", workload)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(threads, variables or {}),
            text=True,
        )
        self.answer = self.receive()

    @property
    def missing(self) -> str | None:
        """Why the contender is left out; None if it takes part."""
        return self.answer.get("missing")

    def receive(self) -> dict:
        """The next answer."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name!r} ended with exit status {self.process.wait()}; see above")
        return json.loads(line)

    def burst(self, **request) -> dict:
        """Let it work while all others wait."""
        time.sleep(PAUSE)
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.receive()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error) -> None:
        self.process.stdin.close()
        if error[0] is not None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def environment(threads: int, variables: dict[str, str | None]) -> dict[str, str]:
    """What tells so many threads, with these variables set, or taken away where they are None."""
    given = {**machine.environment(threads), **variables}
    return {name: value for name, value in given.items() if value is not None}


def in_turn(contenders: list, i: int) -> list:
    """The order of the contenders in round i: each round starts with another one."""
    first = i % max(1, len(contenders))
    return contenders[first:] + contenders[:first]


def sits_out(seconds: dict[str, float], name: str, i: int) -> bool:
    """Whether a contender sits out round i: one that takes SLOW times as long as the fastest works in few rounds only."""
    return i % SELDOM != 0 and seconds[name] > SLOW * min(seconds.values())


def work() -> None:
    """The child's end: prepare what the command line asks for, then work at each line that comes, until there is none."""
    spec = json.loads(sys.argv[1])
    machine.pin(spec["cores"])
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print does not get between the answers
    module = importlib.import_module(f"benchmarks.comparison.{spec.pop('workload')}")
    try:
        answer, burst = module.prepare(spec)
    except Exception as error:
        optional = isinstance(error, ModuleNotFoundError) and error.name in ("torch", "jax")
        if not optional and spec.get("contender") != "PyTorch torch.compile":  # which also needs a C++ compiler
            raise
        print(json.dumps({"missing": f"{type(error).__name__}: {str(error).splitlines()[0]}"}), file=channel)
        return
    print(json.dumps(answer), file=channel)
    for line in sys.stdin:
        print(json.dumps(burst(**json.loads(line))), file=channel)
