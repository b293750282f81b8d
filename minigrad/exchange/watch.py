"""A thread in every process that knows where the others are, and ends a run that can't go on, saying why.

A process that waits in an exchange for another one cannot be woken. So this thread, on a channel of its own, asks the others
where they are when the wait has lasted too long, hears from those that fail or leave, prints what it knows, and ends the
process. Nothing is sent while all goes well.

A process that is killed is seen by `mpiexec`, which ends the others at once.
"""

import atexit
import contextlib
import ctypes
import io
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigrad.exchange.session import Session

POLL = 0.1  # seconds between two looks
ANSWER = 5.0  # seconds that the others have to say where they are
LEFT = 3.0  # seconds that an exchange may still take after one has left: it had done its part, perhaps
READ = 0.5  # seconds between the last line and the end: mpiexec passes on what was written
FAILED = 70  # the exit status of a run that was ended from here: EX_SOFTWARE of sysexits.h

RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # what MPIs tell those they start
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

ASK, ANSWERED, FAILS, HEARD, LEAVES = "ask", "answered", "fails", "heard", "leaves"


def told(names: Sequence[str], environment: Mapping[str, str] = os.environ) -> int | None:
    """What the launcher has told this process by one of these names."""
    found = [environment[name] for name in names if environment.get(name, "").isdecimal()]
    return int(found[0]) if found else None


@contextlib.contextmanager
def meeting(timeout: float) -> Iterator[None]:
    """Inside, the processes meet: MPI waits for all. If one does not come in so many seconds, those there say so, and end.

    Which one it is cannot be asked. They end by a signal, since then `mpiexec` ends the others; no exit status makes it.
    """
    met = threading.Event()

    def wait() -> None:
        if met.wait(timeout):
            return
        rank, world = told(RANKS), told(SIZES)
        print(
            f"minigrad: rank {'?' if rank is None else rank} of {world or '?'} ends: it has waited {timeout:.0f} s in "
            "mg.distributed.init() for the others. All that are there say so; one that does not has failed or ended before, "
            "or hangs\n",
            end="",
            file=sys.stderr,
            flush=True,
        )
        if not met.wait(ANSWER):  # others may have begun to wait a little later
            os.abort()

    threading.Thread(target=wait, name="minigrad waits for other processes", daemon=True).start()
    try:
        yield
    finally:
        met.set()


def initialize(mpi: Any) -> None:
    """Begin with MPI, from any thread. Without Python's lock, which mpi4py would hold meanwhile, and no thread could run."""
    try:
        begin = ctypes.CDLL(mpi.__file__).MPI_Init_thread
    except (OSError, AttributeError):
        mpi.Init_thread(mpi.THREAD_MULTIPLE)
    else:
        begin(None, None, ctypes.c_int(mpi.THREAD_MULTIPLE), ctypes.byref(ctypes.c_int()))
    mpi.COMM_WORLD.Set_errhandler(mpi.ERRORS_RETURN)  # as mpi4py does


