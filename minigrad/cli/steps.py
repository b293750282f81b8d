"""The training steps of the experiments, which the command line compiles, times and checks."""

from collections.abc import Callable

import numpy as np

import minigrad as mg
from minigrad.capture import Captured


def training_step(model: mg.nn.Module, optimizer: mg.optim.Optimizer) -> Callable[[mg.Tensor, mg.Tensor], mg.Tensor]:
    """One step on a batch."""

    def step(images: mg.Tensor, labels: mg.Tensor) -> mg.Tensor:
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def experiment_step(batch_norm: bool, device: str) -> tuple[mg.models.MLP, Captured]:
    """(model, captured training step) of the MNIST experiment."""
    model = mg.models.MLP(batch_norm=batch_norm).to(device)
    step = training_step(model, mg.optim.SGD(model.parameters(), lr=0.5))
    return model, mg.capture(step, device=device)


def eager(step: Captured, device: str) -> Callable[..., mg.Tensor]:
    """A captured step's function, run as it stands."""
    return lambda *arrays: step.step(*[mg.tensor(array, device=device) for array in arrays])


def inception_step(device: str) -> Callable[[mg.Tensor, mg.Tensor], mg.Tensor]:
    """The training step of the small Inception."""
    model = mg.models.Inception(width=0.25).to(device)
    return training_step(model, mg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


def run_mnist(device: str) -> None:
    """Run once what the MNIST experiment runs."""
    images, labels = np.zeros((2_000, 784), np.float32), np.zeros(60, np.int64)
    for batch_norm in (False, True):
        model, step = experiment_step(batch_norm, device)
        eager(step, device)(images[:60], labels)
        with mg.no_grad():
            for rows in (2_000, 60):
                model.train()
                model(mg.tensor(images[:rows], device=device))
                model.eval()
                model(mg.tensor(images[:rows], device=device))


def run_inception(device: str) -> None:
    """Run a training step of the small Inception."""
    images, labels = np.zeros((32, 32, 32, 3), np.float32), np.zeros(32, np.int64)
    inception_step(device)(mg.tensor(images, device=device), mg.tensor(labels, device=device))


WORK = {"mnist": [run_mnist], "inception": [run_inception], "all": [run_mnist, run_inception]}
