"""The scalar math of minigrad: one number in, one number out, for float32 and float64, written once for every target.

A kernel imports a formula and calls it in its loop; that compiles it in, and the loop becomes vector code:

    from minigrad.kernels.formulas import sigmoid

    @njit(fastmath={"contract"})
    def sigmoid_forward(x, y):
        for i in range(x.size):
            y[i] = sigmoid(x[i])

The arguments of a call have one type, float32 or float64, which is the precision: float32 is never widened. Called from
Python, a formula takes and gives a Python float or a NumPy scalar.

NaN comes out as NaN. The bits of a result depend on the arguments alone, not on the vector width, the place in the loop
or the flags of the kernel: a product that meets a sum does so in `fma`, and `select` computes both branches.

Errors are in ulp, the distance of neighbouring floats at the exact result. They bound the largest error found: in
float32 over every float, against float64; in float64 over ten million numbers, against 80-bit arithmetic.

exp and log take out a power of two and leave the rest to a minimax polynomial (J.-M. Muller, "Elementary Functions",
on argument reduction and on the Remez algorithm), and so does erf by way of exp; `tools/fit_polynomials.py` derives the
coefficients.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from minigrad.kernels.bits import STRICT, by_precision, copysign, fma, polynomial, power_of_two, select, split_exponent

formula = register_jitable(**STRICT)

# Eight bits, because so small an integer takes on the type of the float it meets, in NumPy as in Numba.
ZERO, ONE, TWO = np.int8(0), np.int8(1), np.int8(2)
TANH_LOWEST = np.int8(-60)  # e**-60 is lost beside 1 and is a normal number, both in either precision
# Right for float64 too, because `select` converts its first value to the type of the second.
INFINITY, NAN = np.float32(np.inf), np.float32(np.nan)


class Constants(NamedTuple):
    """What exp, log, tanh, erf and cos_sin_of_turns need in one precision; every field is of that type."""

    half: float
    log2_e: float
    ln2_high: float  # high + low is ln 2 to twice the precision
    ln2_low: float
    whole: float  # added to a number and taken away again, it leaves the nearest whole number
    exp_lowest: float  # exp is 0 from here down
    exp_highest: float  # exp is infinite from here up
    exp_smallest: float  # below, exp is no normal number
    smallest_normal: float
    subnormal_scale: float  # makes every subnormal number a normal one
    subnormal_exponent: float  # log2 of subnormal_scale
    exp_tail: tuple[float, ...]  # (e**r - 1 - r) / r**2 in powers of r, for |r| <= ln(2) / 2
    log_tail: tuple[float, ...]  # (2 artanh(s) - 2 s) / s**3 in powers of s**2, for |s| <= 3 - sqrt(8)
    erf_highest: float  # erf is 1 from here up
    erf_slope: tuple[float, ...]  # -log(1 - erf(t)) / t in powers of t, for 0 <= t <= erf_highest
    quarter_sin: tuple[float, ...]  # sin(pi / 2 r) / r in powers of r**2, for |r| <= 1/2
    quarter_cos: tuple[float, ...]  # cos(pi / 2 r) in powers of r**2, for |r| <= 1/2


FLOAT32 = Constants(
    half=np.float32(0.5),
    log2_e=np.float32(1.442695),
    ln2_high=np.float32(0.6931472),
    ln2_low=np.float32(-1.9046542e-09),
    whole=np.float32(1.5 * 2.0**23),
    exp_lowest=np.float32(-105.0),
    exp_highest=np.float32(89.0),
    exp_smallest=np.float32(-87.33654),
    smallest_normal=np.float32(2.0**-126),
    subnormal_scale=np.float32(2.0**24),
    subnormal_exponent=np.float32(24.0),
    exp_tail=(
        np.float32(0.5),
        np.float32(0.16666666),
        np.float32(0.041666362),
        np.float32(0.00833339),
        np.float32(0.0013940617),
        np.float32(0.00019845876),
    ),
    log_tail=(
        np.float32(0.6666666),
        np.float32(0.40000334),
        np.float32(0.28537348),
        np.float32(0.23581472),
    ),
    erf_highest=np.float32(3.95),
    erf_slope=(
        np.float32(1.1283792),
        np.float32(0.63661647),
        np.float32(0.10281441),
        np.float32(-0.019321717),
        np.float32(0.00020571736),
        np.float32(0.0012517454),
        np.float32(-0.0003810001),
        np.float32(4.070784e-05),
    ),
    quarter_sin=(
        np.float32(1.5707964),
        np.float32(-0.6459635),
        np.float32(0.07968003),
        np.float32(-0.004601658),
    ),
    quarter_cos=(
        np.float32(1.0),
        np.float32(-1.2337005),
        np.float32(0.25366917),
        np.float32(-0.020859936),
        np.float32(0.000903363),
    ),
)

FLOAT64 = Constants(
    half=0.5,
    log2_e=1.4426950408889634,
    ln2_high=0.6931471805599453,
    ln2_low=2.3190468138462996e-17,
    whole=1.5 * 2.0**52,
    exp_lowest=-746.0,
    exp_highest=710.0,
    exp_smallest=-708.3964,
    smallest_normal=2.0**-1022,
    subnormal_scale=2.0**54,
    subnormal_exponent=54.0,
    exp_tail=(
        0.5,
        0.16666666666666677,
        0.04166666666666651,
        0.0083333333333217,
        0.001388888888896231,
        0.0001984126988593936,
        2.4801587172622043e-05,
        2.755724440388538e-06,
        2.7557402603869497e-07,
        2.5108967585593733e-08,
        2.087533199782723e-09,
    ),
    log_tail=(
        0.6666666666666734,
        0.39999999999416375,
        0.2857142874201492,
        0.22222198610856145,
        0.1818356240092489,
        0.15314098951157887,
        0.14795473944161483,
    ),
    erf_highest=5.95,
    erf_slope=(
        1.1283791670955126,
        0.6366197723675909,
        0.10277260330131549,
        -0.01912844699309568,
        -0.00020919485391198244,
        0.001696207669782604,
        -0.0005901324296840131,
        2.590449782413455e-05,
        6.442047791989857e-05,
        -2.957568069609402e-05,
        3.169693004602903e-06,
        3.132936484921815e-06,
        -2.0371645935409486e-06,
        5.706150476599784e-07,
        -1.1698083248030763e-08,
        -6.573826119645759e-08,
        3.458659917544379e-08,
        -1.0773860922495466e-08,
        2.36063013444217e-09,
        -3.760908583892675e-10,
        4.302031574985579e-11,
        -3.3645603268122818e-12,
        1.6149817120934076e-13,
        -3.592464266654991e-15,
    ),
    quarter_sin=(
        1.5707963267948966,
        -0.6459640975062443,
        0.07969262624603957,
        -0.004681754132282415,
        0.0001604411502916289,
        -3.598641754379241e-06,
        5.633721004229897e-08,
    ),
    quarter_cos=(
        1.0,
        -1.2337005501361697,
        0.2536695079010466,
        -0.020863480763308004,
        0.0009192602741467696,
        -2.52020365582027e-05,
        4.710603581151155e-07,
        -6.320557324917538e-09,
    ),
)


@formula
def _reduced_expm1(x):
    """Return n and p with e**x = 2**n (1 + p): x = n ln 2 + r, n whole, |r| <= ln(2) / 2 and p = e**r - 1."""
    c = by_precision(x, FLOAT32, FLOAT64)
    n = fma(x, c.log2_e, c.whole) - c.whole
    r = fma(n, -c.ln2_low, fma(n, -c.ln2_high, x))
    return n, fma(r * r, polynomial(r, c.exp_tail), r)


@formula
def exp(x):
    """e**x within 1 ulp, subnormal results too; exactly 0 or inf where it is too small or too large for a float."""
    c = by_precision(x, FLOAT32, FLOAT64)
    x = select(x < c.exp_lowest, c.exp_lowest, x)
    x = select(x > c.exp_highest, c.exp_highest, x)
    n, p = _reduced_expm1(x)
    # Two factors, because 2**n itself can be out of range where the result is not. Only the second product rounds.
    first = fma(n, c.half, c.whole) - c.whole
    return (ONE + p) * power_of_two(first) * power_of_two(n - first)


@formula
def exp_below_zero(x):
    """e**x within 1 ulp for x <= 0, in two thirds of the time of `exp`; 0 where the result is no normal number."""
    c = by_precision(x, FLOAT32, FLOAT64)
    n, p = _reduced_expm1(x)
    return select(x < c.exp_smallest, ZERO, (ONE + p) * power_of_two(n))


@formula
def log(x):
    """The natural logarithm of x within 0.9 ulp, of subnormal x too; -inf at 0 and -0, NaN below, inf at inf.

    With x = m 2**n and f = m - 1, which is exact, log(m) = 2 artanh(s) for s = f / (2 + f). Its first term 2 s is
    f - s f, so that f enters unrounded.
    """
    c = by_precision(x, FLOAT32, FLOAT64)
    subnormal = x < c.smallest_normal
    m, n = split_exponent(select(subnormal, x * c.subnormal_scale, x))
    n = select(subnormal, n - c.subnormal_exponent, n)
    f = m - ONE
    s = f / (TWO + f)
    z = s * s
    low = fma(s, fma(z, polynomial(z, c.log_tail), -f), n * c.ln2_low)
    y = fma(n, c.ln2_high, f + low)
    y = select(x < INFINITY, y, x)
    return select(x <= ZERO, select(x == ZERO, -INFINITY, NAN), y)


@formula
def tanh(x):
    """The hyperbolic tangent of x within 2.2 ulp, odd to the bit; -0.0 at -0.0, and x where x is tiny.

    For v = (1 - e**(-2 |x|)) / 2 it is v / (1 - v) = v + v**2 / (1 - v), the sum with less rounding than the quotient.
    """
    c = by_precision(x, FLOAT32, FLOAT64)
    t = -(TWO * abs(x))
    n, p = _reduced_expm1(select(t < TANH_LOWEST, TANH_LOWEST, t))
    h = c.half * power_of_two(n)
    v = fma(-h, p, c.half - h)
    return copysign(fma(v, v / (ONE - v), v), x)


@formula
def sigmoid(x):
    """1 / (1 + exp(-x)) within 2.5 ulp, subnormal results too; exactly 0 or 1 far out, without overflow on the way."""
    e = exp(-abs(x))
    return select(x >= ZERO, ONE, e) / (ONE + e)


@formula
def expm1(x):
    """e**x - 1 within 1.8 ulp, near 0 too; -1 or inf far out, -0.0 at -0.0."""
    c = by_precision(x, FLOAT32, FLOAT64)
    within = select(x < TANH_LOWEST, TANH_LOWEST, x)
    within = select(x > c.exp_highest, c.exp_highest, within)
    n, p = _reduced_expm1(within)
    # 2**n p + 2**n - 1 by two factors, as in exp. Only the sum in the first one rounds.
    first = fma(n, c.half, c.whole) - c.whole
    h = power_of_two(first)
    return select(x == ZERO, x, fma(h, p, h - power_of_two(first - n)) * power_of_two(n - first))


@formula
def log1p(x):
    """The logarithm of 1 + x within 1.6 ulp, near 0 too; -inf at -1, NaN below, inf at inf.

    What 1 + x loses by rounding is added to its logarithm, divided by 1 + x.
    """
    u = ONE + x
    y = log(u)
    y = select((u == ONE) | (x == INFINITY), x, y + (x - (u - ONE)) / u)
    return select(u <= ZERO, log(u), y)


@formula
def erf(x):
    """The error function within 2.9 ulp, odd to the bit; the normal distribution function is (1 + erf(x / sqrt(2))) / 2.

    1 - erf(t) is exp(-t q(t)) with a smooth q, so that erf(t) comes without cancellation out of the parts of e**-z - 1.
    """
    c = by_precision(x, FLOAT32, FLOAT64)
    t = abs(x)
    t = select(t > c.erf_highest, c.erf_highest, t)
    n, p = _reduced_expm1(-(t * polynomial(t, c.erf_slope)))
    h = power_of_two(n)
    return copysign(fma(-h, p, ONE - h), x)


@formula
def cos_sin_of_turns(v):
    """cos(2 pi v) and sin(2 pi v) for 0 <= v <= 1, within 2 ulp of the larger one."""
    c = by_precision(v, FLOAT32, FLOAT64)
    quarters = v + v + (v + v)
    q = quarters + c.whole - c.whole
    r = quarters - q
    sine, cosine = r * polynomial(r * r, c.quarter_sin), polynomial(r * r, c.quarter_cos)
    odd = (q == ONE) | (q == ONE + TWO)
    x, y = select(odd, sine, cosine), select(odd, cosine, sine)
    return select((q == ONE) | (q == TWO), -x, x), select((q == TWO) | (q == ONE + TWO), -y, y)


@formula
def sign(x):
    """1, -1, or x itself where that is 0 or NaN."""
    return select((x == ZERO) | (x != x), x, copysign(select(x == x, ONE, x), x))


@formula
def minimum(a, b):
    """The smaller of a and b; NaN where one is."""
    return select((a < b) | (a != a), a, b)


@formula
def maximum(a, b):
    """The larger of a and b; NaN where one is."""
    return select((a > b) | (a != a), a, b)


@formula
def power(x, p):
    """x**p by the platform's mathematical library."""
    return x**p


@formula
def relu(x):
    """The larger of x and 0; 0.0 at -0.0."""
    return select(x <= ZERO, ZERO, x)


@formula
def exp_grad(dy, y):
    """Gradient of y = exp(x) with respect to x."""
    return dy * y


@formula
def log_grad(dy, x):
    """Gradient of log(x) with respect to x."""
    return dy / x


@formula
def sqrt_grad(dy, y):
    """Gradient of y = sqrt(x) with respect to x; inf at y = 0."""
    return dy / (y + y)


@formula
def tanh_grad(dy, y):
    """Gradient of y = tanh(x) with respect to x; 1 - y**2 as a product, which loses nothing near y = 1."""
    return dy * ((ONE - y) * (ONE + y))


@formula
def sigmoid_grad(dy, y):
    """Gradient of y = sigmoid(x) with respect to x."""
    return dy * y * (ONE - y)


@formula
def relu_grad(dy, y):
    """Gradient of y = relu(x) with respect to x: 0 at 0, dy where y is NaN."""
    return select(y <= ZERO, ZERO, dy)
