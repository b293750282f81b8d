"""Accuracy and time of a small Inception on CIFAR-10 over the batch size, with and without Batch Normalization.

Claim (Kiefer, study of Batch Normalization on CIFAR-10, slides of 8 January 2020): with BN the accuracy falls from 92 % at
batch 5 to 87 % at batch 250, without BN from 85 % to 66 %; small batches take longer, and BN makes them longer still (223
minutes against 124 at batch 5, 43 against 34 at batch 250).

    python examples/sweep_batch_size.py            the study's setting: 10 networks of width 1, 30 epochs each
    python examples/sweep_batch_size.py --quick    about a minute: narrow, few images, three epochs
    python examples/sweep_batch_size.py --batch 50 --batch 250    these sizes alone
    python examples/sweep_batch_size.py --seeds 3  each network three times; the table has mean and standard deviation
    python examples/sweep_batch_size.py --times    the time of a step at each size, and no training: for an idle machine
    python examples/sweep_batch_size.py --help     width, images, epochs, learning rate, augmentation, folders, ...

All else is as in cifar10_inception.py, the learning rate 0.01 for every size. The accuracy is that after the last epoch; with
BN by the statistics that Algorithm 2 takes of the trained network, which serve all sizes alike, where running averages of few
large batches have not arrived. A time is the median of steps measured in turn for all networks, on batches that are there
already: augmentation, validation and compiling are not in it.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cifar10_study as study
import numpy as np
import typer
from cifar10_network import Network, build
from reporting import WITH_BN, WITHOUT_BN, plt, save_figure

import minigrad as mg

SIZES = [5, 10, 50, 100, 250]
STUDY = {
    "BN": dict(zip(SIZES, (92, 92, 91, 90, 87), strict=True)),
    "no BN": dict(zip(SIZES, (85, 87, 84, 79, 66), strict=True)),
}  # best validation accuracy, percent
STUDY_MINUTES = {
    "BN": dict(zip(SIZES, (223, 173, 54, 46, 43), strict=True)),
    "no BN": dict(zip(SIZES, (124, 78, 43, 37, 34), strict=True)),
}
KINDS = {"BN": WITH_BN, "no BN": WITHOUT_BN}
ROUNDS = 9  # of the times, which are medians
IMAGES_A_ROUND = 250


def title(kind: str, size: int) -> str:
    """A network's name."""
    return f"{kind}, batch {size}"


