import re
import struct
from typing import NamedTuple

import numpy as np
import pytest

from minigrad.kernels import formulas
from minigrad.kernels.build import cache
from minigrad.kernels.build.progress import UnexpectedCompile, no_compile
from minigrad.kernels.cuda import elementwise, optim
from minigrad.kernels.cuda.tools import context, launch, machine_code
from minigrad.kernels.cuda.tools.array import CudaArray
from minigrad.kernels.cuda.tools.language import Choice, cuda, device_function, float32, float64, real, uint8, uint32
from minigrad.kernels.cuda.tools.launch import (
    FLOAT32,
    FLOAT64,
    ArgumentLayout,
    Axes,
    Bytes,
    CudaKernel,
    Double,
    Floats,
    Long,
    Of,
    Real,
    Reals,
    UInt,
    blocks_for,
)  # fmt: skip

SHIFT, MORE = Choice("SHIFT", 1), Choice("MORE", 0)
FUNCTION = Choice("FUNCTION")
PIXEL = Choice("PIXEL", uint8)
CAPABILITY = 8, 0


def small_kernel(function, **options):
    """A kernel that no table lists, for blocks of up to 32 threads."""
    return CudaKernel(function, 32, 1, {}, **options)


@small_kernel
def shifted(x: Reals, y: Reals, by: Real, n: UInt):
    i = uint32(uint32(cuda.blockIdx.x) * uint32(cuda.blockDim.x) + uint32(cuda.threadIdx.x))
    if i < n:
        y[i] = x[i] + by * real(SHIFT + MORE)


@small_kernel
def of_each(x: Reals, y: Reals):
    y[0] = FUNCTION(x[0])


@small_kernel
def mixed(flags: Bytes, a: Real, b: Long, x: Reals, c: UInt, d: Double, y: Floats, e: UInt):
    y[0] = float32(a) + float32(b) + float32(c) + float32(d) + float32(e) + float32(flags[0]) + float32(x[0])


@small_kernel
def widened(pixels: Of(PIXEL), y: Reals):
    y[0] = real(pixels[0])


@small_kernel
def without_reals(y: Floats, n: UInt):
    y[0] = float32(n)


