"""Where contenders work, and how they take turns.

`Processes`: the CPU. Libraries with pools of threads disturb each other inside one process, so every contender has its own,
pinned to the same cores and told the same number of threads. Parent and child exchange lines of JSON.

`Here`: this process, for one GPU, at which one contender works at a time.

Either way all contenders are there at once; each does a short burst of work in turn, many rounds, and whatever else the
machine does meets them all alike. What fails is told and left out, and the others go on.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks.tools import machine
from benchmarks.tools.frameworks import FRAMEWORKS, framework_of

Burst = Callable[
    ..., dict
]  # what a contender does when its turn comes: a request by keywords, an answer with "seconds"

PAUSE = 0.2  # seconds between bursts: pools of threads go on spinning after their work is done, OpenBLAS's for 0.1
SLOW = 5  # times as long as the fastest
SELDOM = 4  # of so many rounds, a slow contender takes part in the first
COMPILED = "torch.compile"
NEED_A_COMPILER = COMPILED, "TinyJit"  # contenders that need not run everywhere
OPTIONAL = "torch", "jax", "mlx", "tinygrad", "mygrad"  # modules


class Processes(NamedTuple):
    """The CPU: a process for each contender, with environment variables of its own; None takes one away."""

    threads: int
    variables: dict[str, str | None] = {}  # noqa: RUF012 - nobody writes into it

    device = "cpu"
    all_at_once = True  # whether the work of all cases may be prepared together

    @property
    def setting(self) -> dict[str, Any]:
        """What a result says about it."""
        return {"threads": self.threads}

    def keeping_memory(self) -> "Processes":
        """With the memory allocator told to keep what was freed, as training would have it."""
        return self._replace(variables=machine.KEEP_MEMORY)

    def start(self, section: str, *, warm: bool = False, **settings: Any) -> "Process":
        """A contender's process, ready.

        Where `warm` asks for it, or kernels were compiled, it is the second one: files then lie in memory, and compiled
        code on disk, so neither counts as time or memory of the contender.
        """
        one = Process(section, self.threads, self.variables, **settings)
        if warm or (one.answer.get("compiled") or {}).get("kernels"):
            with one:
                pass
            one = Process(section, self.threads, self.variables, **settings)
        return one


class Here(NamedTuple):
    """A GPU: contenders in this process, by their frameworks' names, products in one precision."""

    frameworks: dict[str, Any]
    precision: str
    cache: int = 0  # bytes of the GPU's, which work is kept out of

    all_at_once = False

    @property
    def device(self) -> str:
        """Of the frameworks."""
        return next(iter(self.frameworks.values())).device

    @property
    def setting(self) -> dict[str, Any]:
        """What a result says about it."""
        return {"precision": self.precision}

    def keeping_memory(self) -> "Here":
        """As it is: its memory is pooled."""
        return self

    def start(self, section: str, *, warm: bool = False, **settings: Any) -> "InProcess":
        """A contender, ready."""
        return InProcess(section, self, settings)


Side = Processes | Here


def in_words(setting: dict[str, Any]) -> str:
    """1 thread, 2 threads; on the GPU, tf32. Of a side's setting, or of a result that has one."""
    if "precision" in setting:
        return f"on the GPU, {setting['precision']}"
    return f"{setting['threads']} thread{'s' if setting['threads'] != 1 else ''}"


