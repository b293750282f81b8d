"""Derive the constants of kernels/formulas.py: ln 2, and minimax polynomials for exp, log, erf, sine and cosine (Remez).

    pip install mpmath
    python tools/fit_polynomials.py

prints them as formulas.py writes them, with the relative error that each polynomial, its coefficients rounded to the
working precision, leaves in the result when everything else is exact. Exits with an error if formulas.py has others.

exp: e**r = 1 + r + r**2 q(r) for |r| <= ln(2) / 2. The error counted is that of e**r - 1, which tanh uses.
log: log((1 + s) / (1 - s)) = 2 s + s z p(z), z = s**2, for (1 + s) / (1 - s) from sqrt(1/2) to sqrt(2).
sine, cosine: sin(pi / 2 r) = r s(r**2) and cos(pi / 2 r) = c(r**2) for |r| <= 1/2.
erf: erf(t) = 1 - exp(-t q(t)) for t from 0 to where erf(t) rounds to 1.
"""

from collections.abc import Callable

import mpmath
import numpy as np
from mpmath import mpf

from minigrad.kernels import formulas

mpmath.mp.dps = 60

Function = Callable[[mpf], mpf]


def solve_exchange(function: Function, weight: Function, degree: int, nodes: list[mpf]) -> list[mpf]:
    """Coefficients, lowest power first, whose weighted error takes one size and alternating signs on the nodes."""
    rows = [[x**power for power in range(degree + 1)] + [(-1) ** i / weight(x)] for i, x in enumerate(nodes)]
    solution = mpmath.lu_solve(mpmath.matrix(rows), mpmath.matrix([function(x) for x in nodes]))
    return list(solution)[: degree + 1]


def chebyshev_points(count: int, low: mpf, high: mpf) -> list[mpf]:
    """`count` points of [low, high] in ascending order, densest at its ends."""
    center, radius = (low + high) / 2, (high - low) / 2
    return [center - radius * mpmath.cos(mpmath.pi * (i + mpf(1) / 2) / count) for i in range(count)]


def evaluate(coefficients: list[mpf], x: mpf) -> mpf:
    """The polynomial with these coefficients, lowest power first, at x."""
    return mpmath.polyval(coefficients[::-1], x)


def alternating_extrema(points: list[mpf], errors: list[mpf]) -> list[tuple[mpf, mpf]]:
    """The largest error of each run of errors of one sign, as (point, error)."""
    extrema = [(points[0], errors[0])]
    for x, error in zip(points[1:], errors[1:], strict=True):
        largest = extrema[-1][1]
        if (error > 0) != (largest > 0):
            extrema.append((x, error))
        elif abs(error) > abs(largest):
            extrema[-1] = (x, error)
    return extrema


def remez(function: Function, weight: Function, degree: int, low: mpf, high: mpf) -> list[mpf]:
    """The polynomial that minimizes max |weight * (function - polynomial)| on [low, high], lowest power first.

    The exchange works on 2,000 points that crowd towards the ends, so that it misses the true extrema by about 1e-4
    of the error. It raises RuntimeError if it doesn't find the degree + 2 alternations of a best approximation.
    """
    count = degree + 2
    grid, nodes = chebyshev_points(2000, low, high), chebyshev_points(count, low, high)
    weights, values = [weight(x) for x in grid], [function(x) for x in grid]
    for _ in range(50):
        coefficients = solve_exchange(function, weight, degree, nodes)
        errors = [w * (f - evaluate(coefficients, x)) for x, w, f in zip(grid, weights, values, strict=True)]
        extrema = alternating_extrema(grid, errors)
        while len(extrema) > count:
            extrema.pop(0 if abs(extrema[0][1]) < abs(extrema[-1][1]) else -1)
        if len(extrema) < count:
            raise RuntimeError(f"expected {count} alternations of the error, found {len(extrema)}; try another degree")
        if nodes == [x for x, _ in extrema]:
            return coefficients
        nodes = [x for x, _ in extrema]
    raise RuntimeError("the exchange did not settle in 50 rounds; try another degree")


def largest_error(coefficients: list[mpf], function: Function, weight: Function, low: mpf, high: mpf) -> float:
    """max |weight * (function - polynomial)| over 4,001 points of [low, high]."""
    points = [low + (high - low) * mpf(i) / 4000 for i in range(4001)]
    return float(max(abs(weight(x) * (function(x) - evaluate(coefficients, x))) for x in points))


def series(terms: Callable[[int], mpf], x: mpf) -> mpf:
    """Sum of terms(i) x**i, for a series whose terms fall below 1e-60 within 40 of them, as both of ours do."""
    return mpmath.fsum(terms(i) * x**i for i in range(40))


def exp_tail(r: mpf) -> mpf:
    """(e**r - 1 - r) / r**2 by its series, which holds at r = 0 too."""
    return series(lambda i: 1 / mpmath.factorial(i + 2), r)


