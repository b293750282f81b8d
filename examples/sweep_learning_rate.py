"""The learning rates that a small Inception on CIFAR-10 can be trained with, with and without Batch Normalization.

Claim (Kiefer, study of Batch Normalization on CIFAR-10, slides of 8 January 2020): with BN the network learns at every
initial rate from 1e-5 to 1 and best at 0.1 (92 %); without BN it learns at 0.01 alone (66 %).

    python examples/sweep_learning_rate.py            the study's setting: 14 networks of width 1, 30 epochs each
    python examples/sweep_learning_rate.py --quick    about a minute: narrow, few images, two epochs
    python examples/sweep_learning_rate.py --lr 0.01 --lr 0.1    these rates alone
    python examples/sweep_learning_rate.py --seeds 3  each network three times; the table has mean and standard deviation
    python examples/sweep_learning_rate.py --help     width, images, epochs, batch, augmentation, folders, ...

All else is as in cifar10_inception.py: SGD with momentum 0.9, the rate falling to a tenth after 9, 19 and 29 epochs, batch
250. The number is the accuracy on the validation set after the last epoch; with BN by the statistics that Algorithm 2 takes
of the trained network, since running averages may not have arrived. A network whose loss becomes infinite or NaN has diverged;
the table says so, and the sweep goes on. All networks of a seed begin with the same weights, the same seed gives the same bits,
and a run that was ended goes on when the same command is started again.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cifar10_study as study
import numpy as np
import typer
from reporting import WITH_BN, WITHOUT_BN, plt, save_figure

RATES = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
STUDY = {
    "BN": dict(zip(RATES, (31, 49, 72, 87, 92, 70, 10), strict=True)),
    "no BN": dict(zip(RATES, (10, 10, 10, 66, 10, 10, 10), strict=True)),
}  # best validation accuracy, percent
CHANCE = 0.1


def title(kind: str, rate: float) -> str:
    """A network's name."""
    return f"{kind}, learning rate {rate:g}"


def draw(results: dict, rates: list[float], path: Path) -> None:
    """Accuracy over the initial learning rate, a dot for each seed; a cross at chance for a network that diverged."""
    figure, axes = plt.subplots(figsize=(4.5, 3), layout="constrained")
    for kind, style in (("BN", WITH_BN), ("no BN", WITHOUT_BN)):
        means = []
        for rate in rates:
            found = study.of_seeds(results, title(kind, rate))
            heights = [CHANCE if r["diverged"] else r["final_accuracy"] for r in found]
            for height, result in zip(heights, found, strict=True):
                axes.plot(rate, height, "x" if result["diverged"] else "o", markersize=4, color=style["color"])
            means.append(np.mean(heights))
        axes.plot(rates, means, **style, label=kind)
    axes.set(xscale="log", ylim=(0, 1), xlabel="initial learning rate", ylabel="validation accuracy")
    if any(result["diverged"] for result in results.values()):
        axes.plot([], [], "x", color="gray", label="diverged")
    axes.legend(loc="upper left")
    save_figure(figure, path)


@study.experiment(
    "runs/sweep_learning_rate",
    quick={"width": 0.125, "images": 1_000, "test_images": 500, "epochs": 2, "batch": 50, "bn_decay": 0.9},
)
def main(
    run: study.Experiment,
    lr: Annotated[list[float], typer.Option(min=0, help="An initial rate; give it once for each.")] = RATES,
    seeds: study.Seeds = 1,
) -> None:
    """Train a network with BN and one without at each rate."""
    rates = sorted(set(lr))
    networks = {
        title(kind, rate): replace(run.network, lr=rate, batch_norm=kind == "BN")
        for rate in rates
        for kind in ("BN", "no BN")
    }
    results = run.train(study.seeded(networks, seeds))

    run.write_results(results)
    rows = [
        (
            f"{rate:g}",
            *[
                study.mean_percent(study.of_seeds(results, title(kind, rate)), "final_accuracy", STUDY[kind].get(rate))
                for kind in ("BN", "no BN")
            ],
        )
        for rate in rates
    ]
    heading = f"Validation accuracy in %; epochs: {run.network.epochs}, seeds: {seeds} (the study's best of 30 epochs)"
    run.write_table("table.md", heading, ("initial learning rate", "BN", "no BN"), rows)
    draw(results, rates, run.path("accuracy.png"))


if __name__ == "__main__":
    typer.run(main)
