"""What an exchange takes, by a link and a machine: the model of benchmarks/ranks.py."""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from minigrad.exchange.sums import SHORT

LONG_CALLS = 3  # exchanges that a long average is made of
HEADER = 24  # bytes beside what is averaged
CHANGES = (1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072)  # sizes from which messages may go another way

RATES = {2: (None, 100, 1_000), 4: (100,)}  # Mbit/s of the links of so many hosts
LINKED = [(100, 1), (100, 5), (100, 20)]  # (Mbit/s, ms one way)
LOSSY = [(100, 5, loss, control) for control in ("bbr", "reno") for loss in (0.001, 0.01)]
"""(Mbit/s, ms one way, share of the packets lost, how TCP controls congestion)."""


class Way(NamedTuple):
    """Messages up to so many bytes: seconds until one has arrived, and bytes a second on top."""

    largest: float
    latency: float
    bandwidth: float


class Link(NamedTuple):
    """A link; MPI sends short messages at once, and asks first for long ones (rendezvous), so that there are two ways."""

    ways: tuple[Way, ...]

    def message(self, nbytes: float) -> float:
        """Seconds that a message takes, alone on the link."""
        way = next(way for way in self.ways if nbytes <= way.largest)
        return way.latency + nbytes / way.bandwidth


def plain(latency: float, bandwidth: float) -> Link:
    """A link as its makers describe it."""
    return Link((Way(math.inf, latency, bandwidth),))


FULL, PAYLOAD = 1_500, 1_448  # bytes of a packet, and of those what TCP carries for us


def as_set(base: Link, mbit: float | None, delay_ms: float) -> Link:
    """A link between hosts that has been given a rate and a delay, from one without: nothing of it is fitted."""
    rate = math.inf if mbit is None else mbit * 1e6 / 8 * PAYLOAD / FULL
    return Link(tuple([Way(n, t + delay_ms / 1e3, 1 / (1 / bandwidth + 1 / rate)) for n, t, bandwidth in base.ways]))


LINKS = {  # by what their makers say: seconds from the start of a message to its arrival, bytes a second one way
    "10 GbE": plain(30e-6, 1.25e9),
    "200 Gb InfiniBand": plain(2e-6, 25e9),
    "NVLink 4": plain(5e-6, 450e9),
}


def fitted_link(seconds: dict[str, float]) -> Link:
    """From the time of messages by their bytes: one way, or two, by the least squares of relative errors."""
    n = np.array([float(size) for size in seconds])
    t = np.array([*seconds.values()])

    def fit(chosen: np.ndarray, largest: float) -> tuple[float, Way]:
        rows = np.stack([np.ones(chosen.sum()), n[chosen]], axis=1) / t[chosen, None]
        latency, slope = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0]
        latency, slope = max(latency, 1e-9), max(slope, 1e-15)
        error = np.square((latency + slope * n[chosen]) / t[chosen] - 1).sum()
        return float(error), Way(largest, float(latency), float(1 / slope))

    found = []
    for change in CHANGES:
        short = n <= change
        if min(short.sum(), (~short).sum()) >= 2:
            (e1, first), (e2, second) = fit(short, change), fit(~short, math.inf)
            found.append((e1 + e2, Link((first, second))))
    error, one = fit(n > 0, math.inf)
    found.append((error, Link((one,))))
    return min(found)[1]


class Machine(NamedTuple):
    """What the averages on this machine say of it."""

    call: float  # seconds that an exchange takes of Python and MPI, beside the messages
    moved: list[
        tuple[float, float]
    ]  # (bytes of an average, seconds in which they are packed, received, added up, unpacked)

    def moving(self, nbytes: float) -> float:
        """Seconds that an average takes of memory: as measured, between the sizes in proportion of their logarithms."""
        sizes, seconds = np.log(np.array(self.moved)).T
        return float(np.exp(np.interp(math.log(nbytes), sizes, seconds)))


def fitted(found: dict[str, Any]) -> Machine:
    """From averages of two processes here: what the messages, by the link between them, do not explain."""
    link = fitted_link(found["link"])
    seconds = {int(size): value for size, value in found["averages"].items()}
    call = seconds[min(seconds)] - link.message(min(seconds) + HEADER)
    long = [size for size in seconds if size > SHORT]
    rest = [seconds[n] - LONG_CALLS * call - link.message(HEADER) - 2 * link.message(n / 2) for n in long]
    return Machine(call, [(n, max(r, 1e-7)) for n, r in zip(long, rest, strict=True)])


def gather_seconds(world: int, nbytes: float, link: Link) -> float:
    """A short exchange: a message to each other process in turn."""
    return (world - 1) * link.message(nbytes)


def ours_seconds(world: int, nbytes: float, link: Link, machine: Machine) -> float:
    """An average as minigrad makes it: a check, then Alltoall and Allgather by messages to all others in turn."""
    if nbytes <= SHORT:
        return machine.call + gather_seconds(world, nbytes + HEADER, link)
    rounds = 2 * (world - 1) * link.message(nbytes / world)
    return LONG_CALLS * machine.call + gather_seconds(world, HEADER, link) + rounds + machine.moving(nbytes)