class Steps:
    """Training steps of a network on one batch of noise."""

    def __init__(self, network: Network) -> None:
        self.model = build(network)
        self.optimizer = mg.optim.SGD(self.model.parameters(), network.lr, network.momentum)
        rng = np.random.default_rng(network.seed)
        self.images = mg.tensor(rng.random((network.batch, 32, 32, 3), np.float32), device=network.device)
        self.labels = mg.tensor(rng.integers(0, 10, network.batch), device=network.device)
        self.count = max(1, IMAGES_A_ROUND // network.batch)
        self.step = mg.capture(self.train)

    def train(self, images: mg.Tensor, labels: mg.Tensor) -> mg.Tensor:
        """One step."""
        self.optimizer.zero_grad()
        loss = mg.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        return loss

    def seconds(self) -> float:
        """Of a step, as the mean of some."""
        began = time.perf_counter()
        for _ in range(self.count):
            loss = self.step(self.images, self.labels)
        loss.numpy()  # of which a GPU has to be done
        return (time.perf_counter() - began) / self.count


def measure(networks: dict[str, Network]) -> dict[str, float]:
    """Seconds of a training step of each network; median of rounds, in each of which every network has its turn."""
    steps = {name: Steps(network) for name, network in networks.items()}
    for each in steps.values():
        each.seconds()  # compiles and records
    rounds = [{name: each.seconds() for name, each in steps.items()} for _ in range(ROUNDS)]
    return {name: float(np.median([took[name] for took in rounds])) for name in networks}


def draw(curves: dict[str, dict[int, list[float]]], label: str, path: Path) -> None:
    """Numbers over the batch size: a dot for each, and a line through the means."""
    figure, axes = plt.subplots(figsize=(4, 3), layout="constrained")
    for kind, values in curves.items():
        for size, found in values.items():
            axes.plot([size] * len(found), found, "o", markersize=4, color=KINDS[kind]["color"])
        means = {size: np.mean(found) for size, found in values.items() if found}
        axes.plot(list(means), list(means.values()), **KINDS[kind], label=kind)
    sizes = list(curves["BN"])
    axes.set(xscale="log", xlabel="batch size", ylabel=label, ylim=(0, 1.1 * axes.get_ylim()[1]))
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.legend()
    save_figure(figure, path)


def write_times(run: study.Experiment, networks: dict[str, Network], sizes: list[int]) -> None:
    """Measure the steps, and table them beside the study's minutes."""
    seconds = measure(networks)
    content = {"versions": mg.checkpoint.versions(), "machine": study.machine(), "seconds_per_step": seconds}
    study.write_json(run.path("times.json"), content | {"width": run.network.width, "rounds": ROUNDS})
    minutes = {  # of the study's 30 epochs of 50,000 images
        kind: {size: seconds[title(kind, size)] * (-(-50_000 // size)) * 30 / 60 for size in sizes} for kind in KINDS
    }
    rows = []
    for size in sizes:
        with_bn, without = (seconds[title(kind, size)] for kind in KINDS)
        cells = [f"{1e3 * with_bn:.1f}", f"{1e3 * without:.1f}", f"{with_bn / without:.2f}"]
        known = [STUDY_MINUTES[kind].get(size) for kind in KINDS]
        cells[2] += f" ({known[0] / known[1]:.2f})" if all(known) else ""
        cells += [
            f"{minutes[kind][size]:.0f}" + (f" ({took})" if took else "")
            for kind, took in zip(KINDS, known, strict=True)
        ]
        rows.append((str(size), *cells))
    heading = (
        f"Time of a step at width {run.network.width:g}, and of 30 epochs of 50,000 images (in brackets the study's)"
    )
    columns = ("batch size", "BN, ms", "no BN, ms", "BN / no BN", "BN, minutes", "no BN, minutes")
    run.write_table("times.md", heading, columns, rows)
    draw({k: {s: [m] for s, m in v.items()} for k, v in minutes.items()}, "minutes", run.path("times.png"))


@study.experiment(
    "runs/sweep_batch_size",
    quick={"width": 0.125, "images": 1_000, "test_images": 500, "epochs": 3, "bn_decay": 0.9},
)
def main(
    run: study.Experiment,
    batch: Annotated[list[int], typer.Option(min=1, help="Images in a step; give it once for each size.")] = SIZES,
    seeds: study.Seeds = 1,
    times: Annotated[bool, typer.Option("--times", help="Measure the time of a step instead of training.")] = False,
) -> None:
    """Train a network with BN and one without at each batch size."""
    sizes = sorted(set(batch))
    networks = {
        title(kind, size): replace(run.network, batch=size, batch_norm=kind == "BN") for size in sizes for kind in KINDS
    }
    if times:
        write_times(run, networks, sizes)
        return
    results = run.train(study.seeded(networks, seeds))

    run.write_results(results)
    found = {kind: {size: study.of_seeds(results, title(kind, size)) for size in sizes} for kind in KINDS}
    epochs, images = run.network.epochs, run.network.images
    rows = [
        (
            str(size),
            f"{epochs * -(-images // size):,}",
            *[study.mean_percent(found[kind][size], "final_accuracy", STUDY[kind].get(size)) for kind in KINDS],
        )
        for size in sizes
    ]
    heading = (
        f"Validation accuracy in %; epochs: {epochs}, images: {images:,}, seeds: {seeds} (the study's: 30, 50,000)"
    )
    run.write_table("table.md", heading, ("batch size", "steps", "BN", "no BN"), rows)
    curves = {
        kind: {size: study.finished_values(results, "final_accuracy") for size, results in of_kind.items()}
        for kind, of_kind in found.items()
    }
    draw(curves, "validation accuracy", run.path("accuracy.png"))


if __name__ == "__main__":
    typer.run(main)
