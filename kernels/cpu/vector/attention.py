"""Micro-kernels of attention as LLVM vector code: rows of scores become weights, or weights and gradients of scores.

    weigh_rows      t = scale scores + mask; in place exp(t - the largest so far), and what that makes of the sums so far
    gradient_rows   p = exp(t - lse) in place of the scores, ds = scale p (dp - delta) in place of dp

Powers are of 2, which takes less: t, its largest so far and lse are counted in units of ln 2, and `numbers` are the addresses
of (scale / ln 2, scale).

A row is a query's, of `keys` scores in whole registers of memory, `step` bytes from the next. It sees the first `visible` of
them, the next row one more if `more` is 1; the rest become 0. `kind` says what the mask is; its rows are mask_step bytes apart.
"""

import math
import operator

from numba.core import types

from minigrad.kernels.cpu.vector.code import micro_kernel
from minigrad.kernels.cpu.vector.values import across, constant, fma, minimum, where
from minigrad.kernels.formulas import FLOAT32, FLOAT64

NO_MASK, BOOLEAN, ADDED = range(3)  # kinds of masks
NOTHING = float("-inf")  # the score of a key that takes no part
LN2 = math.log(2)


def by_kind(code, call, kind):
    """The function for a kind of mask."""
    for number in code.first_case({NO_MASK: kind == NO_MASK, BOOLEAN: kind == BOOLEAN, ADDED: True}):
        call(kind=number)


def powers_of_two(code, x):
    """2**x of a register within 2 ulp; 0 where that is no normal number."""
    c, stored_bits, bias = (FLOAT32, 23, 127) if code.bytes == 4 else (FLOAT64, 52, 1023)

    def as_type(value, kind):
        return value.each(lambda register: code.builder.bitcast(register, kind))

    # 1. x = n + r. What is added to round n leaves it in the lowest bits of the sum.
    rounded = x + float(c.whole)
    r = x - (rounded - float(c.whole))
    # 2. e**(r ln 2), by the polynomial of kernels/formulas.py in powers of r, times 2**n.
    tail = [float(coefficient) * LN2 ** (2 + i) for i, coefficient in enumerate(c.exp_tail)]
    *others, p = map(code.everywhere, (1.0, LN2, *tail))
    for coefficient in reversed(others):
        p = fma(p, r, coefficient)
    exponent = as_type(rounded, code.integers) + bias
    power = exponent.each(lambda bits: code.builder.shl(bits, constant(code.integers, stored_bits)))
    return where(x < 1 - bias, 0.0, p * as_type(power, code.vector))


def larger(a, b):
    """The larger of two; a where one of them is NaN."""
    return where(a < b, b, a)


class ScoreRow:
    """A row of scores: how many registers it has, and the terms t of each."""

    def __init__(self, code, scale, keys, visible, mask, kind):
        self.code, self.scale, self.mask, self.kind = code, scale, mask, kind
        count = minimum(where(visible < 0, 0, visible), keys)
        self.whole, self.rest = count // code.lanes, count % code.lanes
        self.seen = (count + (code.lanes - 1)) // code.lanes
        self.unseen = (keys + (code.lanes - 1)) // code.lanes - self.seen

    def terms(self, score, number, lanes=None):
        """t of the register of that number, whose scores are these and of which only `lanes` count."""
        code, first = self.code, number * self.code.lanes
        if self.kind == ADDED:
            t = fma(score, self.scale, code.load(self.mask + first * code.bytes, lanes) * (1 / LN2))
        else:
            t = score * self.scale
        if self.kind == BOOLEAN:
            t = where(code.load(self.mask + first, lanes, stored=types.uint8) == 0, NOTHING, t)
        return t if lanes is None else where(lanes, t, NOTHING)


