"""What is wrong with what the threads of a launch have accessed, though it may have gone well this time.

A thread that has run until it waits leaves a log of its accesses, in order; this reads it before the next thread runs. Every
byte of memory has a stamp of who wrote it last, and when, and one of who read it: a time on a clock that goes on by one
whenever threads meet, and a thread. Two threads' accesses are ordered if the threads met in between: their block at a barrier,
or their warp. If one of two that are not ordered is a write, that is a race, but for a write of what is there already, as where
all threads of a warp put the same sum.

Blocks of one launch are ordered in one way only, by tickets: a thread of each takes a number of the same place by an atomic
operation. What its block had done, as far as the threads had met before, comes before its fence, that before its ticket, that
before later tickets, and these before what their takers do after a fence of theirs, and the threads that meet them after that
(PTX ISA, "Memory Consistency Model": a fence before an atomic operation is a release pattern, one behind it an acquire one).

Reading what nobody wrote, and touching what a copy (cp.async) writes before it is waited for, are found the same way.
"""

from typing import NamedTuple

import numpy as np

from minigrad.kernels.cpu.tools.launch import inlined
from minigrad.kernels.cuda.host.layout import (
    BASIC_BLOCK,
    COMMIT,
    COPIES,
    COPY,
    ENTRY,
    FAULT,
    FAULT_ADDRESS,
    FAULT_BYTES,
    FAULT_LINE,
    FAULT_OTHER,
    FAULT_THREAD,
    FENCE,
    GLOBAL_READ,
    GLOBAL_SAME,
    GLOBAL_WRITE,
    LOG_COUNT,
    MEMORY,
    NOT_WAITED,
    NOTHING,
    READ_RACE,
    SHARED_READ,
    SHARED_SAME,
    TICKET,
    UNWRITTEN,
    WAIT,
    WRITE_RACE,
)

LANES = 32
# Times: the clock, when the block met, when it and the launch began; then how many tickets the launch has taken, which is the
# block's, and when its taker had a fence after that.
NOW, MET, BLOCK_BEGAN, LAUNCH_BEGAN, TICKETS, MINE, ACQUIRED = range(7)
TIMES = 7
FENCED, HAD_MET = 0, 1  # of a thread: when it last had a fence, and when its block had last met before that
# Of a ticket: when its block began, of what place it is, who took it, his fence before that, and when his block had met before.
BEGAN, PLACE, TAKER, RELEASED, SEEN = range(5)
MOST_TICKETS = 1 << 16  # of a launch that are followed
NAMES = 11  # bits of a stamp that say who: a thread, WARP and the number of a warp whose threads it was, or MANY
WARP, MANY = 1024, 2047
MOST_COPIES = 1024  # of a thread that it does not wait for yet


class Watch(NamedTuple):
    """What is known of every byte, and of every thread's copies."""

    times: np.ndarray
    warp_met: np.ndarray  # when each warp did
    shared_written: np.ndarray  # stamps
    shared_read: np.ndarray
    pending: np.ndarray  # for each byte of shared memory the thread whose copy it waits for, counted from 1
    written: np.ndarray  # stamps of all memory
    read: np.ndarray
    defined: np.ndarray  # whether it was ever written
    copies: np.ndarray  # (thread, copy): from which byte, how many, in which group
    copy_counts: np.ndarray  # of each thread
    groups: np.ndarray  # that each thread has closed
    fences: np.ndarray  # (thread, FENCED or HAD_MET)
    tickets: np.ndarray  # (ticket of this launch, BEGAN to SEEN)
    log: np.ndarray


def new_watch(log_room):
    """Nothing was seen yet; log_room 0 if nothing is to be."""
    threads, shared = (1024, 1 << 18) if log_room else (1, 1)
    return Watch(
        np.zeros(TIMES, np.int64), np.zeros(32, np.int64), np.zeros(shared, np.int64), np.zeros(shared, np.int64),
        np.zeros(shared, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8),
        np.zeros((threads, MOST_COPIES, 3), np.int64), np.zeros(threads, np.int64), np.zeros(threads, np.int64),
        np.zeros((threads, 2), np.int64), np.zeros((MOST_TICKETS if log_room else 1, 5), np.int64),
        np.zeros((log_room, ENTRY), np.int64),
    )  # fmt: skip


def reaching(watch, size):
    """The same with room for so many bytes of memory."""
    if size <= watch.defined.size:
        return watch
    size = max(size, 2 * watch.defined.size)
    larger = {name: np.zeros(size, getattr(watch, name).dtype) for name in ("written", "read", "defined")}
    for name, array in larger.items():
        array[: watch.defined.size] = getattr(watch, name)
    return watch._replace(**larger)


