"""Prepare batches ahead on a background thread, while the steps that use the earlier ones run."""

import atexit
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from minigrad.kernels.cpu.tools import threads

Result = TypeVar("Result")
PATIENCE = 10.0  # seconds that a batch in preparation is waited for when no more are needed
LEAVING = 0.5  # the same, where the program was interrupted: at once, but a batch that is nearly done may be


class Prefetcher(Generic[Result]):
    """Gives `make(start)`, `make(start + 1)`, ... in order by `take`; a thread of its own makes up to `depth` of them ahead.

    The thread makes what it is asked for, and `take` asks for one more each time, so no more than `depth` results ever
    wait. An exception in `make` is raised by the `take` of that step, with the traceback of both threads; the thread ends
    with it. Close what you no longer need: until then the thread waits.

    Both queues are SimpleQueues because those are reentrant: the garbage collector may close a Prefetcher (by ending the
    generator that uses it) at any moment on any thread, even on this one while it works with its queues.

    Args:
        make: called with a step on the background thread.
        start: the first step.
        stop: the step not to make; None goes on without end.
        depth: how many results to make ahead, at least 1.
        most_threads: how many threads kernels use that `make` launches; with 1 they run on the background thread itself.
    """

    def __init__(
        self, make: Callable[[int], Result], start: int, stop: int | None, *, depth: int, most_threads: int
    ) -> None:
        self.make = make
        self.step = start
        self.stop = stop
        self.depth = depth
        self.most_threads = most_threads
        self.closed = False
        self.requests: SimpleQueue[int | None] = SimpleQueue()
        self.results: SimpleQueue[Result | BaseException] = SimpleQueue()
        for step in range(start, start + depth):
            self._request(step)
        # A daemon, as the interpreter would wait for another kind of thread before it calls what closes this one.
        self.thread = threading.Thread(target=self._run, name="minigrad-prefetch", daemon=True)
        atexit.register(self.close)
        self.thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs: not after an exception, `close`, or a fork, which leaves it to the parent."""
        return self.thread.is_alive()

    def take(self) -> Result:
        """The next result, as soon as it is there."""
        result = self.results.get()
        if isinstance(result, BaseException):
            try:
                raise result
            finally:
                del result  # its traceback holds this frame: a cycle
        self._request(self.step + self.depth)
        self.step += 1
        return result

    def close(self, timeout: float = PATIENCE) -> None:
        """End the thread and wait until it has ended; what it has made is dropped.

        A thread that still works after `timeout` seconds is left behind: it ends with what it makes, or with the program.
        """
        self.closed = True
        self.requests.put(None)
        if threading.current_thread() is not self.thread:
            self.thread.join(timeout)
        atexit.unregister(self.close)

    def _request(self, step: int) -> None:
        if self.stop is None or step < self.stop:
            self.requests.put(step)

    def _run(self) -> None:
        with threads.limited(self.most_threads):
            while (step := self.requests.get()) is not None and not self.closed:
                try:
                    result = self.make(step)
                except BaseException as error:
                    self.results.put(error)
                    return
                self.results.put(result)
                del result  # the taker may free it now
