"""Vector code for the host's SIMD unit: written as arithmetic in Python, emitted as LLVM code.

A micro-kernel is a Python function that runs once, when Numba compiles a kernel that calls it, and writes code. What it
adds, compares and loads are not numbers, but registers of the code to come:

    @micro_kernel()
    def scale_rows(code, x, step, rows, factor):
        for row in code.loop(rows, x=x):  # the body is written once, and will run `rows` times
            code.store(code.load(row.x) * code.broadcast(factor), row.x)
            row.x += step

Python's own `for` and `if` decide what is written; `code.loop`, `code.only_if`, `code.first_case` and `where` decide when
the code runs. Addresses are integers, in bytes.
"""

import contextlib
import inspect
import itertools
from types import SimpleNamespace

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from minigrad.kernels.cpu.vector.target import HAS_MASKS, REGISTER_BITS
from minigrad.kernels.cpu.vector.values import Value, call_llvm, constant, join

INDEX = ir.IntType(64)
LANE = ir.IntType(32)
BYTE = ir.IntType(8)


class Carried(SimpleNamespace):
    """Values that a loop or a branch may change, by assigning to the attributes."""

    def origin(self, builder):
        """(the block at work, the registers that hold the values at its end)."""
        return builder.block, [register for value in vars(self).values() for register in value.registers]

    def become_phis(self, builder, *origins):
        """From here on, the values are those of the block that one comes from; where from is given as far as known."""
        phis = [builder.phi(register.type) for register in origins[0][1]]
        for origin in origins:
            add_origin(phis, *origin)
        left = iter(phis)
        for name, value in vars(self).items():
            setattr(self, name, Value(builder, *itertools.islice(left, len(value.registers))))
        return phis


def add_origin(phis, block, registers):
    """Say what phis are where one comes from a block."""
    for phi, register in zip(phis, registers, strict=True):
        phi.add_incoming(register, block)


class FirstLanes(Value):
    """A mask with `count` lanes set, from lane `start` on."""

    def __init__(self, mask, count, start):
        super().__init__(mask.builder, *mask.registers)
        self.count, self.start = count, start


