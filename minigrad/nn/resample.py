"""Layers that make images of other sizes: interpolation, and means over a given number of windows."""

from collections.abc import Sequence
from typing import SupportsIndex

from minigrad import ops
from minigrad.nn.module import Module
from minigrad.ops.resample import Scale
from minigrad.ops.window import Size
from minigrad.tensor import Tensor


class Upsample(Module):
    """Images in another size, by a given `size` or `scale`; arguments as for `mg.interpolate`."""

    def __init__(
        self,
        size: Size | None = None,
        scale: Scale | None = None,
        mode: str = "nearest",
        align_corners: bool = False,
    ) -> None:
        if (size is None) == (scale is None):
            raise ValueError(f"Upsample: either size or scale must be given, not size={size!r} and scale={scale!r}")
        self.size, self.scale, self.mode, self.align_corners = size, scale, mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        """The images in the other size."""
        return ops.interpolate(x, size=self.size, scale=self.scale, mode=self.mode, align_corners=self.align_corners)

    def settings(self) -> str:
        """What differs from the defaults."""
        usual = {"size": None, "scale": None, "mode": "nearest", "align_corners": False}
        return ", ".join(
            f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value
        )


class AdaptiveAvgPool2d(Module):
    """The means over `size` windows, an int or a pair, as `mg.adaptive_avg_pool2d`: (N, H, W, C) to (N, OH, OW, C)."""

    def __init__(self, size: SupportsIndex | Sequence[SupportsIndex | None]) -> None:
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """The means."""
        return ops.adaptive_avg_pool2d(x, self.size)

    def settings(self) -> str:
        """The size."""
        return repr(self.size)
