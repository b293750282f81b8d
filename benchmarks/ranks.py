"""What training in several processes costs here, and by a model held against that, with up to 1,024 of them.

    python benchmarks/ranks.py measure OUT.json      1 and 2 processes on this machine, one thread each: three minutes
    python benchmarks/ranks.py hosts OUT.json        2 and 4 network namespaces as hosts, at several rates
    python benchmarks/ranks.py links OUT.json        2 of them and a link with a rate and a delay between them
    python benchmarks/ranks.py losses OUT.json       the same, of which packets are lost
    python benchmarks/ranks.py overlap OUT.json      exchanges while backward goes on, in memory and between two of them
    python benchmarks/ranks.py model OUT.json        the tables and the figures, from what the others have left in OUT.json

`measure` times steps of the MNIST network (batch 60 a process) and of the Inceptions of width 0.25 (50) and 1 (16): of one
process alone, of two that do not know each other, and of two that train together; averages of 4 bytes to 25 MB by themselves;
and messages of 8 bytes to 4 MB. What two that train together take longer than two that do not is the exchange, with the waiting
for the slower one in it. `hosts`, `links`, `losses` and `overlap` need root, ip and
tc, and touch no network but that of namespaces of their own.
"""

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:  # run as a script; at the end of the path: an installed minigrad is not hidden by the sources
    sys.path.append(str(Path(__file__).resolve().parent.parent))

import minigrad as mg
from benchmarks.tools.hosts import BEFORE, control, limit, linked, make_hosts, options_of, remove_hosts
from benchmarks.tools.links import (
    LINKED,
    LINKS,
    LOSSY,
    RATES,
    WAYS,
    fitted,
    fitted_link,
    ours_seconds,
    place_of,
    said_of,
)
from benchmarks.tools.overlap import BUCKETS, timed_ways
from benchmarks.tools.rank_figures import NETWORKS, WORLDS, draw, draw_links
from minigrad import distributed
from minigrad.distributed import launch
from minigrad.exchange import current
from minigrad.exchange.sums import average, room_for
from minigrad.kernels.cpu.reduce import sum_forward

HERE = Path(__file__).resolve()
SIZES = (4, 1_000, 8_000, 64_000, 500_000, 2_500_000, 25_000_000)  # bytes of an average
STEPS = {"mnist": 2_000, "inception 0.25": 12, "inception 1.0": 6}
ROUNDS = {"mnist": 500, "inception 0.25": 10}  # of each way to overlap
OVERLAP_PLACES: dict[str, str | tuple[float, float, float] | None] = {  # a rate of tc's, or a link (see relay.py)
    "in memory": None,
    "1 Gbit/s": "1000mbit",
    "100 Mbit/s, 1 ms": (100, 1, 0.0),
}
WARM = 6  # steps, or exchanges, that are not timed
NAMES = ["mg1", "mg2", "mg3", "mg4"]  # of hosts
MESSAGES = (
    8,
    256,
    1_000,
    4_000,
    8_000,
    16_000,
    32_000,
    64_000,
    125_000,
    250_000,
    500_000,
    1_250_000,
    4_000_000,
)  # bytes
SHARE = 0.1  # of a step that the exchange may take


# What each process does


def network(
    name: str, batch: int, sync: bool, lr: float = 0.01, exchanges: bool = True, buckets: int = 0
) -> tuple[Callable[..., mg.Tensor], list[np.ndarray], mg.nn.Module]:
    """(a captured step, a batch, the model); with buckets, gradients are exchanged while backward goes on."""
    rng = np.random.default_rng(distributed.rank)
    mg.manual_seed(0)
    if name == "mnist":
        model: mg.nn.Module = mg.models.MLP()
        images = rng.integers(0, 2, (batch, 784)).astype(np.float32)
    else:
        model = mg.models.Inception(width=float(name.split()[1]))
        images = rng.standard_normal((batch, 32, 32, 3)).astype(np.float32)
    if sync:
        distributed.convert(model)
    optimizer = mg.optim.SGD(model.parameters(), lr)
    together = exchanges and current() is not None

    def step(images: mg.Tensor, labels: mg.Tensor) -> mg.Tensor:
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(images), labels)
        if buckets:
            distributed.backward(loss, model, 1.0, buckets)  # weights as those of tools/overlap.py: bits are compared
        else:
            loss.backward()
        if together and not buckets:
            distributed.average_gradients(model, batch)
        optimizer.step()
        return loss

    return mg.capture(step), [images, rng.integers(0, 10, batch)], model


