"""Worker processes that make batches for a Loader.

A worker is a fresh Python (the start method "spawn", on every system): it imports minigrad and the modules that it needs, is
sent the Loader by pickle, and then gets tasks and gives batches through a pipe, one at a time. Larger arrays go through a
block of shared memory, so that the thread that waits for them copies memory instead of reading a pipe, in which time the
training would stand still. A worker ends with its pipe, and with the process that started it.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import random
import secrets
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

from minigrad.data.collate import Batch
from minigrad.data.sources import Task
from minigrad.kernels.cpu.tools import threads

LOOK = 0.05  # seconds between two looks whether a worker is still there, or still wanted
GRACE = 0.5  # seconds that a worker has to end by itself
SHARED = 1 << 16  # bytes from which on arrays go through shared memory
ALIGNED = 64  # bytes
READY = ("ready",)


class WorkerTraceback(Exception):
    """The cause of an error that a worker process raised: where, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Worker:
    """A process that makes batches: a Maker for a Prefetcher, whose thread starts it, waits for it and ends it.

    Args:
        job: the pickle of what is called with a task.
        most_threads: the threads used by kernels there.
    """

    def __init__(self, job: bytes, most_threads: int) -> None:
        self.job = job
        self.most_threads = most_threads
        self.leaving = False
        self.process: BaseProcess | None = None
        self.connection: Connection
        self.name = f"mg_{secrets.token_hex(4)}"  # of its blocks of shared memory, which are numbered
        self.blocks = 0  # how many of them came here
        self.block: SharedMemory | None = None

    def __call__(self, task: Task) -> Batch:
        """The batch of a task."""
        process = self.process or self.start()
        try:
            self.connection.send_bytes(pickle.dumps(task, protocol=5))
            kind, *answer = self.receive(process)
        except (EOFError, OSError):  # the other end of the pipe is gone
            raise self.lost(process, f"made step {task.step}") from None
        if kind == "error":
            raise_again(*answer)
        return self.unpacked(*answer)

    def start(self) -> BaseProcess:
        """Start the process and wait until it is ready."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        given = theirs, self.most_threads, self.name
        process = context.Process(target=serve, args=given, name="minigrad-worker", daemon=True)
        with theirs, deaf_to_interrupts():
            process.start()
        self.process = process
        try:
            self.connection.send_bytes(self.job)
            self.job = b""
            kind, *answer = self.receive(process)
        except (EOFError, OSError):
            raise self.lost(process, "was to make batches and did not get ready", STARTING) from None
        if kind == "error":
            raise_again(*answer)
        return process

    def receive(self, process: BaseProcess) -> Any:
        """What it says next; EOFError if it is gone."""
        while not self.connection.poll(LOOK):
            if self.leaving or (not process.is_alive() and not self.connection.poll()):
                raise EOFError
        return self.connection.recv()

    def lost(self, process: BaseProcess, doing: str, hint: str = "") -> RuntimeError:
        """The error for a worker that is gone."""
        process.join(GRACE)
        code = process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
            how = f"was ended by {name}"
            if name == "SIGKILL":
                hint = "; the system does so where memory runs out: fewer workers take less"
        else:
            how = f"ended with exit code {code}"
        return RuntimeError(f"the worker process {process.pid}, which {doing}, {how}{hint}")

    def unpacked(self, data: bytes, sizes: list[int], name: str | None) -> Batch:
        """A batch from what `Packer` made of it, in fresh memory."""
        if name is None:
            return pickle.loads(data)
        if self.block is None or self.block.name != name:
            if self.block is not None:
                self.block.close()
            self.block = SharedMemory(name)
            self.block.unlink()  # its name, so that nothing is left whatever happens; the memory stays as long as it is used
            self.blocks += 1
        parts, start = [], 0
        for size in sizes:
            part = np.empty(size, np.uint8)
            if size:
                np.copyto(part, np.frombuffer(memory(self.block), np.uint8, size, start))
            parts.append(part)
            start += aligned(size)
        return pickle.loads(data, buffers=parts)

    def leave(self) -> None:
        """No more is needed."""
        self.leaving = True

    def end(self) -> None:
        """End the process: it has a moment to do so itself."""
        process = self.process
        if process is None:
            return
        self.connection.close()
        process.join(GRACE)
        for stop in (process.terminate, process.kill):
            if process.is_alive():
                stop()
                process.join(GRACE)
        if self.block is not None:
            self.block.close()
        with contextlib.suppress(OSError):  # one that was made for a batch that nobody waited for
            last = SharedMemory(numbered(self.name, self.blocks))
            last.close()
            last.unlink()


def numbered(name: str, count: int) -> str:
    """The name of a worker's block of shared memory, after so many others."""
    return f"{name}_{count}"


STARTING = (
    '. Its own message is above. A script that uses worker="process" must start its work below `if __name__ == '
    '"__main__":`, since workers import it anew'
)


