"""A residual network on CIFAR-10, beside the same network without its shortcuts.

Claim (He et al. 2016, "Deep residual learning for image recognition", section 4.2): a block that adds what it computes to what
came in is easier to train, the more so the deeper the network; plain networks get worse with depth, residual ones do not.

    python examples/cifar10_resnet.py            20 layers, 50,000 images, 20 epochs of each network: hours on two cores
    python examples/cifar10_resnet.py --quick    about a minute: 8 layers of few channels, 2,000 images, 3 epochs
    python examples/cifar10_resnet.py --help     blocks, width, images, epochs, learning rate, data, output, ...

As in the paper: three stages, images of 32, 16 and 8 pixels with 16, 32 and 64 channels (times `--width`), each of so many
blocks of two 3 x 3 convolutions with Batch Normalization; 6 blocks + 2 layers. Shortcuts have no parameters: where a stage
begins they take every second pixel, and zeros for the new channels. SGD with momentum 0.9, weight decay 1e-4, batches of 128,
images moved by up to 4 pixels and flipped. The learning rate falls along half a cosine. The same seed gives the same bits.
Measured results, and the time of a step beside PyTorch's, are in docs/results.
"""

import time
from pathlib import Path
from typing import Annotated

import typer
from cifar10_study import quick_option
from reporting import WITH_BN, WITHOUT_BN, machine, plt, save_figure, write_json, write_table

import minigrad as mg
from minigrad.data import Compose, Loader, Normalize, ShiftCrop, channel_statistics, load_cifar10

NAMES = {True: "residual", False: "plain"}
STYLES = {True: WITH_BN, False: WITHOUT_BN}
joined = mg.elementwise(lambda x, y: mg.where(x + y > 0, x + y, 0.0))  # relu(x + y) in one pass


class ResidualBlock(mg.nn.Module):
    """relu(x + f(x)), f two normalized convolutions; without its shortcut, relu(f(x))."""

    def __init__(self, before: int, channels: int, stride: int, shortcut: bool) -> None:
        options = {"bias": False, "weight_init": mg.nn.init.he_normal}
        self.stride, self.added, self.shortcut = stride, channels - before, shortcut
        self.conv1 = mg.nn.Conv2d(before, channels, 3, stride=stride, padding=1, **options)
        self.norm1 = mg.nn.BatchNorm(channels)
        self.conv2 = mg.nn.Conv2d(channels, channels, 3, padding=1, **options)
        self.norm2 = mg.nn.BatchNorm(channels)

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        """(N, H, W, before) to (N, H / stride, W / stride, channels)."""
        y = self.norm2(self.conv2(self.norm1(self.conv1(x), "relu")))
        if not self.shortcut:
            return mg.relu(y)
        if self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
        if self.added:
            x = mg.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.added)))
        return joined(x, y)


def network(blocks: int, width: float, shortcuts: bool = True) -> mg.nn.Sequential:
    """Three stages of blocks between a convolution and the mean over the image."""
    first, *_ = channels = [max(1, round(width * c)) for c in (16, 16, 32, 64)]
    convolution = mg.nn.Conv2d(3, first, 3, padding=1, bias=False, weight_init=mg.nn.init.he_normal)
    layers: list[mg.nn.Module] = [convolution, mg.nn.BatchNorm(first), mg.nn.ReLU()]
    for stage in (1, 2, 3):
        for n in range(blocks):
            begins = n == 0
            before, stride = channels[stage - begins], 2 if begins and stage > 1 else 1
            layers.append(ResidualBlock(before, channels[stage], stride, shortcuts))
    return mg.nn.Sequential(*layers, mg.nn.GlobalAvgPool(), mg.nn.Linear(channels[-1], 10))


