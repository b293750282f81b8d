"""Is it covariate shift that Batch Normalization reduces? Two measures of it, and one of smoothness, with BN and without.

Claim (Ioffe & Szegedy 2015): training is slowed since the distribution of each layer's inputs changes as the layers below
learn, the "internal covariate shift"; BN reduces it. Claim (Santurkar et al. 2018, "How does Batch Normalization help
optimization?"): it does not; a layer's gradient changes as much by the layers below as without BN, and what BN gives is a
smoother loss, whose gradient still holds where a step ends.

    python examples/covariate_shift.py                        the MNIST network of the paper, 3 seeds: minutes
    python examples/covariate_shift.py --network inception    the small Inception on CIFAR-10
    python examples/covariate_shift.py --help                 steps, learning rate, how often it is measured, ...

Measured every so many steps, on the training network (statistics of the batch), for each layer l with weights W_l:

    input shift       how far the outputs of layer l - 1, which are the inputs of l, have moved since the last time: for each
                      unit the Wasserstein distance of its values on the same images, by the layer's standard deviation
    gradient shift    G is the gradient by W_l before a step, G' the one after the layers below have made it and l has not, on
                      the same batch: |G - G'| / |G|, and the cosine of the angle between them (Santurkar et al., 2.1)
    gradient change   g is the gradient of all weights w, g(a) the one at w - a g, for steps a of 1/2 to 4 times the learning
                      rate: the largest |g - g(a)| / |g|, and by length of the way, |g - g(a)| / |a g|; and the range that
                      the loss has on this way (their figure 4, of the smoothness of the loss)

Measured results are in docs/results.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from reporting import WITH_BN, WITHOUT_BN, machine, plt, save_figure, write_json, write_table

import minigrad as mg
from minigrad.data import Loader, load_binary_mnist, load_cifar10

STRIDES = (0.5, 1.0, 2.0, 4.0)  # along the gradient, in learning rates
NAMES = {True: "with BN", False: "without BN"}
STYLES = {True: WITH_BN, False: WITHOUT_BN}
SAMPLES = 4_000  # values of a unit that are compared, at most: images have many pixels
MEASURES = {  # of a time, by the name in the files: the axis of the figure
    "input_shift": "input shift",
    "gradient_shift": "gradient shift",
    "cosine": "cosine of the two gradients",
    "gradient_change": "gradient change",
}


@dataclass(frozen=True)
class Setting:
    """A network's training."""

    network: Callable[[bool], mg.nn.Sequential]  # with BN or without
    lr: float
    batch: int
    steps: int


SETTINGS = {
    "mnist": Setting(lambda batch_norm: mg.models.MLP(batch_norm=batch_norm), 0.1, 60, 10_000),
    "inception": Setting(lambda batch_norm: mg.models.Inception(width=0.125, batch_norm=batch_norm), 0.01, 50, 2_000),
}


@dataclass(frozen=True)
class Layer:
    """Modules that follow each other in the network, the first of which has the weights that are measured."""

    modules: list[mg.nn.Module]
    weights: dict[str, mg.Tensor]
    names: list[str]  # of all its parameters and buffers


def layers_of(model: mg.nn.Sequential) -> list[Layer]:
    """The layers of a network: each begins with a module that has weights; what has none belongs to the one before."""
    layers = [Layer([], {}, [])]
    for place, module in model.children():
        weights = {f"{place}.{name}": p for name, p in module.named_parameters() if name.rpartition(".")[2] == "weight"}
        if weights and layers[-1].weights:
            layers.append(Layer([], {}, []))
        layers[-1].modules.append(module)
        layers[-1].weights.update(weights)
        layers[-1].names.extend(name for name in model.state_dict() if name.startswith(f"{place}."))
    return layers


@contextmanager
def put_back(model: mg.nn.Module) -> Iterator[dict[str, mg.Tensor]]:
    """Inside, weights and statistics may be changed; gives them as they are now, and as they will be again."""
    state = model.state_dict()
    try:
        yield state
    finally:
        model.load_state_dict(state)


