"""The training step of the small Inception on the GPU, at Kiefer's width and batch size, and what his 30 epochs take."""

import functools
from collections.abc import Callable
from typing import Any

import minigrad as mg
from benchmarks.comparison import inception
from benchmarks.comparison import inception_networks as networks
from benchmarks.comparison.gpu_sides import OURS, THEIRS
from benchmarks.comparison.gpu_training import (
    RESIDENT,
    Trainer,
    fed,
    left_out_and_failed,
    made_of,
    steps_in_turn,
    warm_up,
)
from benchmarks.comparison.tables import median, ratio, spread, table, target

NETWORK = networks.Network(1.0, 250, True)
EPOCHS, IMAGES = 30, 50_000
CHECKED = 3  # steps whose losses are compared
# The loss before any change is the same to the precision of the products. From the first change on, nine modules of Batch
# Normalization and ReLU amplify every rounding, that of TF32 (2^-11 a factor) to half of a tensor's change.
FIRST_LOSS = {"float32": 1e-3, "tf32": 1e-2}  # as a share
LATER_LOSSES = 0.1  # as a share
CHANGES = {"float32": 0.2, "tf32": 1.0}  # of what a tensor has changed in the first step, as a share
PREPARED = 4  # batches
READ_EVERY = 1000
SPEED, MINUTES = 0.7, 5.0  # against PyTorch, and for all epochs

CAPTURED = f"{OURS} captured"
CHANNELS_LAST, COMPILED = f"{THEIRS} channels_last", f"{THEIRS} torch.compile"
CONTENDERS: dict[str, Callable[..., networks.Contender]] = {
    CAPTURED: lambda *given, device: networks.minigrad_step(*given, captured=True, device=device),
    CHANNELS_LAST: lambda *given, device: networks.torch_step(*given, device=device),
    COMPILED: lambda *given, device: networks.torch_step(*given, compiled=True, device=device),
}
ROWS = (*((name, p) for p in ("tf32", "float32") for name in (CAPTURED, CHANNELS_LAST)), (COMPILED, "tf32"))


def label(name: str, precision: str) -> str:
    """Of a row."""
    return f"{name}, {precision}"


def first_steps(contender: networks.Contender, arrays: networks.Arrays, batches: list) -> tuple[list[float], dict]:
    """(losses, what the first step has changed)."""
    losses = [contender.loss(contender.step(*batches[0]))]
    changed = inception.changes(contender, arrays)
    return losses + [contender.loss(contender.step(*batch)) for batch in batches[1:CHECKED]], changed


def expected_of(sides: list, network: networks.Network) -> tuple[list[float], dict]:
    """The first steps in float64 on the GPU: PyTorch's, or minigrad's line by line where PyTorch takes no part."""
    side = sides[-1]
    arrays = {name: array.astype(float) for name, array in networks.initial_arrays(network).items()}
    batches = [(images.astype(float), labels) for images, labels in networks.batches(network, CHECKED)]
    if side.name == THEIRS:
        contender = networks.torch_step(network, arrays, 1, device=side.device)
    else:
        contender = networks.minigrad_step(
            network, arrays, mg.get_num_threads(), captured=False, device=side.device.name
        )
    return first_steps(contender, arrays, fed(side, False, RESIDENT, batches))


def prepared(name: str, precision: str, side: Any, network: networks.Network, expected: tuple) -> tuple[Trainer, dict]:
    """A contender that trains the expected network, and by how much it was off. RuntimeError if it trains another."""
    arrays = networks.initial_arrays(network)
    with side.precision(precision):
        device = side.device.name if side.name == OURS else side.device
        contender = CONTENDERS[name](network, arrays, mg.get_num_threads(), device=device)
        batches = fed(side, name == CAPTURED, RESIDENT, networks.batches(network, PREPARED))
        losses, changed = first_steps(contender, arrays, batches)
    differences = {
        "first loss": inception.loss_difference(losses[:1], expected[0][:1]),
        "later losses": inception.loss_difference(losses[1:], expected[0][1:]),
        "changes": inception.change_difference(changed, expected[1]),
    }
    limits = {"first loss": FIRST_LOSS[precision], "later losses": LATER_LOSSES, "changes": CHANGES[precision]}
    for what, limit in limits.items():
        if not differences[what] <= limit:
            raise RuntimeError(
                f"{label(name, precision)} does not train the same network as in float64: its {what} differ by "
                f"{differences[what]:.2g} as a share, at most {limit:g} was expected"
            )
    trainer = Trainer(side, precision, contender, batches)
    warm_up(trainer)
    return trainer, {"losses": losses, "differences": differences}


def compare(sides: list, *, rounds: int, steps: int, network: networks.Network = NETWORK, rows: tuple = ROWS) -> dict:
    """Samples of all contenders, taken in turn; `sides` are minigrad and, if it takes part, PyTorch."""
    by_name = {side.name: side for side in sides}
    expected = expected_of(sides, network)
    makers = {
        label(name, precision): functools.partial(
            prepared, name, precision, by_name[name.split()[0]], network, expected
        )
        for name, precision in rows
        if name.split()[0] in by_name
    }
    trainers, found, failed = made_of(makers)
    return {
        **network._asdict(),
        **left_out_and_failed(failed, COMPILED),
        "expected": expected[0],
        "contenders": found,
        "samples": steps_in_turn(trainers, rounds, steps, READ_EVERY),
    }


def minutes(result: dict, name: str) -> float:
    """What 30 epochs on 50,000 images take, the last images of an epoch left out where they fill no batch."""
    return EPOCHS * (IMAGES // result["batch"]) * median(result["samples"][name]) / 60


def report(result: dict) -> str:
    """The table."""
    samples = result["samples"]
    base = label(CHANNELS_LAST, "tf32")
    rows = [
        [
            name,
            f"{median(values) * 1e3:.2f}",
            f"{spread(values):.0%}",
            f"{result['batch'] / median(values):.0f}",
            f"{minutes(result, name):.1f}",
            f"{ratio(samples[base], values):.2f}" if base in samples else "",
            f"{result['contenders'][name]['differences']['changes']:.2f}",
        ]
        for name, values in samples.items()
    ]
    network = networks.Network(**{name: result[name] for name in networks.Network._fields})
    header = ["", "ms", "+-", "images/s", "minutes", f"x {base}", "off float64"]
    lines = [table(f"Training step of Inception on the GPU, {inception.described(network)}", header, rows)]
    lines += [f"Left out: {name} ({why})" for name, why in result["left_out"].items()]
    lines.append(
        f"Minutes: {EPOCHS} epochs of {IMAGES:,} images. Off float64: the largest difference in what the first step changed "
        "in a tensor, as a share.\n"
    )
    return "\n".join(lines)


def targets(result: dict) -> list[dict]:
    """Against PyTorch in TF32 if it took part, and for the whole training."""
    samples = result["samples"]
    ours, base = label(CAPTURED, "tf32"), label(CHANNELS_LAST, "tf32")
    if ours not in samples:
        return []
    found = []
    if base in samples:
        speed = ratio(samples[base], samples[ours])
        found.append(target(f"Inception on the GPU, {ours} against {base}", speed, SPEED, at_least=True, unit="x"))
    what = f"Inception on the GPU, {ours}: {EPOCHS} epochs of {IMAGES:,} images"
    found.append(target(what, minutes(result, ours), MINUTES, at_least=False, unit=" minutes"))
    return found
