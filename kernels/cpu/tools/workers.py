"""Processes beside this one that compile kernels for it: each is told which through a pipe, and leaves them on disk.

A worker is a Python that runs this module and nothing of the user's: no script runs a second time, whether it has a guard
(`if __name__ == "__main__"`) or not, and it makes no difference whether the user is at a prompt, in a notebook or in a test.
A worker ends with its pipe, and so with this process, however that ends. Ctrl-C it leaves to this process, which ends it.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from multiprocessing.spawn import get_executable
from pathlib import Path
from queue import SimpleQueue

from numba.core import config

from minigrad.kernels.build.cache import cache_folder, warn_once
from minigrad.kernels.build.progress import progress

CODE = f"""
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
import pickle, sys
sys.path[:], settings = pickle.load(sys.stdin.buffer)
from minigrad.kernels.cpu.tools.ahead import compile_some
from {__name__} import serve
serve(compile_some, settings)
"""
SETTINGS = "BOUNDSCHECK", "OPT", "FULL_TRACEBACKS"  # of Numba, by which compiled kernels differ


@contextlib.contextmanager
def helped(count, tasks):
    """Inside, so many workers take tasks from a deque, as this process does: lists of what `compile_some` takes.

    At the end all that was taken is done, but for what is in the list that this gives: the tasks of workers that failed.
    """
    workers, failed = [], []
    try:
        try:
            for _ in range(count):
                workers.append(Worker(tasks, failed))
        except OSError as error:
            warn_once("worker", f"no process could be started to compile kernels beside this one: {error}")
        yield failed
        for worker in workers:
            worker.finish()
    finally:
        for worker in workers:
            worker.end()
    if failed:
        why = next(worker.failure for worker in workers if worker.failure)
        warn_once("worker", f"a process that compiled kernels failed ({why}); this one compiles those itself")


def taken(tasks):
    """Tasks from a deque, until there are none."""
    while True:
        try:
            yield tasks.popleft()
        except IndexError:
            return


def executable():
    """The Python to start; None where the program is another one, with Python in it."""
    python = os.fsdecode(get_executable() or "")
    return python if Path(python).name.lower().startswith("python") and not hasattr(sys, "frozen") else None


class Worker:
    """A process that compiles, and the thread that hands it tasks."""

    def __init__(self, tasks, failed):
        self.tasks, self.failed = tasks, failed
        self.task = None  # that it is at
        self.failure = ""
        environment = {**os.environ, "MINIGRAD_CACHE": str(cache_folder("cpu").parents[1])}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([executable(), "-c", CODE], env=environment, **pipes)
        self.thread = threading.Thread(target=self.hand_out, daemon=True)
        self.thread.start()

    def hand_out(self):
        """Give it one task after another."""
        try:
            self.send((sys.path, {name: getattr(config, name) for name in SETTINGS}))
            self.answer()  # that it is there: it takes no task before it can begin
            for task in taken(self.tasks):
                self.task = task
                self.send(pickle.dumps(task))
                for name, seconds in self.answer():
                    progress.count(name, seconds)
                progress.say(f"compiling ({progress.how_far()})")
            self.task = None
        except Exception as error:  # whatever a pipe and what comes out of it raise, the worker is of no use any more
            self.failure = str(error) if isinstance(error, WorkerError) else f"{type(error).__name__}: {error}"
            if self.task is not None:
                self.failed += self.task

    def send(self, message):
        """Send it something."""
        pickle.dump(message, self.process.stdin)
        self.process.stdin.flush()

    def answer(self):
        """What it answers; WorkerError if that is an error, or nothing."""
        try:
            answer = pickle.load(self.process.stdout)
        except EOFError:
            raise WorkerError(f"it ended with status {self.process.wait()}") from None
        if isinstance(answer, str):
            raise WorkerError(answer)
        return answer

    def finish(self):
        """Wait for the task that it is at, if any; all have been taken."""
        if self.task is None:
            self.process.kill()
        self.thread.join()

    def end(self):
        """End it, now."""
        self.process.kill()
        self.process.wait()
        self.thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # for what it has not read
                pipe.close()


class WorkerError(RuntimeError):
    """A worker has died, or could not do a task."""


def serve(compile_some, settings):
    """What a worker does: compile what comes in, until nothing can come any more."""
    for name, value in settings.items():
        setattr(config, name, value)
    progress.silent = True  # the process that waits for this one tells how far it is
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    tasks = SimpleQueue()
    threading.Thread(target=receive, args=(tasks,), daemon=True).start()
    answer = []
    while True:
        pickle.dump(answer, answers)
        answers.flush()
        try:
            answer = compile_some(pickle.loads(tasks.get()))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"


def receive(tasks):
    """Take in tasks; once the other end of the pipe is closed, end the process, whatever it is at."""
    try:
        while True:
            tasks.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(0)
