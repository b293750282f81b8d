"""One network of the CIFAR-10 experiments: what decides its bits, its data, its training, and what it is worth afterwards."""

import itertools
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reporting import machine

import minigrad as mg
from minigrad.data import CIFAR10, BrightnessContrast, Compose, Kiefer, Loader, Scale

CHECKPOINT_IMAGES = 5_000  # training images between two checkpoints
STATISTICS_IMAGES = 5_000  # that the statistics of Algorithm 2 are taken of
PREFETCH = 2
INFERENCE_BATCH = 250


@dataclass(frozen=True)
class Network:
    """A small Inception and its training by SGD; whatever decides the bits of the trained network.

    `weight_scale` multiplies the initial weights of the convolutions, which are Glorot uniform. `distortion` is by how
    much brightness and contrast change at random. The learning rate falls to a tenth every `drop_every` epochs, first
    after one epoch less; or, where `lr_left` is given, exponentially, in every step, to that share of it at the end.
    """

    batch_norm: bool = True
    width: float = 1.0
    activation: str = "relu"
    gamma: bool = False
    bn_decay: float = 0.99
    bn_eps: float = 1e-3
    dropout: float = 0.0
    weight_scale: float = 1.0
    images: int = 50_000
    test_images: int = 10_000
    augment: bool = True
    distortion: float = 0.0
    epochs: int = 30
    batch: int = 250
    lr: float = 0.01
    drop_every: int = 10
    lr_left: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    validate_every: int | None = None
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"


def build(network: Network) -> mg.models.Inception:
    """The network with its initial weights.

    They are drawn layer by layer, so that two networks of one seed, one with BN or Dropout and one without, begin with the
    same weights.
    """
    mg.manual_seed(network.seed)
    model = mg.models.Inception(
        width=network.width, batch_norm=network.batch_norm, activation=network.activation, dropout=network.dropout,
        gamma=network.gamma, decay=network.bn_decay, eps=network.bn_eps,
    )  # fmt: skip
    mg.manual_seed(network.seed)
    weights = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            scale = network.weight_scale if parameter.ndim == 4 else 1.0
            weights[name] = np.float32(scale) * mg.nn.init.glorot_uniform(parameter.shape)
    model.load_state_dict(weights, strict=False)
    return model.to(network.device)


def training_loader(network: Network, data: CIFAR10) -> Loader:
    """Training batches, shuffled and augmented, prepared ahead on a thread."""
    transforms = [Kiefer(seed=network.seed)] if network.augment else [Scale()]
    if network.distortion:
        transforms.append(BrightnessContrast(network.distortion, network.distortion, seed=network.seed))
    return Loader(
        data.train_images, data.train_labels, batch_size=network.batch, seed=network.seed,
        transform=Compose(*transforms), prefetch=PREFETCH,
    )  # fmt: skip


def test_loader(data: CIFAR10) -> Loader:
    """The test images in their order."""
    return Loader(
        data.test_images, data.test_labels, batch_size=INFERENCE_BATCH, shuffle=False, transform=Scale(),
        prefetch=PREFETCH,
    )  # fmt: skip


def schedule_of(network: Network, optimizer: mg.optim.SGD, steps_per_epoch: int) -> tuple[mg.optim.Schedule, str]:
    """The learning-rate schedule, and what it goes by."""
    if network.lr_left is None:
        return mg.optim.StepSchedule(optimizer, network.drop_every, offset=1), "epoch"
    return mg.optim.ExponentialSchedule(optimizer, network.lr_left ** (1 / (steps_per_epoch * network.epochs))), "step"


def train(network: Network, data: CIFAR10, folder: Path, progress: bool = True) -> dict[str, Any]:
    """Train a network, or go on with it from the checkpoint in its folder, and return all that was measured.

    `validation_accuracy` and the history are by BN's running averages, `final_accuracy` is by the statistics of the trained
    network, see `population_accuracy`; without BN the two are one.
    """
    with mg.matmul_precision(network.precision):
        return trained(network, data, folder, progress)


