"""PTX taken apart, and which registers a thread keeps over a wait."""

import pytest

pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)

from minigrad.kernels.cuda.host import flow, ptx
from minigrad.kernels.cuda.host.translate import translate

TEXT = """
// a comment; with { what is none }
.version 7.1
.target sm_80
.address_size 64
.common .global .align 8 .u64 _ZN08NumbaEnv;
.visible .shared .align 4 .b8 first[6];
.visible .shared .align 16 .b8 second[32];
.extern .shared .align 16 .b8 rest[];

.func  (.param .b64 back) twice(
    .param .b64 twice_param_0
)
{
    .reg .f64 %fd<3>;
    ld.param.f64 %fd1, [twice_param_0];
    add.f64 %fd2, %fd1, %fd1;
    st.param.f64 [back+0], %fd2;
    ret;
}

.visible .entry kernel(
    .param .u32 kernel_param_0,
    .param .u64 kernel_param_1
)
.maxntid 64, 2, 1
.minnctapersm 1
{
    .reg .pred %p<2>;
    .reg .f32 %f<5>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [kernel_param_1];
$L__BB0_1:
    ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1+16];
    @!%p1 bra $L__BB0_1;
    ret;
}
"""


def test_functions_parameters_and_limits():
    module = ptx.parse(TEXT)
    assert list(module.functions) == ["twice", "kernel"]
    assert module.entry.name == "kernel"
    assert module.entry.threads == 128
    assert module.entry.parameters == [("kernel_param_0", "u32", 0), ("kernel_param_1", "u64", 8)]
    assert module.functions["twice"].results == [("back", "b64", 0)]


def test_shared_memory_is_laid_out():
    module = ptx.parse(TEXT)
    assert module.shared_bytes == 48
    assert {name: module.offset(v) for name, v in module.variables.items()} == {"first": 0, "second": 16, "rest": 48}


def test_instructions_labels_and_registers():
    entry = ptx.parse(TEXT).entry
    load, wide, branch, _ = entry.instructions
    assert load[2:] == ("ld.param.u64", ("%rd1", "[kernel_param_1]"))
    assert wide.operands == ("{%f1, %f2, %f3, %f4}", "[%rd1+16]")
    assert TEXT.splitlines()[wide.line - 1].split()[0] == "ld.global.v4.f32"
    assert str(branch) == "@!%p1 bra $L__BB0_1"
    assert entry.labels == {"$L__BB0_1": 1}
    assert entry.registers["%f4"] == "f32"
    assert len(entry.registers) == 2 + 5 + 3


def test_a_block_within_a_function_has_registers_of_its_own():
    inner = "{\n.reg .pred %p<2>, %q;\nsetp.ne.u32 %p1, %r0, 0;\n@%p1 bra end;\n}\n"
    entry = kernel(f"setp.eq.u32 %p1, %r0, 0;\n{inner}{inner}@%p1 bra end;\nend:").entry
    names = [i.operands[0] if i.opcode.startswith("setp") else i.guard for i in entry.instructions[:-1]]
    first, again, second, third, fourth, last = names
    assert first == last == "%p1"
    assert again == second != third == fourth
    assert "%p1" not in names[1:5]
    assert {entry.registers[name] for name in names} == {"pred"}


def kernel(body):
    start = ".visible .entry k(\n.param .u64 k_0\n)\n{\n.reg .b32 %r<9>;\n.reg .pred %p<3>;\n"
    return ptx.parse(start + body + "\nret;\n}\n")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("mov.u32 %r1, 1;\nadd.s32 %r2, %r1, 1;", set()),
        ("mov.u32 %r1, 1;\nbar.sync 0;\nadd.s32 %r2, %r1, 1;", {"%r1"}),
        ("mov.u32 %r1, 1;\nbar.sync 0;\nmov.u32 %r1, 2;\nadd.s32 %r2, %r1, 1;", set()),
        ("mov.u32 %r1, 1;\nbar.sync 0;\n@%p1 mov.u32 %r1, 2;\nadd.s32 %r2, %r1, 1;", {"%r1", "%p1"}),
        ("again:\nadd.s32 %r3, %r3, %r4;\nbar.sync 0;\n@%p1 bra again;", {"%r3", "%r4", "%p1"}),
        ("shfl.sync.bfly.b32 %r1|%p1, %r2, 1, 31, -1;\nadd.s32 %r3, %r1, %r2;", {"%r2"}),
    ],
)
def test_registers_that_are_kept_over_a_wait(body, found):
    assert flow.kept(kernel(body).entry) == found


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("tex.2d.v4.f32.s32 {%r1, %r2, %r3, %r4}, [t, {%r5, %r6}];", r"line \d+: this instruction of PTX is not known"),
        ("add.sat.s32 %r1, %r2, %r3;", r"the modifier .sat of PTX is not known on the host: add.sat.s32 %r1, %r2, %r3"),
        ("bar.sync 1;", "this barrier"),
        ("mov.u32 %r1, %warpid;", "register %warpid"),
        ("call there, (%r1);", "a call of what is not in the same text"),
    ],
)
def test_what_is_not_known_is_named(body, said):
    with pytest.raises(ptx.PtxError, match=said):
        translate(kernel(body))


def test_text_without_a_function_is_refused():
    with pytest.raises(ptx.PtxError, match="no function"):
        ptx.parse("// nothing")
