"""The tile of a matrix product that a block computes on tensor cores, from float32 rounded to bfloat16, or split into two.

A warp computes height x width elements of the TILE by products of 16 x 16 by 16 x 8, with sums in float32. In each step of 16
depths a thread has its share of the next tiles on its way into registers while it multiplies; then it rounds that, halves to
the even one, and puts it to shared memory, two numbers a word. There are four buffers. While the two tiles in two of them
are multiplied, the other two are filled, and then all threads meet: one barrier for two steps.

In two parts a number x is high + low: x rounded, and what that leaves of it, rounded. That is x to 2^-17 of it. Of the four
products of parts three are added, high high + high low + low high; the fourth is at most 2^-16 of the whole (Henry, Tang,
Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations", 2019; in XLA
BF16_BF16_F32_X3). A buffer then holds both parts, and there are two buffers, with a barrier for each step. What is rounded to
infinity has NaN for a low part.

`ldmatrix` reads four matrices of 8 x 8 numbers for a warp, as they are multiplied, turned around where the lines of a factor
are neighbours in memory: 8 reads for 32 products of a warp's 64 x 64 elements. A row of shared memory is a line of a deep
factor, of 8 words, else a depth, of 64, 32 or 16 words. A matrix is the same 4 words of eight rows, which would lie in few of
the 32 banks: so each group of 4 words stands in another place of its row, whose number is its own XOR some bits of the
row's. Then neither reads nor writes have to wait for a bank (counted, see docs/cuda-without-a-card.md).
"""

from minigrad.kernels.cuda.parts.factors import fetch, fetch_fours
from minigrad.kernels.cuda.parts.tensor_cores import finish_fragments, warp_corner
from minigrad.kernels.cuda.parts.tiles import A_DEEP, B_DEEP, TILE, WIDE_A, WIDE_B, own_share, tile_corner
from minigrad.kernels.cuda.tools.language import cuda, device_function, int64, real, settled, store2, uint32
from minigrad.kernels.cuda.tools.mma import bf16_pair, bf16_values, ldmatrix4, ldmatrix4_trans, mma_bf16


@device_function
def place(row, group, words):
    """Where a group of 4 words of a row of so many words stands in shared memory."""
    bits = row & uint32(7)
    if words < 32:  # two or four rows lie in all banks together
        bits = uint32(bits >> uint32(1)) if words == 16 else uint32(bits >> uint32(2))
    return uint32(row * uint32(words) + ((group ^ bits) << uint32(2)))


@device_function
def place_of_own_group(line, depth, deep, words):
    """Where the first four numbers go that a thread loads."""
    row, along = (line, depth) if deep else (depth, line)
    half = uint32((along & uint32(4)) >> uint32(1))
    return uint32(place(row, uint32(along >> uint32(3)), words) + half)


@device_function
def put_pairs(values, shared, start, words, deep, apart, loads, part):
    """The registers to shared memory, rounded; the rows of a thread's groups are `apart`.

    What rounding leaves goes, rounded itself, to the same places of the next `part` of so many words, if that is wanted.
    """
    for q in range(loads):
        turned = 0 if deep else 4 * (q * apart & 7)
        i = int64(start ^ uint32(turned)) + q * apart * words
        first = bf16_pair(values[4 * q], values[4 * q + 1])
        second = bf16_pair(values[4 * q + 2], values[4 * q + 3])
        store2(shared, i, first, second)
        if TILE.parts == 2:
            first = pair_of_rests(values[4 * q], values[4 * q + 1], first)
            second = pair_of_rests(values[4 * q + 2], values[4 * q + 3], second)
            store2(shared, i + part, first, second)


@device_function
def pair_of_rests(low, high, pair):
    """What two numbers have more than the pair that they are rounded to, rounded."""
    rounded = bf16_values(pair)
    return bf16_pair(low - rounded[0], high - rounded[1])


@device_function
def place_of_own_row(first_line, deep, words, lines_first):
    """Where the row begins that a lane reads for its warp, of the first 16 lines: 8 lines of 8 depths for 8 lanes.

    The other 8 lines come next if `lines_first`, else the other depths of the same lines.
    """
    lane = uint32(cuda.threadIdx.x) & uint32(31)
    second, fourth = (lane >> uint32(3)) & uint32(1), (lane >> uint32(4)) & uint32(1)
    eight_lines, eight_depths = (second, fourth) if lines_first else (fourth, second)
    row = lane & uint32(7)
    if deep:
        return place(uint32(first_line + row + (eight_lines << uint32(3))), uint32(eight_depths), words)
    group = uint32((first_line >> uint32(3)) + eight_lines)
    return place(uint32(row + (eight_depths << uint32(3))), group, words)


@device_function
def matrices(shared, start, deep, words, q):
    """Those of the q-th 16 lines."""
    if deep:
        return ldmatrix4(shared, int64(start) + 16 * q * words)
    return ldmatrix4_trans(shared, int64(start ^ uint32(8 * q)))


