"""Where the time of a captured training step goes, kernel by kernel, and how near each comes to what the machine allows.

The least time of a launch is the longer of two: its floating-point operations at the rate of products, and its bytes at the
bandwidth of copying (minigrad.kernels.work tells both). On the CPU these limits are the rate of the micro-kernel in the
first-level cache, times the threads, and a copy of large arrays, both measured in the same process, in turn with the step; on
a GPU they are what the section `limits` found. There each launch is timed by two events, so short ones look longer than in the
graph that training runs.
"""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.sections import gemm
from benchmarks.sections import limits as limits_of_gpu
from benchmarks.sections.inception import ON_GPU, OURS, described, title
from benchmarks.tools import networks
from benchmarks.tools.machine import KEEP_MEMORY
from benchmarks.tools.networks import Network
from benchmarks.tools.sides import Campaign, Processes, Side, in_words
from benchmarks.tools.tables import table
from benchmarks.tools.training import burst_of, losses_of, resident

COPIED = 1 << 26  # numbers in the array that is copied: more than caches hold
STEPS = 3  # that are timed together


def prepare(spec: dict, framework: Any) -> tuple[dict, None]:
    """The step with each of its launches timed, and the limits. No bursts."""
    from minigrad.capture import TIMED_REPLAYS

    network = Network(**spec["network"])
    contender = networks.CONTENDERS[OURS](network, networks.initial_arrays(network), framework.device)
    batches = networks.batches(network, 2)
    batches = resident(framework, OURS, batches) if framework.device == "cuda" else batches
    losses_of(contender, batches[:1])
    burst = burst_of(framework, contender, batches)
    plan = contender.step.plan
    for _ in range(TIMED_REPLAYS):
        plan.timed()
    for launch in plan.launches:
        launch.times.clear()
    measure = (lambda: spec["limits"]) if "limits" in spec else of_this_cpu(framework, spec["threads"], spec["copied"])
    steps, found = [], []
    for _ in range(spec["rounds"]):
        found.append(measure())
        plan.timed()
        steps.append(burst(STEPS)["seconds"])
    limits = {name: statistics.median(values[name] for values in found) for name in ("operations", "bytes")}
    return {"step": statistics.median(steps), "limits": limits, "kernels": summary(plan.launches, limits)}, None


def of_this_cpu(framework: Any, threads: int, copied: int) -> Callable[[], dict[str, float]]:
    """What measures the limits: the operations and bytes per second of this process's threads."""
    from minigrad.kernels.cpu.movement import copy

    micro, operations = gemm.micro_kernel()
    x, y = np.ones(copied, np.float32), np.empty(copied, np.float32)
    copy(x, y)
    return lambda: {
        "operations": threads * operations / framework.seconds(micro),
        "bytes": 2 * x.nbytes / framework.seconds(lambda: copy(x, y)),
    }


def summary(launches: list, limits: dict[str, float]) -> list[dict]:
    """The launches of each kernel by each op together, the longest first.

    `launches` are those of a plan, with times; `limits` are operations and bytes per second. `operations` is None where
    a kernel is judged by bytes alone; `least` is the time that the limits leave.
    """
    from minigrad.inspect.limits import Limits
    from minigrad.kernels.work import work_of

    machine = Limits(**limits)
    rows: dict[tuple[str, str], dict] = {}
    for launch in launches:
        key = launch.kernel, launch.op
        empty = {"kernel": launch.kernel, "op": launch.op, "launches": 0, "seconds": 0.0, "bytes": 0, "least": 0.0}
        row = rows.setdefault(key, {**empty, "operations": None})
        work = work_of(launch.kernel, launch.given)
        row["launches"] += 1
        row["seconds"] += launch.seconds
        row["bytes"] += work.bytes
        row["least"] += machine.least(work)
        if work.operations is not None:
            row["operations"] = (row["operations"] or 0) + work.operations
    return sorted(rows.values(), key=lambda row: -row["seconds"])


def plan(run: Campaign) -> Iterator[tuple[str, Callable[[], dict]]]:
    """The networks whose launches are timed: with most threads, or in each precision whose limits are known."""
    rounds = 3 if run.quick else 9
    if run.sides[0].device == "cuda":
        for side in run.sides:
            for found in run.results.get("limits", ()):
                rate = limits_of_gpu.rate(found, side.precision)
                if rate is not None:
                    limits = {"operations": rate, "bytes": limits_of_gpu.bandwidth(found)}
                    what = f"launches of Inception, {in_words(side.setting)}"
                    yield what, lambda side=side, limits=limits: compare(side, ON_GPU, rounds=rounds, limits=limits)
        return
    side = run.sides[-1].keeping_memory()
    for network in [Network(0.25, 128, True)] if run.quick else [Network(0.25, 128, True), Network(1.0, 50, True)]:
        what = f"launches of Inception, {described(network)}"
        yield what, lambda network=network: compare(side, network, rounds=rounds)


def compare(side: Side, network: Network, *, rounds: int, copied: int = COPIED, **settings: Any) -> dict:
    """The launches of one step; `limits` among the settings are operations and bytes per second."""
    given = {"contender": OURS, "network": network._asdict(), "rounds": rounds, "copied": copied, **settings}
    with side.start("where", **given) as one:
        if "kernels" not in one.answer:
            raise RuntimeError(one.answer["failed"])
        environment = KEEP_MEMORY if isinstance(side, Processes) else {}
        return {**network._asdict(), **side.setting, "environment": environment, **one.answer}


def report(result: dict) -> str:
    """The table, and the limits."""
    kernels, limits = result["kernels"], result["limits"]
    total = sum(row["seconds"] for row in kernels)
    counted = sum(row["operations"] or 0 for row in kernels)
    least = sum(row["least"] for row in kernels)
    alone = counted / limits["operations"]
    rows = [
        [
            row["kernel"],
            row["op"],
            str(row["launches"]),
            f"{row['seconds'] * 1e3:.2f}",
            f"{row['seconds'] / total:.1%}",
            f"{row['operations'] / row['seconds'] / 1e9:.0f}" if row["operations"] else "",
            f"{row['bytes'] / row['seconds'] / 1e9:.1f}",
            f"{row['least'] / row['seconds']:.0%}",
        ]
        for row in kernels
    ]
    header = ["kernel", "op", "launches", "ms", "share", "GFLOP/s", "GB/s", "of the limit"]
    return "\n".join(
        [
            table(f"Where the time goes: {title(result)}", header, rows),
            f"Limits: {limits['operations'] / 1e9:.0f} GFLOP/s, {limits['bytes'] / 1e9:.1f} GB/s (read and written).",
            f"The step takes {result['step'] * 1e3:.1f} ms, its launches {total * 1e3:.1f} ms, their limits "
            f"{least * 1e3:.1f} ms. {counted / 1e9:.1f} GFLOP alone would take {alone * 1e3:.1f} ms: "
            f"{result['batch'] / alone:.0f} images/s.\n",
        ]
    )


def targets(result: dict) -> list[dict]:
    """There are none."""
    return []
