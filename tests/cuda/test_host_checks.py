"""What kernels do wrong on the host: each fault is found, named, and not found where it is not."""

import numpy as np
import pytest

pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)

import host_ptx
from host_ptx import unwritten

from minigrad.kernels.cuda.host.driver import HostDriver

X = np.arange(64, dtype=np.float32)
SHARED = ".visible .shared .align 16 .b8 both[256];"
TO_SHARED = """
    mov.u32 %r1, both;
    shl.b32 %r2, %r0, 2;
    add.s32 %r3, %r1, %r2;
    add.s64 %rd3, %rd1, %rd0;
    ld.global.f32 %f1, [%rd3];
"""
NEIGHBOUR = """
    xor.b32 %r4, %r2, {};
    add.s32 %r5, %r1, %r4;
    ld.shared.f32 %f2, [%r5];
    st.global.f32 [%rd3], %f2;
"""


@pytest.fixture(scope="module", params=[None, 1], ids=["in order", "shuffled"])
def driver(request):
    return HostDriver(1 << 22, order=request.param and np.random.default_rng(request.param), checks=True)


def neighbours(between, distance=4):
    return host_ptx.source(
        TO_SHARED + "st.shared.f32 [%r3], %f1;" + between + NEIGHBOUR.format(distance), shared=SHARED
    )


@pytest.mark.parametrize(("between", "distance"), [("bar.sync 0;", 4), ("bar.sync 0;", 128), ("bar.warp.sync -1;", 4)])
def test_threads_that_meet_see_what_the_others_wrote(driver, between, distance):
    (result,) = host_ptx.run(driver, neighbours(between, distance), X, block=64)
    np.testing.assert_array_equal(result, X[np.arange(64) ^ (distance // 4)])


@pytest.mark.parametrize(
    ("between", "distance"), [("", 4), ("bar.warp.sync -1;", 128)], ids=["no barrier", "other warp"]
)
def test_race_in_shared_memory_is_found(driver, between, distance):
    said = (
        r"tried: thread \(\d+, 0, 0\) of block \(0, 0, 0\) (reads|writes) 4 bytes at byte \d+ of shared memory that .*"
    )
    with pytest.raises(RuntimeError, match=said):
        host_ptx.run(driver, neighbours(between, distance), X, block=64)


def test_reading_again_before_all_have_read_is_found(driver):
    body = (
        TO_SHARED
        + "st.shared.f32 [%r3], %f1;\nbar.sync 0;"
        + NEIGHBOUR.format(4)
        + "neg.f32 %f1, %f1;\nst.shared.f32 [%r3], %f1;"
    )
    with pytest.raises(RuntimeError, match="(reads|writes) 4 bytes .* a race"):
        host_ptx.run(driver, host_ptx.source(body, shared=SHARED), X, block=64)


@pytest.mark.parametrize(("what", "is_race"), [("0f3F800000", False), ("%f1", True)], ids=["the same", "its own"])
def test_writes_of_several_threads_to_one_place(driver, what, is_race):
    body = f"""
    cvt.rn.f32.u32 %f1, %r0;
    mov.u32 %r1, both;
    st.shared.f32 [%r1], {what};
    st.global.f32 [%rd1], {what};
    bar.sync 0;
    ld.shared.f32 %f2, [%r1];
    add.s64 %rd2, %rd2, %rd0;
    st.global.f32 [%rd2], %f2;
    """
    text = host_ptx.source(body, pointers=2, shared=SHARED)
    if is_race:
        with pytest.raises(RuntimeError, match="writes 4 bytes .* a race"):
            host_ptx.run(driver, text, unwritten(1), X, block=64)
    else:
        np.testing.assert_array_equal(host_ptx.run(driver, text, unwritten(1), X, block=64)[1], 1)


def test_shared_memory_that_nobody_wrote(driver):
    body = TO_SHARED + "bar.sync 0;" + NEIGHBOUR.format(4)
    with pytest.raises(RuntimeError, match=r"reads 4 bytes at byte \d+ of shared memory that nobody has written"):
        host_ptx.run(driver, host_ptx.source(body, shared=SHARED), X, block=64)


def test_global_memory_that_nobody_wrote(driver):
    body = "add.s64 %rd3, %rd1, %rd0;\nld.global.f32 %f1, [%rd3];\nst.global.f32 [%rd3], %f1;"
    with pytest.raises(RuntimeError, match=r"reads 4 bytes at 0x\w+ of the GPU's memory that nobody has written"):
        host_ptx.run(driver, host_ptx.source(body), unwritten(32))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("ld.global.f32 %f1, [%rd1+256];", r"reads 4 bytes at 0x\w+, 256 bytes from the beginning .* of 256 bytes"),
        ("st.global.f32 [%rd1+-4], 0f00000000;", "writes 4 bytes at 0x"),
        ("ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1+244];", "reads 16 bytes at 0x"),
        ("ld.global.v2.f32 {%f1, %f2}, [%rd1+4];", "which is no multiple of as many bytes"),
        ("ld.global.f32 %f1, [%rd0];", "where nothing was allocated"),
        (
            "mov.u32 %r1, both;\nst.shared.f32 [%r1+256], 0f00000000;",
            "writes 4 bytes at 256 of shared memory, of which there are 256",
        ),
    ],
)
@pytest.mark.parametrize("checks", [False, True])
def test_access_outside_is_found(checks, body, said):
    text = host_ptx.source(body + "\nst.global.f32 [%rd1], %f1;", shared=SHARED)
    with pytest.raises(RuntimeError, match=said) as caught:
        host_ptx.run(HostDriver(1 << 20, checks=checks), text, X, block=1)
    assert "thread (0, 0, 0) of block (0, 0, 0)" in str(caught.value)
    assert body.splitlines()[-1].strip(";") in str(caught.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("setp.lt.u32 %p1, %r0, 5;\n@%p1 ret;\nbar.sync 0;", "waits for its block, but .* has ended"),
        (
            "setp.lt.u32 %p1, %r0, 5;\n@%p1 bra low;\nbar.sync 0;\nbra end;\nlow:\nbar.sync 0;\nend:",
            "wait at different places",
        ),
        ("shfl.sync.idx.b32 %r1|%p1, %r0, 31, 31, -1;", "needs lane 31, which is not there"),
        ("bar.warp.sync 1;", "a mask that does not name it"),
    ],
)
def test_threads_that_do_not_come_are_found(driver, body, said):
    with pytest.raises(RuntimeError, match=said):
        host_ptx.run(driver, host_ptx.source(body), X, block=20)


