"""The training step of the small Inception: every contender checked against another, then timed.

On the CPU at two widths, beside minigrad's own step; on a GPU at Kiefer's width and batch size, in float32 and TF32, beside the
same network in float64, and what his 30 epochs take.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from benchmarks.tools import networks
from benchmarks.tools.machine import KEEP_MEMORY, peak_memory
from benchmarks.tools.networks import Network
from benchmarks.tools.sides import COMPILED, Burst, Campaign, Party, Processes, Side, in_words, taking_part
from benchmarks.tools.tables import Samples, left_out, median, ratio, spread, table, target
from benchmarks.tools.training import burst_of, losses_of, resident

CHECKED = 3  # steps whose losses must agree
# The first loss is the same to the precision of the products. In float64 later ones agree to the last digits as well
# (tests/benchmarks); otherwise nine modules of Batch Normalization and ReLU amplify every rounding from the first change on:
# most of all those of PyTorch's channels_last statistics, and those of TF32 (2^-11 a factor), to half of a tensor's change.
LIMITS = {  # all as a share; changes: of what a tensor has changed in the first step
    "cpu": {"parameters": 0, "first loss": 1e-3, "later losses": 2e-2, "changes": 0.2},
    "float32": {"parameters": 0, "first loss": 1e-3, "later losses": 0.1, "changes": 0.2},
    "tf32": {"parameters": 0, "first loss": 1e-2, "later losses": 0.1, "changes": 1.0},
}
PREPARED = 4  # batches that lie ready

OURS, BASE, BY_TORCH = "minigrad captured", "PyTorch channels_last", f"PyTorch {COMPILED}"
AS_IT_COMES = f"{BASE}, malloc as it comes"
OPENMP_UNSET = f"{BASE}, OMP_NUM_THREADS unset"
VARIANTS = {  # the environment of further rows; None takes a variable away
    AS_IT_COMES: dict.fromkeys(KEEP_MEMORY),
    OPENMP_UNSET: {"OMP_NUM_THREADS": None, "MKL_NUM_THREADS": None},
}
SPEED = {0.25: 2.0, 1.0: 1.3}  # by width: to be reached against PyTorch's fastest mode
COST_OF_BATCH_NORM = 1.15

ON_GPU = Network(1.0, 250, True)
ROWS_ON_GPU = ((OURS, "tf32"), (BASE, "tf32"), (OURS, "float32"), (BASE, "float32"), (BY_TORCH, "tf32"))
EPOCHS, IMAGES = 30, 50_000
SPEED_ON_GPU, MINUTES = 0.7, 5.0  # in TF32: against PyTorch, and for all epochs

Row = tuple[Side, str, Network]  # where, contender, which network
Rows = dict[str, Row]


def prepare(spec: dict, framework: Any) -> tuple[dict, Burst]:
    """A contender's first steps, what they computed, and the function that does a burst of steps."""
    network = Network(**spec["network"])
    imported = peak_memory()
    dtype = spec.get("dtype", "float32")
    initial = {name: array.astype(dtype, copy=False) for name, array in networks.initial_arrays(network).items()}
    data = [(images.astype(dtype, copy=False), labels) for images, labels in networks.batches(network, PREPARED)]
    contender = networks.CONTENDERS[spec["contender"]](network, initial, framework.device)
    given = resident(framework, spec["contender"], data) if spec["device"] == "cuda" else data
    losses = losses_of(contender, given[:1])
    ready = time.monotonic()
    changed = changes(contender, initial)
    losses += losses_of(contender, given[1 : CHECKED - 1])
    start = time.monotonic()
    losses += losses_of(contender, given[CHECKED - 1 : CHECKED])
    answer = {
        "first_step": ready - spec["began"],
        "once": time.monotonic() - start,
        "imported": imported,
        "parameters": contender.parameters,
        "losses": losses,
        "changes": changed,
        "compiled": framework.compiled(),
    }
    return answer, burst_of(framework, contender, given)


def changes(contender: networks.Contender, initial: networks.Arrays) -> dict[str, tuple[float, float]]:
    """By how much each tensor has changed: (along a random direction, in all).

    The same direction for all contenders. If two changes differ by d in all, they differ along it by about d as well.
    """
    rng = np.random.default_rng(2)
    found = {}
    for name, before in initial.items():
        change = contender.value(name) - before
        along = np.vdot(change.astype(float), rng.standard_normal(before.shape))
        found[name] = float(along), float(np.linalg.norm(change))
    return found


def loss_difference(losses: list[float], expected: list[float]) -> float:
    """The largest difference of losses, as a share."""
    return worst(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))


def change_difference(found: dict, expected: dict) -> float:
    """The largest difference of what tensors have changed, as a share of the change.

    Tensors that hardly changed, against the one that changed most, are held to a thousandth of that.
    """
    if found.keys() != expected.keys():
        return np.inf
    most = max(length for _, length in expected.values())
    return worst(abs(found[name][0] - along) / (length + 1e-3 * most) for name, (along, length) in expected.items())