@inlined
def begin_launch(times):
    """What comes now is not ordered with itself, but with all that was."""
    times[NOW] += 1
    times[LAUNCH_BEGAN] = times[NOW]
    times[TICKETS] = 0


@inlined
def begin_block(watch, shared_bytes):
    """The block's memory is as new."""
    watch.times[NOW] += 1
    watch.times[MET] = watch.times[BLOCK_BEGAN] = watch.times[NOW]
    watch.pending[:shared_bytes] = 0
    watch.copy_counts[:] = 0
    watch.groups[:] = 0
    watch.fences[:] = 0
    watch.times[MINE] = watch.times[ACQUIRED] = 0


@inlined
def meet(watch):
    """All threads of the block have come to a barrier."""
    watch.times[NOW] += 1
    watch.times[MET] = watch.times[NOW]


@inlined
def meet_warp(watch, warp):
    """Threads of a warp have met."""
    watch.times[NOW] += 1
    watch.warp_met[warp] = watch.times[NOW]


@inlined
def conflicts(watch, stamp, t):
    """Whether an access with that stamp is not ordered with one of thread t now."""
    time, who = stamp >> NAMES, stamp & MANY
    if time < watch.times[LAUNCH_BEGAN]:
        return False
    if time < watch.times[BLOCK_BEGAN]:
        return not comes_before(watch, time, who, t)
    if time < watch.times[MET] or who == t:
        return False
    if who == MANY:
        return True
    warp = who - WARP if who >= WARP else who // LANES
    return warp != t // LANES or time >= watch.warp_met[warp]


@inlined
def comes_before(watch, time, who, t):
    """Whether what another block of this launch did then is ordered before what thread t does now, by tickets."""
    mine, acquired = watch.times[MINE] - 1, watch.times[ACQUIRED]
    if not acquired or (watch.tickets[mine, TAKER] != t and watch.times[MET] <= acquired):
        return False
    low, high = 0, mine  # the last block that began until then
    while low < high:
        middle = (low + high) // 2
        if watch.tickets[middle, BEGAN] <= time:
            low = middle + 1
        else:
            high = middle
    i = low - 1
    if i < 0 or watch.tickets[i, PLACE] != watch.tickets[mine, PLACE]:
        return False
    return time < watch.tickets[i, SEEN] or (who == watch.tickets[i, TAKER] and time < watch.tickets[i, RELEASED])


@inlined
def fence(watch, t):
    """Thread t has a fence for all blocks."""
    watch.times[NOW] += 1
    watch.fences[t, FENCED], watch.fences[t, HAD_MET] = watch.times[NOW], watch.times[MET]
    mine = watch.times[MINE]
    if mine and not watch.times[ACQUIRED] and watch.tickets[mine - 1, TAKER] == t:
        watch.times[ACQUIRED] = watch.times[NOW]


@inlined
def take_ticket(watch, t, first):
    """Thread t takes a ticket of that place: a fault or 0."""
    if not watch.defined[first : first + 4].all():
        return UNWRITTEN
    n = watch.times[TICKETS]
    if n < MOST_TICKETS:
        watch.times[NOW] += 1
        watch.tickets[n, BEGAN], watch.tickets[n, PLACE], watch.tickets[n, TAKER] = watch.times[BLOCK_BEGAN], first, t
        watch.tickets[n, RELEASED], watch.tickets[n, SEEN] = watch.fences[t, FENCED], watch.fences[t, HAD_MET]
        watch.times[TICKETS] = watch.times[MINE] = n + 1
        watch.times[ACQUIRED] = 0
    return 0


@inlined
def readers(watch, stamp, t):
    """The stamp of a byte that thread t reads now, which others may have read since the block met."""
    now, who = watch.times[NOW], stamp & MANY
    if not stamp or stamp >> NAMES < watch.times[LAUNCH_BEGAN]:
        return (now << NAMES) | t
    if stamp >> NAMES < watch.times[BLOCK_BEGAN]:  # another block; its stamp stays, if that is what conflicts
        return (now << NAMES) | t if comes_before(watch, stamp >> NAMES, who, t) else stamp
    if stamp >> NAMES < watch.times[MET] or who == t:
        return (now << NAMES) | t
    warp = who - WARP if WARP <= who < MANY else who // LANES
    if who != MANY and warp == t // LANES:
        return (now << NAMES) | (WARP + warp)
    return (now << NAMES) | MANY


