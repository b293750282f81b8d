"""How far Batch Normalization accelerates an Inception, and an ensemble of such networks: section 4.2 in miniature.

Claim (Ioffe & Szegedy 2015, sections 4.2.2 and 4.2.3, on ImageNet): BN alone halves the steps to Inception's best accuracy
(31.0 to 13.3 million for 72.2 %); with what BN permits, above all a higher learning rate, they become a fifteenth (2.1
million at 5 times the rate) and the best accuracy rises (74.8 % at 30 times); with BN even a network of sigmoids learns
(69.8 %). The mean of six networks' probabilities errs in 20.1 % where a single one errs in 25.2 %.

    python examples/inception_acceleration.py                  width 0.5, 50,000 images of CIFAR-10, 30 epochs of batch 32
    python examples/inception_acceleration.py --quick          about a minute: narrow, few images, few epochs
    python examples/inception_acceleration.py --no-ensemble    the five networks of the paper's table alone
    python examples/inception_acceleration.py --controls       also the two that it says fail, without BN: x5, and sigmoids
    python examples/inception_acceleration.py --seeds 3        each of them three times; means and standard deviations
    python examples/inception_acceleration.py --search 0.003 --search 0.01 --search 0.03    Inception's best rate first
    python examples/inception_acceleration.py --help           width, images, epochs, batch, rates, dropout, folders, ...

The networks are Kiefer's small Inception. Inception and BN-Baseline have Dropout of 40 % before the last layer, an L2
penalty of 1e-4, random brightness and contrast, and a learning rate that falls exponentially to 0.3 of 0.01 in the end. The
changes of section 4.2.1 make the others: 5 or 30 times the rate, falling 6 times faster; no Dropout; a fifth of the penalty;
half the distortion. Two have nothing to change here: the small Inception has no local response normalization, and all networks
see all images in a new order in each epoch. The paper gives neither schedule nor penalty nor distortion: they are ours.

The ensemble: six networks like BN-x30, each with another seed, and with Dropout of 5 % or 10 %, larger initial weights of the
convolutions, or both. Left out: per-activation BN in the last hidden layers, of which the small Inception has none. The test
set is validated on every `--validate-every` steps, by running averages. With several seeds each network is held against the
best of Inception with its own seed. With `--search` Inception is trained at these rates first, and the best of them takes
the place of `--lr`: the paper's factors are of a rate that was chosen well. The same seed gives the same bits, and a run that
was ended goes on when the same command is started again.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cifar10_study as study
import numpy as np
import typer
from cifar10_network import Network, accuracy_curve, class_probabilities
from reporting import plt, save_figure

import minigrad as mg

PAPER = {
    "Inception": ("31.0e6", "72.2"),
    "BN-Baseline": ("13.3e6", "72.7"),
    "BN-x5": ("2.1e6", "73.0"),
    "BN-x30": ("2.7e6", "74.8"),
    "BN-x5-Sigmoid": ("-", "69.8"),
    "Inception-x5": ("-", "diverged"),
    "Inception-Sigmoid": ("-", "chance"),
}  # steps to 72.2 %, and best accuracy in percent
STYLES = {
    "Inception": {"color": "black", "linestyle": "--"},
    "BN-Baseline": {"color": "tab:blue", "linestyle": ":"},
    "BN-x5": {"color": "tab:blue", "linestyle": "-"},
    "BN-x30": {"color": "tab:orange", "linestyle": "-"},
    "BN-x5-Sigmoid": {"color": "tab:green", "linestyle": "-."},
    "Inception-x5": {"color": "gray", "linestyle": "--"},
    "Inception-Sigmoid": {"color": "gray", "linestyle": "-."},
}
FASTER_DECAY = 6
VARIATIONS = (
    {"dropout": 0.05},
    {"dropout": 0.1},
    {"weight_scale": 1.5},
    {"weight_scale": 1.5, "dropout": 0.05},
    {"weight_scale": 1.5, "dropout": 0.1},
    {"weight_scale": 2.0},
)  # of the ensemble


def family(inception: Network, controls: bool) -> dict[str, Network]:
    """The networks of the paper's table, from the first of them."""
    normalized = replace(inception, batch_norm=True)
    changed = replace(
        normalized,
        dropout=0.0,
        weight_decay=inception.weight_decay / 5,
        lr_left=inception.lr_left**FASTER_DECAY,
        distortion=inception.distortion / 2,
    )
    networks = {
        "Inception": inception,
        "BN-Baseline": normalized,
        "BN-x5": replace(changed, lr=5 * inception.lr),
        "BN-x30": replace(changed, lr=30 * inception.lr),
        "BN-x5-Sigmoid": replace(changed, lr=5 * inception.lr, activation="sigmoid"),
    }
    if controls:
        networks["Inception-x5"] = replace(inception, lr=5 * inception.lr)
        networks["Inception-Sigmoid"] = replace(inception, activation="sigmoid")
    return networks


