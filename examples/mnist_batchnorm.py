"""Figure 1 of the Batch Normalization paper: an MNIST network with sigmoid units, without and with BN.

Claim (Ioffe & Szegedy 2015, section 4.1): with Batch Normalization the network trains faster and reaches a higher test
accuracy, and the inputs of its sigmoids keep a stable distribution.

    python examples/mnist_batchnorm.py            50,000 steps of 60 images for each network, then figure1.png
    python examples/mnist_batchnorm.py --help     steps, learning rate, sigma, seed, device, threads, precision, output folder

The paper names neither learning rate nor the scale of the initial weights. With the larger `--learning-rate 0.5
--sigma 0.1` the network without BN catches up sooner. The same seed gives the same bits, with any number of threads.
Measured results are in the README.
"""

import json
import math
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from reporting import machine, plt
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import minigrad as mg
from minigrad.data import Loader, load_binary_mnist

BATCH = 60
PERCENTILES = (15, 50, 85)
TABLE_STEPS = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 50_000)
NAMES = {False: "without BN", True: "with BN"}


def evaluation_steps(steps: int) -> list[int]:
    """When to evaluate: every 100 steps at first, then every 1,000, and at the end."""
    return sorted(
        {*range(100, min(steps, 1_000), 100), *range(1_000, steps, 1_000), *TABLE_STEPS, steps} & set(range(steps + 1))
    )


def accuracy(model: mg.nn.Module, images: np.ndarray, labels: np.ndarray, device: str) -> float:
    """Share of images whose largest logit is the label's, by the statistics of inference."""
    model.eval()
    right = 0
    with mg.no_grad():
        for start in range(0, len(images), 2_000):
            logits = model(mg.tensor(images[start : start + 2_000].astype(np.float32), device=device)).numpy()
            right += int((logits.argmax(axis=1) == labels[start : start + 2_000]).sum())
    model.train()
    return right / len(images)


def sigmoid_inputs(model: mg.models.MLP, images: np.ndarray, device: str) -> np.ndarray:
    """Inputs (images, units) of the last hidden layer's sigmoids, normalized by this mini-batch's own statistics.

    Running averages are left alone: this is a look at the training network, not a step of it.
    """
    x = mg.tensor(images.astype(np.float32), device=device)
    with mg.no_grad():
        for layer in model.layers[:-2]:
            if isinstance(layer, mg.nn.BatchNorm):
                x = mg.batch_norm(x, layer.gamma, layer.beta, None, None, training=True, eps=layer.eps)
            else:
                x = layer(x)
    return x.numpy()


def train(batch_norm: bool, data, steps: int, lr: float, sigma: float, seed: int, unit: int, device: str, tick) -> dict:
    """Train one network and return its history."""
    mg.manual_seed(seed)
    model = mg.models.MLP(batch_norm=batch_norm, sigma=sigma).to(device)
    optimizer = mg.optim.SGD(model.parameters(), lr=lr)
    loader = Loader(data.train_images, data.train_labels, batch_size=BATCH, seed=seed)
    probe = data.train_images[:1_000]

    @mg.capture(device=device)
    def step(images, labels):
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    history = {"steps": [], "test_accuracy": [], "loss": [], "percentiles": [], "diverged_at": None}
    pending = evaluation_steps(steps)
    loss = None
    start = time.perf_counter()
    for n in range(steps + 1):
        if n == pending[0]:
            pending.pop(0)
            value = None if loss is None else loss.item()
            if value is not None and not math.isfinite(value):
                history["diverged_at"] = n
                break
            history["steps"].append(n)
            history["loss"].append(value)
            history["test_accuracy"].append(accuracy(model, data.test_images, data.test_labels, device))
            inputs = sigmoid_inputs(model, probe, device)[:, unit]
            history["percentiles"].append([float(p) for p in np.percentile(inputs, PERCENTILES)])
            tick(n, history["test_accuracy"][-1])
        if n < steps:
            images, labels = loader.batch(n)
            loss = step(images.astype(np.float32), labels)
    history["seconds"] = time.perf_counter() - start
    if batch_norm and history["diverged_at"] is None:  # Algorithm 2: population statistics over training mini-batches
        batches = (loader.batch(steps + i)[0].astype(np.float32) for i in range(100))
        mg.nn.recompute_statistics(model, batches)
        history["test_accuracy_population_statistics"] = accuracy(model, data.test_images, data.test_labels, device)
    return history


