"""How a program tells its test what it found, and what programs have in common."""

import hashlib
import json
import sys

import numpy as np


def result(value):
    from minigrad import distributed

    sys.stdout.write("RESULT " + json.dumps({"rank": distributed.rank, "result": value}) + "\n")
    sys.stdout.flush()


def bits(tensors):
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(np.ascontiguousarray(np.asarray(tensor.numpy() if hasattr(tensor, "numpy") else tensor)).tobytes())
    return found.hexdigest()


def cut(n, world, rank, uneven=False):
    """The rows of a rank."""
    ends = np.arange(world + 1) * n // world
    if uneven:
        ends[1:-1] = np.arange(1, world)  # one row each, and all the others in the last
    return slice(ends[rank], ends[rank + 1])
