"""Accuracy and time of a small Inception on CIFAR-10 over the batch size, with and without Batch Normalization.

Claim (Kiefer, study of Batch Normalization on CIFAR-10, slides of 8 January 2020): with BN the accuracy falls from 92 % at
batch 5 to 87 % at batch 250, without BN from 85 % to 66 %; small batches take longer, and BN makes them longer still (223
minutes against 124 at batch 5, 43 against 34 at batch 250).

    python examples/sweep_batch_size.py            the study's setting: 10 networks of width 1, 30 epochs each
    python examples/sweep_batch_size.py --quick    about a minute: narrow, few images, three epochs
    python examples/sweep_batch_size.py --batch 50 --batch 250    these sizes alone
    python examples/sweep_batch_size.py --help     width, images, epochs, learning rate, augmentation, folders, ...

All else is as in cifar10_inception.py, the learning rate 0.01 for every size. The accuracy is the best of all epochs. The
minutes are those of the training steps, with the waiting for their batches: validation, checkpoints, and the first step, in
which kernels may be compiled, are not in it, and the parts of a run that was ended and started again add up. To compare
times, let the machine do nothing else.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cifar10_study as study
import typer
from reporting import WITH_BN, WITHOUT_BN, plt, save_figure

SIZES = [5, 10, 50, 100, 250]
STUDY = {
    "BN": dict(zip(SIZES, (92, 92, 91, 90, 87), strict=True)),
    "no BN": dict(zip(SIZES, (85, 87, 84, 79, 66), strict=True)),
}  # best validation accuracy, percent
STUDY_MINUTES = {
    "BN": dict(zip(SIZES, (223, 173, 54, 46, 43), strict=True)),
    "no BN": dict(zip(SIZES, (124, 78, 43, 37, 34), strict=True)),
}


def title(kind: str, size: int) -> str:
    """A network's name."""
    return f"{kind}, batch {size}"


def minutes(result: dict) -> float | None:
    """Of its training steps; None if it did not train to the end, or not for two steps."""
    seconds = result["training_seconds"]
    return None if result["diverged"] or seconds is None else seconds / 60


def draw(results: dict, sizes: list[int], path: Path) -> None:
    """Best validation accuracy and minutes over the batch size."""
    figure, (accuracy, times) = plt.subplots(1, 2, figsize=(7.5, 3), layout="constrained")
    for kind, style in (("BN", WITH_BN), ("no BN", WITHOUT_BN)):
        found = [results[title(kind, size)] for size in sizes]
        done = [(size, r) for size, r in zip(sizes, found, strict=True) if not r["diverged"]]
        accuracy.plot(
            [size for size, _ in done], [r["best_validation_accuracy"] for _, r in done], "o", **style, label=kind
        )
        timed = [(size, minutes(r)) for size, r in done if minutes(r) is not None]
        times.plot([size for size, _ in timed], [m for _, m in timed], "o", **style, label=kind)
    accuracy.set(ylim=(0, 1), ylabel="best validation accuracy")
    times.set(ylim=(0, 1.1 * times.get_ylim()[1]), ylabel="minutes of training")
    for axes in (accuracy, times):
        axes.set(xscale="log", xlabel="batch size")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
    times.legend()
    save_figure(figure, path)


@study.experiment(
    "runs/sweep_batch_size",
    quick={"width": 0.125, "images": 1_000, "test_images": 500, "epochs": 3, "bn_decay": 0.9},
)
def main(
    run: study.Experiment,
    batch: Annotated[list[int], typer.Option(min=1, help="Images in a step; give it once for each size.")] = SIZES,
) -> None:
    """Train a network with BN and one without at each batch size."""
    sizes = sorted(set(batch))
    networks = {
        title(kind, size): replace(run.network, batch=size, batch_norm=kind == "BN")
        for size in sizes
        for kind in ("BN", "no BN")
    }
    results = run.train(networks)

    run.write_results(results)
    rows = []
    for size in sizes:
        row = [str(size)]
        for kind in ("BN", "no BN"):
            row.append(study.percent(results[title(kind, size)], "best_validation_accuracy", STUDY[kind].get(size)))
        for kind in ("BN", "no BN"):
            took, study_took = minutes(results[title(kind, size)]), STUDY_MINUTES[kind].get(size)
            row.append(("-" if took is None else f"{took:.2f}") + (f" ({study_took})" if study_took else ""))
        rows.append(row)
    epochs, images = run.network.epochs, run.network.images
    heading = f"Best validation accuracy and minutes; epochs: {epochs}, images: {images:,} (the study's: 30, 50,000)"
    columns = ("batch size", "BN, %", "no BN, %", "BN, minutes", "no BN, minutes")
    run.write_table("table.md", heading, columns, rows)
    draw(results, sizes, run.path("accuracy_and_time.png"))


if __name__ == "__main__":
    typer.run(main)
