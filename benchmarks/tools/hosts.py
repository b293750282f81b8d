"""Network namespaces as hosts, on which MPI starts processes that have nothing but TCP between them; needs root, ip and tc.

All addresses are in these namespaces; nothing of the machine's own network is changed. A bridge joins them, by which `mpiexec`
reaches the processes; `limit` sets how fast each may send there. `linked` gives two of them a link of their own instead, with a
rate, a delay and losses (see relay.py), which then carries all that MPI sends.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.tools import relay

SUBNET = "10.77.0."
MIDDLE = "mg0"  # the namespace of the bridge, where mpiexec runs
BEFORE = ("ip", "netns", "exec", MIDDLE)  # a command that is to run there
LONGEST = 280  # seconds that a link lasts


def run(*command: str) -> None:
    """Run a command of the system."""
    subprocess.run(command, check=True)


def make_hosts(names: list[str]) -> None:
    """A bridge, in a namespace of its own, and namespaces that it joins."""
    remove_hosts(names)
    run("ip", "netns", "add", MIDDLE)
    run("ip", "-n", MIDDLE, "link", "add", "bridge", "type", "bridge")
    run("ip", "-n", MIDDLE, "addr", "add", f"{SUBNET}254/24", "dev", "bridge")
    run("ip", "-n", MIDDLE, "link", "set", "bridge", "up")
    run("ip", "-n", MIDDLE, "link", "set", "lo", "up")
    for i, name in enumerate(names, 1):
        run("ip", "netns", "add", name)
        run("ip", "-n", MIDDLE, "link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "-n", MIDDLE, "link", "set", f"{name}v", "master", "bridge", "up")
        run("ip", "-n", name, "addr", "add", f"{SUBNET}{i}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "link", "set", "lo", "up")


def remove_hosts(names: list[str]) -> None:
    """What `make_hosts` has made, if it is there."""
    for name in (*names, MIDDLE):
        subprocess.run(("ip", "netns", "del", name), stderr=subprocess.DEVNULL)


def limit(name: str, rate: str | None) -> None:
    """Let a host send so many bits a second."""
    subprocess.run(["tc", "-n", name, "qdisc", "del", "dev", "eth0", "root"], stderr=subprocess.DEVNULL)
    if rate is not None:
        shape = ("tbf", "rate", rate, "burst", "64kb", "latency", "100ms")
        run("tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", *shape)


def control(name: str, way: str) -> None:
    """Let TCP of a host control congestion so: "reno", "bbr", or another that the kernel has."""
    run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv4.tcp_congestion_control={way}")


def options_of(names: list[str], folder: Path, link: bool = False) -> list[str]:
    """What tells mpiexec to start processes in the namespaces, and MPI to use nothing but TCP between them, or `link`."""
    addresses = [f"{SUBNET}{i}" for i in range(1, len(names) + 1)]
    (folder / "hosts").write_text("\n".join(addresses) + "\n")
    script = folder / "start"
    script.write_text(
        '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nhost=$1; shift\n'
        'exec ip netns exec "mg${host##*.}" sh -c "$*"\n'
    )
    script.chmod(0o755)
    start = ["-launcher", "ssh", "-launcher-exec", str(script), "-localhost", f"{SUBNET}254"]
    device = ["-genv", "UCX_NET_DEVICES", relay.DEVICE] if link else []
    return [*start, "-f", str(folder / "hosts"), "-genv", "UCX_TLS", "tcp,self", *device]


@contextlib.contextmanager
def linked(names: list[str], mbit: float, delay_ms: float, loss: float) -> Iterator[None]:
    """A link of two hosts, as long as this is open; delay one way, loss a share of the packets."""
    given = [*names, mbit, delay_ms, loss, LONGEST]
    command = [sys.executable, relay.__file__, *map(str, given)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the relay between the hosts did not start; what it says is above")
        yield
    finally:
        process.communicate("")