def train(model: mg.nn.Module, data, epochs: int, batch: int, lr: float, seed: int) -> dict:
    """What each epoch came to."""
    scale = Normalize(*channel_statistics(data.train_images))
    moved = Compose(ShiftCrop(seed=seed), scale)
    loader = Loader(data.train_images, data.train_labels, batch_size=batch, seed=seed, transform=moved, prefetch=2)
    tests = Loader(data.test_images, data.test_labels, batch_size=250, shuffle=False, transform=scale)
    optimizer = mg.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    schedule = mg.optim.CosineSchedule(optimizer, epochs * len(loader))
    start = time.perf_counter()
    history = mg.train.fit(
        model, optimizer, loader, epochs=epochs, validation=tests, schedule=schedule, schedule_by="step"
    )
    columns = "loss", "accuracy", "validation_loss", "validation_accuracy", "images_per_second"
    return {name: history.column(name) for name in columns} | {"seconds": time.perf_counter() - start}


def draw(found: dict[str, dict], path: Path) -> None:
    """Accuracy on training and test images over the epochs."""
    figure, panels = plt.subplots(1, 2, figsize=(7.5, 3), sharey=True, layout="constrained")
    for axes, key, title in zip(panels, ("accuracy", "validation_accuracy"), ("training", "test"), strict=True):
        for shortcuts, name in NAMES.items():
            accuracies = found[name][key]
            axes.plot(range(1, len(accuracies) + 1), [100 * a for a in accuracies], **STYLES[shortcuts], label=name)
        axes.set(xlabel="epochs", title=title)
        axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    panels[0].set_ylabel("accuracy in %")
    panels[1].legend()
    save_figure(figure, path)


def main(
    blocks: Annotated[int, typer.Option(min=1, help="Of each of the three stages.")] = 3,
    width: Annotated[float, typer.Option(help="Multiplies the numbers of channels.")] = 1.0,
    images: Annotated[int, typer.Option(min=2, help="Training images, the first of the set.")] = 50_000,
    test_images: Annotated[int, typer.Option(min=1, help="Test images, the first of the set.")] = 10_000,
    epochs: Annotated[int, typer.Option(min=1, help="Of each network.")] = 20,
    batch: Annotated[int, typer.Option(min=2, help="Images in a training step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="The first.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, shuffling and augmentation.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the binary CIFAR-10; else $MINIGRAD_DATA.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of what is written.")] = Path("runs/cifar10_resnet"),
    quick: Annotated[
        bool, quick_option(blocks=1, width=0.5, images=2_000, test_images=1_000, epochs=3, batch=50)
    ] = False,
) -> None:
    """Train both networks, write figure, table and numbers."""
    if threads is not None:
        mg.set_num_threads(threads)
    cifar10 = load_cifar10(data)
    cifar10 = cifar10._replace(
        train_images=cifar10.train_images[:images], train_labels=cifar10.train_labels[:images],
        test_images=cifar10.test_images[:test_images], test_labels=cifar10.test_labels[:test_images],
    )  # fmt: skip
    found = {}
    for shortcuts, name in NAMES.items():
        mg.manual_seed(seed)
        model = network(blocks, width, shortcuts)
        found[name] = train(model, cifar10, epochs, batch, learning_rate, seed)
    parameters = sum(p.size for p in model.parameters())
    configuration = {
        "blocks": blocks, "width": width, "images": images, "test_images": test_images, "epochs": epochs, "batch": batch,
        "learning_rate": learning_rate, "seed": seed, "layers": 6 * blocks + 2, "parameters": parameters,
    }  # fmt: skip
    draw(found, output / "accuracy.png")
    record = {"configuration": configuration, "versions": mg.checkpoint.versions(), "machine": machine()}
    write_json(output / "results.json", {**record, "networks": found})
    rows = [
        [name, *[f"{100 * run[key][-1]:.1f}" for key in ("accuracy", "validation_accuracy")], f"{run['seconds']:.0f}"]
        for name, run in found.items()
    ]
    title = (
        f"{6 * blocks + 2} layers, {parameters:,} parameters: accuracy in % after {epochs} epochs of {images:,} images"
    )
    write_table(output / "table.md", title, ["network", "training", "test", "seconds"], rows)
    print(f"results.json, table.md and accuracy.png are in {output}")


if __name__ == "__main__":
    typer.run(main)
