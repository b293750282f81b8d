"""What a kernel asks of a GPU, counted as its warps do it: sectors of memory, bank conflicts, instructions by kind.

    gpu.driver.counts             {kernel and type: Counts}, with MINIGRAD_CUDA=host,counted
    print(table(gpu.driver.counts, H100))

The threads of a warp run one after another here, and leave a trace of what they access and of the basic blocks they come to.
The k-th time that one thread comes to a basic block, between two points where the warp meets, is taken for the same as the k-th
of another: what they do there is together one instruction of the warp each, as on a card.

Memory      A card moves sectors of 32 bytes. `sectors` are those of each instruction of a warp, as if no cache held any of them
            from before; `touched` those of the whole launch, each once, which is the least that memory can be asked for.
Shared      32 banks give a word of 4 bytes each at a time. Threads that want different words of one bank wait for one another:
            `wavefronts` are the times, `conflicts` those more than there would be if no two did. Of 8 bytes sixteen threads
            ask at a time, of 16 bytes eight; where two such groups read the same a card may need fewer.
Instructions  of PTX, for a warp. The machine code has other addresses and copies, about as many sums and products.
"""

import collections
from typing import NamedTuple

import numpy as np

from minigrad.kernels.cuda.host import ptx
from minigrad.kernels.cuda.host.layout import (
    BASIC_BLOCK,
    COPY,
    GLOBAL_READ,
    GLOBAL_SAME,
    GLOBAL_WRITE,
    SHARED_READ,
    SHARED_SAME,
    SHARED_WRITE,
)