class Watch:
    """The thread, and what it has heard."""

    def __init__(self, session: "Session", channel: Any) -> None:
        self.session, self.channel = session, channel
        self.lock = threading.Lock()
        self.requests: list[Any] = []  # of messages on their way
        self.answers: dict[int, str] = {}
        self.heard: set[int] = set()  # those that know of a failure here
        self.left: set[int] = set()  # those that have come to the end of their script
        self.asked = 0.0  # when the others were asked where they are
        self.reason = ""
        self.failing = self.closing = False
        self.told = threading.Event()  # what has failed here is on stderr
        self.main = threading.main_thread()
        self.before = sys.excepthook
        sys.excepthook = self.uncaught
        atexit.register(self.close)
        self.thread = threading.Thread(target=self.run, name="minigrad watches other processes", daemon=True)
        self.thread.start()

    def tell(self, kind: str, text: str = "", to: int | None = None) -> None:
        """Send a message to all others, or to one, without waiting."""
        session = self.session
        for rank in range(session.world) if to is None else (to,):
            if rank != session.rank:
                with self.lock:
                    self.requests.append(self.channel.isend((kind, session.rank, text), rank))

    def run(self) -> None:
        """Look, every now and then, until the process ends."""
        while not self.closing or len(self.left) < self.session.world - 1:
            while self.channel.Iprobe():
                self.hear(*self.channel.recv())
            self.look()
            with self.lock:
                self.requests = [request for request in self.requests if not request.Test()]
            time.sleep(POLL)

    def hear(self, kind: str, rank: int, text: str) -> None:
        """A message has come."""
        if kind == ASK:
            if not self.asked:
                self.ask(f"rank {rank} asked where everyone is, since it {text}")
        elif kind == ANSWERED:
            self.answers[rank] = text
        elif kind == FAILS:
            if not self.failing:
                time.sleep(READ)  # what has failed there may be about to fail here too
            if self.failing:
                self.told.wait(ANSWER)
            else:
                self.say(f"ends, since rank {rank} failed: {text}")
            self.tell(HEARD, to=rank)
            if not self.failing:
                time.sleep(ANSWER)  # the one that failed ends all
                self.end()
        elif kind == HEARD:
            self.heard.add(rank)
        elif kind == LEAVES:
            self.left.add(rank)

    def look(self) -> None:
        """Find out whether the exchange at work can still come to an end."""
        now, gpus = time.monotonic(), self.session.between_gpus
        if self.asked:
            if len(self.answers) == self.session.world - 1 or now > self.asked + ANSWER:
                self.explain()
        elif gpus is not None and (fault := gpus.fault(self.session.timeout)) is not None:
            self.ask(f"it {fault}")
        elif at := self.at():
            since = min(at)[0]
            if self.left and now > since + LEFT:
                self.ask(f"it {waited(at)}, and {ranks(self.left)} ended before")
            elif now > since + self.session.timeout:
                self.ask(f"it {waited(at)}")

    def at(self) -> list[tuple[float, int, str]]:
        """The exchanges at work, of the main thread and of one beside: (since when, number, label)."""
        found = [channel.at for channel in self.session.channels]
        return [(since, number, label) for number, label, since in filter(None, found)]

    def ask(self, reason: str) -> None:
        """Ask the others where they are, and tell them where this one is."""
        self.reason, self.asked = reason, time.monotonic()
        self.tell(ASK, reason.removeprefix("it "))
        self.tell(ANSWERED, self.where())

    def where(self) -> str:
        """Where this process is."""
        gpus = self.session.between_gpus
        more = "" if gpus is None else f"; {gpus.where()}"
        if at := self.at():
            return waited(at) + more
        count = sum([channel.count for channel in self.session.channels])
        if self.closing:
            return f"has ended after exchange {count:,}"
        return f"is in no exchange, after {count:,} of them, and runs {self.line()}{more}"

    def line(self) -> str:
        """What the main thread is at: the innermost line outside of installed packages."""
        frame = sys._current_frames().get(self.main.ident or 0)
        stack = traceback.extract_stack(frame) if frame is not None else []
        own = [line for line in stack if "site-packages" not in line.filename and "<" not in line.filename] or stack
        return f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}" if own else "nothing that can be seen"

    def explain(self) -> None:
        """Say where everyone is, and end."""
        session = self.session
        others = [r for r in range(session.world) if r != session.rank]
        lines = [f"rank {r} {self.answers.get(r, 'does not answer: its process or its machine hangs')}" for r in others]
        mine = "" if self.reason.startswith("it ") else f"; it {self.where()}"
        self.say(f"ends: {self.reason}{mine}. " + "; ".join(lines))
        self.end()

    def broke(self, error: str) -> None:
        """MPI has raised an error: nobody can go on. Does not return."""
        self.ask(f"it failed in {error}")
        while True:
            time.sleep(1)

    def say(self, text: str) -> None:
        """Write a line that all processes may write at the same time."""
        print(
            f"minigrad: rank {self.session.rank} of {self.session.world} {text}\n", end="", file=sys.stderr, flush=True
        )

    def end(self) -> None:
        """End this process and, by MPI, all others."""
        sys.stdout.flush()
        for channel in self.session.channels:
            channel.over = True
        time.sleep(READ)
        if self.session.between_gpus is not None:
            self.session.between_gpus.abort(ANSWER)
        self.channel.Abort(FAILED)
        os._exit(FAILED)

    def uncaught(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """For an exception that ends the script: the others learn of it, and end as well."""
        self.failing = True
        with contextlib.redirect_stderr(io.StringIO()) as written:
            self.before(kind, error, trace)
        print(written.getvalue(), end="", file=sys.stderr, flush=True)  # whole, as others may write at the same time
        self.told.set()
        line = str(error).strip().partition("\n")[0]
        self.tell(FAILS, f"{kind.__name__}: {line}" if line else kind.__name__)
        until = time.monotonic() + ANSWER
        while len(self.heard) < self.session.world - 1 and time.monotonic() < until:
            time.sleep(POLL / 4)
        self.end()

    def close(self) -> None:
        """At the end of the script: let the others know, and wait until they are there too, as MPI would."""
        self.closing = True
        self.tell(LEAVES)
        self.thread.join()


def waited(at: list[tuple[float, int, str]]) -> str:
    """In which exchanges a process is, in words."""
    now = time.monotonic()
    return "has waited " + " and ".join([f"{now - since:.0f} s in exchange {n:,} ({label})" for since, n, label in at])


def ranks(numbers: set[int]) -> str:
    """Some processes, in words."""
    return f"rank {', '.join(map(str, sorted(numbers)))}"
