"""Where translated kernels and what runs them find one another's numbers: words of 64 bits in three places.

A translated kernel is `state = kernel(block, frame, state)`. Called with 0 it begins; it gives FINISHED, FAULTED, or the number
of the point where it waits, with which it is called again to go on. `block` is the address of the fields of a block, the same
for all of its threads; `frame` that of a thread's own memory, which keeps over a wait what the thread goes on with.
"""

FINISHED, FAULTED = 0, -1

# Fields of a block; those of three numbers are along x, y and z.
BLOCK_INDEX, BLOCK_SIZE, GRID_SIZE = 0, 3, 6
SHARED, SHARED_BYTES, DYNAMIC_BYTES = 9, 10, 11  # where its shared memory is, how much, and how much a launch added
PARAMETERS = 12  # the address of the kernel's arguments
MEMORY, MEMORY_BYTES, ENDS = 13, 14, 15  # all that can be allocated, and for each page of it where its allocation ends
FAULT, FAULT_ADDRESS, FAULT_BYTES, FAULT_LINE = 16, 17, 18, 19  # what a thread did wrong, one of the numbers below
FAULT_THREAD, FAULT_OTHER = 20, 21  # who, and with whom
LOG, LOG_ROOM, LOG_COUNT = 22, 23, 24  # accesses: the address of the entries, how many fit, how many there are
TURN, TRACE_COUNT = 25, 26  # how often a warp has run until it waited, and how many entries of the trace there are
FIELDS = 27
PAGE_BITS = 8  # an allocation begins at a multiple of 256 bytes

# A thread's frame
THREAD_INDEX, THREAD_NUMBER = 0, 3
GIVEN, RECEIVED = 4, 16  # what it has for others where it waits, and what it gets of them
OWN = 20  # here local memory begins, and behind it registers

# Faults
OUTSIDE, NO_ROOM = 1, 2  # found by the translated kernel
APART, UNNAMED, NO_LANE, MISSING, FOREIGN = 3, 4, 5, 6, 7  # found where threads meet
UNWRITTEN, READ_RACE, WRITE_RACE, NOT_WAITED, COPIES = 8, 9, 10, 11, 12  # found in the log
NO_TRACE = 13  # found where logs are kept

# An entry of the log: the address (in shared memory: from its beginning), and KIND | bytes << 8 | line << 16.
ENTRY = 2
NOTHING, GLOBAL_READ, GLOBAL_WRITE, SHARED_READ, SHARED_WRITE, COPY, COMMIT, WAIT = 0, 1, 2, 3, 4, 5, 6, 7
GLOBAL_SAME, SHARED_SAME = 8, 9  # writes of what was there already
BASIC_BLOCK = 10  # not an access: instructions that are entered at the first only, which is in this line
FENCE, TICKET = 11, 12  # what the thread did comes before what it will do, for all blocks; an atomic operation

# A row of the trace, in which the logs of a block's threads are kept: TURN, the thread, and the entry.
TRACE = 4

# What a thread waits for
BLOCK_ALL, BLOCK_OR, BLOCK_AND, BLOCK_COUNT = 1, 2, 3, 4
WARP_ALL, SHUFFLE_INDEX, SHUFFLE_XOR, SHUFFLE_UP, SHUFFLE_DOWN = 16, 17, 18, 19, 20  # from here on for its warp
BALLOT, ANY, EVERY, PRODUCT_TF32 = 21, 22, 23, 24
PRODUCT_BF16, MATRICES, TURNED_MATRICES = 25, 26, 27
