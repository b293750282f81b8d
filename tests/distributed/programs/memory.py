"""Tells which names of MPI's shared memory there are, of that which this process has open, and which are gone."""

from pathlib import Path

from told import result

from minigrad import distributed

session = distributed.init(timeout=200)
session.everyone(0, "all are through init")
mapped = {line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "mpich" in line}
result(sorted(name for name in mapped if name.startswith("/dev/shm")))
