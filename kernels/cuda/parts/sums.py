"""Sums of float32 as good as sums in float64: what rounding takes from a sum is kept beside it.

t = s + v is rounded, but what was lost can be had exactly in the same precision (D. Knuth, "The Art of Computer
Programming", volume 2, section 4.2.2, theorem B); adding up those losses and putting them in at the end leaves one
rounding (T. Ogita, S. Rump and S. Oishi, "Accurate sum and dot product", 2005, algorithm 4.1). Six additions more for
each number, which a kernel that waits for memory has time for.
"""

from minigrad.kernels.cuda.tools.language import device_function, real


@device_function
def add(total, lost, v):
    """(total + v rounded, lost and what this lost)."""
    t = total + v
    b = t - total
    return t, lost + ((total - (t - b)) + (v - b))


@device_function
def finite_loss(lost):
    """What was lost; zero where the sum is infinite, of which it is NaN and means nothing."""
    return lost if lost == lost else real(0)


@device_function
def whole(total, lost):
    """The sum; where it is infinite, what was lost is NaN and means nothing."""
    return total + lost if lost == lost else total