SECTOR, BANKS, WORD, LANES = 32, 32, 4, 32
SPECIAL = {"rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "div"}
ROOTS = {
    "memory": ("ld", "st", "cp", "prefetch", "atom", "ldmatrix"),
    "meeting": ("bar", "barrier", "shfl", "vote", "membar", "fence"),
    "branch": ("bra", "ret", "exit", "call"),
    "choice": ("setp", "selp", "testp"),
    "conversion": ("cvt",),
    "move": ("mov", "cvta"),
    "tensor": ("mma",),
}
KINDS = ("float32", "float64", "special", "integer", *ROOTS)
OF_ROOT = {root: kind for kind, roots in ROOTS.items() for root in roots}
OPERATIONS = {"fma": 2, "mad": 2, "add": 1, "sub": 1, "mul": 1}  # of a thread; others count none
OF_PRODUCT = {  # mma, of each of the threads that do it together
    "m16n8k8": 2 * 16 * 8 * 8 // LANES,
    "m16n8k16": 2 * 16 * 8 * 16 // LANES,
}


class Counts(NamedTuple):
    """What the launches of a kernel did, all of them together."""

    launches: int
    blocks: int
    threads: int
    bytes_read: int  # what threads asked for, of the GPU's memory
    bytes_written: int
    sectors_read: int
    sectors_written: int
    touched_read: int  # sectors, each once a launch
    touched_written: int
    wavefronts: int
    conflicts: int
    operations: int  # of float32: an fma is two
    products: int  # of those, on tensor cores
    bf16: int  # and of those, of bfloat16
    instructions: dict[str, int]  # of warps, by kind

    def __add__(self, other):
        numbers = [a + b for a, b in zip(self[:-1], other[:-1], strict=True)]
        both = {kind: self.instructions[kind] + other.instructions[kind] for kind in KINDS}
        return Counts(*numbers, both)


class Card(NamedTuple):
    """What a GPU can do at most, by its maker's data sheet."""

    name: str
    multiprocessors: int
    float32: float  # operations a second
    tf32: float
    bf16: float
    memory: float  # bytes a second

    @property
    def clock(self):
        """Cycles a second at which 128 lanes of a multiprocessor make an fma each give these float32 operations."""
        return self.float32 / (2 * 128 * self.multiprocessors)


A100 = Card("A100", 108, 19.5e12, 156e12, 312e12, 2.04e12)
H100 = Card("H100", 132, 67e12, 494e12, 989e12, 3.35e12)
H200 = Card("H200", 132, 67e12, 494e12, 989e12, 4.8e12)


def times(counts, card):
    """{what bounds it: seconds}: how long a card needs at least for each of the things that it does at the same time.

    A grid of fewer blocks than there are multiprocessors leaves the others idle. Launching itself is not counted.
    """
    busy = min(card.multiprocessors, counts.blocks / counts.launches) * card.clock  # cycles a second, of all at work
    each, warps = counts.instructions, LANES / 128  # cycles of a warp's instruction where 128 lanes are
    products = (counts.products - counts.bf16) / card.tf32 + counts.bf16 / card.bf16
    return {
        "memory": SECTOR * (counts.touched_read + counts.touched_written) / card.memory,
        "float32": each["float32"] * warps / busy,
        "special": each["special"] * 8 * warps / busy,
        "tensor": products * card.clock * card.multiprocessors / busy,
        "shared": counts.wavefronts / busy,
        "issue": sum(each.values()) * warps / busy,
    }


def bound(counts, card):
    """(what takes longest, its seconds)."""
    return max(times(counts, card).items(), key=lambda item: item[1])


def table(counts, card):
    """The counts of kernels as text, a line each."""
    head = ("kernel", "launches", "asked", "sectors", "touched", "wavefronts", "conflicts", "instructions")
    rows = [(*head, f"{card.name} at least")]
    for name, c in counts.items():
        what, seconds = bound(c, card)
        numbers = (
            *(c.launches, c.bytes_read + c.bytes_written, c.sectors_read + c.sectors_written),
            *(c.touched_read + c.touched_written, c.wavefronts, c.conflicts, sum(c.instructions.values())),
        )
        rows.append((name, *(f"{number:,}" for number in numbers), f"{1e6 * seconds:.3g} us ({what})"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join(lines)


def kind_of(instruction):
    """Which of KINDS an instruction is of."""
    root, *modifiers = instruction.opcode.split(".")
    if root in ("ld", "st") and "param" in modifiers:
        return "move"
    if root in OF_ROOT:
        return OF_ROOT[root]
    if "f64" in modifiers:
        return "float64"
    if "f32" not in modifiers:
        return "integer"
    return "special" if root in SPECIAL else "float32"


def operations_of(instruction):
    """float32 operations that a thread does with it."""
    root = instruction.opcode.partition(".")[0]
    if root == "mma":
        return OF_PRODUCT[instruction.opcode.split(".")[3]]
    return OPERATIONS.get(root, 0) if kind_of(instruction) == "float32" else 0


class Counter:
    """Counts the launches of a kernel from the traces of its blocks."""

    def __init__(self, text):
        found = [ptx.basic_blocks(function) for function in ptx.parse(text).functions.values()]
        self.blocks = {block[0].line: block for blocks in found for block in blocks.values()}
        self.total = None

    def begin(self, blocks, threads):
        """A launch of so many blocks and threads begins."""
        nothing = Counts(1, blocks, blocks * threads, *[0] * 11, dict.fromkeys(KINDS, 0))
        self.total = nothing if self.total is None else self.total + nothing
        self.touched = {GLOBAL_READ: [], GLOBAL_WRITE: []}  # sectors

    def add(self, trace):
        """Count what a block did: rows of (the turn of a warp, thread, place, kind | bytes << 8 | line << 16)."""
        turn, thread, place, what = trace.T
        kind, size, line = what & 255, what >> 8 & 255, what >> 16
        kind = np.where(kind == GLOBAL_SAME, GLOBAL_WRITE, np.where(kind == SHARED_SAME, SHARED_WRITE, kind))
        together = instructions_of_warps(turn, thread, line, kind)
        lane = thread % LANES
        for chosen in (GLOBAL_READ, GLOBAL_WRITE):
            self.add_global(chosen, *(a[kind == chosen] for a in (together, place, size)))
        shared = np.isin(kind, (SHARED_READ, SHARED_WRITE, COPY))
        self.add_shared(*(a[shared] for a in (together, lane, place, size)))
        begun = kind == BASIC_BLOCK
        self.add_instructions(together[begun], line[begun])

    def put(self, **more):
        """Add to some of the counts."""
        self.total = self.total._replace(**{name: getattr(self.total, name) + int(n) for name, n in more.items()})

    def add_global(self, kind, together, place, size):
        """Accesses of the GPU's memory, which are aligned, so that none lies in two sectors."""
        sector = place // SECTOR
        asked, moved = size.sum(), len(different(together, sector))
        self.touched[kind].append(np.unique(sector))
        if kind == GLOBAL_READ:
            self.put(bytes_read=asked, sectors_read=moved)
        else:
            self.put(bytes_written=asked, sectors_written=moved)

    def add_shared(self, together, lane, place, size):
        """Accesses of shared memory: how often the banks have to give words until all threads of a warp have theirs."""
        words = np.maximum(size // WORD, 1)
        group = lane * words // LANES
        which = np.repeat(np.arange(len(place)), words)
        word = place[which] // WORD + np.arange(len(which)) - np.repeat(np.cumsum(words) - words, words)
        together, group = together[which], group[which]
        wanted = different(together, group, word)
        request = numbered(together[wanted], group[wanted])
        requests = int(request.max(initial=-1)) + 1
        of_bank = np.bincount(request * BANKS + word[wanted] % BANKS, minlength=requests * BANKS)
        longest = of_bank.reshape(requests, BANKS).max(axis=1)
        self.put(wavefronts=longest.sum(), conflicts=longest.sum() - requests)

    def add_instructions(self, together, line):
        """Basic blocks that threads came to."""
        by_warps, operations, products, bf16 = dict(self.total.instructions), 0, 0, 0
        for each, count in zip(*np.unique(line, return_counts=True), strict=True):
            block = self.blocks[int(each)]
            warps = len(np.unique(together[line == each]))
            for name, n in collections.Counter(map(kind_of, block)).items():
                by_warps[name] += n * warps
            operations += int(count) * sum(map(operations_of, block))
            tensor = [i for i in block if kind_of(i) == "tensor"]
            products += int(count) * sum(map(operations_of, tensor))
            bf16 += int(count) * sum(operations_of(i) for i in tensor if ".bf16" in i.opcode)
        self.total = self.total._replace(instructions=by_warps)
        self.put(operations=operations, products=products, bf16=bf16)

    def end(self):
        """The launch is done."""
        read, written = (len(np.unique(np.concatenate(sectors))) for sectors in self.touched.values())
        self.put(touched_read=read, touched_written=written)


def numbered(*columns):
    """A number for each row, the same for equal rows, in the order of the columns."""
    order = np.lexsort(columns[::-1])
    new = np.zeros(len(order), bool)
    for column in columns:
        new[1:] |= column[order[1:]] != column[order[:-1]]
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(new)
    return number


def different(*columns):
    """The index of one of each set of equal rows."""
    return np.unique(numbered(*columns), return_index=True)[1]


def instructions_of_warps(turn, thread, line, kind):
    """For each row of a trace the number of the warp's instruction that it belongs to; a thread's rows are in order."""
    begun = np.flatnonzero(kind == BASIC_BLOCK)
    of_thread = numbered(turn[begun], thread[begun], line[begun])
    order, counts = np.argsort(of_thread, kind="stable"), np.bincount(of_thread)
    nth = np.empty(len(begun), np.int64)
    nth[order] = np.arange(len(begun)) - np.repeat(np.cumsum(counts) - counts, counts)
    inside = np.searchsorted(begun, np.arange(len(kind)), side="right") - 1  # in which basic block
    at = begun[inside]
    begun_now = (turn[at] == turn) & (thread[at] == thread)  # and not before the thread waited
    return numbered(turn, line, kind, np.where(begun_now, nth[inside], -1))
