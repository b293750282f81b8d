"""What a kernel did wrong, in words: which thread, where, and by which instruction."""

import re

from minigrad.kernels.cuda.host import layout
from minigrad.kernels.cuda.host.checks import LANES, MANY, WARP

TOGETHER = {
    layout.APART: "and {other} wait at different places, and so for one another for ever",
    layout.MISSING: "waits for its block, but {other} has ended and never comes: all threads, or none, must come to a barrier",
    layout.UNNAMED: "meets its warp with a mask that does not name it, or that is not that of the others",
    layout.FOREIGN: "is named in the mask of threads that meet, but waits elsewhere",
    layout.NO_LANE: "needs {other}, which is not there",
}
ACCESSES = {
    layout.UNWRITTEN: "reads {bytes} at {place} that nobody has written",
    layout.READ_RACE: "reads {bytes} at {place} that {other} writes, with nothing in between that orders the two: a race",
    layout.WRITE_RACE: "writes {bytes} at {place} that {other} accesses, with nothing in between that orders the two: a race",
    layout.NOT_WAITED: "touches {bytes} at {place} that a copy (cp.async) by {other} is to write, which was not waited for",
    layout.COPIES: "has begun more copies (cp.async) than are followed here without waiting for any",
    layout.NO_ROOM: "has made {address:,} accesses without waiting for others, and more cannot be checked; take a smaller case",
    layout.NO_TRACE: "has made with its block {address:,} accesses, and more cannot be counted; take a smaller case",
}


def message(kernel, block, allocations):
    """The sentence for a launch that ended with a fault, of which the block's fields tell."""
    kind, address, size, line = (int(block[layout.FAULT + i]) for i in range(4))
    thread, other = int(block[layout.FAULT_THREAD]), int(block[layout.FAULT_OTHER])
    instruction = kernel.ptx.splitlines()[line - 1].strip() if line else ""
    if kind == layout.OUTSIDE:
        did = outside(block, address, size, instruction, allocations)
    elif kind in ACCESSES:
        shared = kind not in (layout.COPIES, layout.NO_ROOM, layout.NO_TRACE) and 0 <= address < int(
            block[layout.SHARED_BYTES]
        )
        place = f"byte {address} of shared memory" if shared else f"{address:#x} of the GPU's memory"
        whom = "several warps" if other == MANY else f"warp {other - WARP}" if other >= WARP else named(other, block)
        did = ACCESSES[kind].format(bytes=f"{size} bytes", place=place, other=whom, address=address)
    else:
        did = TOGETHER[kind].format(other=named(other, block))
    where = "block ({}, {}, {})".format(*block[layout.BLOCK_INDEX : layout.BLOCK_INDEX + 3])
    by = f" [line {line} of its PTX: {instruction}]" if line else ""
    return f"{kernel.name}: {named(thread, block)} of {where} {did}{by}"


def named(thread, block):
    """A thread by its indices, or the lane of one that there is not."""
    x, y, z = (int(n) for n in block[layout.BLOCK_SIZE : layout.BLOCK_SIZE + 3])
    if thread >= x * y * z:
        return f"lane {thread % LANES}"
    return f"thread ({thread % x}, {thread // x % y}, {thread // (x * y)})"


def outside(block, address, size, instruction, allocations):
    """What is said of an access that is not allowed at all."""
    did = "writes" if re.search(r"(^|\s)st\.", instruction) else "reads"
    shared_bytes = int(block[layout.SHARED_BYTES])
    if ".shared" in instruction and address < 1 << 32:  # a copy's source is in the GPU's memory
        what = f"{did} {size} bytes at {address} of shared memory"
        return (
            f"{what}, of which there are {shared_bytes:,} bytes"
            if address + size > shared_bytes
            else f"{what}, which is not aligned"
        )
    what = f"{did} {size} bytes at {address:#x}"
    start, length = nearest(address, allocations)
    if start is None:
        return f"{what}, where nothing was allocated"
    if start <= address and address + size <= start + length:
        return f"{what}, which is no multiple of as many bytes"
    return f"{what}, {address - start:,} bytes from the beginning of an allocation of {length:,} bytes"


def nearest(address, allocations):
    """(beginning, bytes) of the allocation that an address is in, or behind."""
    before = [start for start in allocations if start <= address]
    if not before:
        return None, None
    return max(before), allocations[max(before)]
