"""What kernels ask of a GPU, counted on the host, where it can be counted by hand."""

import numpy as np
import pytest

pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)

import host_ptx
from targets import Cuda

from minigrad.kernels.cuda import gemm
from minigrad.kernels.cuda.host.counts import H100, Card, bound, table, times
from minigrad.kernels.cuda.host.driver import HostDriver
from minigrad.kernels.cuda.parts import plans
from minigrad.kernels.cuda.tools import launch

X = np.arange(1024, dtype=np.float32)
HERE = """
    mov.u32 %r10, %ctaid.x;
    mov.u32 %r11, %ntid.x;
    mad.lo.s32 %r12, %r10, %r11, %r0;
    mul.wide.u32 %rd4, %r12, 4;
    add.s64 %rd5, %rd2, %rd4;
"""
COPY = """
    mul.wide.u32 %rd6, %r12, {bytes};
    add.s64 %rd6, %rd1, %rd6;
    ld.global.f32 %f1, [%rd6];
    st.global.f32 [%rd5], %f1;
"""


@pytest.fixture
def driver():
    return HostDriver(1 << 22, order=np.random.default_rng(1), counts=True)


def counted(driver, body, *arrays, shared="", **launch):
    """The Counts of a kernel written by hand."""
    host_ptx.run(driver, host_ptx.source(body, len(arrays), shared, threads=1024), *arrays, **launch)
    return driver.counts["tried:float32"]


