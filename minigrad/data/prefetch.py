"""Prepare batches ahead on background threads, while the steps that use the earlier ones run."""

import atexit
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

from minigrad.kernels.cpu.tools import threads

Work = TypeVar("Work")
Work_contra = TypeVar("Work_contra", contravariant=True)
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
PATIENCE = 10.0  # seconds that a batch in preparation is waited for when no more are needed
LEAVING = 0.5  # the same, where the program was interrupted: at once, but a batch that is nearly done may be


class End:
    """What is taken after the last result."""


END = End()


class Maker(Protocol[Work_contra, Result_co]):
    """What makes results on one thread."""

    def __call__(self, task: Work_contra, /) -> Result_co:
        """The result of a task."""

    def leave(self) -> None:
        """No more is needed: another thread says so, perhaps in the middle of a call, which may then raise anything."""

    def end(self) -> None:
        """Called last, on the thread itself."""


class LocalMaker(Generic[Work, Result]):
    """A Maker that calls a function."""

    def __init__(self, make: Callable[[Work], Result]) -> None:
        self.make = make

    def __call__(self, task: Work) -> Result:
        """The result of a task."""
        return self.make(task)

    def leave(self) -> None:
        """A function can't be stopped."""

    def end(self) -> None:
        """Nothing is left."""


class Prefetcher(Generic[Work, Result]):
    """Gives the results of tasks in their order by `take`; up to `depth` of them are made ahead, on a thread for each maker.

    The threads take turns with `tasks`, which may so be a generator that reads a file; what they make of them, they make
    side by side. They make what they are asked for, and `take` asks for one more each time, so no more than `depth` results
    ever wait. An exception is raised by the `take` of its task, with the traceback of both threads. After the last result
    comes END. Close what you no longer need: until then the threads wait.

    Both queues are SimpleQueues because those are reentrant: the garbage collector may close a Prefetcher (by ending the
    generator that uses it) at any moment on any thread, even on one of its own while that works with the queues.

    Args:
        tasks: what there is to do.
        makers: called with a task, each on a background thread of its own.
        depth: how many results to make ahead, at least 1.
        most_threads: how many threads kernels use that a maker launches; with 1 they run on the background thread itself.
    """

    def __init__(
        self, tasks: Iterator[Work], makers: Sequence[Maker[Work, Result]], *, depth: int, most_threads: int
    ) -> None:
        self.tasks = tasks
        self.makers = makers
        self.depth = depth
        self.most_threads = most_threads
        self.closed = False
        self.next = 0  # the number of the result to be taken
        self.turn = threading.Lock()
        self.requests: SimpleQueue[int | None] = SimpleQueue()
        self.results: SimpleQueue[tuple[int, Result | BaseException | End]] = SimpleQueue()
        self.waiting: dict[int, Result | BaseException | End] = {}  # results that came before their turn
        for number in range(depth):
            self.requests.put(number)
        # Daemons, as the interpreter would wait for another kind of thread before it calls what closes this one.
        self.threads = [
            threading.Thread(target=self._run, args=(make,), name="minigrad-prefetch", daemon=True) for make in makers
        ]
        atexit.register(self.close)
        for thread in self.threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether the threads still run: not after `close`, or a fork, which leaves them to the parent."""
        return all(thread.is_alive() for thread in self.threads)

    def take(self) -> Result | End:
        """The next result, as soon as it is there; END after the last."""
        while self.next not in self.waiting:
            number, result = self.results.get()
            self.waiting[number] = result
        result = self.waiting.pop(self.next)
        if isinstance(result, BaseException):
            try:
                raise result
            finally:
                del result  # its traceback holds this frame: a cycle
        self.requests.put(self.next + self.depth)
        self.next += 1
        return result

    def close(self, timeout: float = PATIENCE) -> None:
        """End the threads and wait until they have ended; what they have made is dropped.

        Threads that still work after `timeout` seconds are left behind: they end with what they make, or with the program.
        """
        self.closed = True
        self.requests.put(None)
        for make in self.makers:
            make.leave()
        if threading.current_thread() not in self.threads:
            deadline = time.monotonic() + timeout
            for thread in self.threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        atexit.unregister(self.close)

    def _run(self, make: Maker[Work, Result]) -> None:
        try:
            with threads.limited(self.most_threads):
                while self._did_one(make):
                    pass
        finally:
            make.end()

    def _did_one(self, make: Maker[Work, Result]) -> bool:
        """Do what is asked for next; False if no more will be."""
        number: int | None = None
        try:
            with self.turn:
                number = self.requests.get()
                if number is None or self.closed:
                    self.requests.put(None)  # for the next thread
                    return False
                task = next(self.tasks, END)
            self.results.put((number, END if isinstance(task, End) else make(task)))
        except BaseException as error:
            if number is not None:
                self.results.put((number, error))
        return True
