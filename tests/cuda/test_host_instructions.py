"""Instructions on the host, each with numbers at its edges: bits as the PTX ISA says."""

import struct

import numpy as np
import pytest

pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)

import host_ptx

from minigrad.kernels.cuda.host.driver import HostDriver
from minigrad.kernels.precision import rounded_to_bfloat16

NAN, INF = float("nan"), float("inf")


def f32(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def f64(x):
    return struct.unpack("<Q", struct.pack("<d", x))[0]


ONE_AND_A_HALF_ULP = f32(1.0) + 0x1800  # in the bits that TF32 drops
CASES = [  # instruction, operands as bits, expected bits
    ("add.s32", (0xFFFFFFFF, 2), 1),
    ("sub.s32", (1, 2), 0xFFFFFFFF),
    ("mul.lo.s32", (0x80000001, 2), 2),
    ("mul.hi.u32", (0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFE),
    ("mul.hi.s32", (0xFFFFFFFF, 2), 0xFFFFFFFF),
    ("mul.wide.u32", (0xFFFFFFFF, 2), 0x1FFFFFFFE),
    ("mul.wide.s32", (0xFFFFFFFF, 2), 2**64 - 2),
    ("mad.lo.s32", (3, 5, 0xFFFFFFFF), 14),
    ("div.u32", (7, 2), 3),
    ("div.u32", (7, 0), 0xFFFFFFFF),
    ("div.s32", (0x80000000, 0xFFFFFFFF), 0x80000000),
    ("rem.u32", (7, 4), 3),
    ("rem.u32", (7, 0), 7),
    ("min.s64", (2**64 - 1, 1), 2**64 - 1),
    ("max.u32", (0xFFFFFFFF, 1), 0xFFFFFFFF),
    ("abs.s32", (0xFFFFFFFB,), 5),
    ("neg.s32", (5,), 0xFFFFFFFB),
    ("and.b32", (0xFF00, 0x0FF0), 0x0F00),
    ("not.b32", (0xFFFF0000,), 0xFFFF),
    ("shl.b32", (1, 31), 0x80000000),
    ("shl.b32", (1, 32), 0),
    ("shr.u32", (0x80000000, 31), 1),
    ("shr.u32", (0x80000000, 99), 0),
    ("shr.s32", (0x80000000, 99), 0xFFFFFFFF),
    ("shr.s64", (2**63, 4), 0xF800000000000000),
    ("shf.l.wrap.b32", (0x80000000, 1, 33), 3),
    ("shf.r.clamp.b32", (0, 7, 32), 7),
    ("clz.b32", (1,), 31),
    ("popc.b32", (0xF0F,), 8),
    ("bfe.u32", (0xABCD, 4, 8), 0xBC),
    ("bfe.u32", (0xABCD, 40, 8), 0),
    ("bfi.b32", (0xF, 0xAB00, 4, 4), 0xABF0),
    ("prmt.b32", (0x33221180, 0x77665544, 0x7048), 0x778044FF),
    ("lop3.b32", (0xF0, 0xCC, 0xAA), 0x96, "0x96"),
    ("add.f32", (f32(1.0), f32(2.0**-25)), f32(1.0)),
    ("fma.rn.f32", (f32(1 + 2.0**-12), f32(1 + 2.0**-12), f32(-1.0)), f32(2.0**-11 + 2.0**-24)),
    ("div.rn.f32", (f32(1.0), f32(3.0)), f32(np.float32(1) / np.float32(3))),
    ("sqrt.rn.f32", (f32(2.0),), f32(np.sqrt(np.float32(2)))),
    ("rcp.rn.f64", (f64(3.0),), f64(1 / 3)),
    ("rcp.approx.ftz.f32", (f32(2.0**-127),), f32(INF)),
    ("ex2.approx.ftz.f32", (f32(-127.0),), 0),
    ("min.f32", (f32(NAN), f32(1.0)), f32(1.0)),
    ("max.f32", (f32(1.0), f32(NAN)), f32(1.0)),
    ("min.f32", (f32(0.0), f32(-0.0)), f32(-0.0)),
    ("max.f32", (f32(-0.0), f32(0.0)), f32(0.0)),
    ("neg.f64", (f64(0.0),), f64(-0.0)),
    ("abs.f32", (f32(-2.5),), f32(2.5)),
    ("copysign.f32", (f32(-1.0), f32(2.0)), f32(-2.0)),
    ("cvt.rzi.s32.f32", (f32(-2.7),), 0xFFFFFFFE),
    ("cvt.rzi.s32.f32", (f32(1e20),), 0x7FFFFFFF),
    ("cvt.rzi.u32.f64", (f64(-1.0),), 0),
    ("cvt.rzi.s32.f32", (f32(NAN),), 0),
    ("cvt.rzi.s64.f32", (f32(NAN),), 1 << 63),
    ("cvt.rni.f32.f32", (f32(2.5),), f32(2.0)),
    ("cvt.rmi.f32.f32", (f32(-2.5),), f32(-3.0)),
    ("cvt.rn.f32.u32", (0xFFFFFFFF,), f32(2.0**32)),
    ("cvt.rn.f32.f64", (f64(0.1),), f32(0.1)),
    ("cvt.f64.f32", (f32(0.5),), f64(0.5)),
    ("cvt.s64.s32", (0xFFFFFFFF,), 2**64 - 1),
    ("cvt.u64.u32", (0xFFFFFFFF,), 0xFFFFFFFF),
    ("cvt.u32.u64", (0x1234567890,), 0x34567890),
    ("cvt.s64.s8", (0x80,), 2**64 - 128),
    ("cvt.rna.tf32.f32", (ONE_AND_A_HALF_ULP,), f32(1.0) + 0x2000),
    ("cvt.rna.tf32.f32", (f32(NAN),), 0x7FFFFFFF),
    ("cvt.rn.bf16x2.f32", (f32(1 + 3 * 2.0**-8), f32(1 + 2.0**-8)), 0x3F823F80),
    ("cvt.rn.bf16x2.f32", (f32(NAN), f32(-INF)), 0x7FFFFF80),
    ("cvt.rn.bf16x2.f32", (f32(-3.4e38), f32(1e-40)), 0xFF800001),
    ("setp.lt.f32", (f32(NAN), f32(1.0)), 0),
    ("setp.ltu.f32", (f32(NAN), f32(1.0)), 1),
    ("setp.ne.f32", (f32(NAN), f32(1.0)), 0),
    ("setp.neu.f32", (f32(NAN), f32(1.0)), 1),
    ("setp.num.f32", (f32(1.0), f32(INF)), 1),
    ("setp.lt.s32", (0xFFFFFFFF, 0), 1),
    ("setp.lt.u32", (0xFFFFFFFF, 0), 0),
    ("setp.hi.u32", (0xFFFFFFFF, 0), 1),
]  # fmt: skip


def code_of(i, instruction, operands, _, *more):
    """Loads of the operands, the instruction, and a store of what it gives, 64 bits each."""
    lines = [f"ld.global.u64 %rd{10 + k}, [%rd1+{8 * (4 * i + k)}];" for k in range(len(operands))]
    given = ", ".join([*(f"%rd{10 + k}" for k in range(len(operands))), *more])
    result = "%p1" if instruction.startswith("setp") else "%rd20"
    lines += ["mov.u64 %rd20, 0;", f"{instruction} {result}, {given};"]
    if result == "%p1":
        lines.append("selp.b64 %rd20, 1, 0, %p1;")
    return "\n".join([*lines, f"st.global.u64 [%rd2+{8 * i}], %rd20;"])


@pytest.fixture(scope="module")
def found():
    """What one kernel with all of the instructions gives."""
    text = host_ptx.source("\n".join(code_of(i, *case) for i, case in enumerate(CASES)), pointers=2)
    given = np.zeros((len(CASES), 4), np.uint64)
    for row, (_, operands, *_) in zip(given, CASES, strict=True):
        row[: len(operands)] = operands
    return host_ptx.run(HostDriver(1 << 20), text, given, np.zeros(len(CASES), np.uint64), block=1)[1]


@pytest.mark.parametrize("i", range(len(CASES)), ids=lambda i: f"{i}-{CASES[i][0]}")
def test_instruction_gives_the_bits(found, i):
    instruction, operands, expected, *_ = CASES[i]
    parts = instruction.split(".")
    kind = "u64" if parts[0] == "setp" or "wide" in parts else parts[-2] if parts[0] == "cvt" else parts[-1]
    mask = (
        2**32 - 1 if kind.endswith(("32", "x2")) else 2**64 - 1
    )  # a register of 64 bits holds a result with a sign extended
    assert hex(int(found[i]) & mask) == hex(expected), f"{instruction} {[hex(x) for x in operands]}"


def test_halves_of_registers_go_apart_and_together():
    body = """
    ld.global.u64 %rd10, [%rd1];
    mov.b64 {%r1, %r2}, %rd10;
    mov.b64 %rd11, {%r2, %r1};
    st.global.u64 [%rd1], %rd11;
    ld.global.v2.u32 {%r3, %r4}, [%rd1+8];
    st.global.v2.u32 [%rd1+8], {%r4, %r3};
    """
    (result,) = host_ptx.run(HostDriver(1 << 20), host_ptx.source(body), np.array([1, 2, 3, 4], np.uint32), block=1)
    np.testing.assert_array_equal(result, [2, 1, 4, 3])


def test_carries_go_from_one_instruction_to_the_next():
    body = """
    ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];
    add.cc.u32 %r5, %r1, %r3;
    addc.u32 %r6, %r2, %r4;
    sub.cc.u32 %r7, %r1, %r3;
    subc.u32 %r8, %r2, %r4;
    st.global.v4.u32 [%rd1], {%r5, %r6, %r7, %r8};
    mad.lo.cc.u32 %r9, %r1, %r3, %r2;
    madc.hi.u32 %r10, %r1, %r3, %r4;
    st.global.v2.u32 [%rd1+16], {%r9, %r10};
    """
    given = np.array([0xFFFFFFFF, 5, 0xFFFFFFFE, 1, 0, 0], np.uint32)
    (found,) = host_ptx.run(HostDriver(1 << 20), host_ptx.source(body), given, block=1)
    x, y = (5 << 32) + 0xFFFFFFFF, (1 << 32) + 0xFFFFFFFE
    product = 0xFFFFFFFF * 0xFFFFFFFE + (1 << 32) + 5
    np.testing.assert_array_equal(found.view(np.uint64), [x + y, x - y, product])


def test_tables_are_read():
    table = ".global .align 4 .b8 table[8] = {7, 1, 0, 0, 9, 0, 0, 0};"
    body = "mov.u64 %rd10, table;\ncvta.global.u64 %rd11, %rd10;\nld.global.u32 %r1, [%rd10];\nld.u32 %r2, [%rd11+4];"
    body += "\nst.global.v2.u32 [%rd1], {%r1, %r2};"
    for checks in (False, True):
        text = host_ptx.source(body, shared=table)
        (result,) = host_ptx.run(HostDriver(1 << 20, checks=checks), text, np.zeros(2, np.uint32), block=1)
        np.testing.assert_array_equal(result, [263, 9])


def test_local_memory_and_calls_keep_what_is_put_there():
    text = """
.func (.param .b64 back) twice(
    .param .b64 twice_0
)
{
    .reg .f64 %fd<3>;
    ld.param.f64 %fd1, [twice_0];
    add.f64 %fd2, %fd1, %fd1;
    st.param.f64 [back+0], %fd2;
    ret;
}
""" + host_ptx.source("""
    .local .align 8 .b8 depot[16];
    mov.u64 %rd10, depot;
    cvta.local.u64 %rd11, %rd10;
    ld.global.f64 %fd1, [%rd1];
    st.local.f64 [%rd10+8], %fd1;
    bar.sync 0;
    ld.f64 %fd2, [%rd11+8];
    { // callseq
    .reg .b32 temp_param_reg;
    .param .b64 param0;
    st.param.f64 [param0+0], %fd2;
    .param .b64 retval0;
    call.uni (retval0),
    twice,
    (
    param0
    );
    ld.param.f64 %fd3, [retval0+0];
    }
    st.global.f64 [%rd1], %fd3;
""")
    (result,) = host_ptx.run(HostDriver(1 << 20), text, np.array([2.5]), block=1)
    assert result == 5


MATRICES = """
    mov.u32 %r1, rows;
    shl.b32 %r2, %r0, 4;
    add.s32 %r3, %r1, %r2;
    add.s64 %rd3, %rd1, %rd0;
    shl.b64 %rd4, %rd0, 2;
    add.s64 %rd5, %rd1, %rd4;
    add.s64 %rd6, %rd2, %rd4;
    ld.global.v4.u32 {{%r4, %r5, %r6, %r7}}, [%rd5];
    st.shared.v4.u32 [%r3], {{%r4, %r5, %r6, %r7}};
    bar.warp.sync -1;
    {}
    st.global.v4.u32 [%rd6], {{%r10, %r11, %r12, %r13}};
"""
ROWS = ".visible .shared .align 16 .b8 rows[1024];"
READ = "ldmatrix.sync.aligned.m8n8.x4{}.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r3];"


@pytest.mark.parametrize("turned", [False, True])
def test_matrices_of_halves_are_shared_among_a_warp(turned):
    numbers = np.arange(256, dtype=np.uint16)
    body = MATRICES.format(READ.format(".trans" if turned else ""))
    text = host_ptx.source(body, pointers=2, shared=ROWS)
    found = host_ptx.run(HostDriver(1 << 20, checks=True), text, numbers, np.zeros(256, np.uint16))[1]
    matrices = numbers.reshape(4, 8, 8)
    expected = matrices.transpose(0, 2, 1) if turned else matrices
    # lane 4 g + t: of each matrix the word [g, 2 t : 2 t + 2]
    np.testing.assert_array_equal(found.reshape(8, 4, 4, 2).transpose(2, 0, 1, 3).reshape(4, 8, 8), expected)


def test_products_of_matrices_of_bfloat16(rng):
    a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in [(16, 16), (16, 8), (16, 8)])
    a, b = rounded_to_bfloat16(a), rounded_to_bfloat16(b)
    a[3, 5], a[7, 2], b[9, 6] = np.inf, np.nan, -np.inf
    g, t = np.divmod(np.arange(32), 4)
    high = [x.view(np.uint32) >> np.uint32(16) for x in (a, b)]

    def words(x, line, depth):
        return x[line, depth] | x[line, depth + 1] << np.uint32(16)

    left = [words(high[0], g + 8 * (i & 1), 2 * t + 8 * (i >> 1)) for i in range(4)]
    right = [words(high[1].T, g, 2 * t + 8 * i) for i in range(2)]
    sums = [c[g + 8 * (i >> 1), 2 * t + (i & 1)].view(np.uint32) for i in range(4)]
    given = np.stack([*left, *right, *sums], axis=1)
    loads = "".join(f"ld.global.u32 %r{10 + i}, [%rd5+{4 * i}];" for i in range(10))
    body = f"""
    mul.lo.s64 %rd4, %rd0, 10;
    add.s64 %rd5, %rd1, %rd4;
    shl.b64 %rd4, %rd0, 2;
    add.s64 %rd6, %rd2, %rd4;
    {loads.replace(";", ";" + chr(10))}
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{%r1, %r2, %r3, %r4}}, {{%r10, %r11, %r12, %r13}}, {{%r14, %r15}}, {{%r16, %r17, %r18, %r19}};
    st.global.v4.u32 [%rd6], {{%r1, %r2, %r3, %r4}};
    """
    text = host_ptx.source(body, pointers=2)
    found = host_ptx.run(HostDriver(1 << 20), text, given, np.zeros((32, 4), np.float32))[1]
    with np.errstate(invalid="ignore"):
        expected = (c + a.astype(np.float64) @ b).astype(np.float32)
    result = np.empty_like(expected)
    for i in range(4):
        result[g + 8 * (i >> 1), 2 * t + (i & 1)] = found[:, i]
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert np.isnan(result[7]).all()
    assert np.isinf(result[3, :6]).all()


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        (READ.format("").replace("x4", "x2"), "this read of matrices of PTX is not known"),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%r10, %r11, %r12, %r13}, {%r4, %r5}, {%r6}, {%r4, %r5, %r6, %r7};",
            "this product of matrices of PTX is not known",
        ),
    ],
)
def test_other_shapes_are_refused(instruction, said):
    text = host_ptx.source(MATRICES.format(instruction), pointers=2, shared=ROWS)
    with pytest.raises(ValueError, match=said):
        host_ptx.run(HostDriver(1 << 20), text, np.zeros(256, np.uint16), np.zeros(256, np.uint16))