@inlined
def read_log(block, watch, t):
    """What was wrong with what thread t has just done: 0, or a fault, which is then in the fields of the block."""
    for i in range(block[LOG_COUNT]):
        place, what = watch.log[i, 0], watch.log[i, 1]
        kind, size, line = what & 255, (what >> 8) & 255, what >> 16
        wrong, who = 0, 0
        if kind == COPY:
            wrong, who = begin_copy(watch, t, place, size)
        elif kind == COMMIT:
            watch.groups[t] += 1
        elif kind == WAIT:
            finish_copies(watch, t, place)
        elif kind == FENCE:
            fence(watch, t)
        elif kind == TICKET:
            wrong = take_ticket(watch, t, place - block[MEMORY])
        elif kind in (GLOBAL_READ, GLOBAL_WRITE, GLOBAL_SAME):
            wrong, who = use_global(watch, kind, place - block[MEMORY], size, t)
        elif kind not in (NOTHING, BASIC_BLOCK):
            wrong, who = use_shared(watch, kind, place, size, t)
        if wrong:
            block[FAULT], block[FAULT_ADDRESS], block[FAULT_BYTES], block[FAULT_LINE] = wrong, place, size, line
            block[FAULT_THREAD], block[FAULT_OTHER] = t, who
            return wrong
    return 0


@inlined
def use_global(watch, kind, first, size, t):
    """Thread t accesses bytes of the GPU's memory: (a fault or 0, with whom)."""
    known = watch.defined[first : first + size].all()
    if kind == GLOBAL_READ:
        if not known:
            return UNWRITTEN, 0
        return read(watch, watch.written, watch.read, first, size, t)
    if kind == GLOBAL_SAME and known:
        return 0, 0
    watch.defined[first : first + size] = 1
    return write(watch, watch.written, watch.read, first, size, t)


@inlined
def use_shared(watch, kind, first, size, t):
    """Thread t accesses bytes of shared memory: (a fault or 0, with whom)."""
    known = True
    for j in range(first, first + size):
        if watch.pending[j]:
            return NOT_WAITED, watch.pending[j] - 1
        known = known and watch.shared_written[j] >> NAMES >= watch.times[BLOCK_BEGAN]
    if kind == SHARED_READ:
        if not known:
            return UNWRITTEN, 0
        return read(watch, watch.shared_written, watch.shared_read, first, size, t)
    if kind == SHARED_SAME and known:
        return 0, 0
    return write_shared(watch, first, size, t)


@inlined
def read(watch, written, seen, first, size, t):
    """Thread t reads some bytes: (a fault or 0, with whom)."""
    for j in range(first, first + size):
        if conflicts(watch, written[j], t):
            return READ_RACE, written[j] & MANY
        seen[j] = readers(watch, seen[j], t)
    return 0, 0


@inlined
def write(watch, written, seen, first, size, t):
    """Thread t writes some bytes: (a fault or 0, with whom)."""
    for j in range(first, first + size):
        if conflicts(watch, written[j], t):
            return WRITE_RACE, written[j] & MANY
        if conflicts(watch, seen[j], t):
            return WRITE_RACE, seen[j] & MANY
        written[j] = (watch.times[NOW] << NAMES) | t
    return 0, 0


@inlined
def write_shared(watch, first, size, t):
    """The same in shared memory, which is another block's no more."""
    for j in range(first, first + size):
        if watch.shared_written[j] >> NAMES < watch.times[BLOCK_BEGAN]:
            watch.shared_written[j] = watch.shared_read[j] = 0
    return write(watch, watch.shared_written, watch.shared_read, first, size, t)


@inlined
def begin_copy(watch, t, first, size):
    """Thread t begins a copy to shared memory: (a fault or 0, with whom)."""
    for j in range(first, first + size):
        if watch.pending[j]:
            return NOT_WAITED, watch.pending[j] - 1
    wrong, who = write_shared(watch, first, size, t)
    if wrong:
        return wrong, who
    n = watch.copy_counts[t]
    if n == MOST_COPIES:
        return COPIES, 0
    watch.copies[t, n, 0], watch.copies[t, n, 1], watch.copies[t, n, 2] = first, size, watch.groups[t]
    watch.copy_counts[t] = n + 1
    watch.pending[first : first + size] = t + 1
    return 0, 0


@inlined
def finish_copies(watch, t, left):
    """Thread t has waited for all groups of its copies but the `left` latest; they are written now."""
    kept, done = 0, watch.groups[t] - left
    for i in range(watch.copy_counts[t]):
        first, size, group = watch.copies[t, i, 0], watch.copies[t, i, 1], watch.copies[t, i, 2]
        if group < done:
            watch.pending[first : first + size] = 0
            watch.shared_written[first : first + size] = (watch.times[NOW] << NAMES) | t
        else:
            watch.copies[t, kept, 0], watch.copies[t, kept, 1], watch.copies[t, kept, 2] = first, size, group
            kept += 1
    watch.copy_counts[t] = kept
