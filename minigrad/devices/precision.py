"""How exactly products of float32 numbers are computed where there is a choice: tensor cores, and bfloat16 on the CPU."""

from types import ModuleType

from minigrad.devices.base import Device
from minigrad.devices.registry import DEVICES, get_device
from minigrad.kernels.precision import Products

PRECISIONS = ("float32", "bf16_3x", "tf32", "bf16")


class matmul_precision:
    """Choose the precision of float32 matrix products and convolutions, from now on or inside a `with` block.

    "float32", the default: every product and sum in float32. "tf32": on the GPU factors are rounded to TF32, a float32 with
    10 bits of significand (a relative error of up to 2^-11 each), for the tensor cores; sums stay in float32. Several times
    as fast. "bf16": factors are rounded to bfloat16, 7 bits of significand (up to 2^-8 each, halves to the even one) and
    the range of float32; sums, results and weights stay in float32. On the CPU up to twice as fast; on the GPU for tensor
    cores, with fewer instructions than "tf32". "bf16_3x" (XLA's BF16_BF16_F32_X3, one of the ways of PyTorch's "high"): on
    the GPU each factor is split into two bfloat16, and three products of these parts are added in float32 on tensor cores.
    A product is wrong by at most 2^-15 of itself, near float32's digits; by more if a factor is below 1e-35, and where one
    is infinite, or 3.39e38 or more, it may be NaN.

    The CPU computes in float32 under "tf32" and "bf16_3x", and under "bf16" if it has no AVX512_BF16; "reference" rounds as
    the CPU does. On the GPU, products of fewer than a million multiply-adds stay in float32 under "tf32" and "bf16_3x".
    float64 is never touched, nor are attention, depthwise convolutions and, under "bf16", the states of recurrent layers. A
    captured step has a recording for each.
    Raises ValueError for another name, and RuntimeError for "bf16" where the processor has no AVX512_BF16 and there is no GPU.

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
        if precision == "bf16":
            check_bfloat16()
        self.before = matmul_precision.current
        self.set(precision)

    @staticmethod
    def set(precision: str) -> None:
        """Tell the kernels."""
        matmul_precision.current = Device.precision = precision
        Products.in_bfloat16 = precision == "bf16" and processor().HAS_BFLOAT16
        if "cuda" in DEVICES:
            DEVICES["cuda"].use_precision(precision)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        self.set(self.before)


def check_bfloat16() -> None:
    """RuntimeError, with what mends it, unless the processor that kernels are compiled for, or a GPU, multiplies bfloat16."""
    if not processor().HAS_BFLOAT16 and get_device("auto").name != "cuda":
        raise RuntimeError(
            'matmul_precision("bf16") needs a processor with AVX512_BF16, such as AMD Zen 4 or Intel Sapphire Rapids, '
            f"or a GPU; kernels are compiled for {processor().name()}, without it, and no GPU works here; "
            'stay with "float32", which is exact and here the fastest'
        )


def processor() -> ModuleType:
    """What the CPU's kernels are compiled for, which Numba is imported to learn."""
    from minigrad.kernels.cpu.vector import target

    return target