def timed_steps(name: str, batch: int, sync: bool) -> dict[str, Any]:
    """The median time of a step, and what it exchanges."""
    step, given, model = network(name, batch, sync)
    for _ in range(WARM):
        step(*given)
    times = []
    for _ in range(STEPS[name]):
        start = time.perf_counter()
        step(*given)
        times.append(time.perf_counter() - start)
    exchanged = [launch for launch in step.plan.launches if launch.kernel.startswith("exchange.")]  # type: ignore[attr-defined]
    return {
        "seconds": float(np.median(times)),
        "exchanges": len(exchanged),
        "features": sum(m.features for _, m in model.modules() if isinstance(m, mg.nn.SyncBatchNorm)),
        "layers": sum(isinstance(m, mg.nn.SyncBatchNorm) for _, m in model.modules()),
        "parameters": sum(p.data.size for p in model.parameters()),
    }


def count_for(repeats: int, nbytes: int, even: int = 100_000) -> int:
    """How often something that moves so many bytes is timed: less often where it is more than `even`."""
    return max(5, min(repeats, int(repeats * even / nbytes)))


def seconds_of(count: int, work: Callable[[], object]) -> list[float]:
    """How long a piece of work takes, each time, of many in a row: all processes begin the first together."""
    session = current()
    assert session is not None
    session.communicator.Barrier()
    times = []
    for _ in range(count + WARM):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times[WARM:]


