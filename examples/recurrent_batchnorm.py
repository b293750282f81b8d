"""Recurrent Batch Normalization: an LSTM that reads MNIST row by row, without and with BN inside the recurrence.

Claim (Cooijmans et al. 2016): normalizing the input-to-hidden and the hidden-to-hidden terms and the cell, by statistics of
each time step, and with gamma starting at 0.1, makes an LSTM train faster and generalize better on sequential MNIST.

    python examples/recurrent_batchnorm.py            8 epochs of each network: some minutes
    python examples/recurrent_batchnorm.py --help     epochs, images, units, seeds, learning rate, gamma, margin, output

The paper reads pixel by pixel, 784 steps; here a step is a row of 28 pixels. The rest is the paper's: 100 units, batches of 64,
RMSprop with momentum 0.9 and learning rate 0.001, gradients clipped at norm 1. Of the 28 rows the middle 20 are read. Those
above and below are blank in nearly all images, and a row that is blank in a whole batch has no variance: by statistics of
each step, the few pixels that there are become huge (`--margin 0` shows what comes of that). The same seed gives the same
bits. Measured results are in docs/results.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from reporting import WITH_BN, WITHOUT_BN, machine, plt, save_figure, write_json, write_table

import minigrad as mg
from minigrad.data import Loader, load_binary_mnist

PIXELS = 28
CLASSES = 10
NAMES = {False: "LSTM", True: "BN-LSTM"}
cell = mg.elementwise(lambda i, f, g, c: mg.sigmoid(f) * c + mg.sigmoid(i) * mg.tanh(g))
shown = mg.elementwise(lambda o, c: mg.sigmoid(o) * mg.tanh(c))


class Plain(mg.nn.Module):
    """The LSTM as `mg.nn` has it: one kernel for all steps."""

    def __init__(self, units: int) -> None:
        self.lstm = mg.nn.LSTM(PIXELS, units)
        self.out = mg.nn.Linear(units, CLASSES)

    def forward(self, x):
        """The classes of images (N, steps, pixels) by the last h."""
        _, (h, _) = self.lstm(x)
        return self.out(h.reshape(h.shape[1], h.shape[2]))


class Normalized(mg.nn.Module):
    """The LSTM with Batch Normalization (Cooijmans et al. 2016, equations 6 to 8), step by step of single ops.

    i, f, g, o from BN(h W_hh; gamma_h) + BN(x W_ih; gamma_x) + b;  h = sigmoid(o) tanh(BN(c; gamma_c, beta_c)). Of each BN
    gamma and beta are the same for all steps, and statistics each step's own. Since the x of all steps are there at once,
    they are multiplied at once, and normalized by columns of (N, steps * 4 units): again statistics of each step.
    """

    def __init__(self, units: int, steps: int, gamma: float) -> None:
        like = mg.nn.LSTM(PIXELS, units)
        self.w_ih, self.w_hh, self.bias = like.weight_ih_l0, like.weight_hh_l0, like.bias_ih_l0
        self.gamma_x = mg.nn.Parameter(np.full(4 * units, gamma, np.float32))
        self.norm_x = mg.nn.BatchNorm(steps * 4 * units, gamma=False, beta=False)
        self.norms_h = [mg.nn.BatchNorm(4 * units, beta=False) for _ in range(steps)]
        self.norms_c = [mg.nn.BatchNorm(units) for _ in range(steps)]
        for norms in (self.norms_h, self.norms_c):
            norms[0].gamma = mg.nn.Parameter(np.full(norms[0].features, gamma, np.float32))
            for norm in norms[1:]:
                norm.gamma, norm.beta = norms[0].gamma, norms[0].beta
        self.out = mg.nn.Linear(units, CLASSES)

    def forward(self, x):
        """The classes of images (N, steps, pixels) by the last h."""
        (n, steps, _), (units, columns) = x.shape, self.w_hh.shape
        products = mg.linear(x, self.w_ih).reshape(n, steps * columns)
        a = self.norm_x(products).reshape(n, steps, columns) * self.gamma_x + self.bias
        h = c = mg.zeros((n, units), dtype=x.dtype, device=x.device)
        for t in range(steps):
            gates = self.norms_h[t](mg.linear(h, self.w_hh)) + a[:, t]
            i, f, g, o = mg.split(gates, 4, axis=1)
            c = cell(i, f, g, c)
            h = shown(o, self.norms_c[t](c))
        return self.out(h)


def accuracy(model: mg.nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose largest logit is the label's, by the statistics of inference."""
    model.eval()
    right = 0
    with mg.no_grad():
        for start in range(0, len(images), 1_000):
            logits = model(mg.tensor(images[start : start + 1_000])).numpy()
            right += int((logits.argmax(axis=1) == labels[start : start + 1_000]).sum())
    model.train()
    return right / len(images)