def steps_to(target: float | None, result: dict) -> int | None:
    """The step of the first validation that reached an accuracy; None if none did."""
    curve = accuracy_curve(result["epochs"], result["steps"])
    return next((step for step, accuracy in curve if target is not None and accuracy >= target), None)


def searched(run: study.Experiment, inception: Network, rates: list[float]) -> dict[str, dict]:
    """The results of Inception at several rates, by name, the best first."""
    results = run.train(
        {f"Inception, learning rate {rate:g}": replace(inception, lr=rate) for rate in sorted(set(rates))}
    )
    best = sorted(results.items(), key=lambda item: item[1]["best_validation_accuracy"] or 0, reverse=True)
    return dict(best)


def vote(members: dict[str, Network], results: dict, data: mg.data.CIFAR10, output: Path) -> dict | None:
    """Accuracies of the ensemble's members, with their last weights, and of the mean of their class probabilities."""
    single, total = {}, np.zeros((len(data.test_labels), 10))
    for name, network in members.items():
        if not results[name]["diverged"]:
            probabilities = class_probabilities(study.load_weights(network, output, name, "last"), data)
            single[name] = mg.train.accuracy(probabilities, data.test_labels)
            total += probabilities
    if not single:
        return None
    return {"single": single, "ensemble": mg.train.accuracy(total / len(single), data.test_labels)}


def draw(results: dict, names: list[str], path: Path) -> None:
    """Validation accuracy over the steps, a line for each seed, and the accuracies that the steps to are counted for."""
    figure, axes = plt.subplots(figsize=(5.5, 3.5), layout="constrained")
    for name in names:
        for i, result in enumerate(study.of_seeds(results, name)):
            curve = accuracy_curve(result["epochs"], result["steps"])
            steps, accuracies = [step for step, _ in curve], [accuracy for _, accuracy in curve]
            axes.plot(steps, accuracies, **STYLES[name], linewidth=1, label=None if i else name)
    for result in study.of_seeds(results, "Inception"):
        if (target := result["best_validation_accuracy"]) is not None:
            axes.axhline(target, color="lightgray", linewidth=1, zorder=0)
    axes.set(ylim=(0, 1), xlabel="training steps", ylabel="validation accuracy")
    axes.legend(ncols=2, fontsize=8)
    save_figure(figure, path)


def in_words(steps: list[int | None]) -> str:
    """Steps of several seeds: their median, and where they differ from what to what; how many got there, if not all."""
    reached = sorted(step for step in steps if step is not None)
    if not reached:
        return "-"
    words = f"{int(np.median(reached)):,}"
    if reached[0] != reached[-1]:
        words += f" ({reached[0]:,} to {reached[-1]:,})"
    return words if len(reached) == len(steps) else f"{words}; {len(reached)} of {len(steps)} seeds"


