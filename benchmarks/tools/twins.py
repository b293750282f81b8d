"""The training steps of examples: ours, and the same networks in PyTorch, as a user would write them, with the same weights.

A step takes no arguments, since its batch is the same each time, and gives the loss.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tools.machine import ROOT

SIZES = {  # what the networks are made of
    "transformer": {"context": 128, "batch": 32, "blocks": 4, "features": 128, "heads": 4},
    "lstm": {"units": 256},
    "resnet": {"blocks": 3, "width": 1.0, "batch": 128},
    "autoencoder": {"code": 16, "batch": 100, "channels": 16},
}
CLIPPED = 5.0  # the norm of the LSTM's gradients
STEPS, ROWS = 2, 4  # whose losses are compared, on so few rows of the batch: the reference takes its time
LAYOUTS = {
    "Linear": (1, 0),
    "Conv2d": (3, 2, 0, 1),
    "ConvTranspose2d": (2, 3, 0, 1),
    "LSTM": (1, 0),
}  # of PyTorch's weights, from ours
NAMES = {"weight": "gamma", "bias": "beta"}  # of normalizations


class Step(NamedTuple):
    """A network of ours, its loss of (inputs, targets), and a batch."""

    model: Any
    loss: Callable[[Any, Any], Any]
    inputs: np.ndarray
    targets: np.ndarray


def example(name: str) -> Any:
    """One of the scripts, as a module."""
    if str(ROOT / "examples") not in sys.path:
        sys.path.append(str(ROOT / "examples"))
    return __import__(name)


def transformer() -> Step:
    """Of examples/char_transformer.py."""
    script, sizes = example("char_transformer"), SIZES["transformer"]
    text, characters = script.load_text()
    model = script.Transformer(len(characters), sizes["context"], sizes["blocks"], sizes["features"], sizes["heads"])
    batch = next(script.batches(text, sizes["context"], sizes["batch"], 0))
    return Step(model, lambda x, y: script.loss_of(model, x, y), *batch)


def lstm() -> Step:
    """Of examples/char_lstm.py, from a state of zeros."""
    import minigrad as mg

    script, rng, characters = example("char_lstm"), np.random.default_rng(0), 96
    model = script.Model(characters, SIZES["lstm"]["units"])
    text = rng.integers(0, characters, (script.BATCH, script.STEPS + 1))

    def loss(x: Any, y: Any) -> Any:
        return mg.cross_entropy(model(x)[0].reshape(-1, characters), y.reshape(-1))

    return Step(model, loss, text[:, :-1], text[:, 1:])


def resnet() -> Step:
    """Of examples/cifar10_resnet.py."""
    import minigrad as mg

    sizes, rng = SIZES["resnet"], np.random.default_rng(0)
    model = example("cifar10_resnet").network(sizes["blocks"], sizes["width"])
    images = rng.standard_normal((sizes["batch"], 32, 32, 3), np.float32)
    return Step(model, lambda x, y: mg.cross_entropy(model(x), y), images, rng.integers(0, 10, sizes["batch"]))


def autoencoder() -> Step:
    """Of examples/mnist_autoencoder.py, with its skip connections."""
    import minigrad as mg

    sizes, rng = SIZES["autoencoder"], np.random.default_rng(0)
    model = example("mnist_autoencoder").Autoencoder(sizes["code"], True, sizes["channels"])
    images = (rng.random((sizes["batch"], 28, 28, 1)) < 0.2).astype(np.float32)
    noisy = np.where(rng.random(images.shape) < 0.2, 1 - images, images)
    return Step(model, lambda x, y: mg.binary_cross_entropy_with_logits(model(x), y), noisy, images)


def made(name: str, rows: int | None = None) -> Step:
    """One of them, its weights always the same; on the first rows of its batch."""
    import minigrad as mg

    mg.manual_seed(0)
    step = {"transformer": transformer, "lstm": lstm, "resnet": resnet, "autoencoder": autoencoder}[name]()
    return step._replace(inputs=step.inputs[:rows], targets=step.targets[:rows])


def optimizer_of(lib: Any, name: str, parameters: Any) -> Any:
    """The example's, by `mg.optim` or `torch.optim`."""
    if name == "resnet":
        return lib.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)
    adam = {"autoencoder": 0.002, "lstm": 0.003}
    return lib.Adam(parameters, lr=adam[name]) if name in adam else lib.AdamW(parameters, lr=1e-3)


