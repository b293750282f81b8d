"""Drivers whose graphs know what each node waits for, as a real one's do: for tests of what may run side by side.

GraphDriver    runs nodes on the host in any order that their dependencies allow, drawn anew for each launch, and raises for two
               nodes that touch the same bytes, one of them writing, with no path of dependencies from one to the other
SizeDriver     runs nothing: for the shape of the graphs of large models
"""

from typing import Any, NamedTuple

import numpy as np

from minigrad.kernels.cuda.host import checks
from minigrad.kernels.cuda.host.driver import HostDriver
from minigrad.kernels.cuda.tools.simulated_driver import SimulatedDriver


class Node(NamedTuple):
    """A launch or a copy, and the nodes that it waits for."""

    name: str
    function: Any
    arguments: tuple
    after: frozenset


class Noting:
    """Notes, while a graph is made, streams and the events by which they wait for each other."""

    heads = None  # {stream that takes part: the nodes that come directly before what is next on it}
    at = None  # (stream, name) of what is about to be done

    def begin_graph(self, stream):
        super().begin_graph(stream)
        self.heads = {stream: frozenset()}

    def launch(self, handle, grid, block, shared_bytes, stream, values):
        kernel = getattr(handle, "kernel", None) or handle[0]
        self.at = stream, kernel.name
        super().launch(handle, grid, block, shared_bytes, stream, values)

    def on_device(self, target, source, nbytes, stream):
        self.at = stream, "copy"
        super().on_device(target, source, nbytes, stream)

    def do(self, function, *arguments):
        if self.noting is None:
            function(*arguments)
            return
        stream, name = self.at
        if stream not in self.heads:
            raise RuntimeError(f"{name} is launched on a stream that takes no part in the graph: it would run at once")
        self.noting.append(Node(name, function, arguments, self.heads[stream]))
        self.heads[stream] = frozenset([len(self.noting) - 1])

    def record(self, event, stream):
        super().record(event, stream)
        if self.noting is not None:
            event.append(self.heads[stream])

    def wait(self, stream, event):
        if self.noting is None:
            super().wait(stream, event)
        else:
            self.heads[stream] = self.heads.get(stream, frozenset()) | event[2]

    def end_graph(self, stream):
        graph = super().end_graph(stream)
        left = frozenset().union(*self.heads.values()) - self.heads[stream]
        if left - frozenset().union(*[ancestors(graph)[i] for i in self.heads[stream]]):
            raise RuntimeError("cuStreamEndCapture failed: a stream was not joined with the one that began the graph")
        return graph


def ancestors(graph):
    """For each node all that come before it."""
    found = []
    for node in graph:
        found.append(node.after.union(*[found[i] for i in node.after]))
    return found


def longest_path(graph):
    """How many nodes wait for each other at most."""
    length = []
    for node in graph:
        length.append(1 + max([length[i] for i in node.after], default=0))
    return max(length, default=0)


class GraphDriver(Noting, HostDriver):
    """See above; `seed` draws the orders."""

    def __init__(self, seed=0, **given):
        super().__init__(checks=True, **given)
        self.draws = np.random.default_rng(seed)

    def launch_graph(self, graph, stream):
        left, touched = set(range(len(graph))), {}
        while left:
            ready = sorted([i for i in left if not graph[i].after & left])
            i = int(self.draws.choice(ready))
            graph[i].function(*graph[i].arguments)
            touched[i] = self.touched(graph[i])
            left.remove(i)
        self.compare(graph, touched)

    def touched(self, node):
        """(bytes that were read, bytes that were written) as places in memory."""
        if node.name == "copy":
            target, source, nbytes = node.arguments
            return [
                np.arange(first - self.arena.start, first - self.arena.start + nbytes) for first in (source, target)
            ]
        began = self.watch.times[checks.LAUNCH_BEGAN] << checks.NAMES
        return [np.flatnonzero(stamps >= began) for stamps in (self.watch.read, self.watch.written)]

    def compare(self, graph, touched):
        """Raise for two nodes in no order that must be in one."""
        before = ancestors(graph)
        for i, node in enumerate(graph):
            for j in range(i):
                if j in before[i]:
                    continue
                (read, written), (other_read, other_written) = touched[i], touched[j]
                for one, other in [(written, other_written), (written, other_read), (read, other_written)]:
                    both = np.intersect1d(one, other, assume_unique=True)
                    if both.size:
                        where = self.arena.start + int(both[0])
                        raise RuntimeError(
                            f"nodes {j} ({graph[j].name}) and {i} ({node.name}) of a graph both touch {both.size} bytes from "
                            f"{where:#x} on, one of them writes there, and neither waits for the other"
                        )


class SizeDriver(Noting, SimulatedDriver):
    """See above."""

    def __init__(self):
        super().__init__(memory=1 << 33)

    def launch(self, handle, grid, block, shared_bytes, stream, values):
        if self.noting is not None:
            self.at = stream, handle[0].name
            self.do(None)

    def launch_graph(self, graph, stream):
        pass