def train(batch_norm: bool, data, units: int, epochs: int, batch: int, lr: float, gamma: float, seed: int) -> dict:
    """Train one network and return its history."""
    mg.manual_seed(seed)
    model = Normalized(units, data.train_images.shape[1], gamma) if batch_norm else Plain(units)
    optimizer = mg.optim.RMSprop(model.parameters(), lr=lr, momentum=0.9)
    loader = Loader(data.train_images, data.train_labels, batch_size=batch, seed=seed, drop_last=True)

    @mg.capture
    def step(images, labels):
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(images), labels)
        loss.backward()
        mg.optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        return loss

    history = {"seed": seed, "loss": [], "test_accuracy": [], "seconds": 0.0}
    for epoch in range(epochs):
        start = time.perf_counter()
        for n in range(len(loader)):
            loss = step(*loader.batch(epoch * len(loader) + n))
        history["loss"].append(loss.item())
        history["seconds"] += time.perf_counter() - start
        history["test_accuracy"].append(accuracy(model, data.test_images, data.test_labels))
        print(f"{NAMES[batch_norm]}, seed {seed}, epoch {epoch + 1}: {history['test_accuracy'][-1]:.4f}", flush=True)
    if batch_norm:  # Algorithm 2 of Ioffe & Szegedy: population statistics over training mini-batches
        mg.nn.recompute_statistics(model, (loader.batch(n)[0] for n in range(min(200, len(loader)))))
        history["test_accuracy_population_statistics"] = accuracy(model, data.test_images, data.test_labels)
    return history


def draw(histories: dict[bool, list[dict]], path: Path) -> None:
    """Test error over the epochs, each seed, and their mean."""
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    for batch_norm, style in ((True, WITH_BN), (False, WITHOUT_BN)):
        errors = 100 * (1 - np.array([h["test_accuracy"] for h in histories[batch_norm]]))
        epochs = np.arange(1, errors.shape[1] + 1)
        for row in errors:
            axes.plot(epochs, row, color=style["color"], alpha=0.3, linewidth=0.7)
        axes.plot(epochs, errors.mean(axis=0), **style, label=NAMES[batch_norm])
    axes.set(xlabel="epochs", ylabel="test error in %")
    axes.set_ylim(bottom=0)
    axes.legend()
    save_figure(figure, path)


def table_rows(histories: dict[bool, list[dict]], epochs: int) -> tuple[list[str], list[list[str]]]:
    """Test accuracy after some epochs, mean over the seeds."""
    columns = sorted({e for e in (1, 2, 5, 10, 20) if e < epochs} | {epochs})
    rows = []
    for batch_norm, name in NAMES.items():
        runs = histories[batch_norm]
        found = np.array([h["test_accuracy"] for h in runs]) * 100
        steps = [f"{found[:, e - 1].mean():.2f}" for e in columns]
        rows.append(
            [name, *steps, f"{found.max(axis=1).mean():.2f}", f"{sum(h['seconds'] for h in runs) / len(runs):.0f}"]
        )
    return ["network", *[f"epoch {e}" for e in columns], "best", "seconds"], rows


def main(
    epochs: Annotated[int, typer.Option(min=1, help="Of each network.")] = 8,
    images: Annotated[int, typer.Option(min=1, help="Training images.")] = 60_000,
    test_images: Annotated[int, typer.Option(min=1, help="Test images.")] = 10_000,
    units: Annotated[int, typer.Option(min=1, help="Of the LSTM.")] = 100,
    batch: Annotated[int, typer.Option(min=2, help="Images of a batch.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of RMSprop.")] = 0.001,
    gamma: Annotated[float, typer.Option(help="What gamma begins with.")] = 0.1,
    margin: Annotated[int, typer.Option(min=0, max=13, help="Rows above and below that are not read.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="How often, with seeds 0, 1, ...")] = 1,
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of what is written.")] = Path("runs/recurrent_batchnorm"),
) -> None:
    """Train both networks, write figure, table and numbers."""
    if threads is not None:
        mg.set_num_threads(threads)
    data = load_binary_mnist(dtype=np.float32)
    rows = slice(margin, PIXELS - margin)
    data = data._replace(
        train_images=np.ascontiguousarray(data.train_images[:images, rows]), train_labels=data.train_labels[:images],
        test_images=np.ascontiguousarray(data.test_images[:test_images, rows]), test_labels=data.test_labels[:test_images],
    )  # fmt: skip
    settings = (units, epochs, batch, learning_rate, gamma)
    histories = {bn: [train(bn, data, *settings, seed) for seed in range(seeds)] for bn in NAMES}
    output.mkdir(parents=True, exist_ok=True)
    draw(histories, output / "error.png")
    configuration = {
        "epochs": epochs, "images": len(data.train_images), "test_images": len(data.test_images), "units": units,
        "batch": batch, "learning_rate": learning_rate, "gamma": gamma, "margin": margin, "seeds": seeds,
    }  # fmt: skip
    networks = {NAMES[bn]: runs for bn, runs in histories.items()}
    record = {"configuration": configuration, "versions": mg.checkpoint.versions(), "machine": machine()}
    write_json(output / "results.json", {**record, "networks": networks})
    title = f"Sequential MNIST by rows: test accuracy in %, mean of {seeds} seed{'s' if seeds > 1 else ''}"
    write_table(output / "table.md", title, *table_rows(histories, epochs))
    print(f"results.json, table.md and error.png are in {output}")


if __name__ == "__main__":
    typer.run(main)
