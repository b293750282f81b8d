"""Networks in training: how batches get to a contender, and how bursts of its steps are timed.

Each step is handed its batch as arrays of the host, and that is part of it; but on a GPU batches may lie in its memory
before the clock starts, as batches prepared ahead do. The loss is read now and then and at the end, so work that is only
queued counts.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.tools.frameworks import OURS, framework_of, no_collection
from benchmarks.tools.machine import peak_memory
from benchmarks.tools.sides import Burst

WARM = 10  # steps on a GPU before a captured one has its graph

Batches = list[tuple[np.ndarray, np.ndarray]]


def minigrad_step(model: Any, optimizer: Any, device: str, *, captured: bool) -> Callable[[Any, Any], Any]:
    """A step as minigrad runs it line by line, or recorded and replayed."""
    import minigrad as mg

    def step(x: Any, labels: Any) -> Any:
        images = x if isinstance(x, mg.Tensor) else mg.tensor(x, device=device)
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return mg.capture(step, device=device) if captured else step


def torch_step(
    model: Any, optimizer: Any, device: str, *, compiled: bool, laid_out: Callable[[Any], Any] = lambda images: images
) -> Callable[[Any, Any], Any]:
    """A step as PyTorch runs it line by line, or with forward, loss and their backward compiled.

    Compiling the optimizer's step too makes no difference. `laid_out` turns a batch into what the model takes.
    """
    import torch
    from torch.nn.functional import cross_entropy

    def compute_loss(x: Any, labels: Any) -> Any:
        return cross_entropy(model(x), labels)

    if compiled:
        compute_loss = torch.compile(compute_loss)

    def step(x: Any, labels: Any) -> Any:
        optimizer.zero_grad()
        loss = compute_loss(laid_out(on_device(x, device)), on_device(labels, device))
        loss.backward()
        optimizer.step()
        return loss

    return step


def on_device(array: Any, device: str) -> Any:
    """A NumPy array as a tensor on PyTorch's device; a tensor as it is."""
    import torch

    return array if isinstance(array, torch.Tensor) else torch.from_numpy(array).to(device)


def resident(framework: Any, contender: str, batches: Batches) -> list[tuple[Any, Any]]:
    """The batches in a GPU's memory; minigrad's captured steps take what its Loader stages."""
    if framework_of(contender) != OURS:
        return [(framework.put(images), framework.put(labels)) for images, labels in batches]
    stager = framework.home.stager()
    if "captured" in contender and stager is not None:
        return [stager.arrived(stager.stage(batch)) for batch in batches]
    return [tuple(framework.mg.tensor(array, device=framework.home) for array in batch) for batch in batches]


def losses_of(contender: Any, batches: list) -> list[float]:
    """Of a step on each batch."""
    return [contender.loss(contender.step(*batch)) for batch in batches]


def burst_of(framework: Any, contender: Any, batches: list, *, settle: int = 0, read_every: int = 1000) -> Burst:
    """The function that does a burst of steps, the first `settle` of which are not timed; on a GPU, it is warm before."""
    position = 0

    def train(steps: int) -> None:
        nonlocal position
        for i in range(1, steps + 1):
            loss = contender.step(*batches[position])
            position = (position + 1) % len(batches)
            if i % read_every == 0 or i == steps:
                contender.loss(loss)

    if framework.device == "cuda":
        with no_collection():
            train(WARM)

    def burst(steps: int) -> dict:
        with framework.no_compile():
            train(settle)
            return {"seconds": framework.seconds(lambda: train(steps)) / steps, "peak_memory": peak_memory()}

    return burst