@device_function
def multiply_sixteen(shared, left, right, words_a, words_b, part_a, part_b, sums):
    """Add the product of two tiles, of which this lane reads from `left` and `right`.

    Of numbers in two parts: that of the high ones, that of high and low, that of low and high.
    """
    a = cuda.local.array(16, uint32)
    read_left(shared, left, words_a, a)
    for j in range(TILE.width // 16):
        add_products(sums, j, a, matrices(shared, right, B_DEEP, words_b, j))
        if TILE.parts == 2:
            add_products(sums, j, a, matrices(shared, uint32(right + part_b), B_DEEP, words_b, j))
    if TILE.parts == 2:
        read_left(shared, uint32(left + part_a), words_a, a)
        for j in range(TILE.width // 16):
            add_products(sums, j, a, matrices(shared, right, B_DEEP, words_b, j))


@device_function
def read_left(shared, left, words, a):
    """All that a warp multiplies of a tile of A."""
    for i in range(TILE.height // 16):
        v = matrices(shared, left, A_DEEP, words, i)
        a[4 * i] = v[0]
        a[4 * i + 1] = v[1]
        a[4 * i + 2] = v[2]
        a[4 * i + 3] = v[3]


@device_function
def add_products(sums, j, a, v):
    """The j-th 16 columns of a warp: those sums += its rows of A times these columns of B."""
    for i in range(TILE.height // 16):
        s = 4 * (i * (TILE.width // 8) + 2 * j)
        add_product(sums, s, (a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]), (v[0], v[1]))
        add_product(sums, s + 4, (a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]), (v[2], v[3]))


@device_function
def add_product(sums, s, a, b):
    """sums[s : s + 4] += the product of two small matrices."""
    total = mma_bf16((sums[s], sums[s + 1], sums[s + 2], sums[s + 3]), a, b)
    sums[s] = total[0]
    sums[s + 1] = total[1]
    sums[s + 2] = total[2]
    sums[s + 3] = total[3]


@device_function
def product_bf16(a, place_a, factor_a, b, place_b, factor_b, result, begin, end):
    """As product, by warps on tensor cores."""
    flags = result.flags
    words_a = TILE.depth // 2 if A_DEEP else TILE.rows // 2
    words_b = TILE.depth // 2 if B_DEEP else TILE.columns // 2
    part_a, part_b = TILE.rows * TILE.depth // 2, TILE.columns * TILE.depth // 2
    size_a = TILE.parts * part_a
    shared = cuda.shared.array(0, uint32, 16)
    buffer = uint32(size_a + TILE.parts * part_b)
    sums = cuda.local.array(128, real)
    values_a = cuda.local.array(16, real)
    values_b = cuda.local.array(16, real)
    lines_a = cuda.local.array(12, uint32)
    lines_b = cuda.local.array(12, uint32)

    thread = uint32(cuda.threadIdx.x)
    first_row, first_column = tile_corner(result.across)
    line_a, k_a, depth_a, loads_a, apart_a = own_share(factor_a, first_row, begin, A_DEEP, TILE.rows, 8, lines_a)
    line_b, k_b, depth_b, loads_b, apart_b = own_share(factor_b, first_column, begin, B_DEEP, TILE.columns, 8, lines_b)
    to_a = settled(place_of_own_group(line_a, k_a, A_DEEP, words_a))
    to_b = settled(uint32(place_of_own_group(line_b, k_b, B_DEEP, words_b) + uint32(size_a)))

    row, column = warp_corner(thread)
    left = settled(place_of_own_row(row, A_DEEP, words_a, True))
    right = settled(uint32(place_of_own_row(column, B_DEEP, words_b, False) + uint32(size_a)))

    for i in range(TILE.height * TILE.width // 32):
        sums[i] = real(0)
    steps = settled(uint32((end - begin + uint32(TILE.depth - 1)) // uint32(TILE.depth)))
    a, b = settled(a), settled(b)
    step, ahead = uint32(0), uint32(TILE.stages // 2)
    filled, used = uint32(0), uint32(ahead * buffer)  # where the buffers begin that are filled and used in a step
    last = uint32(uint32(TILE.stages - 1) * buffer)
    while step < steps + ahead:
        if step < steps:
            if A_DEEP and B_DEEP:
                depth_b = depth_a
            if flags & uint32(WIDE_A):
                depth_a = fetch_fours(a, place_a, factor_a, lines_a, depth_a, A_DEEP, loads_a, values_a)
            else:
                depth_a = fetch(a, place_a, factor_a, lines_a, depth_a, A_DEEP, False, loads_a, values_a)
            if flags & uint32(WIDE_B):
                depth_b = fetch_fours(b, place_b, factor_b, lines_b, depth_b, B_DEEP, loads_b, values_b)
            else:
                depth_b = fetch(b, place_b, factor_b, lines_b, depth_b, B_DEEP, False, loads_b, values_b)
        if step >= ahead:
            multiply_sixteen(
                shared,
                uint32(used + left),
                uint32(used + right),
                words_a,
                words_b,
                uint32(part_a),
                uint32(part_b),
                sums,
            )
        if step < steps:
            put_pairs(values_a, shared, uint32(filled + to_a), words_a, A_DEEP, apart_a, loads_a, part_a)
            put_pairs(values_b, shared, uint32(filled + to_b), words_b, B_DEEP, apart_b, loads_b, part_b)
        if TILE.stages == 2 or step & uint32(1):
            cuda.syncthreads()  # all have the tiles that were filled, and are done with those that were used
        filled = uint32(0) if filled == last else uint32(filled + buffer)
        used = uint32(0) if used == last else uint32(used + buffer)
        step = uint32(step + uint32(1))

    finish_fragments(result, sums, uint32(first_row + row), uint32(first_column + column))