def ours(
    name: str, rows: int | None = None, *, captured: bool, device: str = "cpu", dtype: str = "float32"
) -> Callable[[], Any]:
    """minigrad's step."""
    import minigrad as mg

    step = made(name, rows)
    step.model.to(device).to(dtype)
    optimizer = optimizer_of(mg.optim, name, step.model.parameters())
    batch = [a.astype(dtype) if a.dtype.kind == "f" else a for a in (step.inputs, step.targets)]

    def train(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = step.loss(x, y)
        loss.backward()
        if name == "lstm":
            mg.optim.clip_grad_norm(step.model.parameters(), CLIPPED)
        optimizer.step()
        return loss

    call = mg.capture(train) if captured else train
    return lambda: call(*(mg.tensor(a, device=device) for a in batch))


@functools.cache
def losses(name: str) -> np.ndarray:
    """Those of the first steps on few rows, on minigrad's reference in float64."""
    step = ours(name, ROWS, captured=False, device="reference", dtype="float64")
    return np.array([step().item() for _ in range(STEPS)])


def theirs(name: str, rows: int | None = None) -> Callable[[], Any]:
    """PyTorch's step, eager, images on `channels_last`."""
    import torch

    step = made(name, rows)
    networks = {"transformer": torch_transformer, "lstm": torch_lstm, "resnet": torch_resnet}
    model = {**networks, "autoencoder": torch_autoencoder}[name](step.model)
    fill(model, step.model.state_dict())
    model = model.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(torch.optim, name, model.parameters())
    functional = torch.nn.functional

    def train() -> Any:
        x, y = torch.tensor(step.inputs), torch.tensor(step.targets)
        optimizer.zero_grad()
        if name in ("transformer", "lstm"):
            loss = functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        elif name == "resnet":
            loss = functional.cross_entropy(model(x.permute(0, 3, 1, 2)), y)
        else:
            logits = model(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            loss = functional.binary_cross_entropy_with_logits(logits, y)
        loss.backward()
        if name == "lstm":
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIPPED)
        optimizer.step()
        return loss

    return train


def fill(model: Any, weights: dict[str, Any]) -> None:
    """Our weights into PyTorch's network, whose modules are called as ours are."""
    import torch

    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            own = NAMES.get(name, name) if "Norm" in type(module).__name__ else name
            own = f"{path}.{own}".lstrip(".").replace("in_proj.", "in_proj_")
            value = weights[own].numpy()
            if value.ndim > 1 and type(module).__name__ in LAYOUTS:
                value = value.transpose(LAYOUTS[type(module).__name__])
            with torch.no_grad():
                parameter.copy_(torch.tensor(np.ascontiguousarray(value)))


def torch_transformer(ours: Any) -> Any:
    """By PyTorch's own attention and layers."""
    import torch
    from torch import nn

    features, sizes = ours.places.shape[1], SIZES["transformer"]

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_proj, self.out_proj = nn.Linear(features, 3 * features), nn.Linear(features, features)

        def forward(self, x: Any) -> Any:
            n, places, _ = x.shape
            q, k, v = self.in_proj(x).view(n, places, 3, sizes["heads"], -1).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out_proj(y.transpose(1, 2).reshape(x.shape))

    class TransformerBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attention, self.mlp_norm = nn.LayerNorm(features), Attention(), nn.LayerNorm(features)
            self.wide, self.narrow = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

        def forward(self, x: Any) -> Any:
            x = x + self.attention(self.norm(x))
            return x + self.narrow(nn.functional.gelu(self.wide(self.mlp_norm(x))))

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            characters = ours.characters.weight.shape[0]
            self.characters, self.places = (
                nn.Embedding(characters, features),
                nn.Parameter(torch.empty(ours.places.shape)),
            )
            self.blocks = nn.ModuleList([TransformerBlock() for _ in ours.blocks])
            self.norm, self.last = nn.LayerNorm(features), nn.Linear(features, characters)

        def forward(self, x: Any) -> Any:
            x = self.characters(x) + self.places
            for block in self.blocks:
                x = block(x)
            return self.last(self.norm(x))

    return Transformer()


def torch_lstm(ours: Any) -> Any:
    """Embedding, one layer, and characters again."""
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            (characters, features), units = ours.embedding.weight.shape, SIZES["lstm"]["units"]
            self.embedding, self.lstm = nn.Embedding(characters, features), nn.LSTM(features, units, batch_first=True)
            self.out = nn.Linear(units, characters)

        def forward(self, x: Any) -> Any:
            return self.out(self.lstm(self.embedding(x))[0])

    return Model()


def torch_resnet(ours: Any) -> Any:
    """The same layers by the same numbers."""
    from torch import nn

    class ResidualBlock(nn.Module):
        def __init__(self, block: Any) -> None:
            super().__init__()
            (_, _, before, channels), self.stride, self.added = block.conv1.weight.shape, block.stride, block.added
            self.conv1 = nn.Conv2d(before, channels, 3, stride=self.stride, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(channels)
            self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

        def forward(self, x: Any) -> Any:
            y = self.norm2(self.conv2(nn.functional.relu(self.norm1(self.conv1(x)))))
            x = x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x
            return nn.functional.relu(y + (nn.functional.pad(x, (0, 0, 0, 0, 0, self.added)) if self.added else x))

    first = ours[0].weight.shape[3]
    inner = [ResidualBlock(layer) for layer in list(ours)[3:-2]]
    ends = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(ours[-1].weight.shape[0], 10)
    return nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True), *inner, *ends
    )


def torch_autoencoder(ours: Any) -> Any:
    """The same layers, called the same; pixels are flattened channels last, as ours."""
    import torch
    from torch import nn

    code, channels = ours.encode.weight.shape[1], ours.down1.weight.shape[3]
    wide = 2 * channels

    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down1, self.norm1 = nn.Conv2d(1, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels)
            self.down2, self.norm2 = nn.Conv2d(channels, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide)
            self.encode, self.decode = nn.Linear(7 * 7 * wide, code), nn.Linear(code, 7 * 7 * wide)
            self.norm3, self.norm4 = nn.BatchNorm2d(wide), nn.BatchNorm2d(channels)
            self.up2 = nn.ConvTranspose2d(2 * wide, channels, 4, 2, 1, bias=False)
            self.up1 = nn.ConvTranspose2d(2 * channels, 1, 4, 2, 1)

        def forward(self, x: Any) -> Any:
            a = torch.relu(self.norm1(self.down1(x)))
            b = torch.relu(self.norm2(self.down2(a)))
            y = self.decode(self.encode(b.permute(0, 2, 3, 1).flatten(1)))
            y = torch.relu(self.norm3(y.view(-1, 7, 7, wide).permute(0, 3, 1, 2)))
            y = torch.relu(self.norm4(self.up2(torch.cat([y, b], 1))))
            return self.up1(torch.cat([y, a], 1))

    return Autoencoder()
