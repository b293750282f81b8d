"""How exactly products of float32 matrices are computed where there is a choice: on a GPU's tensor cores."""

from minigrad.devices.base import Device
from minigrad.devices.registry import DEVICES

PRECISIONS = ("float32", "tf32")


class matmul_precision:
    """Choose the precision of float32 matrix products and convolutions on the GPU, from now on or inside a `with` block.

    "float32", the default: every product and sum in float32. "tf32": factors are rounded to TF32, a float32 with 10 bits
    of significand (a relative error of up to 2^-11 each), for the tensor cores; sums stay in float32. Several times as
    fast. The CPU always computes in float32, and float64 is never touched. A captured step has a recording for each.
    Raises ValueError for another name.

        mg.matmul_precision("tf32")
        with mg.matmul_precision("float32"):
            ...
    """

    current = "float32"

    def __init__(self, precision: str) -> None:
        if precision not in PRECISIONS:
            raise ValueError(
                f"the precision of products is one of {', '.join(map(repr, PRECISIONS))}, not {precision!r}"
            )
        self.before = matmul_precision.current
        self.set(precision)

    @staticmethod
    def set(precision: str) -> None:
        """Tell the GPU's kernels."""
        matmul_precision.current = Device.precision = precision
        if "cuda" in DEVICES:
            DEVICES["cuda"].use_precision(precision)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        self.set(self.before)
