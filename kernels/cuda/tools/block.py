"""One block of simulated threads: who waits for whom, what they share, and the copies that are under way.

Every thread is a greenlet, which runs until it waits: for its block (syncthreads) or for its warp (syncwarp, shuffles,
tensor cores). Between two such points the threads run one after another, in a shuffled order if asked, so a missing
barrier gives another result, and the same one every time. A barrier that some threads never reach is an error, even if
those have ended. Shared memory is aligned to what the kernel asked for and no better, so that none is aligned by luck.
Memory is filled with garbage first. Copies to shared memory (cp.async) happen when they are waited for, no earlier.
"""

import contextvars
import functools
import itertools
import sys

import numpy as np
from greenlet import getcurrent, greenlet

LANES = 32
GARBAGE = 0xCB  # what every byte of fresh memory holds: huge negative floats and integers
BLOCK, WARP = "block", "warp"
TOOLS = __name__.rpartition(".")[0]


class Thread(greenlet):
    """One CUDA thread."""

    def __init__(self, run, block, number):
        super().__init__(run)
        self.gr_context = contextvars.copy_context()  # in which NumPy keeps what overflows and the like are to do
        self.block, self.number = block, number
        self.lane, self.warp = number % LANES, number // LANES
        x, y, _ = block.size
        self.index = Index(number % x, number // x % y, number // (x * y))
        self.given = None
        self.waits_at = None  # what it waits for, and the line of the kernel that waits
        self.copies, self.groups = [], []

    def wait(self, kind):
        """Go on when all threads of the block, or of the warp, have come to the same point."""
        frame = sys._getframe(1)
        while frame.f_globals["__name__"].rpartition(".")[0] == TOOLS:  # up to the kernel's
            frame = frame.f_back
        self.waits_at = kind, frame.f_code, frame.f_lasti
        self.block.scheduler.switch()


class Index:
    """What threadIdx and its like are."""

    def __init__(self, x, y, z):
        self.x, self.y, self.z = x, y, z


class ThreadBlock:
    """The threads that share memory; runs them all."""

    def __init__(self, function, arguments, size, shared_bytes, order):
        self.size = size
        self.scheduler = getcurrent()
        self.shared, self.shared_bytes = {}, shared_bytes
        self.order = order
        count = size[0] * size[1] * size[2]
        self.threads = [Thread(functools.partial(function, *arguments), self, i) for i in range(count)]

    def run(self):
        """Run until every thread has ended."""
        living = list(self.threads)
        ready = living
        while living:
            if self.order is not None:
                ready = [ready[i] for i in self.order.permutation(len(ready))]
            for thread in ready:
                thread.switch()
            living = [thread for thread in living if not thread.dead]
            ready = self.released(living)
            if living and not ready:
                places = {f"{t.waits_at[0]} at {t.waits_at[1].co_name}" for t in living}
                raise RuntimeError(f"the threads of a block wait for one another for ever: {', '.join(sorted(places))}")

    def released(self, living):
        """The threads that may go on: whole warps that met, else the whole block."""
        ready = []
        for _, group in itertools.groupby(living, lambda thread: thread.warp):
            warp = list(group)
            if all(thread.waits_at[0] == WARP for thread in warp) and len({t.waits_at for t in warp}) == 1:
                given = [None] * LANES
                for thread in warp:
                    given[thread.lane] = thread.given
                for thread in warp:
                    thread.received = given
                ready += warp
        if ready or any(thread.waits_at[0] == WARP for thread in living):
            return ready
        return living if len({thread.waits_at for thread in living}) == 1 and len(living) == len(self.threads) else []

    def shared_array(self, place, shape, dtype, alignment):
        """The block's array for one place in the source."""
        if shape == 0:
            if "dynamic" not in self.shared:
                self.shared["dynamic"] = garbage(self.shared_bytes, np.dtype(np.uint8), 16)
            return self.shared["dynamic"].view(dtype)
        if place not in self.shared:
            self.shared[place] = garbage(shape, dtype, alignment)
        return self.shared[place]


def garbage(shape, dtype, alignment=None):
    """An array that nobody has written yet, at an address with that alignment and no better."""
    alignment = alignment or dtype.itemsize
    memory = unwritten(shape, dtype, alignment).copy()
    start = alignment - memory.__array_interface__["data"][0] % (2 * alignment)
    return np.ndarray(shape, dtype, memory, start + 2 * alignment if start < 0 else start)


@functools.cache
def unwritten(shape, dtype, alignment):
    """Bytes with room for such an array wherever they lie: kernels ask for the same ones again and again."""
    return np.full(int(np.prod(shape)) * dtype.itemsize + 3 * alignment, GARBAGE, np.uint8)


def exchange(value):
    """What the threads of this warp give, by lane; all that have not ended must come."""
    thread = getcurrent()
    thread.given = value
    thread.wait(WARP)
    return thread.received


def begin_copy(target, source):
    """async_copies.copy16: noted now, done when it is waited for."""
    getcurrent().copies.append((target, source))


def commit_copies():
    """async_copies.copy_commit."""
    thread = getcurrent()
    thread.groups.append(thread.copies)
    thread.copies = []


def finish_copies(left):
    """Do all groups of copies but the `left` latest."""
    thread = getcurrent()
    while len(thread.groups) > left:
        for target, source in thread.groups.pop(0):
            target[:] = 0 if source is None else source


def mma_tf32(c, a, b):
    """mma.mma_tf32."""
    return multiplied(c, a, b, product_in_tf32)


def mma_bf16(c, a, b):
    """mma.mma_bf16."""
    return multiplied(c, a, b, product_in_bf16)


def multiplied(c, a, b, product):
    """What this thread gets of C + A B, by a function of what all lanes of the warp hold of A and B."""
    received = exchange((a, b))
    if len(received) == LANES:  # the first of the warp computes for all
        received.append(product(received))
    g, t = divmod(getcurrent().lane, 4)
    parts = received[LANES][[g, g + 8], 2 * t : 2 * t + 2].ravel()
    return tuple(np.float32(total + part) for total, part in zip(c, parts, strict=True))


def product_in_tf32(fragments):
    """The 16 x 8 product of what the lanes of a warp hold of two matrices."""
    left, right = np.zeros((16, 8), np.float32), np.zeros((8, 8), np.float32)
    for i, (x, y) in enumerate(fragments):
        g, t = divmod(i, 4)
        left[g, t], left[g + 8, t], left[g, t + 4], left[g + 8, t + 4] = np.array(x, np.uint32).view(np.float32)
        right[t, g], right[t + 4, g] = np.array(y, np.uint32).view(np.float32)
    return left @ right


def product_in_bf16(fragments):
    """The same of words of two bfloat16, which are neighbours along the depth."""
    left, right = np.zeros((16, 16), np.float32), np.zeros((16, 8), np.float32)
    for i, (x, y) in enumerate(fragments):
        g, k = i // 4, i % 4 * 2
        upper, lower, upper_behind, lower_behind, column, column_behind = [bf16_of(word) for word in (*x, *y)]
        left[g, k : k + 2], left[g + 8, k : k + 2] = upper, lower
        left[g, k + 8 : k + 10], left[g + 8, k + 8 : k + 10] = upper_behind, lower_behind
        right[k : k + 2, g], right[k + 8 : k + 10, g] = column, column_behind
    return left @ right


def bf16_of(word):
    """The two bfloat16 of a word, as float32."""
    return np.array([int(word) << 16 & 0xFFFFFFFF, int(word) & 0xFFFF0000], np.uint32).view(np.float32)


def ldmatrix(row, turned):
    """mma.ldmatrix4, and turned mma.ldmatrix4_trans; `row` is the one that this lane has found."""
    received = exchange(row.copy())
    matrices = np.stack(received).view(np.uint16).reshape(4, 8, 8)
    if turned:
        matrices = np.ascontiguousarray(matrices.transpose(0, 2, 1))
    g, t = divmod(getcurrent().lane, 4)
    return tuple(matrices.view(np.uint32)[:, g, t])
