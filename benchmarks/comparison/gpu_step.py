"""The training step of the MNIST network on the GPU: launches are what it costs, and a CUDA graph saves."""

import functools
from collections.abc import Callable
from typing import Any

from benchmarks.comparison import contenders
from benchmarks.comparison.gpu_sides import OURS, THEIRS, no_collection
from benchmarks.comparison.gpu_training import (
    HANDED,
    RESIDENT,
    Trainer,
    fed,
    left_out_and_failed,
    made_of,
    steps_in_turn,
    warm_up,
)
from benchmarks.comparison.tables import median, ratio, spread, table, target

CHECKED = 20  # steps whose losses must agree
TOLERANCE = 1e-4  # of losses, parameters and running statistics, against the same in float64
PREPARED = 64  # batches
READ_EVERY = 50  # steps between two looks at the loss
WANTED = 3.0  # times as fast as PyTorch eager
CAPTURED, EAGER = f"{OURS} captured", f"{THEIRS} eager"
COMPILED = f"{THEIRS} torch.compile"


def torch_graphed(parameters: contenders.Parameters, threads: int, device: str) -> contenders.Contender:
    """PyTorch with the whole step in a CUDA graph, as its documentation shows it."""
    import torch

    model, optimizer, state = contenders.torch_model(parameters, threads, device)
    x = torch.zeros((contenders.BATCH, contenders.WIDTHS[0]), device=device)
    labels = torch.zeros(contenders.BATCH, dtype=torch.int64, device=device)

    def train() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    tensors = [*model.parameters(), *model.buffers()]
    before = [t.detach().clone() for t in tensors]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            train()
    torch.cuda.current_stream().wait_stream(aside)
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with no_collection(), torch.cuda.graph(graph):
        loss = train()

    def step(images: Any, targets: Any) -> Any:
        x.copy_(contenders.on_device(images, device))
        labels.copy_(contenders.on_device(targets, device))
        graph.replay()
        return loss

    return contenders.Contender(step, lambda loss: loss.item(), state)


# name: (side, function of parameters and device, whether the step is captured, how batches come)
CONTENDERS: dict[str, tuple[str, Callable[..., contenders.Contender], bool, str]] = {
    CAPTURED: (OURS, contenders.minigrad_captured, True, RESIDENT),
    f"{CAPTURED}, {HANDED}": (OURS, contenders.minigrad_captured, True, HANDED),
    f"{OURS} eager": (OURS, contenders.minigrad_eager, False, RESIDENT),
    EAGER: (THEIRS, contenders.torch_eager, False, RESIDENT),
    f"{EAGER}, {HANDED}": (THEIRS, contenders.torch_eager, False, HANDED),
    COMPILED: (THEIRS, contenders.torch_compiled, False, RESIDENT),
    f"{THEIRS} CUDA graph": (THEIRS, torch_graphed, True, RESIDENT),
}


def prepared(name: str, side: Any, batch_norm: bool) -> tuple[Trainer, dict[str, float]]:
    """A contender that has computed what it should, and by how much it was off. RuntimeError if it has not."""
    _, make, captured, feed = CONTENDERS[name]
    parameters = contenders.initial_parameters(batch_norm)
    data = contenders.batches(PREPARED)
    device = side.device.name if side.name == OURS else side.device
    with side.precision("float32"):
        given = (parameters, device) if side.name == OURS else (parameters, 1, device)
        trainer = Trainer(side, "float32", make(*given), fed(side, captured, feed, data))
        losses = [trainer.contender.loss(trainer.contender.step(*batch)) for batch in trainer.batches[:CHECKED]]
    expected = contenders.numpy_by_hand(parameters, float)
    right = [expected.loss(expected.step(*batch)) for batch in data[:CHECKED]]
    differences = {
        "losses": max(abs(a - b) for a, b in zip(losses, right, strict=True)),
        "state": contenders.largest_difference(trainer.contender.state(), expected.state()),
    }
    for what, difference in differences.items():
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"{name} does not compute the same: after {CHECKED} steps its {what} differ by up to {difference:.1e} "
                f"from those in float64; at most {TOLERANCE:g} was expected"
            )
    warm_up(trainer)
    return trainer, differences


def compare(
    sides: list, batch_norm: bool, *, rounds: int, steps: int, names: tuple[str, ...] = tuple(CONTENDERS)
) -> dict:
    """Samples of all contenders, taken in turn."""
    by_name = {side.name: side for side in sides}
    makers = {
        name: functools.partial(prepared, name, by_name[CONTENDERS[name][0]], batch_norm)
        for name in names
        if CONTENDERS[name][0] in by_name
    }
    trainers, differences, failed = made_of(makers)
    return {
        "batch_norm": batch_norm,
        **left_out_and_failed(failed, COMPILED),
        "differences": differences,
        "samples": steps_in_turn(trainers, rounds, steps, READ_EVERY),
    }


def report(result: dict) -> str:
    """The table of one comparison."""
    samples = result["samples"]
    rows = [
        [
            name,
            f"{median(values) * 1e6:.0f}",
            f"{spread(values):.0%}",
            f"{ratio(values, samples[CAPTURED]):.2f}" if CAPTURED in samples else "",
        ]
        for name, values in samples.items()
    ]
    norm = "with" if result["batch_norm"] else "without"
    title = f"Training step on the GPU, {norm} Batch Normalization, batch {contenders.BATCH}, float32"
    lines = [table(title, ["", "us", "+-", "x captured"], rows)]
    lines += [f"Left out: {name} ({why})" for name, why in result["left_out"].items()]
    worst = max((max(of_one.values()) for of_one in result["differences"].values()), default=0.0)
    lines.append(f"Over {CHECKED} steps all agree with float64 within {worst:.0e} (losses, parameters, statistics).\n")
    return "\n".join(lines)


def targets(result: dict) -> list[dict]:
    """Against PyTorch eager with Batch Normalization, if it took part."""
    samples = result["samples"]
    if not result["batch_norm"] or not {EAGER, CAPTURED} <= samples.keys():
        return []
    speed = ratio(samples[EAGER], samples[CAPTURED])
    return [target(f"MLP step with BN on the GPU, captured against {EAGER}", speed, WANTED, at_least=True, unit="x")]
