"""Feeds damaged files to readers, each in a process that may take little memory and time, and prints what was wrong.

    cd tests && python -m fuzz.feed FIRST COUNT READER...

A reader gets the files number FIRST and on, each made from a whole one by chance keyed by its number: the same on every
machine. It must load them rightly or raise the error that it documents, and change nothing then. Of several readers each has a
fork of this process, where there are forks: what all of them import is then imported once.
"""

import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
from fuzz.data_files import Archive, Cifar, Idx, Pictures, Tables
from fuzz.model_files import Checkpoint, Onnx, Weights

MEMORY = 256 << 20  # bytes beyond what the process has once it has read whole files
SECONDS = 5  # of the processor's time for one file

READERS = {
    "onnx": Onnx,
    "idx": Idx,
    "cifar": Cifar,
    "archive": Archive,
    "checkpoint": Checkpoint,
    "weights": Weights,
    "tables": Tables,
    "pictures": Pictures,
}


class TooSlow(BaseException):
    """A file took longer than SECONDS."""


def too_slow(number, frame):
    raise TooSlow


def limit_memory():
    """From now on this process gets MEMORY bytes more, where the system can be told so."""
    if sys.platform.startswith("linux"):
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def feed(name, first, count):
    """How many files were loaded and refused, and what else happened."""
    with tempfile.TemporaryDirectory() as folder:
        reader = READERS[name](Path(folder))
        counts, wrong = {"loaded": 0, "refused": 0}, []
        limit_memory()
        has_timer = hasattr(signal, "setitimer")
        if has_timer:
            signal.signal(signal.SIGVTALRM, too_slow)
        for number in range(first, first + count):
            data = reader.make(np.random.default_rng(number))
            if has_timer:
                signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            try:
                reader.check(data)
                counts["loaded"] += 1
            except (Exception, TooSlow) as error:
                if type(error) is reader.error:
                    counts["refused"] += 1
                else:
                    wrong.append([number, "".join(traceback.format_exception(error))[-1500:]])
            finally:
                if has_timer:
                    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return {**counts, "wrong": wrong}


def main(first, count, *names):
    """Print, of each reader, one line of JSON; none of a reader whose fork died."""
    for name in names:
        child = os.fork() if len(names) > 1 and hasattr(os, "fork") else None
        if child:
            os.waitpid(child, 0)
            continue
        print(json.dumps({"reader": name, **feed(name, first, count)}), flush=True)
        if child == 0:
            os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
