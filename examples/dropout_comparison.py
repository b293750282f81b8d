"""Batch Normalization against Dropout on few images: a small Inception on a part of CIFAR-10, trained until it overfits.

Claim (Kiefer, study of Batch Normalization on CIFAR-10, slides of 8 January 2020): of a smaller model trained for 50 epochs
on fewer images the final validation accuracy is 34 % without BN, 32 % with Dropout of 50 %, and 30 % with BN, whose weights
of lowest validation loss are the fourth case. That BN wins here is not claimed.

    python examples/dropout_comparison.py            width 0.25, 10,000 images, 50 epochs of batch 250
    python examples/dropout_comparison.py --quick    about a minute: few images, few epochs
    python examples/dropout_comparison.py --seeds 3  each network three times; the table has mean and standard deviation
    python examples/dropout_comparison.py --help     width, images, epochs, batch, learning rate, augmentation, folders, ...

The study does not say which model and how many images it took, so model and images are ours; no augmentation, as overfitting
is the subject. SGD with momentum 0.9, the learning rate falling to a tenth after 19 and 39 epochs; BN with a shift only.
Dropout is before the last layer, whose networks begin with the same weights. The validation set that the lowest loss is
chosen by is the test set, so that the fourth row flatters itself. The same seed gives the same bits, and a run that was
ended goes on when the same command is started again.
"""

from dataclasses import replace
from pathlib import Path

import cifar10_study as study
import typer
from cifar10_network import Network, test_loader
from reporting import WITH_BN, WITHOUT_BN, plt, save_figure

import minigrad as mg

DROPOUT = "no BN, Dropout 50 %"
LOWEST = "BN, lowest validation loss"
STUDY = {"no BN": 34, DROPOUT: 32, "BN": 30}  # final validation accuracy, percent
STYLES = {"no BN": WITHOUT_BN, DROPOUT: {"color": "tab:orange", "linestyle": "-."}, "BN": WITH_BN}


def draw(results: dict, lowest: dict | None, path: Path) -> None:
    """Validation accuracy and loss over the epochs, a line for each seed; a dot where BN's loss is lowest with the first."""
    figure, panels = plt.subplots(1, 2, figsize=(7.5, 3), layout="constrained")
    for axes, key in zip(panels, ("accuracy", "loss"), strict=True):
        for name, style in STYLES.items():
            for i, result in enumerate(study.of_seeds(results, name)):
                rows = [row for row in result["epochs"] if row[f"validation_{key}"] is not None]
                label = None if i else name
                axes.plot([r["epoch"] for r in rows], [r[f"validation_{key}"] for r in rows], **style, label=label)
        if lowest:
            axes.plot(lowest["epoch"], lowest[f"validation_{key}"], "o", color=WITH_BN["color"], label=LOWEST)
        axes.set(xlabel="epochs", ylabel=f"validation {key}")
        axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    panels[0].set_ylim(0, 1)
    panels[0].legend()
    panels[1].set_yscale("log")
    save_figure(figure, path)


def lowest_loss(network: Network, result: dict, data: mg.data.CIFAR10, output: Path) -> dict | None:
    """Epoch, loss and accuracy of the BN network with the weights of its lowest validation loss; None if it has none."""
    losses = [(row["validation_loss"], row["epoch"]) for row in result["epochs"] if row["validation_loss"] is not None]
    if not losses:
        return None
    model = study.load_weights(network, output, "BN", "best")
    measured = mg.train.evaluate(model, test_loader(data))
    return {"epoch": min(losses)[1], "validation_loss": measured["loss"], "validation_accuracy": measured["accuracy"]}


@study.experiment(
    "runs/dropout_comparison",
    quick={"images": 1_000, "test_images": 500, "epochs": 8, "batch": 50, "lr": 0.02, "bn_decay": 0.9},
    width=0.25,
    images=10_000,
    epochs=50,
    drop_every=20,
    augment=False,
)
def main(run: study.Experiment, seeds: study.Seeds = 1) -> None:
    """Train the three networks, and look at the best weights of the one with BN."""
    networks = {
        "no BN": replace(run.network, batch_norm=False),
        DROPOUT: replace(run.network, batch_norm=False, dropout=0.5),
        "BN": run.network,
    }
    results = run.train(study.seeded(networks, seeds), keep={"BN": "best"})
    lowest = lowest_loss(run.network, results["BN"], run.data, run.output)

    run.write_results(results, lowest_validation_loss=lowest)
    rows = [
        (
            name,
            study.mean_percent(study.of_seeds(results, name), "validation_accuracy", STUDY[name]),
            study.mean_percent(study.of_seeds(results, name), "best_validation_accuracy"),
            study.mean_percent(study.of_seeds(results, name), "training_accuracy"),
        )
        for name in networks
    ]
    if lowest:
        rows.append((f"{LOWEST} (epoch {lowest['epoch']})", f"{100 * lowest['validation_accuracy']:.1f}", "", ""))
    heading = (
        f"Accuracy in % after {run.network.epochs} epochs, seeds: {seeds} (in brackets the study's, of another model)"
    )
    run.write_table("table.md", heading, ("network", "validation", "best validation", "training"), rows)
    draw(results, lowest, run.path("validation.png"))


if __name__ == "__main__":
    typer.run(main)
