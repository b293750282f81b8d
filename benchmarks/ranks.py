"""What training in several processes costs here, and by a model held against that, with up to 1,024 of them.

    python benchmarks/ranks.py measure OUT.json      1 and 2 processes on this machine, one thread each: two minutes
    python benchmarks/ranks.py hosts OUT.json        2 and 4 network namespaces as hosts, at several rates; needs root, ip, tc
    python benchmarks/ranks.py model OUT.json        the table and the figure, from what the other two have left in OUT.json

`measure` times steps of the MNIST network (batch 60 a process) and of the Inception of width 0.25 (batch 50): of one process
alone, of two that do not know each other, and of two that train together; and averages of 4 bytes to 25 MB by themselves.
What two that train together take longer than two that do not is the exchange, with the waiting for the slower one in it.
"""

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from minigrad import distributed
from minigrad.distributed import launch
from minigrad.exchange import current
from minigrad.exchange.sums import SHORT, average, room_for
from minigrad.kernels.cpu.reduce import sum_forward

HERE = Path(__file__).resolve()
SIZES = (4, 1_000, 8_000, 64_000, 500_000, 2_500_000, 25_000_000)  # bytes of an average
NETWORKS = {"mnist": 60, "inception": 50}  # and the batch of one process
STEPS = {"mnist": 2_000, "inception": 12}
WARM = 6  # steps that are not timed
RATES = {2: (None, "100mbit", "1gbit"), 4: ("100mbit",)}  # of the links of so many hosts
LINKS = {  # name: (seconds from the start of a message to its arrival, bytes a second one way); what their makers say
    "10 GbE": (30e-6, 1.25e9),
    "200 Gb InfiniBand": (2e-6, 25e9),
    "NVLink 4": (5e-6, 450e9),
}
WORLDS = [2**i for i in range(1, 11)]
LONG_CALLS = 3  # exchanges that a long average is made of
SHARE = 0.1  # of a step that the exchange may take
SUBNET = "10.77.0."


# What each process does


def network(name: str, batch: int, sync: bool) -> tuple[Callable[..., mg.Tensor], list[np.ndarray], mg.nn.Module]:
    """(a captured step, a batch, the model)."""
    rng = np.random.default_rng(0)
    mg.manual_seed(0)
    if name == "mnist":
        model: mg.nn.Module = mg.models.MLP()
        images = rng.integers(0, 2, (batch, 784)).astype(np.float32)
    else:
        model = mg.models.Inception(width=0.25)
        images = rng.standard_normal((batch, 32, 32, 3)).astype(np.float32)
    if sync:
        distributed.convert(model)
    optimizer = mg.optim.SGD(model.parameters(), 0.01)
    together = current() is not None

    def step(images: mg.Tensor, labels: mg.Tensor) -> mg.Tensor:
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(images), labels)
        loss.backward()
        if together:
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