@micro_kernel(by_kind)
def weigh_rows(
    code, scores, step, rows, keys, visible, more, numbers, mask, mask_step, state, state_step, *, kind
):  # fmt: skip
    """See above. `state` is a table of three rows: the largest t of each row so far, the sum of its weights, and, which
    is written, what weights from before are to be multiplied by."""
    scale = code.broadcast(numbers)
    zero = code.everywhere(0.0)
    first_lane = code.first_lanes(code.index(1))
    for row in code.loop(rows, at_least=1, scores=scores, visible=visible, mask=mask, state=state):
        part = ScoreRow(code, scale, keys, row.visible, row.mask, kind)
        # 1. The terms, and the largest of them.
        for each in code.loop(part.whole, top=code.everywhere(NOTHING), at=row.scores):
            t = part.terms(code.load(each.at), each.number)
            code.store(t, each.at)
            each.top = larger(each.top, t)
            each.at += code.width
        with code.only_if(part.rest > 0, top=each.top) as last:
            lanes = code.first_lanes(part.rest)
            t = part.terms(code.load(each.at), part.whole, lanes)
            code.store(t, each.at)
            last.top = larger(last.top, t)
        before = code.broadcast(row.state)
        top = larger(before, across(last.top, larger))
        # 2. The weights. Without a key there is no largest term to take away.
        shift = where(top == NOTHING, 0.0, top)
        for each in code.loop(part.seen, total=zero, at=row.scores):
            weight = powers_of_two(code, code.load(each.at) - shift)
            code.store(weight, each.at)
            each.total += weight
            each.at += code.width
        for _ in code.loop(part.unseen, at=each.at):
            code.store(zero, _.at)
            _.at += code.width
        # 3. What came before counts by the largest term of now.
        factor = powers_of_two(code, before - shift)
        total = fma(code.broadcast(row.state + state_step), factor, across(each.total, operator.add))
        code.store(top, row.state, first_lane)
        code.store(total, row.state + state_step, first_lane)
        code.store(factor, row.state + 2 * state_step, first_lane)
        row.scores += step
        row.visible += more
        row.mask += mask_step
        row.state += code.bytes


@micro_kernel(by_kind)
def gradient_rows(
    code, scores, slopes, step, rows, keys, visible, more, numbers, mask, mask_step, lse, delta, *, kind
):  # fmt: skip
    """See above. dp is in `slopes`; lse, in natural units, and delta have a number for each row."""
    scale, plain_scale = code.broadcast(numbers), code.broadcast(numbers + code.bytes)
    zero = code.everywhere(0.0)
    for row in code.loop(
        rows, at_least=1, scores=scores, slopes=slopes, visible=visible, mask=mask, lse=lse, delta=delta
    ):
        part = ScoreRow(code, scale, keys, row.visible, row.mask, kind)
        shift, level = code.broadcast(row.lse) * (1 / LN2), code.broadcast(row.delta)
        # 1. Whole registers of keys that take part: weights in the place of scores, gradients of scores in that of dp.
        for each in code.loop(part.whole, at=row.scores, slope=row.slopes):
            weight = powers_of_two(code, part.terms(code.load(each.at), each.number) - shift)
            code.store(weight, each.at)
            code.store(weight * (code.load(each.slope) - level) * plain_scale, each.slope)
            each.at += code.width
            each.slope += code.width
        # 2. The register of which a part does: zeros behind.
        with code.only_if(part.rest > 0, at=each.at, slope=each.slope) as last:
            lanes = code.first_lanes(part.rest)
            weight = powers_of_two(code, part.terms(code.load(last.at), part.whole, lanes) - shift)
            code.store(weight, last.at)
            slope = where(lanes, weight * (code.load(last.slope) - level) * plain_scale, 0.0)
            code.store(slope, last.slope)
            last.at += code.width
            last.slope += code.width
        # 3. Keys behind them weigh nothing.
        for each in code.loop(part.unseen, at=last.at, slope=last.slope):
            code.store(zero, each.at)
            code.store(zero, each.slope)
            each.at += code.width
            each.slope += code.width
        row.scores += step
        row.slopes += step
        row.visible += more
        row.mask += mask_step
        row.lse += code.bytes
        row.delta += code.bytes