def draw(histories: dict[bool, dict], path: Path) -> None:
    """The paper's three panels."""
    figure, (curve, *bands) = plt.subplots(1, 3, figsize=(10, 3), width_ratios=(1.3, 1, 1), layout="constrained")
    for batch_norm, style in ((True, "-"), (False, "--")):
        h = histories[batch_norm]
        curve.plot(
            h["steps"], h["test_accuracy"], style, color="tab:blue" if batch_norm else "black", label=NAMES[batch_norm]
        )
    curve.set(ylim=(0.7, 1), xlabel="training steps", ylabel="test accuracy", title="(a)")
    curve.legend(loc="lower right")
    for axes, batch_norm, letter in ((bands[0], False, "b"), (bands[1], True, "c")):
        h = histories[batch_norm]
        low, middle, high = np.array(h["percentiles"]).reshape(-1, 3).T  # none, if it diverged at once
        axes.fill_between(h["steps"], low, high, color="tab:blue" if batch_norm else "black", alpha=0.15, linewidth=0)
        for values in (low, middle, high):
            axes.plot(h["steps"], values, color="tab:blue" if batch_norm else "black", linewidth=1)
        axes.set(ylim=(-2, 2), xlabel="training steps", title=f"({letter}) {NAMES[batch_norm]}")
    bands[0].set_ylabel("input of one sigmoid:\n15th, 50th, 85th percentile")
    for axes in (curve, *bands):
        axes.xaxis.set_major_locator(plt.MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}K")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def table(histories: dict[bool, dict]) -> Table:
    """Test accuracy at the steps of the reference runs."""
    last = histories[True]["steps"][-1] if histories[True]["steps"] else 0
    columns = [s for s in TABLE_STEPS if s <= last] or [last]
    result = Table("steps", *[f"{s / 1000:g}K" for s in columns], title="test accuracy", box=SIMPLE)
    for batch_norm, name in ((False, "no BN"), (True, "BN")):
        h = histories[batch_norm]
        found = dict(zip(h["steps"], h["test_accuracy"], strict=True))
        result.add_row(name, *[f"{found[s]:.3f}" if s in found else "diverged" for s in columns])
    return result


def main(
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each network.")] = 50_000,
    learning_rate: Annotated[float, typer.Option(help="Of plain SGD.")] = 0.1,
    sigma: Annotated[float, typer.Option(help="Standard deviation of the initial weights.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of weights and shuffling.")] = 0,
    unit: Annotated[int, typer.Option(min=0, max=99, help="The sigmoid of panels b and c.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, auto, or reference (plain NumPy, slow).")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all.")] = None,
    precision: Annotated[str, typer.Option(help="Of products: float32, bf16; tf32, bf16_3x on a GPU.")] = "float32",
    output: Annotated[Path, typer.Option(help="Folder for figure1.png and history.json.")] = Path(
        "runs/mnist_batchnorm"
    ),
) -> None:
    """Train both networks of section 4.1 and draw Figure 1."""
    began = time.perf_counter()
    if threads is not None:
        mg.set_num_threads(threads)
    mg.matmul_precision(precision)
    console = Console()
    data = load_binary_mnist()
    histories = {}
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for batch_norm, name in NAMES.items():
            task = progress.add_task(name, total=steps, note="")

            def tick(n: int, value: float, task=task) -> None:
                progress.update(task, completed=n, note=f"test accuracy {value:.3f}")

            histories[batch_norm] = train(batch_norm, data, steps, learning_rate, sigma, seed, unit, device, tick)
    output.mkdir(parents=True, exist_ok=True)
    draw(histories, output / "figure1.png")
    seconds = time.perf_counter() - began
    record = {
        "configuration": {
            "steps": steps,
            "batch": BATCH,
            "learning_rate": learning_rate,
            "sigma": sigma,
            "seed": seed,
            "unit": unit,
            "device": device,
            "precision": precision,
        },
        "versions": mg.checkpoint.versions(),
        "machine": machine(),
        "seconds": seconds,
        "networks": {NAMES[batch_norm]: history for batch_norm, history in histories.items()},
    }
    (output / "history.json").write_text(json.dumps(record, indent=1) + "\n")
    console.print(table(histories))
    population = histories[True].get("test_accuracy_population_statistics")
    if population is not None:
        console.print(f"BN with population statistics (Algorithm 2) in place of running averages: {population:.3f}")
    training = " and ".join(f"{histories[batch_norm]['seconds']:.1f} s" for batch_norm in NAMES)
    console.print(f"{seconds:.1f} s in all, {training} of training; figure1.png and history.json are in {output}")


if __name__ == "__main__":
    typer.run(main)
