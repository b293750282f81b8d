"""The small Inception of Kiefer's CIFAR-10 study of Batch Normalization."""

from collections.abc import Callable

from minigrad.nn import (
    BatchNorm,
    Concat,
    Conv2d,
    Dropout,
    GlobalAvgPool,
    Linear,
    MaxPool2d,
    Module,
    Sequential,
)
from minigrad.nn.layers import activation_layer

# channels of: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection; "pool" halves the image
MODULES: dict[str, tuple[int, ...] | str] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "pool3": "pool",
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "pool4": "pool",
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class Inception(Sequential):
    """Nine Inception modules without a stem: (N, H, W, 3) images to (N, classes) logits.

    A module has four branches, concatenated on the channels in this order: 1x1; 1x1 then 3x3; 1x1 then 5x5; 3x3 max pool
    then 1x1. Every convolution is without bias and followed by [BatchNorm and] the activation. `width` multiplies every
    number of channels, rounded down, at least 8. `gamma=False` gives BN a shift only, as Kiefer built it. `dropout` is the
    probability before the last layer. At width 1 it has 5,813,114 parameters without BN, 5,820,074 with BN of beta only.
    """

    def __init__(
        self,
        classes: int = 10,
        width: float = 1.0,
        batch_norm: bool = True,
        activation: str = "relu",
        *,
        dropout: float = 0.0,
        gamma: bool = True,
        decay: float = 0.9,
        eps: float = 1e-5,
        channels: int = 3,
    ) -> None:
        if not width > 0:
            raise ValueError(f"width must be above 0, not {width}")

        def unit(inputs: int, outputs: int, size: int) -> list[Module]:
            norm = [BatchNorm(outputs, decay=decay, eps=eps, gamma=gamma)] if batch_norm else []
            return [Conv2d(inputs, outputs, size, padding="same", bias=False), *norm, activation_layer(activation)]

        self.names: list[str] = []
        layers: list[Module] = []
        for name, shape in MODULES.items():
            self.names.append(name)
            if isinstance(shape, str):
                layers.append(MaxPool2d(3, stride=2, padding="same"))
                continue
            layers.append(inception_module(unit, channels, tuple(max(8, int(n * width)) for n in shape)))
            channels = sum(max(8, int(shape[i] * width)) for i in (0, 2, 4, 5))
        layers.append(GlobalAvgPool())
        self.names.append("average")
        if dropout:
            layers.append(Dropout(dropout))
            self.names.append("dropout")
        layers.append(Linear(channels, classes))
        self.names.append("dense")
        super().__init__(*layers)

    def children(self):  # type: ignore[no-untyped-def]
        """(name in the study's table, layer)."""
        return zip(self.names, self.layers, strict=True)


def inception_module(unit: Callable[[int, int, int], list[Module]], inputs: int, shape: tuple[int, ...]) -> Concat:
    """Four branches that read the same input."""
    one, reduce3, three, reduce5, five, pool = shape
    return Concat(
        Sequential(*unit(inputs, one, 1)),
        Sequential(*unit(inputs, reduce3, 1), *unit(reduce3, three, 3)),
        Sequential(*unit(inputs, reduce5, 1), *unit(reduce5, five, 5)),
        Sequential(MaxPool2d(3, stride=1, padding="same"), *unit(inputs, pool, 1)),
    )
