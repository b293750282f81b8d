"""BN-Inception: the ImageNet network of the Batch Normalization paper (Ioffe & Szegedy 2015, Figure 5)."""

from typing import NamedTuple

from minigrad.nn import AvgPool2d, BatchNorm, Concat, Conv2d, GlobalAvgPool, Linear, MaxPool2d, Module, ReLU, Sequential


class Shape(NamedTuple):
    """Channels of a module's branches; the stride is 2 where the pool passes its input through."""

    one: int  # 1x1; 0 for none
    reduce3: int
    three: int  # 1x1 then 3x3
    reduce_double: int
    double: int  # 1x1 then two 3x3 in a row
    pool: str
    project: int  # 1x1 after the pool; 0 passes it through


MODULES = {
    "3a": Shape(64, 64, 64, 64, 96, "avg", 32),
    "3b": Shape(64, 64, 96, 64, 96, "avg", 64),
    "3c": Shape(0, 128, 160, 64, 96, "max", 0),
    "4a": Shape(224, 64, 96, 96, 128, "avg", 128),
    "4b": Shape(192, 96, 128, 96, 128, "avg", 128),
    "4c": Shape(160, 128, 160, 128, 160, "avg", 96),  # the paper prints 128 for the pool, which does not add up to 576
    "4d": Shape(96, 128, 192, 160, 192, "avg", 96),  # likewise
    "4e": Shape(0, 128, 192, 192, 256, "max", 0),
    "5a": Shape(352, 192, 320, 160, 224, "avg", 128),
    "5b": Shape(352, 192, 320, 192, 224, "max", 128),
}


def unit(inputs: int, outputs: int, size: int, stride: int = 1) -> list[Module]:
    """Convolution without bias, Batch Normalization, ReLU."""
    return [Conv2d(inputs, outputs, size, stride=stride, padding="same", bias=False), BatchNorm(outputs), ReLU()]


def module(inputs: int, shape: Shape) -> Concat:
    """The branches 1x1, 3x3, double 3x3 and pool, concatenated in this order."""
    stride = 1 if shape.project else 2
    pool = (AvgPool2d if shape.pool == "avg" else MaxPool2d)(3, stride=stride, padding="same")
    branches = [
        Sequential(*unit(inputs, shape.reduce3, 1), *unit(shape.reduce3, shape.three, 3, stride)),
        Sequential(
            *unit(inputs, shape.reduce_double, 1),
            *unit(shape.reduce_double, shape.double, 3),
            *unit(shape.double, shape.double, 3, stride),
        ),
        Sequential(pool, *(unit(inputs, shape.project, 1) if shape.project else [])),
    ]
    if shape.one:
        branches.insert(0, Sequential(*unit(inputs, shape.one, 1)))
    return Concat(*branches)


def channels_after(inputs: int, shape: Shape) -> int:
    """Channels that a module puts out."""
    return shape.one + shape.three + shape.double + (shape.project or inputs)


class BNInception(Sequential):
    """(N, 224, 224, 3) images to (N, classes) logits, every convolution followed by BN and ReLU.

    Stem: 7x7/2 to 64, max 3x3/2, 1x1 to 64, 3x3 to 192, max 3x3/2; ten modules; global average; one linear layer.
    """

    def __init__(self, classes: int = 1000) -> None:
        self.names = ["conv1", "bn1", "relu1", "pool1", "reduce2", "bn2r", "relu2r", "conv2", "bn2", "relu2", "pool2"]
        layers: list[Module] = [
            *unit(3, 64, 7, 2),
            MaxPool2d(3, stride=2, padding="same"),
            *unit(64, 64, 1),
            *unit(64, 192, 3),
            MaxPool2d(3, stride=2, padding="same"),
        ]
        channels = 192
        for name, shape in MODULES.items():
            layers.append(module(channels, shape))
            self.names.append(name)
            channels = channels_after(channels, shape)
        layers += [GlobalAvgPool(), Linear(channels, classes)]
        self.names += ["average", "dense"]
        super().__init__(*layers)

    def children(self):  # type: ignore[no-untyped-def]
        """(name in the paper's table, layer)."""
        return zip(self.names, self.layers, strict=True)