def trained(network: Network, data: CIFAR10, folder: Path, progress: bool) -> dict[str, Any]:
    """The same, in the precision at work."""
    model = build(network)
    loader = training_loader(network, data)
    optimizer = mg.optim.SGD(model.parameters(), network.lr, network.momentum, weight_decay=network.weight_decay)
    schedule, by = schedule_of(network, optimizer, len(loader))
    diverged = None
    try:
        history = mg.train.fit(
            model, optimizer, loader, epochs=network.epochs, schedule=schedule, schedule_by=by,
            validation=test_loader(data), validate_every=network.validate_every, configuration=asdict(network),
            checkpoint=mg.train.Checkpoints(folder, every_steps=max(1, CHECKPOINT_IMAGES // network.batch)),
            resume=True, callbacks=[mg.train.Progress()] if progress else [], progress=progress,
        )  # fmt: skip
    except mg.train.DivergedError as error:
        history = error.history
        folder_name = f"{Path(__file__).resolve().parent}{os.sep}"  # which says nothing on another machine
        diverged = {"step": error.step, "message": str(error).replace(folder_name, "")}
    rows = history.epochs
    seconds = training_seconds(rows, network.images)
    best = max(accuracy_curve(history.epochs, history.steps), key=lambda point: point[1], default=(None, None))
    last = rows[-1] if rows and diverged is None else {}
    accuracy = last.get("validation_accuracy")
    if network.batch_norm and diverged is None:
        accuracy = population_accuracy(model, network, data)
    return {
        "configuration": asdict(network),
        "parameters": sum(parameter.data.size for parameter in model.parameters()),
        "diverged": diverged,
        "best_validation_accuracy": best[1],
        "best_step": best[0],
        "training_accuracy": last.get("accuracy"),
        "validation_accuracy": last.get("validation_accuracy"),
        "final_accuracy": accuracy,
        "training_seconds": seconds,
        "images_per_second": seconds and network.images * len(rows) / seconds,
        "seconds": rows[-1]["seconds"] if rows else None,
        "versions": mg.checkpoint.versions(),
        "machine": machine(),
        "epochs": rows,
        "steps": history.steps,
    }


def population_accuracy(model: mg.models.Inception, network: Network, data: CIFAR10) -> float:
    """Validation accuracy by the statistics of Algorithm 2: those of training mini-batches, with the weights as they are now.

    Running averages with decay d still hold d**n of their initial values after n steps, and then those of the weights of
    some 1 / (1 - d) steps; after a short training, or with few steps since the batches are large, they have not arrived.
    """
    count = -(-min(STATISTICS_IMAGES, network.images) // network.batch)
    batches = itertools.islice(training_loader(network, data).one_epoch(), count)
    mg.nn.recompute_statistics(model, (images for images, _ in batches))
    return mg.train.evaluate(model, test_loader(data))["accuracy"]


def accuracy_curve(epochs: list[dict[str, Any]], steps: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """(step, validation accuracy) of every validation."""
    return sorted({row["step"]: row["validation_accuracy"] for row in (*epochs, *steps)}.items())


def training_seconds(epochs: list[dict[str, Any]], images: int) -> float | None:
    """Seconds of the training steps of these epochs, the waiting for batches included.

    Validation, checkpoints, and the first step with each shape, which records it and perhaps compiles kernels, are not in
    it: what they took is reckoned at the speed of the epoch's other steps, or of the other epochs where there are none.
    """
    known = [images / row["images_per_second"] for row in epochs if row["images_per_second"]]
    return sum(known) / len(known) * len(epochs) if known else None


def class_probabilities(model: mg.nn.Module, data: CIFAR10) -> np.ndarray:
    """The model's probabilities for the test images, in their order; float64 `(test images, classes)`."""
    model.eval()
    with mg.no_grad():
        home = model.parameters()[0].device
        batches = (images for images, _ in test_loader(data))
        logits = [model(mg.tensor(images, device=home)).numpy().astype(np.float64) for images in batches]
    return mg.softmax(mg.tensor(np.concatenate(logits))).numpy()