@device_function
def tripled(x):
    return x + x + x


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder for compiled kernels."""
    monkeypatch.setattr(launch, "cache_folder", lambda target: tmp_path)
    monkeypatch.setattr(cache, "_warned", set())
    return tmp_path


def test_kernel_runs_for_the_type_of_its_arrays(memory, dtype):
    x, y = np.arange(40, dtype=dtype), memory.put(np.zeros(40, dtype))
    shifted[blocks_for(40, 32), 32](memory.put(x), y, 0.5, 40)
    np.testing.assert_array_equal(memory.get(y), x + 0.5)


def test_variant_has_other_constants(memory):
    x, y = memory.put(np.zeros(1, np.float32)), memory.put(np.zeros(1, np.float32))
    shifted.variant(SHIFT=7)[1, 1](x, y, 2.0, 1)
    assert memory.get(y) == 14


def test_the_same_variant_is_made_once():
    assert shifted.variant(SHIFT=2) is shifted.variant(SHIFT=2)
    assert shifted.variant(SHIFT=2) is not shifted.variant(SHIFT=3)


def test_variant_of_a_variant_has_the_constants_of_both():
    assert shifted.variant(SHIFT=2).variant(MORE=3).constants == {"SHIFT": 2, "MORE": 3}


def test_variant_by_an_unknown_name_is_an_error():
    with pytest.raises(TypeError, match="shifted knows no SHFIT"):
        shifted.variant(SHFIT=2)


def test_what_is_left_open_must_be_chosen(memory):
    x, y = (memory.put(np.ones(1, np.float32)) for _ in range(2))
    with pytest.raises(TypeError, match=r"of_each: FUNCTION is left open; choose by .variant\(FUNCTION=...\)"):
        of_each[1, 1](x, y)
    with pytest.raises(TypeError, match="FUNCTION is left open"):
        launch.compile_ptx(of_each, FLOAT32)


class Inner(NamedTuple):
    a: Double
    many: Axes


class Outer(NamedTuple):
    y: Reals
    inner: Inner
    n: UInt


@small_kernel
def of_tuples(x: Reals, given: Outer, by: Real):
    inner = given.inner
    given.y[0] = x[0] * by + real(inner.a) + real(inner.many[1]) + real(given.n)


def test_named_tuples_of_pointers_numbers_and_tuples_are_taken_apart(memory, dtype):
    x, y = memory.put(np.array([2], dtype)), memory.put(np.zeros(1, dtype))
    of_tuples[1, 1](x, Outer(y, Inner(0.5, (0, 100, 0, 0, 0, 0)), 1000), 10.0)
    assert memory.get(y) == 1120.5


def test_name_says_family_function_and_constants():
    assert shifted.name == "test_launch.shifted"
    assert of_each.variant(FUNCTION=formulas.tanh).name == "test_launch.of_each,FUNCTION=tanh"
    assert shifted.variant(SHIFT=2).variant(MORE=3).name == "test_launch.shifted,MORE=3,SHIFT=2"


def test_variants_stand_for_the_kernel_in_the_table():
    kernel = CudaKernel(shifted.function, 32, 1, {})
    assert launch.final(kernel) == [kernel]
    one, two = kernel.variant(SHIFT=1), kernel.variant(SHIFT=2)
    deeper = two.variant(MORE=3)
    assert launch.final(kernel) == [one, deeper]


def test_types_are_both_floats_or_the_ones_given():
    assert shifted.types == (FLOAT32, FLOAT64)
    assert without_reals.types == (FLOAT32,)
    assert shifted.variant(SHIFT=9, types=(FLOAT32,)).types == (FLOAT32,)


def test_two_kernels_of_one_name_are_an_error(monkeypatch):
    name, (kernel, _) = next(iter(machine_code.cases().items()))
    monkeypatch.setattr(launch, "kernels", [kernel, kernel])
    with pytest.raises(RuntimeError, match=f"several kernels named {re.escape(name)}"):
        machine_code.cases()


def test_every_argument_needs_an_annotation():
    def careless(x: Floats, n):
        x[0] = n

    with pytest.raises(TypeError, match="careless: every argument"):
        small_kernel(careless)


def test_pointer_of_a_type_that_a_constant_names(memory):
    y = memory.put(np.zeros(1, np.float64))
    widened[1, 1](memory.put(np.array([200], np.uint8)), y)
    assert memory.get(y) == 200
    widened.variant(PIXEL=float64)[1, 1](memory.put(np.array([0.25])), y)
    assert memory.get(y) == 0.25


def test_pointer_of_a_type_that_a_constant_names_is_compiled_for_it():
    loads = {kind: launch.compile_ptx(widened.variant(PIXEL=kind), FLOAT32, CAPABILITY)[0] for kind in (uint8, float64)}
    assert "ld.global.u8" in loads[uint8]
    assert "ld.global.f64" in loads[float64]


@pytest.mark.parametrize("count", [0, 3, 5])
def test_wrong_number_of_arguments_is_an_error(memory, count):
    with pytest.raises(TypeError, match=f"test_launch.shifted takes 4 arguments, not {count}"):
        shifted[1, 1](*[memory.put(np.zeros(1, np.float32))] * count)


def test_array_that_indices_do_not_reach_all_of_is_refused(memory):
    first = memory.empty((1,), np.float32)
    table = CudaArray(first.pointer, (68_200_000, 63), FLOAT32, first)
    assert table.size > 2**32
    with pytest.raises(ValueError, match=r"\(68200000, 63\) has 4,296,600,000 elements.*at most 2,147,483,648"):
        elementwise.exp_forward(table, table)
    with pytest.raises(ValueError, match="4,296,600,000 elements"):
        optim.sgd([table], [table], [table], [0], memory.put(np.zeros((1, 4))))


@pytest.mark.parametrize("n", [-1, 2**32, 1.5])
def test_number_that_does_not_fit_is_an_error(memory, n):
    with pytest.raises(struct.error):
        without_reals[1, 1](memory.put(np.zeros(1, np.float32)), n)


@pytest.mark.parametrize("real", [FLOAT32, FLOAT64], ids=str)
def test_arguments_lie_at_multiples_of_their_size(real):
    layout = ArgumentLayout(mixed, real)
    assert layout.offsets == [0, 8, 16, 24, 32, 40, 48, 56]
    assert layout.size == struct.calcsize(layout.format) == 60


def test_arguments_lie_close():
    def close(a: UInt, b: Real, c: UInt, d: Real):
        pass

    assert ArgumentLayout(small_kernel(close, types=(FLOAT32,)), FLOAT32).offsets == [0, 4, 8, 12]
    assert ArgumentLayout(small_kernel(close, types=(FLOAT64,)), FLOAT64).offsets == [0, 8, 16, 24]


@pytest.mark.parametrize("kernel", [mixed, of_tuples], ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize("real", [FLOAT32, FLOAT64], ids=str)
def test_arguments_lie_where_the_compiled_kernel_takes_them(real, kernel):
    """A launch gives the driver an address for each parameter, as long as PTX says."""
    ptx, _ = launch.compile_ptx(kernel, real, CAPABILITY)
    head = ptx[ptx.index(".entry") : ptx.index("{")]
    bits = [int(n) for n in re.findall(r"\.param \.[a-z]+(\d+)", head)]
    layout = ArgumentLayout(kernel, real)
    ends = [offset + n // 8 for offset, n in zip(layout.offsets, bits, strict=True)]
    assert ends == sorted(ends)
    assert all(end <= start for end, start in zip(ends, layout.offsets[1:], strict=False))
    assert ends[-1] == layout.size


@pytest.mark.parametrize(
    ("n", "most", "blocks"), [(0, None, 1), (1, None, 1), (32, None, 1), (33, None, 2), (99, 3, 3)]
)
def test_blocks_cover_the_elements(n, most, blocks):
    assert blocks_for(n, 32, most) == blocks


def test_compiled_kernel_is_kept(folder):
    """As it was made: the host's machine code is found by this text."""
    first = launch.cached_ptx(shifted, FLOAT32, CAPABILITY)
    with no_compile():
        again = launch.cached_ptx(shifted, FLOAT32, CAPABILITY)
    assert first == again
    assert f".entry {first[1]}" in first[0]
    assert [path.suffix for path in folder.iterdir()] == [".ptx"]