class VectorCode:
    """Writes loops, branches, loads and stores, with vectors of one type of floats."""

    def __init__(self, builder, dtype):
        self.builder = builder
        self.bytes = dtype.bitwidth // 8  # of an element
        self.of_words = isinstance(dtype, types.Integer)  # of pairs of factors: see vector/bfloat16.py
        self.lanes = REGISTER_BITS // dtype.bitwidth
        self.width = self.lanes * self.bytes  # of a register, in bytes
        self.scalar = ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.doubles = ir.VectorType(ir.DoubleType(), self.lanes)  # as many as the floats
        self.integers = ir.VectorType(ir.IntType(dtype.bitwidth), self.lanes)  # as wide as the floats

    def loop(self, count, at_least=0, **carried):
        """`for row in code.loop(rows, x=x)`: what the body writes will run `rows` times, with row.number = 0, 1, ...

        The values given by name are row.x and so on; the body may change them, and after the loop they are what they have
        become. With a number of Python for `count`, the body is written that often. at_least=1 saves the test whether
        there is anything to do.
        """
        carried.pop("number", None)  # of a loop before, whose values these are
        carried = {"number": self.index(0), **carried}
        if isinstance(count, int):
            state = Carried(**carried)
            for number in range(count):
                state.number = self.index(number)
                yield state
        elif at_least:
            yield from self._rounds(count, Carried(**carried))
        else:
            with self.only_if(count > 0, **carried) as state:
                yield from self._rounds(count, state)

    def _rounds(self, count, state):
        builder = self.builder
        before, body = state.origin(builder), builder.append_basic_block("body")
        builder.branch(body)
        builder.position_at_end(body)
        phis = state.become_phis(builder, before)
        yield state
        state.number += 1
        add_origin(phis, *state.origin(builder))
        done = builder.append_basic_block("done")
        builder.cbranch((state.number < count).registers[0], body, done)
        builder.position_at_end(done)

    @contextlib.contextmanager
    def only_if(self, condition, **carried):
        """`with code.only_if(n > 0, x=x) as then`: what the body writes will run if the condition holds.

        The body may change then.x; after it, that is the one or the other.
        """
        state = Carried(**carried)
        unchanged = state.origin(self.builder)
        with self.builder.if_then(condition.registers[0]):
            yield state
            changed = state.origin(self.builder)
        state.become_phis(self.builder, unchanged, changed)

    def first_case(self, cases):
        """`for case in code.first_case({case: condition, ...})`: writes all; the first whose condition holds will run.

        True is the condition of a case for when no other holds.
        """
        done = self.builder.append_basic_block("done")
        for case, condition in cases.items():
            if condition is True:
                yield case
            else:
                with self.builder.if_then(condition.registers[0]):
                    yield case
                    self.builder.branch(done)
        self.builder.branch(done)
        self.builder.position_at_end(done)

    def index(self, number):
        """A number of Python as an integer or an address."""
        return Value(self.builder, constant(INDEX, number))

    def everywhere(self, value, count=1):
        """A float of Python in all lanes of `count` registers, or a value in all of one: integers cut to a lane's width."""
        if not isinstance(value, Value):
            return Value(self.builder, *[constant(self.vector, value)] * count)
        return self._spread(value, self.vector if value.is_float else self.integers)

    def _spread(self, value, vector):
        scalar = value if value.is_float else value.to(vector.element)
        nothing = Value(self.builder, ir.Constant(vector, ir.Undefined))
        first = nothing.each(
            lambda lanes, element: self.builder.insert_element(lanes, element, constant(LANE, 0)), scalar
        )
        return self.shuffled(first, nothing, [0] * self.lanes)

    def shuffled(self, a, b, lanes):
        """A vector of these lanes, counted through a and on through b."""
        lanes = ir.Constant(ir.VectorType(LANE, self.lanes), lanes)
        return a.each(lambda a, b: self.builder.shuffle_vector(a, b, lanes), b)

    def first_lanes(self, count, start=0):
        """A mask with `count` lanes set, from lane `start` on; at most all of them, if `start` is not 0."""
        vector = ir.VectorType(LANE, self.lanes)
        # Unsigned, the numbers of the lanes before `start` are the largest there are.
        numbers = ir.Constant(vector, [(i - start) % (1 << 32) for i in range(self.lanes)])
        mask = self._spread(count, vector).each(lambda wide: self.builder.icmp_unsigned("<", numbers, wide))
        return FirstLanes(mask, count, start)

    def from_lane(self, start):
        """A mask of all lanes from `start` on, a number of Python."""
        mask = ir.VectorType(ir.IntType(1), self.lanes)
        return Value(self.builder, ir.Constant(mask, [i >= start for i in range(self.lanes)]))

    def load(self, address, mask=None, count=1, stored=None):
        """`count` registers from an address on. In the last, lanes outside `mask` are zero and not read.

        With `stored`, integers of that type in memory, which become as wide as the floats, or float64 numbers, which stay.
        """
        registers = []
        for j in range(count):
            pointer, size = self._place(address, j, stored)
            vector = pointer.type.pointee
            if mask is None or j < count - 1:
                registers.append(self.builder.load(pointer, align=size))
            else:
                arguments = pointer, constant(LANE, size), mask.registers[0], constant(vector, 0)
                registers.append(call_llvm(self.builder, "masked.load", vector, vector, arguments, ".p0"))
        loaded = Value(self.builder, *registers)
        return loaded if loaded.is_float else loaded.to(self.integers)

    def store(self, value, address, mask=None, stored=None):
        """Write a value's registers from an address on; of the last only lanes of `mask`. `stored` is as in `load`."""
        for j, part in enumerate(value):
            pointer, size = self._place(address, j, stored)
            vector = pointer.type.pointee
            (register,) = part.registers if stored is None else part.to(vector).registers
            if mask is None or j < len(value.registers) - 1:
                self.builder.store(register, pointer, align=size)
            elif HAS_MASKS:
                arguments = register, pointer, constant(LANE, size), mask.registers[0]
                call_llvm(self.builder, "masked.store", vector, ir.VoidType(), arguments, ".p0")
            else:
                for whole in self.first_case({True: mask.count >= self.lanes, False: True}):
                    if whole:
                        self.builder.store(register, pointer, align=size)
                    else:
                        self._store_pieces(Value(self.builder, register), address + j * self.lanes * size, size, mask)

    def _store_pieces(self, value, address, size, mask):
        """Write the lanes of a mask, of `size` bytes each: half a register if they are so many, then a quarter, and so on."""
        left, place = self._from(value, mask.start), address + mask.start * size
        count = self.lanes // 2
        while count:
            with self.only_if((mask.count & count) != 0, left=left, place=place) as piece:
                lanes = ir.Constant(ir.VectorType(LANE, count), list(range(count)))
                (register,) = piece.left.each(
                    lambda left, lanes=lanes: self.builder.shuffle_vector(left, left, lanes)
                ).registers
                self.builder.store(register, self.pointer(piece.place, register.type), align=size)
                piece.left, piece.place = self._from(piece.left, count), piece.place + count * size
            left, place = piece.left, piece.place
            count //= 2

    def _from(self, value, first):
        """A register turned so that it begins with lane `first`."""
        return self.shuffled(value, value, [(i + first) % self.lanes for i in range(self.lanes)])

    def _place(self, address, j, stored):
        """(pointer to the register j after an address, bytes of an element)."""
        if stored is None:
            return self.pointer(address + j * self.width, self.vector), self.bytes
        size = stored.bitwidth // 8
        vector = self.doubles if stored == types.float64 else ir.VectorType(ir.IntType(stored.bitwidth), self.lanes)
        return self.pointer(address + j * self.lanes * size, vector), size

    def pointer(self, address, kind):
        """An address as LLVM's pointer to a type."""
        return self.builder.inttoptr(address.registers[0], kind.as_pointer())

    def broadcast(self, address):
        """One element of memory in every lane."""
        element = self.builder.load(self.pointer(address, self.scalar), align=self.bytes)
        return self.everywhere(Value(self.builder, element))

    def entry(self, table, i):
        """Entry i, a number of Python, of a table of 64-bit integers."""
        return Value(self.builder, self.builder.load(self.pointer(table + 8 * i, INDEX)))

    def entries(self, table, count):
        """The first `count` entries of such a table."""
        return join([self.entry(table, i) for i in range(count)])

    def prefetch(self, address, level=1):
        """Ask the cache of a level, 1 or 2, for the line at an address, to be read soon; it may lie anywhere."""
        kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), LANE, LANE, LANE])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        read, near, data = (constant(LANE, number) for number in (0, 4 - level, 1))
        self.builder.call(function, [self.pointer(address, BYTE), read, near, data])