def serve(connection: Connection, most_threads: int, name: str) -> None:
    """What a worker process does, until the pipe is closed; its blocks of shared memory have this name and a number."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which then ends its workers
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=end_with_parent, daemon=True).start()
    packer = Packer(name)
    with contextlib.suppress(EOFError, OSError), threads.limited(most_threads):  # of the pipe: others are sent
        job = connection.recv_bytes()
        try:
            make = unpickled(job)
        except BaseException as error:
            connection.send(("error", *described(error)))
            return
        connection.send(READY)
        while True:
            task = connection.recv_bytes()
            answer: tuple[object, ...]
            try:
                answer = ("batch", *packer.packed(make(pickle.loads(task))))
            except BaseException as error:
                answer = ("error", *described(error))
            connection.send(answer)


def end_with_parent() -> None:
    """End this process when the one that started it is gone, whatever this one does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def unpickled(job: bytes) -> Callable[[Task], Batch]:
    """The job; errors say what a fresh process lacks."""
    try:
        return pickle.loads(job)
    except AttributeError as error:
        error.add_note(
            "A worker process imports the module of each class and function that it is sent; what was typed at a prompt or "
            'in a notebook is in none. Put it into a file, or take worker="thread"'
        )
        raise


class Packer:
    """Makes of a batch what goes through the pipe, and puts the arrays into a block of shared memory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocks = 0  # how many were made
        self.block: SharedMemory | None = None

    def packed(self, batch: Batch) -> tuple[bytes, list[int], str | None]:
        """(pickle, sizes of the arrays in the block, its name); the arrays are in the pickle where the name is None."""
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(batch, protocol=5, buffer_callback=buffers.append)
        raw = [buffer.raw() for buffer in buffers]
        total = sum(aligned(part.nbytes) for part in raw)
        if total < SHARED or not self.holds(total):
            return pickle.dumps(batch, protocol=5), [], None
        assert self.block is not None
        start = 0
        for part in raw:
            if part.nbytes:
                target = np.frombuffer(memory(self.block), np.uint8, part.nbytes, start)
                np.copyto(target, np.frombuffer(part, np.uint8))
                del target  # or the block could not be closed
            start += aligned(part.nbytes)
        return data, [part.nbytes for part in raw], self.block.name

    def holds(self, size: int) -> bool:
        """Make the block as large as that; False if there is no room for it, which a container may have little of."""
        if self.block is not None and self.block.size >= size:
            return True
        if self.block is not None:
            self.block.close()
            self.block = None
        if Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").free < size:
            return False
        with contextlib.suppress(OSError):
            self.block = SharedMemory(numbered(self.name, self.blocks), create=True, size=size)
            self.blocks += 1
        return self.block is not None


def memory(block: SharedMemory) -> memoryview:
    """The bytes of a block that is open."""
    if block.buf is None:
        raise ValueError("the block of shared memory is closed")
    return block.buf


def aligned(size: int) -> int:
    """The size, rounded up."""
    return -(-size // ALIGNED) * ALIGNED


def described(error: BaseException) -> tuple[bytes, str]:
    """(pickle, traceback) of an error; of one that can't be sent, of a RuntimeError that says what it was."""
    text = "".join(traceback.format_exception(error))
    try:
        if not isinstance(error, Exception):  # SystemExit, say, which is not for the program
            raise TypeError
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        stand_in = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            stand_in.add_note(note)
        data = pickle.dumps(stand_in)
    return data, text


def raise_again(data: bytes, text: str) -> None:
    """Raise the error of a worker here."""
    try:
        error = pickle.loads(data)
    except Exception:
        error = RuntimeError("a worker process raised an error that can't be made again here")
    raise error from WorkerTraceback(text)


def pickled(job: object, parts: Mapping[str, object]) -> bytes:
    """What workers are sent; TypeError that names the part of it that can't be."""
    try:
        return pickle.dumps(job, protocol=5)
    except Exception as error:
        for name, part in parts.items():
            try:
                pickle.dumps(part, protocol=5)
            except Exception as why:
                raise TypeError(
                    f'worker="process" sends {name} by pickle to processes that start afresh, and {part!r:.80} can\'t be '
                    f"sent: {why}. Functions must be defined at the top of a module, not as a lambda or inside another; "
                    'or take worker="thread"'
                ) from error
        raise


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Inside, SIGINT does not come to this thread, nor to processes that it starts, until they ask for it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def seed_global_generators(seed: int, step: int, rank: int) -> None:
    """Seed those of Python, NumPy and, if it is imported, PyTorch, from which transforms of a data set may draw."""
    (word,) = np.random.Philox(key=np.array([seed, step], np.uint64), counter=[0, 0, rank, 0]).random_raw(1).tolist()
    random.seed(word)
    np.random.seed(word & 0xFFFFFFFF)  # noqa: NPY002 - the one that data sets use
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(word >> 1)