def joined(arrays: list[np.ndarray]) -> np.ndarray:
    """As one vector, in float64."""
    return np.concatenate([np.ravel(array) for array in arrays]).astype(np.float64)


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over units of the distance between the distributions of (samples, units), by the deviation in the first."""
    deviation = np.sqrt(a.var(axis=0).mean())
    return float(np.abs(np.sort(a, axis=0) - np.sort(b, axis=0)).mean() / max(deviation, 1e-12))


class Look:
    """The measures of one network at a time of its training; they leave no trace in it."""

    def __init__(self, model: mg.nn.Sequential, lr: float, images: np.ndarray, device: str) -> None:
        self.model, self.lr, self.layers = model, lr, layers_of(model)
        self.images = mg.tensor(images, device=device)
        self.outputs: list[np.ndarray] = []  # of all layers but the last, when it was looked last
        self.device = device

        @mg.capture(device=device)
        def backward(images, labels):
            model.zero_grad()
            loss = mg.cross_entropy(model(images), labels)
            loss.backward()
            return loss

        self.backward = backward

    def gradients(self, batch: tuple[np.ndarray, np.ndarray]) -> tuple[float, list[np.ndarray]]:
        """(loss, gradient by the weights of each layer) of a batch."""
        loss = self.backward(*batch).item()
        return loss, [joined([weight.grad.numpy() for weight in layer.weights.values()]) for layer in self.layers]

    def input_shift(self) -> list[float] | None:
        """Of all layers but the first, since the last call."""
        before, self.outputs = self.outputs, []
        x = self.images
        with put_back(self.model), mg.no_grad():
            for layer in self.layers[:-1]:
                for module in layer.modules:
                    x = module(x)
                values = x.numpy().reshape(-1, x.shape[-1])
                self.outputs.append(values[:: -(-len(values) // SAMPLES)].copy())
        return [wasserstein(a, b) for a, b in zip(before, self.outputs, strict=True)] if before else None

    def smoothness(self, batch, loss: float, gradients: list[np.ndarray]) -> dict:
        """Along the gradient."""
        g, losses, changes = np.concatenate(gradients), [loss], []
        with put_back(self.model) as start:
            weights = {name: weight for layer in self.layers for name, weight in layer.weights.items()}
            slopes = {name: weight.grad.numpy().copy() for name, weight in weights.items()}
            for stride in STRIDES:
                way = np.float32(stride * self.lr)
                self.model.load_state_dict(start | {n: start[n].numpy() - way * slope for n, slope in slopes.items()})
                there, turned = self.gradients(batch)
                losses.append(there)
                changes.append(np.linalg.norm(np.concatenate(turned) - g) / np.linalg.norm(g))
        return {
            "loss_range": max(losses) - min(losses),
            "gradient_change": float(max(changes)),
            "gradient_change_by_length": float(
                max(change / (stride * self.lr) for change, stride in zip(changes, STRIDES, strict=True))
            ),
        }

    def gradient_shift(self, batch, step: Callable[[], object], gradients: list[np.ndarray]) -> dict:
        """Make a training step, and tell what those below it did to the gradient of each layer but the first."""
        before = self.model.state_dict()
        step()
        shifts, cosines = [], []
        with put_back(self.model) as after:
            mixed = dict(before)
            for below, layer in enumerate(self.layers[:-1], 1):
                mixed |= {name: after[name] for name in layer.names}
                self.model.load_state_dict(mixed)
                old, new = gradients[below], self.gradients(batch)[1][below]
                size = np.linalg.norm(old)
                shifts.append(float(np.linalg.norm(old - new) / size))
                cosines.append(float(old @ new / (size * np.linalg.norm(new))))
        return {"gradient_shift": shifts, "cosine": cosines}

    def step(self, batch, step: Callable[[], object]) -> dict:
        """All measures, and a training step."""
        found = {"input_shift": self.input_shift()}
        with put_back(self.model):  # its statistics
            loss, gradients = self.gradients(batch)
            found |= {"loss": loss, **self.smoothness(batch, loss, gradients)}
        return found | self.gradient_shift(batch, step, gradients)


def train(setting: Setting, batch_norm: bool, data, steps: int, every: int, seed: int, device: str) -> dict[str, list]:
    """Train a network by plain SGD; its measures every so many steps."""
    mg.manual_seed(seed)
    model = setting.network(batch_norm).to(device)
    optimizer = mg.optim.SGD(model.parameters(), lr=setting.lr)
    loader = Loader(data.train_images, data.train_labels, batch_size=setting.batch, seed=seed, drop_last=True)
    look = Look(model, setting.lr, data.train_images[:1_000], device)

    @mg.capture(device=device)
    def step(images, labels):
        loss = look.backward(images, labels)
        optimizer.step()
        return loss

    history: dict[str, list] = {"steps": []}
    for n in range(steps + 1):
        batch = loader.batch(n)
        if n % every == 0:
            history["steps"].append(n)
            found = look.step(batch, lambda batch=batch: step(*batch))
            found["test_accuracy"] = float(
                (mg.train.predict(model, data.test_images).argmax(axis=1) == data.test_labels).mean()
            )
            for name, value in found.items():
                history.setdefault(name, []).append(value)
        else:
            step(*batch)
    return history


def over_layers(history: dict[str, list], measure: str) -> np.ndarray:
    """A measure at each time, the mean of the layers; NaN where there is none."""
    return np.array([np.nan if value is None else np.mean(value) for value in history[measure]])


def draw(found: dict[bool, list[dict]], path: Path) -> None:
    """Accuracy and four measures over the steps: a line for each network, the mean over the seeds."""
    panels = {"test_accuracy": "test accuracy", **MEASURES}
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 2.6), layout="constrained")
    for panel, (measure, label) in zip(axes, panels.items(), strict=True):
        for batch_norm, histories in found.items():
            values = np.array([over_layers(history, measure) for history in histories])
            panel.plot(histories[0]["steps"], values.mean(axis=0), label=NAMES[batch_norm], **STYLES[batch_norm])
        panel.set(xlabel="steps")
        panel.set_title(label, fontsize=9)
        panel.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}K")
        if measure in ("input_shift", "gradient_shift", "gradient_change"):
            panel.set_yscale("log")
    axes[0].legend(loc="lower right")
    save_figure(figure, path)


def rows(found: dict[bool, list[dict]]) -> list[list[str]]:
    """Of each measure the median over the times, mean and standard deviation over the seeds."""

    def text(histories: list[dict], measure: str) -> str:
        medians = [float(np.nanmedian(over_layers(history, measure))) for history in histories]
        return f"{np.mean(medians):.3g}" + (f" ± {np.std(medians):.2g}" if len(medians) > 1 else "")

    names = {**MEASURES, "loss_range": "range of the loss", "gradient_change_by_length": "gradient change by length"}
    return [[label, *[text(found[b], measure) for b in (False, True)]] for measure, label in names.items()]


def load(network: str, folder: Path | None, images: int, test_images: int):
    """The first images of the network's data, with channels last, in float32."""
    if network == "mnist":
        data = load_binary_mnist(dtype=np.float32)
        data = data._replace(
            train_images=data.train_images[..., np.newaxis], test_images=data.test_images[..., np.newaxis]
        )
    else:
        data = load_cifar10(folder)
        data = data._replace(
            train_images=data.train_images / np.float32(255), test_images=data.test_images / np.float32(255)
        )
    return data._replace(
        train_images=data.train_images[:images], train_labels=data.train_labels[:images],
        test_images=data.test_images[:test_images], test_labels=data.test_labels[:test_images],
    )  # fmt: skip


