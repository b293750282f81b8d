"""A kernel for many arrays, by a kernel for one."""

import itertools


def one_by_one(kernel, *arguments):
    """Call it with the first items of all lists among the arguments, then with the second, ...; the others are the same."""
    count = {len(a) for a in arguments if isinstance(a, list)}
    if len(count) != 1:
        raise ValueError(f"lists of one length were expected, not of {sorted(count)}")
    for given in zip(*[a if isinstance(a, list) else itertools.repeat(a) for a in arguments]):  # noqa: B905 - checked above
        kernel(*given)
