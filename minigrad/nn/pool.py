"""Pooling layers, over windows of images."""

from minigrad import ops
from minigrad.nn.module import Module
from minigrad.ops.window import Padding, Size, is_same, paddings, pair
from minigrad.tensor import Tensor


class Pool2d(Module):
    """What the pooling layers share: `size`, `stride` (by default the size) and `padding`, as in `mg.max_pool2d`."""

    def __init__(self, size: Size, *, stride: Size | None = None, padding: Padding = 0) -> None:
        name = type(self).__name__
        self.size = pair(name, "size", size)
        self.stride = self.size if stride is None else pair(name, "stride", stride)
        self.padding = padding if is_same(padding) else paddings(name, padding)

    def settings(self) -> str:
        """Size, and what differs from the defaults."""
        parts = [str(self.size)]
        if self.stride != self.size:
            parts.append(f"stride={self.stride}")
        if self.padding != ((0, 0), (0, 0)):
            parts.append(f"padding={self.padding!r}")
        return ", ".join(parts)


class MaxPool2d(Pool2d):
    """The largest element of every window: (N, H, W, C) to (N, OH, OW, C); arguments as for `mg.max_pool2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """The largest elements."""
        return ops.max_pool2d(x, self.size, stride=self.stride, padding=self.padding)


class AvgPool2d(Pool2d):
    """The mean of every window, padding not counted: (N, H, W, C) to (N, OH, OW, C); arguments as for `mg.avg_pool2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """The means."""
        return ops.avg_pool2d(x, self.size, stride=self.stride, padding=self.padding)


class GlobalAvgPool(Module):
    """The mean of every channel over the image: (N, H, W, C) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """The means."""
        return ops.global_avg_pool(x)
