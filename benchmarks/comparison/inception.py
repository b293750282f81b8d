"""The training step of the small Inception: every contender in its own process, checked against each other, then timed."""

import contextlib
import importlib
import time

import numpy as np

from benchmarks.comparison import inception_networks as networks
from benchmarks.comparison.machine import KEEP_MEMORY, peak_memory
from benchmarks.comparison.processes import Burst, Worker, in_turn, sits_out
from benchmarks.comparison.step import compiled_kernels, forbid_compiling, threads_in_words
from benchmarks.comparison.tables import Samples, median, ratio, spread, table, target

CHECKED = 3  # steps whose losses must agree
# In float64 all agree to the last digits (tests/benchmarks); in float32, nine modules of Batch Normalization and ReLU amplify
# every rounding, most of all those of PyTorch's channels_last statistics.
LOSS_TOLERANCE = 2e-2  # of losses, as a share
CHANGE_TOLERANCE = 0.2  # of what a tensor has changed in the first step, as a share
PREPARED = 4  # batches that lie ready

OURS, BASE = "minigrad captured", "PyTorch channels_last"
MODULES = {"minigrad": "minigrad", "PyTorch": "torch", "JAX": "jax"}
AS_IT_COMES = f"{BASE}, malloc as it comes"
OPENMP_UNSET = f"{BASE}, OMP_NUM_THREADS unset"
VARIANTS = {  # the environment of further rows; None takes a variable away
    AS_IT_COMES: dict.fromkeys(KEEP_MEMORY),
    OPENMP_UNSET: {"OMP_NUM_THREADS": None, "MKL_NUM_THREADS": None},
}
SPEED = {0.25: 2.0, 1.0: 1.3}  # by width: to be reached against PyTorch's fastest mode
COST_OF_BATCH_NORM = 1.15


def plan(quick: bool) -> list[tuple[networks.Network, dict]]:
    """The networks to compare, and how."""
    if quick:
        few = (OURS, BASE)
        return [
            (networks.Network(0.25, 32, True), {"rounds": 3, "steps": 2}),
            (networks.Network(0.25, 32, False), {"rounds": 3, "steps": 2, "contenders": few}),
        ]
    found = []
    for width, batch, length in ((0.25, 128, {"rounds": 8, "steps": 2}), (1.0, 50, {"rounds": 6, "steps": 1})):
        variants = (AS_IT_COMES, OPENMP_UNSET) if width < 1 else (AS_IT_COMES,)
        found.append((networks.Network(width, batch, True), {**length, "variants": variants}))
        found.append((networks.Network(width, batch, False), length))
    return found


def prepare(spec: dict) -> tuple[dict, Burst]:
    """In the contender's process: its first steps, what they computed, and the function that runs a burst."""
    name = spec["contender"]
    network = networks.Network(**spec["network"])
    began = time.monotonic()
    importlib.import_module(MODULES[name.split()[0]])
    imported = peak_memory()
    initial = networks.initial_arrays(network)
    data = networks.batches(network, PREPARED)
    contender = networks.CONTENDERS[name](network, initial, spec["threads"])
    losses = [contender.loss(contender.step(*data[0]))]
    ready = time.monotonic()
    changed = changes(contender, initial)
    losses += [contender.loss(contender.step(*batch)) for batch in data[1 : CHECKED - 1]]
    start = time.monotonic()
    losses.append(contender.loss(contender.step(*data[CHECKED - 1])))
    answer = {
        "first_step": ready - began,
        "later_step": time.monotonic() - start,
        "parameters": contender.parameters,
        "losses": losses,
        "changes": changed,
        "compiled": compiled_kernels() if name.startswith("minigrad") else None,
    }
    position = 0

    def burst(steps: int) -> dict:
        nonlocal position
        with forbid_compiling(name):
            start = time.perf_counter()
            for _ in range(steps):
                loss = contender.step(*data[position])
                position = (position + 1) % PREPARED
            contender.loss(loss)
            seconds = time.perf_counter() - start
        return {"seconds": seconds / steps, "peak_memory": peak_memory() - imported}

    return answer, burst


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


def worst(values) -> float:
    """The largest; infinite if one is NaN."""
    values = list(values)
    return np.inf if any(np.isnan(v) for v in values) else max(values)


def process_of(threads: int, contender: str, network: networks.Network, variables: dict[str, str | None]) -> Worker:
    """The process of a contender whose kernels, where it keeps them, lie on disk: compiling would count as its memory."""
    settings = {"contender": contender, "network": network._asdict()}
    worker = Worker("inception", threads, {**KEEP_MEMORY, **variables}, **settings)
    if (worker.answer.get("compiled") or {}).get("kernels"):
        with worker:
            pass
        worker = Worker("inception", threads, {**KEEP_MEMORY, **variables}, **settings)
    return worker


def rows_of(
    network: networks.Network, contenders: tuple[str, ...], variants: tuple[str, ...]
) -> dict[str, tuple[str, networks.Network, dict]]:
    """Label of each row: (contender, network, environment). Without BN, two with BN besides, for what BN costs."""
    found = {name: (name, network, {}) for name in contenders}
    for label in variants:
        found[label] = BASE, network, VARIANTS[label]
    if not network.batch_norm:
        for name in (OURS, BASE):
            found[with_batch_norm(name)] = name, network._replace(batch_norm=True), {}
    return found


def with_batch_norm(name: str) -> str:
    """The label of a contender's row with BN among those without."""
    return f"{name}, with BN"


