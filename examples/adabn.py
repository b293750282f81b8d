"""AdaBN: a network trained on MNIST meets inverted, rotated and noisy digits, before and after new BN statistics.

Claim (Li et al. 2016, "Revisiting Batch Normalization for practical domain adaptation"): what a network has learnt of a
domain is in its weights, and what the domain looks like in the statistics of its BN layers. Estimated anew on unlabelled
images of another domain (Algorithm 2 of Ioffe & Szegedy 2015, `mg.nn.recompute_statistics`), they let it work there, without
labels and without training.

    python examples/adabn.py            3 seeds: minutes
    python examples/adabn.py --help     epochs, images, seeds, output folder

The unlabelled images are training images, changed like the test images: no test image is seen before it is classified.
Measured results are in docs/results.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from reporting import machine, plt, save_figure, write_json, write_table

import minigrad as mg
from minigrad.data import Loader, load_binary_mnist
from minigrad.data.augment import affine

BATCH = 100


def rotated(images: np.ndarray, degrees: float) -> np.ndarray:
    """About the centre."""
    angle, centre = np.deg2rad(degrees), (images.shape[1] - 1) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.hstack([turn, (centre - turn @ np.full(2, centre))[:, np.newaxis]])
    return affine(images, np.broadcast_to(matrix, (len(images), 2, 3)))


def noisy(images: np.ndarray, deviation: float) -> np.ndarray:
    """With normal noise on every pixel, the same for the same number of images."""
    return images + deviation * np.random.default_rng(len(images)).standard_normal(images.shape, np.float32)


DOMAINS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as trained": lambda images: images,
    "inverted": lambda images: 1 - images,
    "half the contrast": lambda images: 0.25 + 0.5 * images,
    "rotated by 30°": lambda images: rotated(images, 30),
    "rotated by 60°": lambda images: rotated(images, 60),
    "noise 0.5": lambda images: noisy(images, 0.5),
    "noise 1": lambda images: noisy(images, 1.0),
}


def network() -> mg.nn.Sequential:
    """Two convolutions and a dense layer, each normalized."""
    return mg.nn.Sequential(
        mg.nn.Conv2d(1, 16, 3, padding="same", bias=False), mg.nn.BatchNorm(16), mg.nn.ReLU(), mg.nn.MaxPool2d(2),
        mg.nn.Conv2d(16, 32, 3, padding="same", bias=False), mg.nn.BatchNorm(32), mg.nn.ReLU(), mg.nn.MaxPool2d(2),
        mg.nn.Flatten(), mg.nn.Linear(7 * 7 * 32, 100, bias=False), mg.nn.BatchNorm(100), mg.nn.ReLU(),
        mg.nn.Linear(100, 10),
    )  # fmt: skip


def trained(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> mg.nn.Sequential:
    """A network after so many epochs of Adam."""
    mg.manual_seed(seed)
    model = network()
    loader = Loader(images, labels, batch_size=BATCH, seed=seed, drop_last=True)
    mg.train.fit(
        model, mg.optim.Adam(model.parameters(), lr=0.001), loader, loss=mg.cross_entropy, epochs=epochs, progress=False
    )
    return model


def accuracy(model: mg.nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose largest logit is the label's."""
    return float((mg.train.predict(model, images).argmax(axis=1) == labels).mean())


def adapted(model: mg.nn.Module, images: np.ndarray) -> mg.nn.Module:
    """The model with BN statistics of these images, in place; they are of no use as a rest of a batch of one."""
    return mg.nn.recompute_statistics(model, (images[i : i + BATCH] for i in range(0, len(images) - 1, BATCH)))


def compare(data, epochs: int, unlabelled: int, seeds: int) -> dict[str, dict[str, list[float]]]:
    """Accuracy by domain, before and after, of a network for each seed."""
    found = {name: {"before": [], "after": []} for name in DOMAINS}
    for seed in range(seeds):
        start = time.perf_counter()
        model = trained(data.train_images, data.train_labels, epochs, seed)
        weights = model.state_dict()
        for name, change in DOMAINS.items():
            model.load_state_dict(weights)
            tests = change(data.test_images)
            found[name]["before"].append(accuracy(model, tests, data.test_labels))
            adapted(model, change(data.train_images[:unlabelled]))
            found[name]["after"].append(accuracy(model, tests, data.test_labels))
        print(f"seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    return found


def draw(found: dict[str, dict[str, list[float]]], images: np.ndarray, path: Path) -> None:
    """A digit of each domain, and below it the two accuracies."""
    figure, (digits, bars) = plt.subplots(2, len(found), figsize=(8, 3), layout="constrained", sharey="row")
    for digit, bar, (name, of_domain) in zip(digits, bars, found.items(), strict=True):
        digit.imshow(DOMAINS[name](images[:1])[0, ..., 0], cmap="gray_r", vmin=0, vmax=1)
        digit.set_axis_off()
        digit.set_title(name, fontsize=8)
        means = [100 * float(np.mean(of_domain[when])) for when in ("before", "after")]
        bar.bar(["before", "after"], means, color=["black", "tab:blue"])
    bars[0].set(ylabel="test accuracy in %", ylim=(0, 100))
    save_figure(figure, path)


def rows(found: dict[str, dict[str, list[float]]]) -> list[list[str]]:
    """Of each domain mean and standard deviation over the seeds."""

    def text(values: list[float]) -> str:
        return f"{100 * np.mean(values):.1f}" + (f" ± {100 * np.std(values):.1f}" if len(values) > 1 else "")

    return [[name, text(of_domain["before"]), text(of_domain["after"])] for name, of_domain in found.items()]


def main(
    epochs: Annotated[int, typer.Option(min=1, help="Of training.")] = 3,
    images: Annotated[int, typer.Option(min=BATCH, help="Training images.")] = 60_000,
    test_images: Annotated[int, typer.Option(min=1, help="Test images.")] = 10_000,
    unlabelled: Annotated[int, typer.Option(min=2, help="Images of the new domain for the statistics.")] = 10_000,
    seeds: Annotated[int, typer.Option(min=1, help="Networks, with seeds 0, 1, ...")] = 3,
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of what is written.")] = Path("runs/adabn"),
) -> None:
    """Train, adapt, and write figure, table and numbers."""
    if threads is not None:
        mg.set_num_threads(threads)
    data = load_binary_mnist(dtype=np.float32)
    data = data._replace(
        train_images=data.train_images[:images, ..., np.newaxis], train_labels=data.train_labels[:images],
        test_images=data.test_images[:test_images, ..., np.newaxis], test_labels=data.test_labels[:test_images],
    )  # fmt: skip
    found = compare(data, epochs, unlabelled, seeds)
    output.mkdir(parents=True, exist_ok=True)
    draw(found, data.test_images, output / "accuracy.png")
    configuration = {
        "epochs": epochs,
        "images": images,
        "test_images": test_images,
        "unlabelled": unlabelled,
        "seeds": seeds,
    }
    record = {"configuration": configuration, "versions": mg.checkpoint.versions(), "machine": machine()}
    write_json(output / "results.json", {**record, "accuracy": found})
    title = f"Test accuracy in %, {seeds} networks; statistics of {unlabelled:,} unlabelled images"
    write_table(
        output / "table.md", title, ["images", "statistics of training", "statistics of the domain"], rows(found)
    )
    print(f"results.json, table.md and accuracy.png are in {output}")


if __name__ == "__main__":
    typer.run(main)