@pytest.mark.parametrize("what", ["%ctaid.x", "0"], ids=["each its own", "all the same"])
def test_blocks_of_a_launch_are_not_ordered(driver, what):
    body = f"""
    mov.u32 %r1, {what};
    mul.wide.u32 %rd4, %r1, 4;
    add.s64 %rd3, %rd1, %rd4;
    ld.global.f32 %f1, [%rd3];
    add.f32 %f1, %f1, 0f3F800000;
    st.global.f32 [%rd3], %f1;
    """
    if what == "0":
        with pytest.raises(RuntimeError, match="a race"):
            host_ptx.run(driver, host_ptx.source(body), X, block=1, grid=3)
    else:
        (result,) = host_ptx.run(driver, host_ptx.source(body), X, block=1, grid=3)
        np.testing.assert_array_equal(result[:4], [1, 2, 3, 3])


COPY = TO_SHARED + "cp.async.ca.shared.global [%r3], [%rd3], 4, {};\ncp.async.commit_group;\n{}\nbar.sync 0;"


@pytest.mark.parametrize(("size", "expected"), [(4, X[np.arange(64) ^ 1]), (0, 0 * X)], ids=["copied", "zeros"])
def test_copy_that_is_waited_for(driver, size, expected):
    body = COPY.format(size, "cp.async.wait_group 0;") + NEIGHBOUR.format(4)
    (result,) = host_ptx.run(driver, host_ptx.source(body, shared=SHARED), X, block=64)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("wait", ["", "cp.async.wait_group 1;"])
def test_copy_that_is_not_waited_for_is_found(driver, wait):
    body = COPY.format(4, wait) + NEIGHBOUR.format(4)
    with pytest.raises(
        RuntimeError, match=r"a copy \(cp.async\) by thread \(\d+, 0, 0\) is to write, which was not waited for"
    ):
        host_ptx.run(driver, host_ptx.source(body, shared=SHARED), X, block=64)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("bfly.b32 %r1|%p1, %r0, 1, 31, -1", np.arange(32) ^ 1),
        ("down.b32 %r1|%p1, %r0, 4, 31, -1", np.minimum(np.arange(32) + 4, np.arange(32) | 28)),
        ("up.b32 %r1|%p1, %r0, 30, 0, -1", np.where(np.arange(32) < 30, np.arange(32), np.arange(32) - 30)),
        ("idx.b32 %r1|%p1, %r0, 9, 0x181f, -1", np.arange(32) // 8 * 8 + 1),
    ],
)
def test_shuffles(driver, how, expected):
    body = f"shfl.sync.{how};\nadd.s64 %rd3, %rd1, %rd0;\nst.global.u32 [%rd3], %r1;"
    (result,) = host_ptx.run(driver, host_ptx.source(body), np.zeros(32, np.uint32))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("how", "expected"), [("or", 1), ("and", 0), ("popc", 5)])