def median_seconds(count: int, work: Callable[[], object]) -> float:
    """How long a piece of work takes that all processes begin together."""
    session = current()
    assert session is not None
    times = []
    for _ in range(count):
        session.communicator.Barrier()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def timed_sums(repeats: int, largest: int) -> dict[str, dict[str, float]]:
    """The median time of an average of so many bytes, by itself; and of MPI's own sum in place, whose order is not fixed."""
    from mpi4py import MPI

    session = current()
    assert session is not None
    found: dict[str, dict[str, float]] = {"averages": {}, "sums of MPI": {}}
    for size in [size for size in SIZES if size <= largest]:
        array = np.ones(max(1, size // 4), np.float32)
        room = room_for(array.size, session.world, array.dtype, np.empty)
        works = {
            "averages": lambda array=array, room=room: average(
                session, "timed", sum_forward, [array], [array], 1.0, *room
            ),
            "sums of MPI": lambda array=array: session.communicator.Allreduce(MPI.IN_PLACE, array),
        }
        count = max(5, min(repeats, int(repeats * 100_000 / size)))
        for name, work in works.items():
            found[name][str(array.nbytes)] = median_seconds(count, work)
    return found


def link_between(repeats: int, size: int = 4_000_000) -> dict[str, float]:
    """Latency and bandwidth of a message between rank 0 and rank 1: half a round trip of 8 bytes, and of many."""
    session = current()
    assert session is not None
    found = {}
    for nbytes, count in ((8, repeats), (size, 7)):
        message = np.zeros(nbytes, np.uint8)

        def there_and_back(message: np.ndarray = message) -> None:
            if session.rank == 0:
                session.communicator.Send(message, 1)
                session.communicator.Recv(message, 1)
            elif session.rank == 1:
                session.communicator.Recv(message, 0)
                session.communicator.Send(message, 0)

        found[str(nbytes)] = median_seconds(count, there_and_back) / 2
    latency = found["8"]
    return {"latency": latency, "bandwidth": size / (found[str(size)] - latency)}


def work(task: dict[str, Any]) -> None:
    """What a process is started for; rank 0, or one alone, prints what it found."""
    core = int(os.environ.get("PMI_RANK", task.get("core", 0)))
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core % len(os.sched_getaffinity(0))]})
    mg.set_num_threads(1)
    if task.get("together"):
        distributed.init(timeout=100, threads_each=1)
    if task["what"] == "steps":
        found: dict[str, Any] = timed_steps(task["network"], task["batch"], bool(task.get("sync")))
    else:
        repeats = task.get("repeats", 300)
        largest = task.get("largest", SIZES[-1])
        found = {"link": link_between(repeats), **timed_sums(repeats, largest)}
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


def together(task: dict[str, Any], n: int = 2, *options: str) -> dict[str, Any]:
    """Several that know each other."""
    return found_by([launch.mpiexec(), *options, "-n", str(n), *python({**task, "together": True})])


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
    """Network namespaces as hosts, with a bridge between them and rates set by tc: averages, and steps of the networks."""
    found: dict[str, Any] = {}
    for n in (2, 4):
        names = [f"mg{i}" for i in range(1, n + 1)]
        try:
            make_hosts(names)
            with tempfile.TemporaryDirectory() as folder:
                given = options_of(names, Path(folder))
                for rate in RATES[n]:
                    for name in names:
                        limit(name, rate)
                    task = {"what": "averages", "repeats": 20, "largest": 2_500_000}
                    found[f"{n} hosts, {rate or 'no limit'}"] = together(task, n, *given)
                    write(output, {"hosts": found, "hosts on": machine()})
        finally:
            remove_hosts(names)


def run(*command: str) -> None:
    """Run a command of the system."""
    subprocess.run(command, check=True)


