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

import cifar10_study as study
import typer
from reporting import WITH_BN, WITHOUT_BN, plt, save_figure

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


@study.experiment(
    "runs/cifar10_inception",
    quick={"width": 0.25, "images": 2_000, "test_images": 1_000, "epochs": 5, "batch": 50, "bn_decay": 0.9},
)
def main(run: study.Experiment) -> None:
    """Train both networks and draw their accuracies."""
    results = run.train({"BN": run.network, "no BN": replace(run.network, batch_norm=False)})

    run.write_results(results)
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
    run.write_table(
        "table.md", f"Accuracy in % after {run.network.epochs} epochs (the study's after 30)", columns, rows
    )
    draw(results, run.path("accuracy.png"))


if __name__ == "__main__":
    typer.run(main)
