"""Vector code for the host's SIMD unit, emitted through llvmlite: values in registers, loads, stores, loops."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from minigrad.kernels.cpu.vector.target import HAS_FMA, REGISTER_BITS

INDEX = ir.IntType(64)
LANE = ir.IntType(32)


def index(value):
    """An index constant."""
    return ir.Constant(INDEX, value)


class VectorCode:
    """Emits loads, stores and arithmetic on vectors of one type; the last of a tile's vectors is masked."""

    def __init__(self, builder, dtype, bits):
        self.builder = builder
        self.scalar = ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()
        self.bytes = dtype.bitwidth // 8
        self.lanes = bits // dtype.bitwidth
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.mask_type = ir.VectorType(ir.IntType(1), self.lanes)
        self.suffix = f"v{self.lanes}f{dtype.bitwidth}"
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def intrinsic(self, name, result, arguments):
        """Declare an LLVM intrinsic."""
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, arguments), name)

    def pointer(self, address, kind=None):
        """The integer `address` as a pointer."""
        return self.builder.inttoptr(address, (kind or self.vector).as_pointer())

    def first_lanes(self, count, start=0):
        """A mask with `count` lanes set, from lane `start` on."""
        builder = self.builder
        lane = ir.VectorType(LANE, self.lanes)
        wide = builder.insert_element(ir.Constant(lane, ir.Undefined), builder.trunc(count, LANE), ir.Constant(LANE, 0))
        wide = builder.shuffle_vector(wide, wide, ir.Constant(lane, [0] * self.lanes))
        numbers = [
            (i - start) % (1 << 32) for i in range(self.lanes)
        ]  # as unsigned numbers, those before are the largest
        return builder.icmp_unsigned("<", ir.Constant(lane, numbers), wide)

    def load(self, address, mask=None):
        """Vector at `address`; lanes outside `mask` are zero and not read."""
        pointer = self.pointer(address)
        if mask is None:
            value = self.builder.load(pointer)
            value.align = self.bytes
            return value
        name = f"llvm.masked.load.{self.suffix}.p0"
        function = self.intrinsic(name, self.vector, [self.vector.as_pointer(), LANE, self.mask_type, self.vector])
        return self.builder.call(function, [pointer, ir.Constant(LANE, self.bytes), mask, self.zero])

    def store(self, value, address, mask=None):
        """Write `value` at `address`, only the lanes of `mask`."""
        pointer = self.pointer(address)
        if mask is None:
            self.builder.store(value, pointer).align = self.bytes
            return
        name = f"llvm.masked.store.{self.suffix}.p0"
        function = self.intrinsic(name, ir.VoidType(), [self.vector, self.vector.as_pointer(), LANE, self.mask_type])
        self.builder.call(function, [value, pointer, ir.Constant(LANE, self.bytes), mask])

    def broadcast(self, address):
        """One element of memory in every lane."""
        builder = self.builder
        element = builder.load(self.pointer(address, self.scalar))
        element.align = self.bytes
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = builder.insert_element(undefined, element, ir.Constant(LANE, 0))
        zeros = ir.Constant(ir.VectorType(LANE, self.lanes), [0] * self.lanes)
        return builder.shuffle_vector(first, undefined, zeros)

    def prefetch(self, address):
        """Ask for the cache line at `address`, to be read soon; it may lie anywhere."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, LANE, LANE, LANE])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        read, near, data = (ir.Constant(LANE, value) for value in (0, 3, 1))
        self.builder.call(function, [self.builder.inttoptr(address, byte), read, near, data])

    def fma(self, a, b, c):
        """a * b + c, rounded once where the target can."""
        if not HAS_FMA:
            return self.builder.fadd(self.builder.fmul(a, b), c)
        function = self.intrinsic(f"llvm.fma.{self.suffix}", self.vector, [self.vector] * 3)
        return self.builder.call(function, [a, b, c])


class Loop:
    """A counted loop that carries values in registers: `with`-free, so that its three parts stand in reading order."""

    def __init__(self, builder, name, carried):
        self.builder = builder
        before = builder.block
        self.body = builder.append_basic_block(name)
        builder.branch(self.body)
        builder.position_at_end(self.body)
        self.index = builder.phi(INDEX, name)
        self.index.add_incoming(index(0), before)
        self.values = [builder.phi(value.type) for value in carried]
        for phi, value in zip(self.values, carried, strict=True):
            phi.add_incoming(value, before)

    def close(self, values, count):
        """End the body: go round with `values` until `count` rounds are done (at least one)."""
        builder = self.builder
        following = builder.add(self.index, index(1))
        last = builder.block
        self.index.add_incoming(following, last)
        for phi, value in zip(self.values, values, strict=True):
            phi.add_incoming(value, last)
        done = builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed("<", following, count), self.body, done)
        builder.position_at_end(done)


def call_function(builder, name, arguments, labels, emit):
    """Call an LLVM function of its own, of indices, and write it with emit(function) where it is used first.

    That keeps the caller from disturbing its register allocation, and names it in profiles.
    """
    kind = ir.FunctionType(ir.VoidType(), [INDEX] * len(labels))
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    if function.is_declaration:
        function.linkage = "internal"
        function.attributes.add("noinline")
        function.attributes.add("nounwind")
        for argument, label in zip(function.args, labels, strict=True):
            argument.name = label
        emit(function)
    builder.call(function, arguments)


@intrinsic
def vector_lanes(typingctx, dtype):
    """Elements of `dtype` in one SIMD register of the target."""
    count = REGISTER_BITS // dtype.dtype.bitwidth

    def codegen(context, builder, signature, arguments):
        return index(count)

    return types.intp(dtype), codegen