def make_hosts(names: list[str]) -> None:
    """A bridge, and namespaces that it joins."""
    remove_hosts(names)
    run("ip", "link", "add", "mgbr", "type", "bridge")
    run("ip", "addr", "add", f"{SUBNET}254/24", "dev", "mgbr")
    run("ip", "link", "set", "mgbr", "up")
    for i, name in enumerate(names, 1):
        run("ip", "netns", "add", name)
        run("ip", "link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", f"{name}v", "master", "mgbr", "up")
        run("ip", "-n", name, "addr", "add", f"{SUBNET}{i}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "link", "set", "lo", "up")


def remove_hosts(names: list[str]) -> None:
    """What `make_hosts` has made, if it is there."""
    for command in (*[("ip", "netns", "del", name) for name in names], ("ip", "link", "del", "mgbr")):
        subprocess.run(command, stderr=subprocess.DEVNULL)


def limit(name: str, rate: str | None) -> None:
    """Let a host send so many bits a second."""
    subprocess.run(["tc", "-n", name, "qdisc", "del", "dev", "eth0", "root"], stderr=subprocess.DEVNULL)
    if rate is not None:
        shape = ("tbf", "rate", rate, "burst", "64kb", "latency", "100ms")
        run("tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", *shape)


def options_of(names: list[str], folder: Path) -> list[str]:
    """What tells mpiexec to start processes in the namespaces, and MPI to use nothing but TCP between them."""
    addresses = [f"{SUBNET}{i}" for i in range(1, len(names) + 1)]
    (folder / "hosts").write_text("\n".join(addresses) + "\n")
    script = folder / "start"
    script.write_text(
        '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nhost=$1; shift\n'
        'exec ip netns exec "mg${host##*.}" sh -c "$*"\n'
    )
    script.chmod(0o755)
    start = ["-launcher", "ssh", "-launcher-exec", str(script), "-localhost", f"{SUBNET}254"]
    return [*start, "-f", str(folder / "hosts"), "-genv", "UCX_TLS", "tcp,self"]


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


# The model


class Machine(NamedTuple):
    """What the averages on this machine say of it."""

    call: float  # seconds that an exchange takes of Python and MPI, beside the messages
    moved: list[
        tuple[float, float]
    ]  # (bytes of an average, seconds in which they are packed, received, added up and unpacked)

    def moving(self, nbytes: float) -> float:
        """Seconds that an average takes of memory: as measured, between the sizes in proportion of their logarithms."""
        sizes, seconds = np.log(np.array(self.moved)).T
        return float(np.exp(np.interp(math.log(nbytes), sizes, seconds)))


def fitted(found: dict[str, Any]) -> Machine:
    """From averages of two processes here: what the messages, by the link between them, do not explain."""
    link = found["link"]
    seconds = {int(size): value for size, value in found["averages"].items()}
    call = seconds[min(seconds)] - link["latency"]
    long = [size for size in seconds if size > SHORT]
    rest = [seconds[n] - LONG_CALLS * call - 2 * (link["latency"] + n / 2 / link["bandwidth"]) for n in long]
    return Machine(call, [(n, max(r, 1e-7)) for n, r in zip(long, rest, strict=True)])


def gather_seconds(world: int, nbytes: float, latency: float, bandwidth: float) -> float:
    """A short Allgather: by recursive doubling, a message for each bit of the world's size."""
    return math.ceil(math.log2(world)) * latency + (world - 1) * nbytes / bandwidth


def ours_seconds(world: int, nbytes: float, latency: float, bandwidth: float, machine: Machine) -> float:
    """An average as minigrad makes it: a check, then Alltoall and Allgather by messages to all others in turn."""
    if nbytes <= SHORT:
        return machine.call + gather_seconds(world, nbytes + 32, latency, bandwidth)
    check = gather_seconds(world, 32, latency, bandwidth)
    rounds = 2 * (world - 1) * (latency + nbytes / world / bandwidth)
    return LONG_CALLS * machine.call + check + rounds + machine.moving(nbytes)


def ring_seconds(world: int, nbytes: float, latency: float, bandwidth: float, machine: Machine) -> float:
    """A ring: the same bytes and as many messages, to the neighbour alone."""
    return machine.call + 2 * (world - 1) * (latency + nbytes / world / bandwidth) + machine.moving(nbytes)


def tree_seconds(world: int, nbytes: float, latency: float, bandwidth: float, machine: Machine) -> float:
    """Halving and doubling (Rabenseifner): the bytes of a ring in 2 log2(world) messages."""
    rounds = math.ceil(math.log2(world))
    messages = 2 * rounds * latency + 2 * (world - 1) / world * nbytes / bandwidth
    return machine.call + messages + machine.moving(nbytes)


WAYS = {"minigrad": ours_seconds, "ring": ring_seconds, "tree": tree_seconds}


def sync_seconds(world: int, steps: dict[str, Any], latency: float, bandwidth: float, machine: Machine) -> float:
    """The exchanges of SyncBatchNorm in a step: two numbers of 8 bytes a feature on the way forward, of 4 back."""
    layers, features = steps["layers"], steps["features"]
    each = machine.call + gather_seconds(world, 32, latency, bandwidth)
    return 2 * layers * each + (world - 1) * (16 + 8) * features / bandwidth


def model(output: Path) -> None:
    """Tables against what was measured, and on to 1,024 processes; a figure beside the file of results."""
    found = json.loads(output.read_text())
    here = fitted(found)
    print(f"a call {here.call * 1e6:.0f} us\n")
    sizes = [f"{int(size):,} B" for size in found["averages"]]
    print("| us | " + " | ".join(sizes) + " |\n|---" + "|---" * len(sizes) + "|")
    for name, times in (("minigrad", found["averages"]), ("MPI_Allreduce", found["sums of MPI"])):
        print(f"| {name} | " + " | ".join(f"{seconds * 1e6:,.0f}" for seconds in times.values()) + " |")
    print("\n| hosts | average of | measured, us | model, us |\n|---|---|---|---|")
    for place, there in found.get("hosts", {}).items():
        link = there["link"]
        for size, seconds in there["averages"].items():
            said = ours_seconds(int(place[0]), int(size), link["latency"], link["bandwidth"], here)
            print(f"| {place} | {int(size):,} B | {seconds * 1e6:,.0f} | {said * 1e6:,.0f} |")
    columns = ("alone", "side by side", "together", "together, sync", "side by side, half", "together, half")
    print("\n| ms a step | " + " | ".join(columns) + " | exchange by the model |\n|---" + "|---" * 7 + "|")
    for name, steps in found["steps"].items():
        link = found["link"]
        said = ours_seconds(2, 4 * steps["alone"]["parameters"], link["latency"], link["bandwidth"], here)
        times = [f"{steps[column]['seconds'] * 1e3:.3f}" for column in columns]
        print(f"| {name} | " + " | ".join([*times, f"{said * 1e3:.3f}"]) + " |")
    print(f"\nSamples a process needs in a step for the exchange to take {SHARE:.0%} of it:\n")
    print("| network | link | way | " + " | ".join(f"{world:,}" for world in WORLDS) + " |")
    print("|---|---|---|" + "---|" * len(WORLDS))
    for name, steps in found["steps"].items():
        one = steps["alone"]["seconds"] / NETWORKS[name]
        for link_name, link in LINKS.items():
            for way, seconds_of in WAYS.items():
                exchange = [seconds_of(world, 4 * steps["alone"]["parameters"], *link, here) for world in WORLDS]
                needed = [math.ceil(seconds * (1 / SHARE - 1) / one) for seconds in exchange]
                print(f"| {name} | {link_name} | {way} | " + " | ".join(f"{n:,}" for n in needed) + " |")
    draw(found, here, output.with_suffix(".svg"))


def draw(found: dict[str, Any], here: Machine, path: Path) -> None:
    """Time per step over the number of processes, of one network a panel, for each link and way."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "minigrad"
    figure, panels = plt.subplots(1, len(found["steps"]), figsize=(9, 3.4), layout="constrained")
    for axes, (name, steps) in zip(panels, found["steps"].items(), strict=True):
        compute = steps["side by side"]["seconds"]
        sync = steps["together, sync"]
        nbytes = 4 * steps["alone"]["parameters"]
        for i, (link_name, link) in enumerate(LINKS.items()):
            for way, style in (("minigrad", "-"), ("tree", ":")):
                y = [1e3 * (compute + WAYS[way](world, nbytes, *link, here)) for world in WORLDS]
                axes.plot(WORLDS, y, style, color=f"C{i}", label=f"{link_name}, {way}")
            y = [
                1e3 * (compute + ours_seconds(w, nbytes, *link, here) + sync_seconds(w, sync, *link, here))
                for w in WORLDS
            ]  # fmt: skip
            axes.plot(WORLDS, y, "--", color=f"C{i}", linewidth=0.8, label=f"{link_name}, with SyncBatchNorm")
        axes.plot([1], [1e3 * compute], "ks", markersize=4, label="measured here: two side by side")
        axes.plot([2], [1e3 * steps["together"]["seconds"]], "ko", markersize=4, label="two together")
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="processes",
            ylabel="ms a step",
            title=f"{name}, {NETWORKS[name]} a process",
        )
    panels[-1].legend(fontsize=5.5, loc="upper left", ncols=2)
    figure.savefig(path, metadata={"Date": None})
    print(f"\n{path}")


def main(command: str, given: str) -> None:
    """One of the commands."""
    if command == "work":
        work(json.loads(given))
    else:
        {"measure": measure, "hosts": hosts, "model": model}[command](Path(given))


if __name__ == "__main__":
    main(*sys.argv[1:])
