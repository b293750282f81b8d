"""The convolutional layer."""

import numpy as np

from minigrad import ops
from minigrad.checks import integer
from minigrad.nn import init
from minigrad.nn.layers import Initializer
from minigrad.nn.module import Module, Parameter
from minigrad.ops.window import Padding, Size, pair
from minigrad.tensor import Tensor


class Conv2d(Module):
    """Convolution of images (N, H, W, in_channels) to (N, OH, OW, out_channels).

    `size` is the window, an int or a pair; stride, padding, dilation and groups are those of `mg.conv2d`: groups=in_channels
    is depthwise. Parameters `weight` (kh, kw, in / groups, out), by default Glorot uniform, each group drawn as a convolution
    of its own, and `bias` (out,), zeros, unless bias=False.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: Size,
        *,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        weight_init: Initializer = init.glorot_uniform,
    ) -> None:
        self.size = pair("Conv2d", "size", size)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups = integer("groups", groups)
        inputs, outputs = integer("in_channels", in_channels), integer("out_channels", out_channels)
        for name, channels in (("in_channels", inputs), ("out_channels", outputs)):
            if channels % self.groups:
                raise ValueError(f"Conv2d: groups={groups} does not divide {name}={channels}; each group has as many")
        group = (*self.size, inputs // self.groups, outputs // self.groups)
        self.weight = Parameter(np.concatenate([weight_init(group) for _ in range(self.groups)], axis=3))
        self.bias = Parameter(init.zeros((outputs,))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        return ops.conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def settings(self) -> str:
        """in, out, window and what differs from the defaults."""
        kh, kw, c, k = self.weight.shape
        parts = [str(c * self.groups), str(k), str(kh) if kh == kw else str((kh, kw))]
        for name, usual in (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)):
            if getattr(self, name) != usual:
                parts.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(parts if self.bias is not None else [*parts, "bias=False"])