def ring_seconds(world: int, nbytes: float, link: Link, machine: Machine) -> float:
    """A ring: the same bytes and as many messages, to the neighbour alone."""
    return machine.call + 2 * (world - 1) * link.message(nbytes / world) + machine.moving(nbytes)


def tree_seconds(world: int, nbytes: float, link: Link, machine: Machine) -> float:
    """Halving and doubling (Rabenseifner): the bytes of a ring in 2 log2(world) messages."""
    halves = itertools.accumulate(range(math.ceil(math.log2(world)) - 1), lambda n, _: n / 2, initial=nbytes / 2)
    return machine.call + 2 * sum([link.message(n) for n in halves]) + machine.moving(nbytes)


WAYS = {"minigrad": ours_seconds, "ring": ring_seconds, "tree": tree_seconds}


def sync_seconds(world: int, steps: dict[str, Any], link: Link, machine: Machine) -> float:
    """The exchanges of SyncBatchNorm in a step: two numbers of 8 bytes a feature on the way forward, of 4 back."""
    count, features = steps["exchanges"] - 1, steps["features"]
    each = (16 + 8) * features / max(count, 1)
    return count * (machine.call + gather_seconds(world, HEADER + each, link))


class Losses(NamedTuple):
    """Packets that are lost, of a link with a rate and a delay, and what TCP makes of them."""

    share: float
    round_trip: float  # seconds
    rate: float  # bytes a second that the link carries of what we send
    control: str  # "reno", which halves its window at each loss; "bbr", which does not

    def bound(self) -> float:
        """Bytes a second that TCP sends at most: of Reno by Mathis, Semke, Mahdavi and Ott (1997), equation 3."""
        if self.control == "bbr":
            return self.rate
        return min(self.rate, PAYLOAD / self.round_trip * math.sqrt(3 / (2 * self.share)))

    def late(self, nbytes: float) -> list[tuple[float, float]]:
        """(probability, seconds): a message comes later, since its last packet is lost, or one shortly before.

        A packet is sent again when the receiver has told of those behind it (RFC 8985), a round trip after it was sent first.
        That costs nothing where the rest of the message takes longer than that. Behind the last packet comes the next
        exchange, a message of which has arrived half a round trip later. Were there none, it would be sent again after two
        round trips, or, if it is the only one, after the timeout of RFC 6298, which is 0.2 s and a round trip in Linux.
        """
        packets = math.ceil(nbytes / PAYLOAD)
        before = min(packets - 1, self.bound() * self.round_trip / PAYLOAD)
        return [(self.share, 1.5 * self.round_trip), (1 - (1 - self.share) ** before, self.round_trip)]

    def mean_delay(self, world: int, nbytes: float) -> float:
        """Seconds that a message to each, sent by all at the same time, comes later, the latest of them, on average."""
        return sum([(1 - (1 - probability) ** world) * seconds for probability, seconds in self.late(nbytes)])


def lost_seconds(world: int, nbytes: float, losses: Losses) -> float:
    """What losses add to an average as minigrad makes it, on average."""
    if nbytes <= SHORT:
        return losses.mean_delay(world, nbytes + HEADER)
    part = nbytes / world
    slower = part / losses.bound() - part / losses.rate
    return losses.mean_delay(world, HEADER) + 2 * (world - 1) * (losses.mean_delay(world, part) + slower)


def place_of(n: int, mbit: float | None, delay_ms: float = 0, loss: float = 0, control: str = "") -> str:
    """Hosts, and what joins them, in words."""
    rate = "no limit" if mbit is None else f"{mbit:,} Mbit/s"
    lost = f", {loss:.1%} lost, {control}" if loss else ""
    return f"{n} hosts, {rate}" + (f", {delay_ms} ms" if delay_ms else "") + lost


PLACES: dict[str, tuple[int, float | None, float, float, str]] = {
    place_of(n, mbit): (n, mbit, 0, 0.0, "") for n, rates in RATES.items() for mbit in rates
}
PLACES |= {place_of(2, *linked_by): (2, *linked_by, 0.0, "") for linked_by in LINKED}
PLACES |= {place_of(2, *linked_by): (2, *linked_by) for linked_by in LOSSY}


def said_of(found: dict[str, Any], place: str, nbytes: int) -> float:
    """What the model says of an average between hosts: from messages without a limit, and what their link was set to.

    Where packets are lost it is the mean.
    """
    n, mbit, delay, loss, control = PLACES[place]
    base = fitted_link(found["hosts"][place_of(2, None)]["link"])
    seconds = ours_seconds(n, nbytes, as_set(base, mbit, delay), fitted(found))
    if not loss or mbit is None:
        return seconds
    return seconds + lost_seconds(n, nbytes, Losses(loss, 2 * delay / 1e3, mbit * 1e6 / 8 * PAYLOAD / FULL, control))
