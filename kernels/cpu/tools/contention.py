"""Whether other processes want the cores too: parallel loops then do with fewer threads, for a while.

A parallel loop ends when the last of its threads is done. Where another process has the core of one of them, that thread
stands in the queue for a time slice, 3 ms or so, and all others wait for it, each time: two threads beside one process are
slower than one thread. Linux counts how long threads have stood in the queue (Documentation/scheduler/sched-stats), which is
next to nothing on a machine of one's own and most of the time on a shared one, so that is looked at, not the load.

The number of threads goes down by a quarter whenever they had to wait, and up again by as much after a pause, which doubles
from FIRST_PAUSE to LONGEST_PAUSE as long as they have to wait again soon. When no loop has run for longer, all is forgotten.
"""

import os
import time

try:
    import resource
except ImportError:  # Windows
    resource = None

FOLDER = "/proc/self/task"
LOOK_EVERY = 1e-3  # seconds; a look takes 2 us where nothing has happened
TOLERATED = 1e-3  # seconds that threads may have waited since the last look, and
TOLERATED_SHARE = 0.1  # the share of the time since then
FIRST_PAUSE = 5e-3
LONGEST_PAUSE = 0.32
SOON = 0.1


def switches():
    """How often a thread of this process has been taken off a core that it did not give up."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def waited(folder=FOLDER):
    """Seconds that the threads of this process, as they are now, have stood in the queue for a core."""
    return sum(times[1] for times in schedule(folder)) * 1e-9


def schedule(folder):
    """For each thread, its nanoseconds on a core and in the queue, and its time slices."""
    for thread in os.listdir(folder):
        try:
            file = os.open(f"{folder}/{thread}/schedstat", os.O_RDONLY)
        except FileNotFoundError:  # it has ended
            continue
        try:
            words = os.read(file, 80).split()
        except ProcessLookupError:  # it is ending
            continue
        finally:
            os.close(file)
        if words:
            yield [int(word) for word in words]


def can_tell(folder=FOLDER):
    """Whether this system counts how long threads wait: Linux does, unless it was built without or is imitated."""
    try:
        return resource is not None and any(times[0] for times in schedule(folder))
    except (OSError, ValueError):
        return False


class Contention:
    """How many of some threads a parallel loop should use now.

    Python threads may ask at once: in the worst case one of them uses a number that another has just changed.
    """

    def __init__(self, clock=time.monotonic, switches=switches, waited=waited):
        self.clock, self.switches, self.waited = clock, switches, waited
        self.limit = None  # the number of threads, where it is less than all
        self.next_look = 0.0
        self.pause = FIRST_PAUSE
        self.until = 0.0  # when more threads are tried
        self.begin()

    def begin(self):
        """Count from now on."""
        self.began = self.last = self.clock()
        self.last_switches, self.last_waited = self.switches(), self.waited()

    def threads(self, most):
        """Of `most` threads, those to use."""
        if self.clock() >= self.next_look:
            self.look(most)
        return most if self.limit is None else min(self.limit, most)

    def look(self, most):
        """Find out how it went since the last time."""
        now = self.clock()
        if now - self.next_look > LONGEST_PAUSE:  # what was so long ago says nothing
            self.limit, self.pause = None, FIRST_PAUSE
            self.begin()
        self.next_look = now + LOOK_EVERY
        used = most if self.limit is None else min(self.limit, most)
        if used > 1 and self.had_to_wait(now):
            self.pause = min(2 * self.pause, LONGEST_PAUSE) if now - self.began < SOON else FIRST_PAUSE
            self.until = now + self.pause
            self.limit = used - max(1, used // 4)
        elif self.limit is not None and now >= self.until:
            more = used + max(1, used // 4)
            self.limit = more if more < most else None
            self.begin()

    def had_to_wait(self, now):
        """Whether threads had to wait for a core since the last look, longer than a system at rest makes them."""
        since, self.last = now - self.last, now
        switches = self.switches()
        if switches == self.last_switches:  # asked first, because it takes a tenth of the time
            return False
        waited = self.waited()
        delay = waited - self.last_waited
        self.last_switches, self.last_waited = switches, waited
        return delay > max(TOLERATED, TOLERATED_SHARE * since)
