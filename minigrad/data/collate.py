"""From single samples to a batch: the parts of the samples, each stacked to an array."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Sample = Any  # whatever a data set gives for a position: a tuple of parts, a dict of them, or a single one
Batch = Any  # what `collate` and `transform` make, mostly a tuple or a dict of arrays


def stack(samples: Sequence[Sample]) -> tuple[np.ndarray, ...] | dict[str, np.ndarray]:
    """The samples as one batch: what a Loader does without `collate`.

    Tuples (and lists) of parts become a tuple of arrays `(n, ...)`, dicts a dict of arrays, and anything else a tuple of
    one. A part is a number, an array, a list of numbers, or what NumPy or DLPack makes an array of without a copy, as the
    tensors of PyTorch and pictures of Pillow. Python's floats become float32 and its integers int64, as in `mg.tensor`;
    arrays keep their dtype.

    Raises:
        TypeError: a part is no number and no array of numbers, or differs in dtype from the first sample's.
        ValueError: there are no samples, or they differ in shape, or in which parts they have.
    """
    if not samples:
        raise ValueError("no samples came, where at least one was expected")
    first = samples[0]
    if isinstance(first, Mapping):
        names = list(first)
        for number, sample in enumerate(samples):
            if not isinstance(sample, Mapping) or sample.keys() != first.keys():
                came = sorted(map(str, sample)) if isinstance(sample, Mapping) else f"a {type(sample).__name__}"
                raise ValueError(
                    f"sample {number} of the batch is {came}, where {names} were expected, as in the first"
                )
        return {name: stacked([sample[name] for sample in samples], repr(name)) for name in names}
    if isinstance(first, tuple | list):
        for number, sample in enumerate(samples):
            if not isinstance(sample, tuple | list) or len(sample) != len(first):
                came = f"{len(sample)} parts" if isinstance(sample, tuple | list) else f"a {type(sample).__name__}"
                raise ValueError(
                    f"sample {number} of the batch has {came}, where {len(first)} were expected, as in the first"
                )
        return tuple([stacked(list(parts), f"part {i}") for i, parts in enumerate(zip(*samples, strict=True))])
    return (stacked(samples, "the value"),)


def stacked(values: Sequence[Any], name: str) -> np.ndarray:
    """One part of all samples as a fresh, C-contiguous array `(n, ...)`; `name` is what errors call it."""
    first = as_array(values[0], name, 0)
    result = np.empty((len(values), *first.shape), first.dtype.newbyteorder("="))
    for number, value in enumerate(values):
        array = as_array(value, name, number)
        if array.shape != first.shape:
            raise ValueError(
                f"{name} has the shape {array.shape} in sample {number} of the batch and {first.shape} in the first, where "
                "equal ones were expected; bring the samples to one shape by sample_transform=..., or pass collate=..."
            )
        if array.dtype != first.dtype:
            raise TypeError(
                f"{name} is {array.dtype} in sample {number} of the batch and {first.dtype} in the first, where one dtype "
                "was expected; convert it in the data set or by sample_transform=..."
            )
        result[number] = array
    return result


def as_array(value: Any, name: str, number: int) -> np.ndarray:
    """A part of a sample as an array, not copied where it is one in some form."""
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
    elif isinstance(value, str | bytes | Mapping) or value is None:
        array = np.asarray(None)
    elif hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        array = np.from_dlpack(value)
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} of sample {number} of the batch is no array: {error}") from error
        ours = not hasattr(value, "__array__") and not hasattr(value, "__array_interface__")
        if array.dtype == np.float64 and ours:
            array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        came = type(value).__name__ if array.dtype.hasobject else f"{type(value).__name__} of {array.dtype}"
        raise TypeError(
            f"{name} of sample {number} of the batch is a {came}, where numbers were expected; make numbers of it by "
            "sample_transform=..., leave it out by keys=..., or pass collate=..."
        )
    return array
