"""The convolutional layers."""

from collections.abc import Sequence

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
        self.groups, inputs, outputs = channels_of("Conv2d", in_channels, out_channels, groups)
        self.weight = weight_of(self.size, inputs, outputs, self.groups, weight_init)
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
        usual = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        return settings_of(self, c * self.groups, k, str(kh) if kh == kw else str((kh, kw)), usual)


class Conv1d(Module):
    """Convolution of sequences (N, L, in_channels) to (N, OL, out_channels).

    stride, padding, dilation and groups are those of `mg.conv1d`. Parameters `weight` (size, in / groups, out), by default
    Glorot uniform, each group drawn as a convolution of its own, and `bias` (out,), zeros, unless bias=False.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        stride: int = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        weight_init: Initializer = init.glorot_uniform,
    ) -> None:
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.size = integer("size", size)
        self.groups, inputs, outputs = channels_of("Conv1d", in_channels, out_channels, groups)
        self.weight = weight_of((self.size,), inputs, outputs, self.groups, weight_init)
        self.bias = Parameter(init.zeros((outputs,))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        return ops.conv1d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def settings(self) -> str:
        """in, out, size and what differs from the defaults."""
        size, c, k = self.weight.shape
        usual = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        return settings_of(self, c * self.groups, k, str(size), usual)


class ConvTranspose2d(Module):
    """Transposed convolution of images (N, H, W, in_channels) to (N, OH, OW, out_channels), as `mg.conv_transpose2d`.

    Parameters `weight` (kh, kw, in, out / groups), by default Glorot uniform, each group drawn as a convolution of its own, and
    `bias` (out,), zeros, unless bias=False.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: Size,
        *,
        stride: Size = 1,
        padding: Padding = 0,
        output_padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        weight_init: Initializer = init.glorot_uniform,
    ) -> None:
        self.size = pair("ConvTranspose2d", "size", size)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.output_padding = output_padding
        self.groups, inputs, outputs = channels_of("ConvTranspose2d", in_channels, out_channels, groups)
        self.weight = weight_of(self.size, inputs, outputs, self.groups, weight_init, axis=-2)
        self.bias = Parameter(init.zeros((outputs,))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """The transposed convolution."""
        return ops.conv_transpose2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def settings(self) -> str:
        """in, out, window and what differs from the defaults."""
        kh, kw, c, k = self.weight.shape
        usual = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
        return settings_of(self, c, k * self.groups, str(kh) if kh == kw else str((kh, kw)), usual)


def channels_of(name: str, in_channels: int, out_channels: int, groups: int) -> tuple[int, int, int]:
    """(groups, in, out), all integers of at least 1; ValueError where the groups do not divide the others."""
    parts, inputs, outputs = (
        integer(argument, value)
        for argument, value in (("groups", groups), ("in_channels", in_channels), ("out_channels", out_channels))
    )
    for argument, channels in (("in_channels", inputs), ("out_channels", outputs)):
        if channels % parts:
            raise ValueError(f"{name}: groups={parts} does not divide {argument}={channels}; each group has as many")
    return parts, inputs, outputs


def weight_of(
    window: tuple[int, ...], inputs: int, outputs: int, groups: int, weight_init: Initializer, axis: int = -1
) -> Parameter:
    """The weight of all groups, each drawn as that of a convolution of its own, side by side along an axis."""
    group = (*window, inputs // groups, outputs // groups)
    return Parameter(np.concatenate([weight_init(group) for _ in range(groups)], axis))


def settings_of(layer: Conv2d | Conv1d | ConvTranspose2d, c: int, k: int, size: str, usual: dict[str, int]) -> str:
    """in, out, window and what differs from what is usual."""
    parts = [str(c), str(k), size]
    parts += [f"{name}={getattr(layer, name)!r}" for name, value in usual.items() if getattr(layer, name) != value]
    return ", ".join(parts if layer.bias is not None else [*parts, "bias=False"])