def test_types_variants_and_capabilities_are_kept_apart(folder):
    for kernel in (shifted, shifted.variant(SHIFT=2)):
        for precision in (FLOAT32, FLOAT64):
            for capability in ((8, 0), (9, 0)):
                ptx, _ = launch.cached_ptx(kernel, precision, capability)
                assert f".target sm_{capability[0]}{capability[1]}" in ptx
    assert len(list(folder.iterdir())) == 8


@pytest.mark.parametrize("damage", [b"", b"// no PTX", b"\xff\xfe\x00", None], ids=["empty", "text", "bytes", "cut"])
def test_damaged_file_is_compiled_again_with_a_warning(folder, damage):
    launch.cached_ptx(without_reals, FLOAT32, CAPABILITY)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    with pytest.warns(RuntimeWarning, match="damaged"):
        ptx, entry = launch.cached_ptx(without_reals, FLOAT32, CAPABILITY)
    assert f".entry {entry}" in ptx
    with no_compile():
        assert launch.cached_ptx(without_reals, FLOAT32, CAPABILITY)[0] == ptx


def test_no_compile_refuses_what_is_not_kept(folder):
    with no_compile(), pytest.raises(UnexpectedCompile, match="test_launch.without_reals"):
        launch.cached_ptx(without_reals, FLOAT32, CAPABILITY)
    assert not list(folder.iterdir())


def test_folder_that_cannot_be_written_costs_a_warning(folder, monkeypatch):
    def refuse(part, path):
        raise OSError("no space left on device")

    monkeypatch.setattr(cache, "replace", refuse)
    with pytest.warns(RuntimeWarning, match="not kept"):
        ptx, _ = launch.cached_ptx(without_reals, FLOAT32, CAPABILITY)
    assert ".entry" in ptx
    assert list(folder.iterdir()) == []


def test_without_a_folder_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(launch, "cache_folder", lambda target: None)
    assert ".entry" in launch.cached_ptx(without_reals, FLOAT32, CAPABILITY)[0]


def test_tables_of_numbers_are_sent_once(memory, monkeypatch):
    monkeypatch.setattr(launch.context, "tables", {})
    table = launch.context.table(3, 2**40)
    assert launch.context.table(3, 2**40) is table
    np.testing.assert_array_equal(memory.get(table), np.array([3, 2**40], np.uint64))


def test_tables_are_thrown_away_before_there_are_too_many(memory, monkeypatch):
    monkeypatch.setattr(launch.context, "tables", {})
    monkeypatch.setattr(context, "MOST_TABLES", 2)
    first = launch.context.table(1)
    launch.context.table(2)
    launch.context.table(3)
    assert len(launch.context.tables) == 1
    assert launch.context.table(1) is not first