def worst(values: Iterable[float]) -> float:
    """The largest; infinite if one is NaN."""
    values = list(values)
    return np.inf if any(np.isnan(v) for v in values) else max(values)


def differences_of(answer: dict, expected: dict) -> dict[str, float]:
    """What two contenders that train the same network may not differ in: parameters, losses, what a step changes."""
    return {
        "parameters": abs(answer["parameters"] - expected["parameters"]),
        "first loss": loss_difference(answer["losses"][:1], expected["losses"][:1]),
        "later losses": loss_difference(answer["losses"][1:], expected["losses"][1:]),
        "changes": change_difference(answer["changes"], expected["changes"]),
    }


def check(party: Party, label: str, differences: dict[str, float], limits: dict[str, float]) -> None:
    """Drop a contender that trains another network."""
    for what, limit in limits.items():
        if not differences[what] <= limit:
            party.drop(
                label,
                f"it does not compute the same: its {what} differ by {differences[what]:.2g} (parameters: their number; "
                f"losses: as a share; changes: of a tensor in the first step, as a share), at most {limit:g} was expected",
            )
            return


def plan(run: Campaign) -> Iterator[tuple[str, Callable[[], dict]]]:
    """The networks that are trained: on the CPU with the largest number of threads, on a GPU in both precisions."""

    def of(network: Network, rows: Rows, **length: int) -> tuple[str, Callable[[], dict]]:
        return f"training step of Inception, {described(network)}", lambda: compare(network, rows, **length)

    if run.sides[0].device == "cuda":
        length = {"rounds": 3, "steps": 3} if run.quick else {"rounds": 9, "steps": 10}
        yield of(ON_GPU, rows_on_gpu(run.sides, ON_GPU), **length)
        return
    side, everybody = run.sides[-1], tuple(networks.CONTENDERS)
    if run.quick:
        for batch_norm, names in ((True, everybody), (False, (OURS, BASE))):
            network = Network(0.25, 32, batch_norm)
            yield of(network, rows_on_cpu(side, network, names), rounds=3, steps=2)
        return
    for width, batch, rounds, steps in ((0.25, 128, 8, 2), (1.0, 50, 6, 1)):
        for network in (Network(width, batch, True), Network(width, batch, False)):
            variants = tuple(VARIANTS)[: 2 if width < 1 else 1] if network.batch_norm else ()
            yield of(network, rows_on_cpu(side, network, everybody, variants), rounds=rounds, steps=steps)


def rows_on_cpu(side: Processes, network: Network, names: tuple[str, ...], variants: tuple[str, ...] = ()) -> Rows:
    """By label: all contenders, and variants of PyTorch. Without BN, two with BN besides, for what BN costs."""
    keeping = side.keeping_memory()
    found = {name: (keeping, name, network) for name in names}
    for label in variants:
        found[label] = side._replace(variables={**KEEP_MEMORY, **VARIANTS[label]}), BASE, network
    if not network.batch_norm:
        found |= {with_batch_norm(name): (keeping, name, network._replace(batch_norm=True)) for name in (OURS, BASE)}
    return found


def rows_on_gpu(sides: list[Side], network: Network, rows: tuple[tuple[str, str], ...] = ROWS_ON_GPU) -> Rows:
    """By label: contenders and precisions."""
    by_precision = {side.precision: side for side in sides}
    return {with_precision(name, p): (by_precision[p], name, network) for name, p in rows if p in by_precision}


def with_batch_norm(name: str) -> str:
    """The label of a contender's row with BN among those without."""
    return f"{name}, with BN"


def with_precision(name: str, precision: str) -> str:
    """The label of a contender's row on a GPU."""
    return f"{name}, {precision}"


def compare(network: Network, rows: Rows, *, rounds: int, steps: int) -> dict:
    """Time all contenders in turn, `rounds` times `steps` steps; slow contenders only in some rounds."""
    side = next(iter(rows.values()))[0]
    on_gpu = side.device == "cuda"
    expected = in_float64(side, network) if on_gpu else None
    given = {label: (s, {"contender": name, "network": n._asdict()}) for label, (s, name, n) in rows.items()}
    latest: dict[str, dict] = {}
    with taking_part("inception", given) as party:
        answers = {label: w.answer for label, w in party.workers.items()}
        differences = {}
        for label, answer in answers.items():
            if rows[label][2] == network and (expected or OURS in answers):
                differences[label] = differences_of(answer, expected or answers[OURS])
                limits = LIMITS[rows[label][0].precision if on_gpu else "cpu"]
                check(party, label, differences[label], limits)
        samples = party.rounds(rounds, {"step": {"steps": steps}}, latest)["step"]
        return {
            **network._asdict(),
            **({"device": "cuda"} if on_gpu else {**side.setting, "device": "cpu", "environment": KEEP_MEMORY}),
            "left_out": party.left_out,
            "failed": party.failed,
            "contenders": {
                label: {
                    "environment": {} if on_gpu else VARIANTS.get(label, {}),
                    "parameters": answers[label]["parameters"],
                    "first_step": answers[label]["first_step"],
                    "losses": answers[label]["losses"],
                    "differences": differences.get(label),
                    "images_per_second": network.batch / median(values),
                    "peak_memory": latest[label]["peak_memory"] - answers[label]["imported"],
                }
                for label, values in samples.items()
            },
            "samples": samples,
        }