def micro_kernel(choose=lambda code, call: call(), inline=False):
    """Make body(code, arguments ..., *, options ...) a function that Numba's kernels call, with integers for arguments.

    Options are known when the code is written. Each combination of them becomes an LLVM function, which keeps it from
    disturbing its caller's allocation of registers, and names it in profiles; or with `inline`, a part of its caller.
    choose(code, call, arguments ...) writes the choice among them that is made at run time, with call(options ...) for
    each. It may ask for the body's arguments and for some of its own. Kernels call

        name(dtype, arguments of `choose` alone ..., arguments of the body ...)

    An argument may also be a condition, a tuple of integers, or what is known when the code is written: a dtype or None.
    """

    def decorate(body):
        own, asked = arguments_of(body)[1:], arguments_of(choose)[2:]
        labels = ["dtype", *(label for label in asked if label not in own), *own]

        # Numba calls this with the types of a call's arguments, and what it returns to have the code for them.
        def typed(typingctx, *kinds):
            kinds = list(map(types.unliteral, kinds))

            def codegen(context, builder, signature, registers):
                values = (value_of(context, builder, *pair) for pair in zip(kinds, registers, strict=True))
                given = dict(zip(labels, values, strict=True))
                code = VectorCode(builder, given["dtype"])
                arguments = {label: given[label] for label in own}

                def call(**options):
                    if inline:
                        body(code, **arguments, **options)
                    else:
                        call_function(builder, body, given["dtype"], arguments, options)

                choose(code, call, *(given[label] for label in asked))
                return context.get_dummy_value()

            return types.void(*kinds), codegen

        names = "typingctx", *labels
        typed.__signature__ = inspect.Signature(
            [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names]
        )
        typed.__name__, typed.__qualname__, typed.__doc__ = body.__name__, body.__qualname__, body.__doc__
        return intrinsic(typed)

    return decorate


def arguments_of(function):
    """The names of a function's arguments, without its options."""
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]


def value_of(context, builder, kind, register):
    """An argument of a call, given its type in Numba."""
    if isinstance(kind, types.DType):
        return kind.dtype
    if isinstance(kind, types.NoneType):
        return None
    if isinstance(kind, types.BaseTuple):
        parts = zip(kind, cgutils.unpack_tuple(builder, register), strict=True)
        return join([value_of(context, builder, *part) for part in parts])
    if not isinstance(kind, types.Boolean):
        register = context.cast(builder, register, kind, types.intp)
    return Value(builder, register)


def call_function(builder, body, dtype, arguments, options):
    """Call the LLVM function of a micro-kernel for a combination of options; write it where it is used first."""
    present = {label: value for label, value in arguments.items() if value is not None}
    words = [label if value is True else str(value) for label, value in options.items() if value is not False]
    words += [f"no_{label}" for label in arguments if label not in present]
    name = "_".join(["minigrad", body.__name__, str(dtype), str(REGISTER_BITS), *words])
    registers = [register for value in present.values() for register in value.registers]
    kind = ir.FunctionType(ir.VoidType(), [register.type for register in registers])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    if function.is_declaration:
        function.linkage = "internal"
        function.attributes.add("noinline")
        function.attributes.add("nounwind")
        inside = VectorCode(ir.IRBuilder(function.append_basic_block("entry")), dtype)
        left = iter(function.args)
        for label, value in present.items():
            present[label] = Value(inside.builder, *itertools.islice(left, len(value.registers)))
        body(inside, **{**arguments, **present}, **options)
        inside.builder.ret_void()
    builder.call(function, registers)


@intrinsic
def vector_lanes(typingctx, dtype):
    """Elements of `dtype` in one SIMD register of the target."""
    count = REGISTER_BITS // dtype.dtype.bitwidth
    return types.intp(dtype), lambda context, builder, signature, arguments: constant(INDEX, count)
