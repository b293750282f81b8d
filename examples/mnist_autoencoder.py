"""A denoising autoencoder on MNIST, without and with skip connections around its narrow middle.

Claim (Vincent et al. 2008; the skips are those of Ronneberger et al. 2015, "U-Net"): trained to give the clean image for a
noisy one, a network that has to pass it through a few numbers learns what digits look like. What does not fit through
these is lost; connections from each layer of the encoder to its counterpart in the decoder carry it past them.

    python examples/mnist_autoencoder.py            codes of 16 numbers, 60,000 images, 3 epochs of each network: minutes
    python examples/mnist_autoencoder.py --help     code, noise, images, epochs, learning rate, seed, output folder

The encoder is two convolutions of stride 2 and a dense layer, 28 x 28 pixels to 14 x 14 and 7 x 7 and the code, the decoder a
dense layer and two transposed convolutions, each but the last normalized. The images are the binary ones that the package
carries; the noise turns each pixel round with a probability of 20 %, and is drawn in the captured step, anew in each replay
(`mg.random`). The loss is the mean cross-entropy of a pixel, in nats. The same seed gives the same bits. Measured results, and
the time of a step beside PyTorch's, are in docs/results.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from reporting import WITH_BN, WITHOUT_BN, machine, plt, save_figure, write_json, write_table

import minigrad as mg
from minigrad.data import Loader, load_binary_mnist

NAMES = {False: "no skips", True: "skips"}
BATCH = 100


class Autoencoder(mg.nn.Module):
    """Images (N, 28, 28, 1) to the logits of their pixels, by a code of so many numbers."""

    def __init__(self, code: int, skips: bool, channels: int = 16) -> None:
        wide, both = 2 * channels, 2 if skips else 1
        self.skips = skips
        halved, doubled = {"stride": 2, "padding": 1, "bias": False}, {"stride": 2, "padding": 1}
        self.down1, self.norm1 = mg.nn.Conv2d(1, channels, 3, **halved), mg.nn.BatchNorm(channels)
        self.down2, self.norm2 = mg.nn.Conv2d(channels, wide, 3, **halved), mg.nn.BatchNorm(wide)
        self.encode, self.decode = mg.nn.Linear(7 * 7 * wide, code), mg.nn.Linear(code, 7 * 7 * wide)
        self.norm3 = mg.nn.BatchNorm(wide)
        self.up2 = mg.nn.ConvTranspose2d(both * wide, channels, 4, **halved)  # its windows overlap alike everywhere
        self.norm4 = mg.nn.BatchNorm(channels)
        self.up1 = mg.nn.ConvTranspose2d(both * channels, 1, 4, **doubled)

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        """The logits."""
        a = self.norm1(self.down1(x), "relu")
        b = self.norm2(self.down2(a), "relu")
        y = self.norm3(self.decode(self.encode(mg.flatten(b, 1))).reshape(b.shape), "relu")
        y = self.norm4(self.up2(mg.concat([y, b], axis=3) if self.skips else y), "relu")
        return self.up1(mg.concat([y, a], axis=3) if self.skips else y)


def noisy(images: mg.Tensor, noise: float) -> mg.Tensor:
    """Each pixel turned round with this probability."""
    return mg.where(mg.random.bernoulli(images.shape, noise), 1 - images, images)


def restored(model: mg.nn.Module, images: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray, float]:
    """(noisy images, what the network makes of them, its loss), by the statistics of inference and always the same noise."""
    turned = np.random.default_rng(0).random(images.shape) < noise
    given = np.where(turned, 1 - images, images)
    logits = mg.train.predict(model, given)
    loss = mg.binary_cross_entropy_with_logits(mg.tensor(logits), mg.tensor(images)).item()
    return given, 1 / (1 + np.exp(-logits)), loss


def train(model: Autoencoder, images, tests, noise: float, epochs: int, lr: float, seed: int) -> dict:
    """Of each epoch the mean loss of its steps, and that of the test images after it."""
    optimizer = mg.optim.Adam(model.parameters(), lr=lr)
    loader = Loader(images, batch_size=BATCH, seed=seed, drop_last=True)

    @mg.capture
    def step(images):
        optimizer.zero_grad()
        loss = mg.binary_cross_entropy_with_logits(model(noisy(images, noise)), images)
        loss.backward()
        optimizer.step()
        return loss

    found: dict = {"loss": [], "test_loss": [], "seconds": 0.0}
    for _ in range(epochs):
        start = time.perf_counter()
        found["loss"].append(float(np.mean([step(*batch).item() for batch in loader.steps(len(loader))])))
        found["seconds"] += time.perf_counter() - start
        found["test_loss"].append(restored(model, tests, noise)[2])
        model.train()
        print(f"{NAMES[model.skips]}: test loss {found['test_loss'][-1]:.4f}", flush=True)
    return found


def draw(rows: list[tuple[str, np.ndarray]], found: dict[str, dict], path: Path) -> None:
    """Rows of images, and beside them the test loss over the epochs."""
    figure, (left, axes) = plt.subplots(1, 2, figsize=(9, 3), width_ratios=[2, 1], layout="constrained")
    picture = np.concatenate([np.concatenate(list(images[..., 0]), axis=1) for _, images in rows])
    left.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
    left.set(xticks=[], yticks=[28 * i + 14 for i in range(len(rows))], yticklabels=[name for name, _ in rows])
    for (name, of_name), style in zip(found.items(), (WITHOUT_BN, WITH_BN), strict=True):
        axes.plot(range(1, len(of_name["test_loss"]) + 1), of_name["test_loss"], **style, label=name)
    axes.set(xlabel="epochs", ylabel="test loss")
    axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    axes.legend()
    save_figure(figure, path)


def main(
    code: Annotated[int, typer.Option(min=1, help="Numbers in the middle.")] = 16,
    noise: Annotated[float, typer.Option(min=0, max=1, help="Probability that a pixel is turned round.")] = 0.2,
    images: Annotated[int, typer.Option(min=BATCH, help="Training images.")] = 60_000,
    test_images: Annotated[int, typer.Option(min=10, help="Test images.")] = 10_000,
    epochs: Annotated[int, typer.Option(min=1, help="Of each network.")] = 3,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 0.002,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, shuffling and noise.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of what is written.")] = Path("runs/mnist_autoencoder"),
) -> None:
    """Train both networks, write figure, table and numbers."""
    if threads is not None:
        mg.set_num_threads(threads)
    data = load_binary_mnist(dtype=np.float32)
    trains, tests = data.train_images[:images, ..., np.newaxis], data.test_images[:test_images, ..., np.newaxis]
    found, shown = {}, [("clean", tests[:10])]
    for skips, name in NAMES.items():
        mg.manual_seed(seed)
        model = Autoencoder(code, skips)
        found[name] = train(model, trains, tests, noise, epochs, learning_rate, seed)
        given, made, _ = restored(model, tests[:10], noise)
        shown += [("noisy", given)] * (not skips) + [(name, made)]
    draw(shown, found, output / "images.png")
    configuration = {
        "code": code, "noise": noise, "images": images, "test_images": test_images, "epochs": epochs, "batch": BATCH,
        "learning_rate": learning_rate, "seed": seed,
    }  # fmt: skip
    record = {"configuration": configuration, "versions": mg.checkpoint.versions(), "machine": machine()}
    write_json(output / "results.json", {**record, "networks": found})
    rows = [
        [name, *[f"{loss:.4f}" for loss in run["test_loss"]], f"{run['seconds']:.0f}"] for name, run in found.items()
    ]
    columns = ["network", *[f"epoch {n + 1}" for n in range(epochs)], "seconds"]
    write_table(output / "table.md", f"Test loss in nats a pixel, by codes of {code} numbers", columns, rows)
    print(f"results.json, table.md and images.png are in {output}")


if __name__ == "__main__":
    typer.run(main)