def main(
    network: Annotated[Literal["mnist", "inception"], typer.Option(help="Which network, on its data.")] = "mnist",
    steps: Annotated[int | None, typer.Option(min=1, help="Of each; by default 10,000, inception 2,000.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps from one look to the next.")] = 100,
    seeds: Annotated[int, typer.Option(min=1, help="Pairs of networks, with seeds 0, 1, ...")] = 3,
    lr: Annotated[float | None, typer.Option(help="By default 0.1, inception 0.01.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Training images.")] = 60_000,
    test_images: Annotated[int, typer.Option(min=1, help="Test images.")] = 1_000,
    data: Annotated[Path | None, typer.Option(help="Folder of CIFAR-10, else $MINIGRAD_DATA.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of what is written.")] = None,
) -> None:
    """Train, measure, and write figure, table and numbers."""
    if threads is not None:
        mg.set_num_threads(threads)
    setting = SETTINGS[network]
    setting = Setting(setting.network, lr or setting.lr, setting.batch, steps or setting.steps)
    output = output or Path("runs/covariate_shift") / network
    sets = load(network, data, images, test_images)
    found: dict[bool, list[dict]] = {False: [], True: []}
    for seed in range(seeds):
        for batch_norm in found:
            start = time.perf_counter()
            found[batch_norm].append(train(setting, batch_norm, sets, setting.steps, every, seed, device))
            print(f"{NAMES[batch_norm]}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    draw(found, output / "shift.png")
    configuration = {
        "network": network, "steps": setting.steps, "every": every, "seeds": seeds, "lr": setting.lr,
        "batch": setting.batch, "images": images, "test_images": test_images,
    }  # fmt: skip
    record = {"configuration": configuration, "versions": mg.checkpoint.versions(), "machine": machine()}
    write_json(output / "results.json", {**record, "networks": {NAMES[b]: runs for b, runs in found.items()}})
    title = f"Median over the looks of {seeds} networks each, {setting.steps:,} steps"
    write_table(output / "table.md", title, ["measure", NAMES[False], NAMES[True]], rows(found))
    print(f"results.json, table.md and shift.png are in {output}")


if __name__ == "__main__":
    typer.run(main)