def test_barriers_that_count(driver, how, expected):
    kind = "u32" if how == "popc" else "pred"
    result = "%r1" if how == "popc" else "%p2"
    choose = "" if how == "popc" else "selp.u32 %r1, 1, 0, %p2;"
    body = f"setp.lt.u32 %p1, %r0, 5;\nbar.red.{how}.{kind} {result}, 0, %p1;\n{choose}\nadd.s64 %rd3, %rd1, %rd0;\nst.global.u32 [%rd3], %r1;"
    (found,) = host_ptx.run(driver, host_ptx.source(body), np.zeros(64, np.uint32), block=64)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("how", "expected"), [("ballot.b32", 0b11111), ("any.pred", 1), ("all.pred", 0)])
def test_votes(driver, how, expected):
    is_ballot = how.endswith("b32")
    choose = "" if is_ballot else "selp.u32 %r1, 1, 0, %p2;"
    body = f"setp.lt.u32 %p1, %r0, 5;\nvote.sync.{how} {'%r1' if is_ballot else '%p2'}, %p1, -1;\n{choose}\nadd.s64 %rd3, %rd1, %rd0;\nst.global.u32 [%rd3], %r1;"
    (found,) = host_ptx.run(driver, host_ptx.source(body), np.zeros(32, np.uint32))
    np.testing.assert_array_equal(found, expected)


MATRICES = """
    mov.u32 %r1, both;
    shl.b32 %r2, %r0, {step};
    add.s32 %r3, %r1, %r2;
    and.b32 %r5, %r0, 3;
    {write}
    {between}
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r3+{offset}];
    add.s64 %rd3, %rd1, %rd0;
    st.global.u32 [%rd3], %r10;
"""
OF_MATRICES = ".visible .shared .align 16 .b8 both[512];"
WRITE = "st.shared.v4.u32 [%r3], {%r0, %r0, %r0, %r0};"


def read_matrices(driver, block=32, **how):
    body = MATRICES.format(**{"step": 4, "write": WRITE, "between": "bar.warp.sync -1;", "offset": 0, **how})
    return host_ptx.run(driver, host_ptx.source(body, shared=OF_MATRICES), np.zeros(64, np.uint32), block=block)[0]


def test_matrices_that_a_warp_has_written_are_read(driver):
    np.testing.assert_array_equal(read_matrices(driver)[:32], np.repeat(np.arange(8), 4))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"offset": 4}, r"reads 16 bytes at \d+ of shared memory, which is not aligned"),
        ({"offset": 16}, "reads 16 bytes at 512 of shared memory, of which there are 512 bytes"),
        ({"write": ""}, r"reads 16 bytes at byte \d+ of shared memory that nobody has written"),
        ({"write": WRITE.replace("%r3", "%r1"), "step": 0}, "writes 16 bytes at byte 0 .* a race"),
        ({"block": 20, "between": ""}, "needs lane 20, which is not there"),
        (
            {"write": f"xor.b32 %r4, %r2, 16;\nadd.s32 %r4, %r1, %r4;\n{WRITE.replace('%r3', '%r4')}", "between": ""},
            "16 bytes at byte .* of shared memory that .* a race|that nobody has written",
        ),
    ],
    ids=["not aligned", "outside", "unwritten", "race of writes", "lanes missing", "race"],
)
def test_matrices_that_are_read_wrongly_are_found(driver, how, said):
    with pytest.raises(RuntimeError, match=said):
        read_matrices(driver, **how)


def test_the_next_launch_is_as_if_nothing_had_been(driver):
    with pytest.raises(RuntimeError):
        host_ptx.run(driver, neighbours(""), X, block=64)
    test_threads_that_meet_see_what_the_others_wrote(driver, "bar.sync 0;", 4)


