"""Networks as torchvision writes them, and ours beside them, with random weights and statistics; and convolutions beside theirs."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import minigrad as mg


class ResidualBlock(nn.Module):
    """torchvision's BasicBlock, with its names."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """torchvision's resnet18, with its names; `width` channels in the first stage, 64 there."""

    def __init__(self, width=64, classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        for i in range(1, 5):
            blocks = ResidualBlock(widths[i - 1], widths[i], 1 if i == 1 else 2), ResidualBlock(widths[i], widths[i], 1)
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class OurResidualBlock(mg.nn.Module):
    def __init__(self, inputs, outputs, stride):
        self.conv1 = mg.nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = mg.nn.BatchNorm(outputs)
        self.conv2 = mg.nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = mg.nn.BatchNorm(outputs)
        if stride != 1:
            conv = mg.nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = mg.nn.Sequential(conv, mg.nn.BatchNorm(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(mg.relu(self.bn1(self.conv1(x)))))
        return mg.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class OurResNet18(mg.nn.Module):
    def __init__(self, width=64, classes=1000):
        self.conv1 = mg.nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = mg.nn.BatchNorm(width)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        for i in range(1, 5):
            blocks = (
                OurResidualBlock(widths[i - 1], widths[i], 1 if i == 1 else 2),
                OurResidualBlock(widths[i], widths[i], 1),
            )
            setattr(self, f"layer{i}", mg.nn.Sequential(*blocks))
        self.fc = mg.nn.Linear(8 * width, classes)

    def forward(self, x):
        x = mg.max_pool2d(mg.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(mg.global_avg_pool(x))


class Same(nn.Module):
    """What is padded as TensorFlow's "same" is, an odd pixel to the end."""

    def __init__(self, inner, size, stride, value=0.0):
        super().__init__()
        self.inner, self.size, self.stride, self.value = (
            [inner],
            size,
            stride,
            value,
        )  # in a list: not in the state dict

    def forward(self, x):
        sides = []
        for n in reversed(x.shape[2:]):
            surplus = max((-(-n // self.stride) - 1) * self.stride + self.size - n, 0)
            sides += [surplus // 2, surplus - surplus // 2]
        return self.inner[0](F.pad(x, sides, value=self.value))


class Unit(nn.Module):
    """Convolution, Batch Normalization and ReLU, with the names of torchvision's BasicConv2d."""

    def __init__(self, inputs, outputs, size, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.padded = Same(self.conv, size, stride)

    def forward(self, x):
        return F.relu(self.bn(self.padded(x)))


class Branches(nn.Module):
    def __init__(self, *branches):
        super().__init__()
        for i, branch in enumerate(branches, 1):
            setattr(self, f"branch{i}", branch)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.children()], 1)


def max_pool(size, stride):
    return Same(nn.MaxPool2d(size, stride), size, stride, -float("inf"))


class BNInception(nn.Module):
    """Figure 5 of the Batch Normalization paper, with names as torchvision has them for its GoogLeNet."""

    def __init__(self, classes=1000):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = Unit(3, 64, 7, 2), Unit(64, 64, 1), Unit(64, 192, 3)
        channels = 192
        self.modules_in_order = []
        for name, s in mg.models.bn_inception.MODULES.items():
            stride = 1 if s.project else 2
            pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False) if s.pool == "avg" else max_pool(3, stride)
            branches = [
                nn.Sequential(Unit(channels, s.reduce3, 1), Unit(s.reduce3, s.three, 3, stride)),
                nn.Sequential(
                    Unit(channels, s.reduce_double, 1),
                    Unit(s.reduce_double, s.double, 3),
                    Unit(s.double, s.double, 3, stride),
                ),
                nn.Sequential(pool, *([Unit(channels, s.project, 1)] if s.project else [])),
            ]
            if s.one:
                branches.insert(0, Unit(channels, s.one, 1))
            setattr(self, f"inception{name}", Branches(*branches))
            self.modules_in_order.append(f"inception{name}")
            channels = mg.models.bn_inception.channels_after(channels, s)
        self.fc = nn.Linear(channels, classes)
        self.pool = max_pool(3, 2)

    def forward(self, x):
        x = self.pool(self.conv3(self.conv2(self.pool(self.conv1(x)))))
        for name in self.modules_in_order:
            x = getattr(self, name)(x)
        return self.fc(x.mean((2, 3)))


def inception_names():
    """PyTorch's names of the modules of `mg.models.BNInception`, by ours."""
    names = {"dense": "fc"}
    for ours, theirs in (("conv1", "conv1"), ("reduce2", "conv2"), ("conv2", "conv3")):
        names[ours] = f"{theirs}.conv"
    for ours, theirs in (("bn1", "conv1"), ("bn2r", "conv2"), ("bn2", "conv3")):
        names[ours] = f"{theirs}.bn"
    for name, s in mg.models.bn_inception.MODULES.items():
        for branch, (first, units) in enumerate([(0, 1)] * bool(s.one) + [(0, 2), (0, 3), (1, bool(s.project))]):
            theirs = f"inception{name}.branch{branch + 1}"
            for i in range(units):  # ours: [pool,] convolution, normalization, ReLU, ...
                place = theirs if s.one and branch == 0 else f"{theirs}.{first + i}"
                names[f"{name}.{branch}.{first + 3 * i}"] = f"{place}.conv"
                names[f"{name}.{branch}.{first + 3 * i + 1}"] = f"{place}.bn"
    return names


def randomize(module, seed=0):
    """Random weights and statistics, such that activations stay of the order of one; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.3, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
                part.num_batches_tracked.fill_(7)
                if part.affine:
                    part.weight.uniform_(0.5, 1, generator=generator)
                    part.bias.normal_(0, 0.3, generator=generator)
            elif isinstance(part, nn.Conv2d | nn.Linear):
                part.weight.normal_(0, (1 / part.weight[0].numel()) ** 0.5, generator=generator)
                if part.bias is not None:
                    part.bias.normal_(0, 0.3, generator=generator)
    return module.eval()


def logits(module, images):
    """What a torch module makes of images (N, H, W, C)."""
    with torch.no_grad():
        return module(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))).numpy()


def our_logits(model, images):
    """What a model of ours makes of them, on the tape of nothing."""
    with mg.no_grad():
        return model.eval()(mg.tensor(images, device=model.parameters()[0].device)).numpy()


def convolves_as_torch(ours, theirs, x, w, b, weight_axes, bound, rng):
    """Assert that ours(x, w, b) and all its gradients are those of PyTorch, to `bound`.

    There the channels of images come first, and the axes of the weight in the order `weight_axes`.
    """
    leaves = [mg.tensor(a, requires_grad=True) for a in (x, w, b)]
    others = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    y = ours(*leaves)
    expected = theirs(others[0].permute(0, 3, 1, 2), others[1].permute(weight_axes), others[2]).permute(0, 2, 3, 1)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=bound, atol=bound)
    dy = rng.standard_normal(y.shape).astype(x.dtype)
    y.backward(dy)
    expected.backward(torch.tensor(dy))
    for a, t in zip(leaves, others, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), t.grad.numpy(), rtol=bound, atol=bound * 10)