def test_a_copy_moves_what_it_asks_for(driver):
    found = counted(driver, HERE + COPY.format(bytes=4), X, X, grid=8, block=128)
    assert found[:3] == (1, 8, 1024)
    assert (found.bytes_read, found.bytes_written) == (4096, 4096)
    assert (found.sectors_read, found.sectors_written) == (128, 128)
    assert (found.touched_read, found.touched_written) == (128, 128)
    assert (found.wavefronts, found.conflicts, found.operations) == (0, 0, 0)
    # of each of 32 warps: tid, ctaid, ntid, two arguments; three products; two sums, two accesses, the end
    by_kind = {kind: n // 32 for kind, n in found.instructions.items() if n}
    assert by_kind == {"move": 5, "integer": 6, "memory": 2, "branch": 1}


@pytest.mark.parametrize(("stride", "sectors"), [(0, 1), (1, 4), (2, 8), (4, 16), (8, 32), (24, 32)])
def test_a_warp_that_reads_with_a_stride_moves_the_sectors_between(driver, stride, sectors):
    x = np.zeros(32 * 24, np.float32)
    found = counted(driver, HERE + COPY.format(bytes=4 * stride), x, X, block=32)
    assert (found.bytes_read, found.sectors_read, found.touched_read) == (128, sectors, sectors)


def test_what_several_warps_read_is_moved_for_each_and_touched_once(driver):
    found = counted(driver, HERE + COPY.format(bytes=0), X, X, grid=2, block=64)
    assert (found.bytes_read, found.sectors_read, found.touched_read) == (512, 4, 1)
    assert counted(driver, HERE + COPY.format(bytes=0), X, X, grid=2, block=64) == found + found


def test_more_accesses_than_there_is_room_for_are_refused(driver):
    driver.trace = driver.trace[:100]
    with pytest.raises(
        RuntimeError, match="tried: .* has made with its block 9[0-9] accesses, and more cannot be counted"
    ):
        counted(driver, HERE + COPY.format(bytes=4), X, X, block=64)


TILE = """
    shr.u32 %r1, %r0, 5;
    and.b32 %r2, %r0, 31;
    mov.u32 %r3, tile;
    mad.lo.s32 %r4, %r1, {pitch}, %r2;
    mad.lo.s32 %r5, %r4, 4, %r3;
    mad.lo.s32 %r6, %r2, {pitch}, %r1;
    mad.lo.s32 %r7, %r6, 4, %r3;
    ld.global.f32 %f1, [%rd6];
    st.shared.f32 [%r5], %f1;
    bar.sync 0;
    ld.shared.f32 %f2, [%r7];
    st.global.f32 [%rd5], %f2;
"""


@pytest.mark.parametrize(("pitch", "ways"), [(32, 32), (33, 1), (34, 2), (36, 4), (40, 8)])
def test_a_tile_turned_in_shared_memory_conflicts_unless_its_rows_are_padded(driver, pitch, ways):
    body = HERE + "add.s64 %rd6, %rd1, %rd4;" + TILE.format(pitch=pitch)
    shared = f".visible .shared .align 16 .b8 tile[{4 * 32 * pitch}];"
    (_, turned) = host_ptx.run(driver, host_ptx.source(body, 2, shared, threads=1024), X, np.zeros_like(X), block=1024)
    np.testing.assert_array_equal(turned.reshape(32, 32), X.reshape(32, 32).T)
    found = driver.counts["tried:float32"]
    assert found.wavefronts == 32 + 32 * ways  # 32 warps write a row and read a column each
    assert found.conflicts == 32 * (ways - 1)


WIDE = """
    mov.u32 %r3, tile;
    mad.lo.s32 %r4, %r0, {bytes}, %r3;
    st.shared.{kind} [%r4], {values};
"""


@pytest.mark.parametrize(
    ("kind", "step", "wavefronts", "conflicts"),
    [
        ("f32", 4, 1, 0),
        ("f32", 8, 2, 1),
        ("f32", 0, 1, 0),  # all the same word
        ("v2.f32", 8, 2, 0),
        ("v2.f32", 16, 4, 2),
        ("v4.f32", 16, 4, 0),
        ("v4.f32", 128, 32, 28),
        ("b8", 1, 1, 0),
        ("b8", 4, 1, 0),
    ],
)
def test_wide_accesses_go_by_the_threads_that_ask_at_a_time(driver, kind, step, wavefronts, conflicts):
    count = int(kind[1]) if kind[0] == "v" else 1
    register = "%r0" if kind == "b8" else "%f1"
    values = "{" + ", ".join([register] * count) + "}" if count > 1 else register
    body = WIDE.format(bytes=step, kind=kind, values=values)
    found = counted(driver, body.replace("st.shared", "mov.f32 %f1, 0f00000000;\nst.shared"), X, block=32,
                    shared=".visible .shared .align 16 .b8 tile[4096];")  # fmt: skip
    assert (found.wavefronts, found.conflicts) == (wavefronts, conflicts)


LOOP = """
    and.b32 %r1, %r0, 3;
    mov.u32 %r2, 0;
    add.s64 %rd5, %rd1, %rd0;
again:
    ld.global.f32 %f1, [%rd5];
    fma.rn.f32 %f2, %f1, %f1, %f1;
    add.s32 %r2, %r2, 1;
    setp.le.u32 %p1, %r2, %r1;
    @%p1 bra again;
"""


def test_threads_that_go_round_more_often_keep_their_warp(driver):
    found = counted(driver, LOOP, X, block=64)
    assert found.bytes_read == 2 * 4 * 8 * (1 + 2 + 3 + 4)
    assert found.sectors_read == 2 * 4 * 4  # in each of four rounds some thread is left in each of four sectors
    assert found.instructions["float32"] == 2 * 4
    assert found.operations == 2 * 2 * 8 * (1 + 2 + 3 + 4)


COPIED = """
    add.s64 %rd3, %rd1, %rd0;
    mov.u32 %r1, tile;
    shl.b32 %r2, %r0, 2;
    add.s32 %r3, %r1, %r2;
    cp.async.ca.shared.global [%r3], [%rd3], 4, %r4;
    cp.async.wait_all;
"""


@pytest.mark.parametrize(("size", "sectors"), [(4, 4), (0, 0)])
def test_a_copy_to_shared_memory_reads_one_and_writes_the_other(driver, size, sectors):
    body = f"mov.u32 %r4, {size};\n" + COPIED
    found = counted(driver, body, X, block=32, shared=".visible .shared .align 16 .b8 tile[128];")
    assert (found.bytes_read, found.sectors_read, found.wavefronts) == (32 * size, sectors, 1)


def test_a_card_of_given_limits_needs_the_longest_of_its_times(driver):
    found = counted(driver, HERE + COPY.format(bytes=4), X, X, grid=8, block=128)
    slow = Card("slow", 2, 512.0, 1024.0, 2048.0, 1024.0)  # one cycle a second
    assert slow.clock == 1
    seconds = times(found, slow)
    assert seconds["memory"] == 8.0
    assert seconds["issue"] == 14 * 32 / 4 / 2  # each of two multiprocessors takes four instructions of warps a cycle
    assert (seconds["float32"], seconds["tensor"], seconds["shared"]) == (0, 0, 0)
    assert bound(found, slow) == ("issue", 56.0)
    assert times(found._replace(products=3072, bf16=2048), slow)["tensor"] == 2  # as long for the products in TF32
    alone = times(found._replace(blocks=1), slow)
    assert (alone["memory"], alone["issue"]) == (8.0, 112.0)  # the other multiprocessor has nothing to do


@pytest.fixture
def memory(monkeypatch, driver):
    """The host as a GPU that counts, for the engine's own kernels."""
    memory = Cuda(monkeypatch, on_host=True)
    memory.driver, memory.stream = driver, driver.new_stream()
    monkeypatch.setattr(launch.context, "driver", memory.driver)
    monkeypatch.setattr(launch.context, "stream", memory.stream)
    return memory


def each(soon, *others):
    """A test of a tile, in the default run for one: to translate the kernel of a large one for counts takes seconds."""
    return pytest.mark.parametrize(
        "tile", [soon, *[pytest.param(tile, marks=pytest.mark.slow) for tile in others]], ids=str
    )


@each(plans.SMALL, plans.LARGE, plans.TALL, plans.NARROW)
def test_a_tile_of_a_product(memory, rng, tile):
    m, n, k = tile.rows, tile.columns, tile.depth
    a, b = (memory.put(rng.integers(-4, 5, shape).astype(np.float32)) for shape in ((m, k), (k, n)))
    c = memory.empty((m, n), np.float32)
    gemm.launcher(a, b, m, n, k, False, False, plans.tiling_by(tile, m, n, k, 1))(c, c, 0)
    np.testing.assert_array_equal(memory.get(c), memory.get(a) @ memory.get(b))
    (found,) = memory.driver.counts.values()
    assert found.operations == 2 * m * n * k
    assert (found.touched_read, found.touched_written) == ((m + n) * k // 8, m * n // 8)
    warps, groups = tile.threads // 32, m * k // 4 // tile.threads
    assert found.conflicts == (warps * groups * 4 if k == 32 else 0)  # where A is turned


@pytest.mark.slow  # the compiler takes ten seconds, and the machine code of products on tensor cores is looked at in test_gemm.py
@each(*plans.TF32_KERNELS[1::-1])
def test_a_product_on_tensor_cores(memory, rng, tile):
    m, n, k = *tile[:2], 5 * tile.depth
    a, b = (memory.put(rng.integers(-4, 5, shape).astype(np.float32)) for shape in ((m, k), (k, n)))
    c = memory.empty((m, n), np.float32)
    gemm.launcher(a, b, m, n, k, False, False, plans.tiling_by(tile, m, n, k, 1))(c, c, 0)
    np.testing.assert_array_equal(memory.get(c), memory.get(a) @ memory.get(b))
    ((name, found),) = memory.driver.counts.items()
    assert found.products == found.operations == 2 * m * n * k
    head, line = table(memory.driver.counts, H100).splitlines()
    assert head.split()[0] == "kernel"
    assert line.split()[:2] == [name, "1"]