LAST_BLOCK = """
    mov.u32 %r6, %ctaid.x;
    mul.wide.u32 %rd5, %r6, 128;
    add.s64 %rd4, %rd1, %rd5;
    add.s64 %rd4, %rd4, %rd0;
    cvt.rn.f32.u32 %f1, %r6;
    st.global.f32 [%rd4], %f1;
    mov.u32 %r1, both;
    bar.sync 0;
    setp.ne.u32 %p1, %r0, 0;
    @%p1 bra wait;
    membar.gl;
    atom.global.inc.u32 %r5, [%rd2], 2;
    fence.acq_rel.gpu;
    st.shared.u32 [%r1], %r5;
wait:
    barrier.sync 0;
    ld.shared.u32 %r7, [%r1];
    setp.ne.u32 %p2, %r7, 2;
    @%p2 ret;
    add.s64 %rd6, %rd1, %rd0;
    ld.global.f32 %f2, [%rd6];
    ld.global.f32 %f3, [%rd6+128];
    add.f32 %f2, %f2, %f3;
    add.s64 %rd7, %rd3, %rd0;
    st.global.f32 [%rd7], %f2;
"""
ORDERING = "bar.sync 0;", "membar.gl;", "fence.acq_rel.gpu;", "barrier.sync 0;"


def of_last_block(driver, body):
    """What the last of three blocks makes of what the others wrote, twice, for the tickets begin again."""
    text, tickets = host_ptx.source(body, pointers=3, shared=SHARED), np.zeros(1, np.uint32)
    for _ in range(2):
        _, tickets, result = host_ptx.run(driver, text, unwritten(96), tickets, unwritten(32), grid=3, block=32)
    return tickets, result


def test_the_last_block_sees_what_the_others_wrote(driver):
    tickets, result = of_last_block(driver, LAST_BLOCK)
    np.testing.assert_array_equal(tickets, [0])
    np.testing.assert_array_equal(result, np.ones(32))


@pytest.mark.parametrize("missing", ORDERING)
def test_what_orders_blocks_must_all_be_there(driver, missing):
    with pytest.raises(RuntimeError, match="(a race|that nobody has written)"):
        of_last_block(driver, LAST_BLOCK.replace(missing, ""))


def test_numbers_that_are_counted_by_plain_loads_order_nothing(driver):
    counted = "ld.global.u32 %r5, [%rd2];\nadd.s32 %r8, %r5, 1;\nst.global.u32 [%rd2], %r8;"
    with pytest.raises(RuntimeError, match="(reads|writes) 4 bytes at 0x.* a race"):
        of_last_block(driver, LAST_BLOCK.replace("atom.global.inc.u32 %r5, [%rd2], 2;", counted))


def test_a_number_that_is_only_looked_at_orders_nothing(driver):
    """The last ticket is taken, but what others wrote is read by a block that has a plain load of it."""
    body = LAST_BLOCK.replace("    setp.ne.u32 %p2, %r7, 2;\n    @%p2 ret;\n", "")
    looked = "setp.eq.u32 %p3, %r6, 0;\n@%p3 bra take;\nld.global.u32 %r5, [%rd2];\nbra taken;\ntake:\n" + (
        "atom.global.inc.u32 %r5, [%rd2], 2;\ntaken:"
    )
    body = body.replace("atom.global.inc.u32 %r5, [%rd2], 2;", looked)
    with pytest.raises(RuntimeError, match="(a race|that nobody has written)"):
        of_last_block(driver, body)


def test_tickets_of_other_places_order_nothing(driver):
    body = LAST_BLOCK.replace("atom.global.inc.u32 %r5, [%rd2], 2;", "add.s64 %rd2, %rd2, %rd5;\n" + (
        "atom.global.inc.u32 %r5, [%rd2], 2;"
    )).replace("%r7, 2;", "%r6, 2;")  # fmt: skip
    text = host_ptx.source(body, pointers=3, shared=SHARED)
    with pytest.raises(RuntimeError, match="a race"):
        host_ptx.run(driver, text, unwritten(96), np.zeros(96, np.uint32), unwritten(32), grid=3, block=32)


@pytest.mark.parametrize(("body", "said"), [
    ("atom.global.inc.u32 %r1, [%rd1+256], 7;", r"at 0x\w+, 256 bytes from the beginning"),
    ("atom.global.inc.u32 %r1, [%rd1+2], 7;", "which is no multiple of as many bytes"),
])  # fmt: skip
def test_a_ticket_of_no_place_is_found(driver, body, said):
    with pytest.raises(RuntimeError, match=said):
        host_ptx.run(driver, host_ptx.source(body), X)


def test_other_atomic_operations_are_not_known(driver):
    with pytest.raises(ValueError, match="this atomic operation of PTX is not known"):
        host_ptx.run(driver, host_ptx.source("atom.global.add.u32 %r1, [%rd1], 1;"), X)
