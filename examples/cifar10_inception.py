"""The main run of Kiefer's study: a small Inception on CIFAR-10, with and without Batch Normalization.

Claim (Kiefer, study of Batch Normalization on CIFAR-10, slides of 8 January 2020): trained alike for 30 epochs, the
network with BN classifies 94 % of the training images and 87 % of the validation images, the network without BN 66 % of
both.

    python examples/cifar10_inception.py            the study's setting: width 1, 50,000 images, 30 epochs of batch 250
    python examples/cifar10_inception.py --quick    about a minute: narrow, few images, few epochs
    python examples/cifar10_inception.py --help     width, images, epochs, batch, learning rate, augmentation, folders, ...

SGD with momentum 0.9; the learning rate 0.01 falls to a tenth after 9, 19 and 29 epochs; weights Glorot uniform; BN with
a shift only, decay 0.99, eps 1e-3; images zoomed, sheared and flipped at random; no weight decay. As in the study the test
set is the validation set. Both networks begin with the same weights and see the same batches. The same seed gives the same
bits. A run that was ended, by whatever, goes on when the same command is started again.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cifar10_study as study
import typer
from reporting import WITH_BN, WITHOUT_BN, plt, save_figure, write_table

import minigrad as mg

STUDY = {"BN": (94, 87), "no BN": (66, 66)}  # training and validation accuracy, percent


def draw(results: dict, path: Path) -> None:
    """Training and validation accuracy over the epochs."""
    figure, panels = plt.subplots(1, 2, figsize=(7.5, 3), sharey=True, layout="constrained")
    for axes, key, title in zip(panels, ("accuracy", "validation_accuracy"), ("training", "validation"), strict=True):
        for name, style in (("BN", WITH_BN), ("no BN", WITHOUT_BN)):
            rows = results[name]["epochs"]
            axes.plot([row["epoch"] for row in rows], [row[key] for row in rows], **style, label=name)
        axes.set(ylim=(0, 1), xlabel="epochs", title=title)
        axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    panels[0].set_ylabel("accuracy")
    panels[1].legend()
    save_figure(figure, path)


def main(
    data: study.DataFolder = None,
    output: study.Output = Path("runs/cifar10_inception"),
    width: study.Width = 1.0,
    images: study.Images = 50_000,
    test_images: study.TestImages = 10_000,
    epochs: study.Epochs = 30,
    batch: study.Batch = 250,
    lr: study.LearningRate = 0.01,
    drop_every: study.DropEvery = 10,
    augment: study.Augment = True,
    gamma: study.Gamma = False,
    bn_decay: study.BNDecay = 0.99,
    seed: study.Seed = 0,
    device: study.Device = "cpu",
    threads: study.Threads = None,
    quick: Annotated[
        bool, study.quick_option(width=0.25, images=2_000, test_images=1_000, epochs=5, batch=50, bn_decay=0.9)
    ] = False,
) -> None:
    """Train both networks and draw their accuracies."""
    if threads is not None:
        mg.set_num_threads(threads)
    base = study.Network(
        width=width, gamma=gamma, bn_decay=bn_decay, images=images, test_images=test_images, augment=augment,
        epochs=epochs, batch=batch, lr=lr, drop_every=drop_every, seed=seed, device=device,
    )  # fmt: skip
    networks = {"BN": base, "no BN": replace(base, batch_norm=False)}
    results = study.train_all(networks, study.load_data(data, images, test_images), output)

    study.write_results(output, results)
    draw(results, output / "accuracy.png")
    rows = [
        (
            name,
            study.percent(result, "training_accuracy", STUDY[name][0]),
            study.percent(result, "validation_accuracy", STUDY[name][1]),
            study.percent(result, "best_validation_accuracy"),
        )
        for name, result in results.items()
    ]
    columns = ("network", "training", "validation", "best validation")
    write_table(output / "table.md", f"Accuracy in % after {epochs} epochs (the study's after 30)", columns, rows)
    print(f"results.json, table.md and accuracy.png are in {output}")


if __name__ == "__main__":
    typer.run(main)