def compare(
    network: networks.Network,
    threads: int,
    *,
    rounds: int,
    steps: int,
    contenders: tuple[str, ...] = tuple(networks.CONTENDERS),
    variants: tuple[str, ...] = (),
) -> dict:
    """Time all contenders in turn, `rounds` times `steps` steps; slow contenders only in some rounds."""
    rows = rows_of(network, contenders, variants)
    with contextlib.ExitStack() as stack:
        workers, left_out = {}, {}
        for label, (contender, of_row, variables) in rows.items():
            w = stack.enter_context(process_of(threads, contender, of_row, variables))
            if w.missing:
                left_out[label] = w.missing
            else:
                workers[label] = w
        alike = {label: w.answer for label, w in workers.items() if rows[label][1] == network}
        differences = {label: differences_of(answer, alike[OURS]) for label, answer in alike.items()}
        check(differences)
        later = {label: w.answer["later_step"] for label, w in workers.items()}
        samples: dict[str, list[float | None]] = {label: [] for label in workers}
        memory = {}
        for i in range(rounds):
            for label in in_turn(list(workers), i):
                if sits_out(later, label, i):
                    samples[label].append(None)
                    continue
                result = workers[label].burst(steps=steps)
                samples[label].append(result["seconds"])
                memory[label] = result["peak_memory"]
        return {
            **network._asdict(),
            "threads": threads,
            "environment": KEEP_MEMORY,
            "left_out": left_out,
            "contenders": {
                label: {
                    "environment": rows[label][2],
                    "parameters": w.answer["parameters"],
                    "first_step": w.answer["first_step"],
                    "losses": w.answer["losses"],
                    "differences": differences.get(label),
                    "images_per_second": network.batch / median(samples[label]),
                    "peak_memory": memory[label],
                }
                for label, w in workers.items()
            },
            "samples": samples,
        }


def differences_of(answer: dict, expected: dict) -> dict[str, float]:
    """What two contenders that train the same network may not differ in: parameters, losses, what a step changes."""
    return {
        "parameters": answer["parameters"] - expected["parameters"],
        "losses": loss_difference(answer["losses"], expected["losses"]),
        "changes": change_difference(answer["changes"], expected["changes"]),
    }


def check(differences: dict[str, dict[str, float]]) -> None:
    """Raise RuntimeError unless all trained the same network."""
    for label, of_label in differences.items():
        for what, limit in (("parameters", 0), ("losses", LOSS_TOLERANCE), ("changes", CHANGE_TOLERANCE)):
            if not abs(of_label[what]) <= limit:
                raise RuntimeError(
                    f"{label} and {OURS} do not compute the same: their {what} differ by {of_label[what]:.2g} "
                    f"(parameters: their number; losses: over {CHECKED} steps, as a share; changes: of a tensor in the "
                    f"first step, as a share), at most {limit:g} was expected"
                )


def fastest(samples: dict[str, Samples]) -> str | None:
    """PyTorch's fastest mode; None if PyTorch did not take part."""
    modes = [label for label in samples if label.startswith("PyTorch") and label != with_batch_norm(BASE)]
    return min(modes, key=lambda label: median(samples[label]), default=None)


def least_memory(contenders: dict[str, dict]) -> int:
    """The peak memory of PyTorch's mode that needs least."""
    return min(
        answer["peak_memory"]
        for label, answer in contenders.items()
        if label.startswith("PyTorch") and label != with_batch_norm(BASE)
    )


def report(result: dict) -> str:
    """The table of one comparison."""
    samples, contenders = result["samples"], result["contenders"]
    best = fastest(samples)
    lines = [
        table(
            f"Training step of {title(result)}",
            ["", "images/s", "+-", "x PyTorch's fastest", "first step s", "MiB above import"],
            [
                [
                    label,
                    f"{contenders[label]['images_per_second']:.0f}",
                    f"{spread(values):.0%}",
                    f"{ratio(samples[best], values):.2f}" if best else "",
                    f"{contenders[label]['first_step']:.1f}",
                    f"{contenders[label]['peak_memory'] / 2**20:.0f}",
                ]
                for label, values in samples.items()
            ],
        )
    ]
    for name in (OURS, BASE):
        if with_batch_norm(name) in samples:
            cost = ratio(samples[with_batch_norm(name)], samples[name])
            lines.append(f"{name}: a step with BN takes {cost:.2f} times one without.")
    lines += [f"Left out: {name} ({why})" for name, why in result["left_out"].items()]
    return "\n".join([*lines, ""])


def described(network: networks.Network) -> str:
    """Which network, on how much."""
    norm = "with" if network.batch_norm else "without"
    return f"width {network.width:g}, batch {network.batch}, {norm} BN"


def title(result: dict) -> str:
    """Which network, on how much, on how many threads."""
    network = networks.Network(**{name: result[name] for name in networks.Network._fields})
    return f"Inception, {described(network)}, {threads_in_words(result['threads'])}"


def targets(result: dict) -> list[dict]:
    """What is to be reached, as far as the contenders took part."""
    samples, contenders, width = result["samples"], result["contenders"], result["width"]
    if not result["batch_norm"]:
        cost = ratio(samples[with_batch_norm(OURS)], samples[OURS])
        return [
            target(f"{title(result)}: a step with BN against it", cost, COST_OF_BATCH_NORM, at_least=False, unit="x")
        ]
    found = []
    best = fastest(samples)
    if best and width in SPEED:
        speed = ratio(samples[best], samples[OURS])
        found.append(target(f"{title(result)}: against {best}", speed, SPEED[width], at_least=True, unit="x"))
    if best and width == 1:
        memory = contenders[OURS]["peak_memory"] / least_memory(contenders)
        found.append(
            target(f"{title(result)}: peak memory against PyTorch's least", memory, 1.0, at_least=False, unit="x")
        )
    return found