def timed_sums(
    repeats: int, largest: int, even: int = 100_000, sums_of_mpi: bool = True
) -> dict[str, dict[str, float]]:
    """The time of an average of so many bytes, its median, mean and standard error; and of MPI's own sum, in any order."""
    from mpi4py import MPI

    session = current()
    assert session is not None
    found: dict[str, dict[str, float]] = {"averages": {}, "their mean": {}, "its error": {}, "sums of MPI": {}}
    for size in [size for size in SIZES if size <= largest]:
        array = np.ones(max(1, size // 4), np.float32)
        room = room_for(array.size, session.world, array.dtype, np.empty)
        works = {
            "averages": lambda array=array, room=room: average(
                session, "timed", sum_forward, [array], [array], 1.0, *room
            ),
            "sums of MPI": lambda array=array: session.communicator.Allreduce(MPI.IN_PLACE, array),
        }
        for name, work in works.items():
            if name != "averages" and not sums_of_mpi:
                continue
            times = seconds_of(count_for(repeats, size, even), work)
            found[name][str(array.nbytes)] = float(np.median(times))
            if name == "averages":
                found["their mean"][str(array.nbytes)] = float(np.mean(times))
                found["its error"][str(array.nbytes)] = float(np.std(times) / math.sqrt(len(times)))
    return found


def link_between(repeats: int, largest: int) -> dict[str, float]:
    """By its bytes, the time that a message takes between rank 0 and rank 1: half a round trip, the median."""
    session = current()
    assert session is not None
    found = {}
    for nbytes in [n for n in MESSAGES if n <= largest]:
        message = np.zeros(nbytes, np.uint8)

        def there_and_back(message: np.ndarray = message) -> None:
            if session.rank == 0:
                session.communicator.Send(message, 1)
                session.communicator.Recv(message, 1)
            elif session.rank == 1:
                session.communicator.Recv(message, 0)
                session.communicator.Send(message, 0)

        found[str(nbytes)] = float(np.median(seconds_of(count_for(repeats, nbytes), there_and_back))) / 2
    return found


def work(task: dict[str, Any]) -> None:
    """What a process is started for; rank 0, or one alone, prints what it found."""
    core = int(os.environ.get("PMI_RANK", task.get("core", 0)))
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core % len(os.sched_getaffinity(0))]})
    mg.set_num_threads(1)
    if task.get("together"):
        distributed.init(timeout=100, threads_each=1)
    if task["what"] == "steps":
        found: dict[str, Any] = timed_steps(task["network"], task["batch"], bool(task.get("sync")))
    elif task["what"] == "overlap":
        session = current()
        assert session is not None
        given = task["network"], task["batch"], False, 0.0
        step, batch, _ = network(*given, exchanges=False)
        overlapped = {n: network(*given, buckets=n)[0] for n in (BUCKETS // 2, BUCKETS)}
        found = timed_ways(step, overlapped, batch, session, task.get("rounds", ROUNDS[task["network"]]))
    else:
        repeats = task.get("repeats", 300)
        largest = task.get("largest", SIZES[-1])
        found = {
            "link": link_between(repeats, task.get("longest", MESSAGES[-1])),
            **timed_sums(repeats, largest, task.get("even", 100_000), task.get("sums of MPI", True)),
        }
    if distributed.rank == 0:
        sys.stdout.write(f"FOUND {json.dumps(found)}\n")
        sys.stdout.flush()


# Starting them


def found_by(command: list[str]) -> dict[str, Any]:
    """What the processes that a command starts have found."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if "FOUND " in line)
    return json.loads(line.partition("FOUND ")[2])


def python(task: dict[str, Any]) -> list[str]:
    """A process at work on a task."""
    return [sys.executable, str(HERE), "work", json.dumps(task)]


def together(task: dict[str, Any], n: int = 2, *options: str, before: Sequence[str] = ()) -> dict[str, Any]:
    """Several that know each other."""
    return found_by([*before, launch.mpiexec(), *options, "-n", str(n), *python({**task, "together": True})])


def side_by_side(task: dict[str, Any]) -> dict[str, Any]:
    """The first of two that do not know each other."""
    other = subprocess.Popen(python({**task, "core": 1}), stdout=subprocess.DEVNULL)
    try:
        return found_by(python(task))
    finally:
        other.kill()
        other.wait()


def measure(output: Path) -> None:
    """1 and 2 processes on this machine."""
    found: dict[str, Any] = {"machine": machine(), "steps": {}}
    for name, batch in NETWORKS.items():
        task = {"what": "steps", "network": name, "batch": batch}
        half = {**task, "batch": batch // 2}
        found["steps"][name] = {
            "alone": found_by(python(task)),
            "side by side": side_by_side(task),
            "together": together(task),
            "together, sync": together({**task, "sync": True}),
            "side by side, half": side_by_side(half),
            "together, half": together(half),
        }
    found |= together({"what": "averages"})
    write(output, found)


def hosts(output: Path) -> None:
    """Network namespaces as hosts, joined by a bridge at several rates: averages, and messages."""
    for n in (2, 4):
        names = NAMES[:n]
        try:
            make_hosts(names)
            with tempfile.TemporaryDirectory() as folder:
                given = options_of(names, Path(folder))
                for rate in RATES[n]:
                    for name in names:
                        limit(name, rate and f"{rate}mbit")
                    task = {"what": "averages", "repeats": 30, "largest": 2_500_000}
                    add(output, place_of(n, rate), together(task, n, *given, before=BEFORE))
        finally:
            remove_hosts(names)


def links(output: Path) -> None:
    """The same of two hosts with a link that has a rate and a delay."""
    task = {"what": "averages", "repeats": 30, "largest": 2_500_000, "longest": 1_250_000}
    over_links(output, task, [(mbit, delay, 0.0, "bbr") for mbit, delay in LINKED])


def losses(output: Path) -> None:
    """The same where packets are lost: averages alone, and many, since a loss is rare and costs much."""
    task = {
        "what": "averages",
        "repeats": 1_500,
        "even": 12_000,
        "largest": 500_000,
        "longest": 0,
        "sums of MPI": False,
    }
    over_links(output, task, LOSSY)


def over_links(output: Path, task: dict[str, Any], places: list[tuple[float, float, float, str]]) -> None:
    """What two hosts find over links, one after another."""
    names = NAMES[:2]
    try:
        make_hosts(names)
        with tempfile.TemporaryDirectory() as folder:
            given = options_of(names, Path(folder), link=True)
            for mbit, delay, loss, way in places:
                for name in names:
                    control(name, way)
                with linked(names, mbit, delay, loss):
                    found = together(task, 2, *given, before=BEFORE)
                add(output, place_of(2, mbit, delay, loss, way), found)
    finally:
        remove_hosts(names)


def add(output: Path, place: str, found: dict[str, Any]) -> None:
    """Put what was measured between hosts into a file of results."""
    there = json.loads(output.read_text()) if output.exists() else {}
    write(output, {"hosts": {**there.get("hosts", {}), place: {**found, "on": machine()}}})


def overlap(output: Path) -> None:
    """Exchanges while backward goes on, of two processes: in memory, and over links."""
    for place in OVERLAP_PLACES:
        overlap_at(output, place)


def overlap_at(output: Path, place: str) -> None:
    """The same in one of the places."""
    way, names = OVERLAP_PLACES[place], NAMES[:2]
    tasks = {name: {"what": "overlap", "network": name, "batch": NETWORKS[name]} for name in ROUNDS}
    if way is None:
        found = {name: together(task) for name, task in tasks.items()}
    else:
        try:
            make_hosts(names)
            with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
                if isinstance(way, str):
                    for name in names:
                        limit(name, way)
                else:
                    stack.enter_context(linked(names, *way))
                given = options_of(names, Path(folder), link=not isinstance(way, str))
                rounds = {name: {**task, "rounds": min(ROUNDS[name], 14)} for name, task in tasks.items()}
                found = {name: together(task, 2, *given, before=BEFORE) for name, task in rounds.items()}
        finally:
            remove_hosts(names)
    there = json.loads(output.read_text()).get("overlap", {}) if output.exists() else {}
    merged = {name: {**there.get(name, {}), place: ways} for name, ways in found.items()}
    write(output, {"overlap on": machine(), "overlap": merged})


def write(output: Path, found: dict[str, Any]) -> None:
    """Put this into a file of results."""
    there = json.loads(output.read_text()) if output.exists() else {}
    output.write_text(json.dumps({**there, **found}, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """What it was measured on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": mg.checkpoint.versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


# What it says


def model(output: Path) -> None:
    """Tables against what was measured, and on to 1,024 processes; a figure beside the file of results."""
    found = json.loads(output.read_text())
    here = fitted(found)
    print(f"a call {here.call * 1e6:.0f} us\n")
    sizes = [f"{int(size):,} B" for size in found["averages"]]
    print("| us | " + " | ".join(sizes) + " |\n|---" + "|---" * len(sizes) + "|")
    for name, times in (("minigrad", found["averages"]), ("MPI_Allreduce", found["sums of MPI"])):
        print(f"| {name} | " + " | ".join(f"{seconds * 1e6:,.0f}" for seconds in times.values()) + " |")
    print("\n| hosts | average of | median, us | mean, us | model, us |\n|---|---|---|---|---|")
    for place, there in found.get("hosts", {}).items():
        for size, seconds in there["averages"].items():
            said = said_of(found, place, int(size))
            numbers = [f"{each * 1e6:,.0f}" for each in (seconds, there["their mean"][size], said)]
            print(f"| {place} | {int(size):,} B | " + " | ".join(numbers) + " |")
    if "overlap" in found:
        table_of_overlap(found["overlap"])
    columns = ("alone", "side by side", "together", "together, sync", "side by side, half", "together, half")
    print("\n| ms a step | " + " | ".join(columns) + " | exchange by the model |\n|---" + "|---" * 7 + "|")
    for name, steps in found["steps"].items():
        said = ours_seconds(2, 4 * steps["alone"]["parameters"], fitted_link(found["link"]), here)
        times = [f"{steps[column]['seconds'] * 1e3:.3f}" for column in columns]
        print(f"| {name} | " + " | ".join([*times, f"{said * 1e3:.3f}"]) + " |")
    print(f"\nSamples a process needs in a step for the exchange to take {SHARE:.0%} of it:\n")
    print("| network | link | way | " + " | ".join(f"{world:,}" for world in WORLDS) + " |")
    print("|---|---|---|" + "---|" * len(WORLDS))
    for name, steps in found["steps"].items():
        one = steps["alone"]["seconds"] / NETWORKS[name]
        for link_name, link in LINKS.items():
            for way, seconds_of in WAYS.items():
                exchange = [seconds_of(world, 4 * steps["alone"]["parameters"], link, here) for world in WORLDS]
                needed = [math.ceil(seconds * (1 / SHARE - 1) / one) for seconds in exchange]
                print(f"| {name} | {link_name} | {way} | " + " | ".join(f"{n:,}" for n in needed) + " |")
    draw(found, here, output.with_suffix(".svg"))
    if "hosts" in found:
        draw_links(found, output.with_name("links.svg"))


def table_of_overlap(found: dict[str, dict[str, Any]]) -> None:
    """The time of a step by each way to exchange, of each network in each place."""
    columns = [(network, place) for network, places in found.items() for place in places]
    print("\n| ms a step | " + " | ".join([f"{network}, {place}" for network, place in columns]) + " |")
    print("|---" * (1 + len(columns)) + "|")
    network, place = columns[0]
    for way in found[network][place]:
        times = [f"{found[network][place][way]['seconds'] * 1e3:.3f}" for network, place in columns]
        print(f"| {way} | " + " | ".join(times) + " |")


def main(command: str, given: str) -> None:
    """One of the commands."""
    if command == "work":
        work(json.loads(given))
    else:
        {"measure": measure, "hosts": hosts, "links": links, "losses": losses, "overlap": overlap, "model": model}[
            command
        ](Path(given))


if __name__ == "__main__":
    main(*sys.argv[1:])