@study.experiment(
    "runs/inception_acceleration",
    quick={
        "width": 0.125,
        "images": 1_000,
        "test_images": 500,
        "epochs": 3,
        "batch": 25,
        "validate_every": 20,
        "bn_decay": 0.9,
    },
    without=["drop_every"],
    width=0.5,
    batch=32,
    gamma=True,
)
def main(
    run: study.Experiment,
    lr: Annotated[float, typer.Option(min=0, help="Initial rate of Inception; the others' are multiples.")] = 0.01,
    lr_left: Annotated[float, typer.Option(min=1e-6, max=1, help="Share of Inception's rate left at the end.")] = 0.3,
    dropout: Annotated[float, typer.Option(min=0, max=0.99, help="Of Inception and BN-Baseline.")] = 0.4,
    weight_decay: Annotated[float, typer.Option(min=0, help="L2 penalty of Inception and BN-Baseline.")] = 1e-4,
    distortion: Annotated[float, typer.Option(min=0, max=0.99, help="Random brightness and contrast of theirs.")] = 0.2,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between two validations.")] = 500,
    ensemble: Annotated[bool, typer.Option(help="Also train the six networks of section 4.2.3.")] = True,
    controls: Annotated[bool, typer.Option(help="Also Inception at 5 times the rate, and with sigmoids.")] = False,
    search: Annotated[
        list[float] | None, typer.Option(min=0, help="A rate to try Inception at first; give it once for each.")
    ] = None,
    seeds: study.Seeds = 1,
) -> None:
    """Train the networks of the paper's table and of its ensemble, and compare them."""
    inception = replace(
        run.network, batch_norm=False, lr=lr, lr_left=lr_left, dropout=dropout, weight_decay=weight_decay,
        distortion=distortion, validate_every=validate_every,
    )  # fmt: skip
    found = searched(run, inception, search) if search else {}
    results = {"Inception": next(iter(found.values()))} if found else {}  # which need not be trained once more
    if found:
        inception = replace(inception, lr=results["Inception"]["configuration"]["lr"])
    networks = family(inception, controls)
    members = {
        f"member {i}": replace(networks["BN-x30"], seed=inception.seed + i, **variation)
        for i, variation in enumerate(VARIATIONS if ensemble else (), 1)
    }
    todo = {name: network for name, network in (study.seeded(networks, seeds) | members).items() if name not in results}
    results |= run.train(todo, keep=dict.fromkeys(members, "last"))
    targets = [result["best_validation_accuracy"] for result in study.of_seeds(results, "Inception")]
    steps = {
        name: [steps_to(target, r) for target, r in zip(targets, study.of_seeds(results, name), strict=True)]
        for name in networks
    }
    votes = vote(members, results, run.data, run.output)

    run.write_results(found | results, steps_to_best_of_inception=steps, ensemble=votes)
    known = [target for target in targets if target is not None]
    reached = f"{100 * np.mean(known):.1f} %" if known else "Inception's best"
    rows = [
        (
            name,
            f"{networks[name].lr:g}",
            in_words(steps[name]),
            study.mean_percent(study.of_seeds(results, name), "best_validation_accuracy"),
            *PAPER[name],
        )
        for name in networks
    ]
    columns = ("network", "learning rate", f"steps to {reached}", "best, %", "paper: to 72.2 %", "paper: best, %")
    heading = "Steps to Inception's best validation accuracy; "
    heading += f"epochs: {inception.epochs}, batch: {inception.batch}, seeds: {seeds}"
    run.write_table("table.md", heading, columns, rows)
    if votes:
        single = list(votes["single"].values())
        rows = [
            ("best single network", f"{100 * max(single):.1f}", ""),
            ("mean of the single networks", f"{100 * np.mean(single):.1f}", "74.8"),
            (f"ensemble of {len(single)}", f"{100 * votes['ensemble']:.1f}", "79.9"),
        ]
        heading = "Networks like BN-x30, their last weights: validation accuracy in %"
        run.write_table("ensemble.md", heading, ("", "here", "paper"), rows)
    draw(results, list(networks), run.path("accuracy.png"))


if __name__ == "__main__":
    typer.run(main)
