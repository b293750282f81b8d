"""Where the time of a captured training step goes, kernel by kernel, and how near each comes to what the machine allows.

The least time of a launch is the longer of two: its floating-point operations at the rate of the micro-kernel in the
first-level cache, times the threads; and the bytes of its arrays, each read or written once, at the bandwidth of copying
large arrays. Both limits are measured in the same process, in turn with the step.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.comparison import inception_networks as networks
from benchmarks.comparison.gemm import micro_kernel
from benchmarks.comparison.inception import OURS, title
from benchmarks.comparison.machine import KEEP_MEMORY
from benchmarks.comparison.operations import bytes_moved, operations
from benchmarks.comparison.processes import Worker
from benchmarks.comparison.tables import table

COPIED = 1 << 26  # numbers in the array that is copied: more than caches hold


def prepare(spec: dict) -> tuple[dict, None]:
    """In a process of its own: the step with each of its launches timed, and the limits."""
    from minigrad.capture import TIMED_REPLAYS

    network, threads = networks.Network(**spec["network"]), spec["threads"]
    contender = networks.CONTENDERS[OURS](network, networks.initial_arrays(network), threads)
    step, batch = contender.step, networks.batches(network, 1)[0]
    contender.loss(step(*batch))
    plan = step.plan
    micro, micro_operations = micro_kernel()
    copy, copied_bytes = large_copy(spec["copied"])
    for _ in range(TIMED_REPLAYS):
        plan.timed()
    for launch in plan.launches:
        launch.times.clear()
    steps, rates, bandwidths = [], [], []
    for _ in range(spec["rounds"]):
        rates.append(threads * micro_operations / seconds_of(micro))
        bandwidths.append(copied_bytes / seconds_of(copy))
        plan.timed()
        steps.append(seconds_of(lambda: contender.loss(step(*batch))))
    limits = {"operations": statistics.median(rates), "bytes": statistics.median(bandwidths)}
    return {"step": statistics.median(steps), "limits": limits, "kernels": summary(plan.launches, limits)}, None


def seconds_of(work: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def large_copy(count: int) -> tuple[Callable[[], None], int]:
    """(a call that copies a large array on all threads, bytes that it reads and writes)."""
    from minigrad.kernels.cpu.movement import copy

    x, y = np.ones(count, np.float32), np.empty(count, np.float32)
    copy(x, y)
    return lambda: copy(x, y), x.nbytes + y.nbytes


def summary(launches: list, limits: dict[str, float], on_gpu: bool = False) -> list[dict]:
    """The launches of each kernel by each op together, the longest first.

    `launches` are those of a plan, with times; `limits` are operations and bytes per second. `operations` is None where
    a kernel is judged by bytes alone; `least` is the time that the limits leave.
    """
    rows: dict[tuple[str, str], dict] = {}
    for launch in launches:
        key = launch.kernel, launch.op
        empty = {"kernel": launch.kernel, "op": launch.op, "launches": 0, "seconds": 0.0, "bytes": 0, "least": 0.0}
        row = rows.setdefault(key, {**empty, "operations": None})
        count, moved = operations(launch, on_gpu), bytes_moved(launch)
        row["launches"] += 1
        row["seconds"] += statistics.median(launch.times)
        row["bytes"] += moved
        row["least"] += max((count or 0) / limits["operations"], moved / limits["bytes"])
        if count is not None:
            row["operations"] = (row["operations"] or 0) + count
    return sorted(rows.values(), key=lambda row: -row["seconds"])


def measure(network: networks.Network, threads: int, *, rounds: int, copied: int = COPIED) -> dict:
    """The launches of one step, in a process of their own."""
    settings = {"network": network._asdict(), "rounds": rounds, "copied": copied}
    with Worker("where", threads, KEEP_MEMORY, **settings) as worker:
        return {**network._asdict(), "threads": threads, "environment": KEEP_MEMORY, **worker.answer}


def report(result: dict) -> str:
    """The table, and the limits."""
    kernels, limits = result["kernels"], result["limits"]
    total = sum(row["seconds"] for row in kernels)
    counted = sum(row["operations"] or 0 for row in kernels)
    least = sum(row["least"] for row in kernels)
    alone = counted / limits["operations"]
    return "\n".join(
        [
            kernel_table(f"Where the time goes: {title(result)}", kernels),
            f"Limits: {limits['operations'] / 1e9:.0f} GFLOP/s (micro-kernel in L1, times threads), "
            f"{limits['bytes'] / 1e9:.1f} GB/s (copying, read and written).",
            f"The step takes {result['step'] * 1e3:.1f} ms, its launches {total * 1e3:.1f} ms, their limits "
            f"{least * 1e3:.1f} ms. {counted / 1e9:.1f} GFLOP alone would take {alone * 1e3:.1f} ms: "
            f"{result['batch'] / alone:.0f} images/s.\n",
        ]
    )


def kernel_table(name: str, kernels: list[dict]) -> str:
    """The rows of `summary`."""
    total = sum(row["seconds"] for row in kernels)
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
    return table(name, header, rows)


def targets(result: dict) -> list[dict]:
    """There are none."""
    return []