def in_float64(side: Side, network: Network) -> dict:
    """The first steps in float64: PyTorch's, or minigrad's line by line where PyTorch takes no part."""
    for name in (BASE, "minigrad eager"):
        with side.start("inception", contender=name, network=network._asdict(), dtype="float64") as one:
            if "losses" in one.answer:
                return one.answer
    raise RuntimeError(f"no step in float64 to compare with: {one.answer}")


def modes_of_torch(samples: dict[str, Samples]) -> list[str]:
    """PyTorch's rows, but for one of another network."""
    return [label for label in samples if label.startswith("PyTorch") and label != with_batch_norm(BASE)]


def base(result: dict) -> str | None:
    """What minigrad is compared with: PyTorch's fastest mode, on a GPU its usual one; None if PyTorch took no part."""
    samples = result["samples"]
    if result["device"] == "cuda":
        return next((label for label in samples if label == with_precision(BASE, "tf32")), None)
    return min(modes_of_torch(samples), key=lambda label: median(samples[label]), default=None)


def minutes(result: dict, label: str) -> float:
    """What 30 epochs on 50,000 images take, the last images of an epoch left out where they fill no batch."""
    return EPOCHS * (IMAGES // result["batch"]) * median(result["samples"][label]) / 60


def report(result: dict) -> str:
    """The table of one comparison."""
    samples, best = result["samples"], base(result)
    on_gpu = result["device"] == "cuda"
    rows = []
    for label, values in samples.items():
        about = result["contenders"][label]
        costs = [f"{about['first_step']:.1f}", f"{about['peak_memory'] / 2**20:.0f}"]
        rows.append(
            [
                label,
                f"{median(values) * 1e3:.2f}",
                f"{spread(values):.0%}",
                f"{about['images_per_second']:.0f}",
                f"{ratio(samples[best], values):.2f}" if best else "",
                *([f"{minutes(result, label):.1f}"] if on_gpu else costs),
                f"{about['differences']['changes']:.3f}" if about["differences"] else "",
            ]
        )
    more = ["minutes"] if on_gpu else ["first step s", "MiB above import"]
    against = "PyTorch's fastest" if best and not on_gpu else best
    header = ["", "ms", "+-", "images/s", f"x {against}" if against else "", *more, "off"]
    lines = [table(f"Training step of {title(result)}", header, rows)]
    for name in (OURS, BASE):
        if {name, with_batch_norm(name)} <= samples.keys():
            cost = ratio(samples[with_batch_norm(name)], samples[name])
            lines.append(f"{name}: a step with BN takes {cost:.2f} times one without.")
    other = "the same in float64" if on_gpu else OURS
    lines.append(f"Off: the largest difference from {other} in what the first step changed in a tensor, as a share.")
    if on_gpu:
        lines.append(f"Minutes: {EPOCHS} epochs of {IMAGES:,} images.")
    return "\n".join([*lines, *left_out(result), ""])


def described(network: Network) -> str:
    """Which network, on how much."""
    norm = "with" if network.batch_norm else "without"
    return f"width {network.width:g}, batch {network.batch}, {norm} BN"


def title(result: dict) -> str:
    """Which network, on how much, where."""
    network = Network(**{name: result[name] for name in Network._fields})
    where = in_words(result) if "threads" in result or "precision" in result else "on the GPU"
    return f"Inception, {described(network)}, {where}"


def targets(result: dict) -> list[dict]:
    """What is to be reached, as far as the contenders took part."""
    samples, contenders, best = result["samples"], result["contenders"], base(result)
    on_gpu = result["device"] == "cuda"
    ours = with_precision(OURS, "tf32") if on_gpu else OURS
    if ours not in samples:
        return []
    speed = SPEED_ON_GPU if on_gpu else SPEED.get(result["width"])
    found = []
    if not result["batch_norm"]:
        cost = ratio(samples[with_batch_norm(OURS)], samples[OURS])
        what = f"{title(result)}: a step with BN against it"
        found.append(target(what, cost, COST_OF_BATCH_NORM, at_least=False, unit="x"))
    elif best and speed:
        what = f"{title(result)}: {ours} against {best}"
        found.append(target(what, ratio(samples[best], samples[ours]), speed, at_least=True, unit="x"))
    if on_gpu:
        what = f"{title(result)}: {ours}, {EPOCHS} epochs of {IMAGES:,} images"
        found.append(target(what, minutes(result, ours), MINUTES, at_least=False, unit=" minutes"))
    elif best and result["batch_norm"] and result["width"] == 1:
        least = min(contenders[label]["peak_memory"] for label in modes_of_torch(samples))
        what = f"{title(result)}: peak memory against PyTorch's least"
        found.append(target(what, contenders[OURS]["peak_memory"] / least, 1.0, at_least=False, unit="x"))
    return found