class Process:
    """The parent's end of a contender's process.

    `answer` is what preparing gave: first step timed, results to compare. It is {"missing": reason} if the contender is not
    installed or does not run here, {"failed": reason} if it computes something else.
    """

    def __init__(self, section: str, threads: int, variables: dict[str, str | None] | None = None, **settings: Any):
        cores = machine.physical_cores()[:threads]
        spec = {"section": section, "threads": threads, "cores": cores, "started": time.monotonic(), "device": "cpu"}
        spec |= settings
        # -P keeps the working folder off the path: a minigrad installed from a wheel must not be hidden by sources.
        code = f"import sys; sys.path.append({str(machine.ROOT)!r}); from benchmarks.tools.sides import work; work()"
        self.name = settings["contender"]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(threads, variables or {}),
            text=True,
        )
        self.answer = self.receive()

    def receive(self) -> dict:
        """The next answer."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name!r} ended with exit status {self.process.wait()}; see above")
        return json.loads(line)

    def burst(self, **request: Any) -> dict:
        """Let it work while all others wait."""
        time.sleep(PAUSE)
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.receive()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()
        if error[0] is not None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class InProcess:
    """A contender in this process."""

    def __init__(self, section: str, side: Here, settings: dict[str, Any]) -> None:
        self.side = side
        self.framework = side.frameworks.get(framework_of(settings["contender"]))
        now = time.monotonic()
        spec = {"section": section, "started": now, "began": now, "device": side.device, **side._asdict(), **settings}
        self.answer: dict = {"missing": "takes no part here"}
        self.work: Burst | None = None
        if self.framework is not None and side.precision not in self.framework.precisions:
            self.framework, self.answer = None, {"missing": f"has no products in {side.precision}"}
        if self.framework is not None:
            with self.framework.precision(side.precision):
                self.answer, self.work = prepared(spec, lambda: self.framework)

    def burst(self, **request: Any) -> dict:
        """Let it work."""
        with self.framework.precision(self.side.precision):
            return self.work(**request)

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.work = None
        if self.framework is not None:
            self.framework.release()


def environment(threads: int, variables: dict[str, str | None]) -> dict[str, str]:
    """What tells so many threads, with these variables set, or taken away where they are None."""
    given = {**machine.environment(threads), **variables}
    return {name: value for name, value in given.items() if value is not None}


def prepared(spec: dict, framework: Callable[[], Any]) -> tuple[dict, Burst | None]:
    """What a section's `prepare` gives; {"missing": reason} or {"failed": reason} and None where it does not work."""
    module = importlib.import_module(f"benchmarks.sections.{spec['section']}")
    try:
        return module.prepare(spec, framework())
    except Exception as error:
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        optional = isinstance(error, ModuleNotFoundError) and error.name in OPTIONAL
        if optional or any(name in spec["contender"] for name in NEED_A_COMPILER):
            return {"missing": why}, None
        traceback.print_exc()
        return {"failed": why}, None


def work() -> None:
    """The child's end: prepare what the command line asks for, then work at each line that comes, until there is none."""
    spec = json.loads(sys.argv[1])
    machine.pin(spec["cores"])
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print does not get between the answers
    spec["began"] = time.monotonic()
    answer, burst = prepared(spec, lambda: FRAMEWORKS[framework_of(spec["contender"])](spec["threads"]))
    print(json.dumps(answer), file=channel)
    for line in sys.stdin if burst else ():
        print(json.dumps(burst(**json.loads(line))), file=channel)


class Party(NamedTuple):
    """The contenders of a section: those that take part, why others are left out, and what failed."""

    workers: dict[str, Any]
    left_out: dict[str, str]
    failed: list[str]

    def drop(self, label: str, why: str) -> None:
        """One of them computes something else."""
        del self.workers[label]
        self.failed.append(f"{label}: {why}")

    def rounds(self, count: int, requests: dict[str, dict], latest: dict | None = None) -> dict[str, dict[str, list]]:
        """Seconds of each request by each contender, taken in turn: one for each round, None where a slow one sat out.

        A contender whose answer lists its "cases" gets no other request; one that tells how long it takes "once" may sit
        out. `latest` is filled with the last answer of each.
        """
        once = {label: w.answer.get("once", 1.0) for label, w in self.workers.items()}
        found: dict[str, dict[str, list]] = {
            name: {label: [] for label, w in self.workers.items() if name in w.answer.get("cases", requests)}
            for name in requests
        }
        for i in range(count):
            for name, request in requests.items():
                for label in in_turn(list(found[name]), i):
                    answer = None if sits_out(once, label, i) else self.workers[label].burst(**request)
                    found[name][label].append(answer and answer["seconds"])
                    if answer and latest is not None:
                        latest[label] = answer
        return found


@contextlib.contextmanager
def taking_part(section: str, rows: dict[str, tuple[Side, dict]]) -> Iterator[Party]:
    """The contenders of a section, ready; `rows` say by label where each works, and its settings."""
    with contextlib.ExitStack() as stack:
        party = Party({}, {}, [])
        for label, (side, settings) in rows.items():
            one = stack.enter_context(side.start(section, **settings))
            if "missing" in one.answer:
                party.left_out[label] = one.answer["missing"]
            elif "failed" in one.answer:
                party.failed.append(f"{label}: {one.answer['failed']}")
            else:
                party.workers[label] = one
        yield party
        party.workers.clear()


def in_turn(contenders: list, i: int) -> list:
    """The order of the contenders in round i: each round starts with another one."""
    first = i % max(1, len(contenders))
    return contenders[first:] + contenders[:first]


def sits_out(seconds: dict[str, float], name: str, i: int) -> bool:
    """Whether a contender sits out round i: one that takes SLOW times as long as the fastest works in few rounds only."""
    return i % SELDOM != 0 and seconds[name] > SLOW * min(seconds.values())


class Campaign(NamedTuple):
    """What a section's `plan` goes by: where to measure, how thoroughly, and what sections before it found."""

    sides: list[Side]  # of the CPU with each number of threads, or of the GPU with each precision
    quick: bool
    results: dict[str, Any]