def exp_weight(r: mpf) -> mpf:
    """What an error of q(r) is worth as a relative error of e**r - 1; not quite 0 at r = 0, to divide by it."""
    return max(mpf("1e-6"), abs(r)) * abs(r / mpmath.expm1(r) if r else mpf(1))


def log_tail(z: mpf) -> mpf:
    """(log((1 + s) / (1 - s)) - 2 s) / s**3 by its series in z = s**2."""
    return series(lambda i: mpf(2) / (2 * i + 3), z)


def log_weight(z: mpf) -> mpf:
    """What an error of p(z) is worth as a relative error of log((1 + s) / (1 - s)) = 2 s + s z p(z)."""
    return z / (2 + z * log_tail(z))


def erf_slope(t: mpf) -> mpf:
    """-log(erfc(t)) / t, at t = 0 too."""
    return -mpmath.log(mpmath.erfc(t)) / t if t else 2 / mpmath.sqrt(mpmath.pi)


def erf_weight(t: mpf) -> mpf:
    """What an error of q(t) is worth as a relative error of erf(t)."""
    return t * mpmath.erfc(t) / mpmath.erf(t) if t else mpmath.sqrt(mpmath.pi) / 2


def quarter_sin(z: mpf) -> mpf:
    """sin(pi / 2 r) / r for z = r**2."""
    r = mpmath.sqrt(z)
    return mpmath.sin(mpmath.pi / 2 * r) / r if z else mpmath.pi / 2


def quarter_cos(z: mpf) -> mpf:
    """cos(pi / 2 r) for z = r**2."""
    return mpmath.cos(mpmath.pi / 2 * mpmath.sqrt(z))


def relative(function: Function) -> Function:
    """What an error of a function is worth as a relative one."""
    return lambda x: 1 / function(x)


def rounded(value: mpf, dtype: type) -> np.floating:
    """The number of type dtype nearest to value."""
    with mpmath.workprec(np.finfo(dtype).nmant + 1):
        return dtype(float(+value))


def literal(number: np.floating) -> str:
    """The shortest decimal that reads back as this number, with its type if that is not Python's."""
    return f"np.float32({number!s})" if number.dtype == np.float32 else str(number)


def fit(name: str, function: Function, weight: Function, degree: int, low: mpf, high: mpf, dtype: type) -> tuple:
    """The minimax coefficients, rounded to dtype; prints what error is left."""
    coefficients = [rounded(c, dtype) for c in remez(function, weight, degree, low, high)]
    error = largest_error([mpf(float(c)) for c in coefficients], function, weight, low, high)
    print(f"# {name}, {dtype.__name__}: relative error {error:.1e}; half an ulp is up to {np.finfo(dtype).eps / 2:.1e}")
    return tuple(coefficients)


def derive(
    dtype: type, exp_degree: int, log_degree: int, erf_degree: int, erf_highest: str, sin_degree: int
) -> dict[str, object]:
    """The constants of one precision under the names they have in formulas.py."""
    ln2 = mpmath.log(2)
    ln2_high = rounded(ln2, dtype)
    return {
        "log2_e": rounded(1 / ln2, dtype),
        "ln2_high": ln2_high,
        "ln2_low": rounded(ln2 - mpf(float(ln2_high)), dtype),
        "exp_tail": fit("exp", exp_tail, exp_weight, exp_degree, -ln2 / 2, ln2 / 2, dtype),
        "log_tail": fit("log", log_tail, log_weight, log_degree, mpf(0), (3 - mpmath.sqrt(8)) ** 2, dtype),
        "erf_slope": fit("erf", erf_slope, erf_weight, erf_degree, mpf(0), mpf(erf_highest), dtype),
        "quarter_sin": fit("sine", quarter_sin, relative(quarter_sin), sin_degree, mpf(0), mpf(1) / 4, dtype),
        "quarter_cos": fit("cosine", quarter_cos, relative(quarter_cos), sin_degree + 1, mpf(0), mpf(1) / 4, dtype),
    }


def main() -> None:
    """Print the constants of both precisions and compare them with formulas.py."""
    different = []
    for dtype, table, degrees in (
        (np.float32, formulas.FLOAT32, (5, 3, 7, "3.95", 3)),
        (np.float64, formulas.FLOAT64, (10, 6, 23, "5.95", 6)),
    ):
        for name, value in derive(dtype, *degrees).items():
            text = f"({', '.join(map(literal, value))})" if isinstance(value, tuple) else literal(value)
            print(f"{name}={text},")
            if getattr(table, name) != value:
                different.append(f"{name} for {dtype.__name__}")
    if different:
        raise SystemExit(f"kernels/formulas.py differs in {'; '.join(different)}")


if __name__ == "__main__":
    main()
