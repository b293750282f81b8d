"""A network link between two namespaces, with a rate, a delay and losses: a process that passes packets on between two TUNs.

    python benchmarks/tools/relay.py HOST HOST MBIT DELAY_MS LOSS SECONDS

Where the kernel has no `netem` this does what it would: each direction sends a packet when the one before is gone, at the rate,
drops a share of them (drawn from a fixed seed), and hands the others over a delay later. A queue holds so many packets; what
comes to a full one is lost. It needs root, takes only the two namespaces that it is told, says "ready", and ends when its input
does, or after so many seconds.
"""

import collections
import contextlib
import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time

DEVICE, SUBNET = "link0", "10.78.0."
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # of linux/if_tun.h
CLONE_NEWNET = 0x40000000
QUEUE = 1000  # packets, as netem's
LARGEST = 65536  # bytes of a packet


def tun_in(namespace: str, number: int) -> int:
    """A TUN device in a namespace, with an address there; reading it gives what is sent to the other."""
    with open(f"/run/netns/{namespace}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    here, there = f"{SUBNET}{number}", f"{SUBNET}{3 - number}"
    for command in (
        ["ip", "-n", namespace, "addr", "add", here, "peer", there, "dev", DEVICE],
        ["ip", "-n", namespace, "link", "set", DEVICE, "txqueuelen", str(QUEUE), "up"],
    ):
        subprocess.run(command, check=True)
    return tun


class Direction:
    """Packets on their way from one TUN to the other."""

    def __init__(self, source: int, target: int, rate: float, delay: float, loss: float) -> None:
        self.source, self.target = source, target
        self.rate, self.delay, self.loss = rate, delay, loss
        self.free = 0.0  # when the link has sent what it was given
        self.waiting: collections.deque[tuple[float, bytes]] = collections.deque()  # (when it arrives, a packet)
        self.random = random.Random(source)

    def take(self) -> None:
        """Read what was sent, and note when it arrives."""
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = os.read(self.source, LARGEST)
                now = time.perf_counter()
                if len(self.waiting) < QUEUE:
                    self.free = max(now, self.free) + len(packet) / self.rate
                    if self.random.random() >= self.loss:
                        self.waiting.append((self.free + self.delay, packet))

    def give(self) -> float | None:
        """Hand over what has arrived; when the next one does."""
        while self.waiting and self.waiting[0][0] <= time.perf_counter():
            with contextlib.suppress(BlockingIOError):
                os.write(self.target, self.waiting.popleft()[1])
        return self.waiting[0][0] if self.waiting else None


def main(first: str, second: str, mbit: float, delay_ms: float, loss: float, seconds: float) -> None:
    """Pass packets on."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # MPI's waiting takes all of each core
    ends = [tun_in(name, number) for number, name in ((1, first), (2, second))]
    given = mbit * 1e6 / 8, delay_ms / 1e3, loss
    ways = {ends[0]: Direction(*ends, *given), ends[1]: Direction(*ends[::-1], *given)}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        due = [when for way in ways.values() if (when := way.give()) is not None]
        wait = min([left, *[max(0.0, when - time.perf_counter()) for when in due]])
        for source in select.select([*ends, sys.stdin], [], [], wait)[0]:
            if source is sys.stdin:
                return
            ways[source].take()


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(float, sys.argv[3:7]))
