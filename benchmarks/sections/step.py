"""The training step of the MNIST network: every contender checked against the step in float64, then timed in turn."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.tools import mlp, peers
from benchmarks.tools.sides import COMPILED, Burst, Campaign, Side, in_words, taking_part
from benchmarks.tools.tables import left_out, median, ratio, spread, table, target
from benchmarks.tools.training import burst_of, losses_of, resident

CHECKED = 20  # steps whose losses must agree
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}  # of losses, parameters and running statistics, against the same in float64
READ_EVERY = 50  # steps between two looks at the loss
PREPARED = 64  # batches that lie ready
SETTLE = 30  # steps at the start of a burst that are not timed
HANDED = ", NumPy"  # ends the name of a contender that is handed arrays of the host although it works on a GPU

CAPTURED, EAGER, THEIRS = "minigrad captured", "minigrad eager", "PyTorch eager"
CONTENDERS = {
    "cpu": (CAPTURED, EAGER, THEIRS, f"PyTorch {COMPILED}", "JAX jit", "NumPy by hand", *peers.CONTENDERS),
    "cuda": (CAPTURED, CAPTURED + HANDED, EAGER, THEIRS, THEIRS + HANDED, f"PyTorch {COMPILED}", "PyTorch CUDA graph"),
}
WANTED = {  # how many times as fast, with Batch Normalization
    "cpu": ((CAPTURED, THEIRS, 3.0), (CAPTURED, "JAX jit", 1.5), (EAGER, THEIRS, 1.5)),
    "cuda": ((CAPTURED, THEIRS, 3.0),),
}


def prepare(spec: dict, framework: Any) -> tuple[dict, Burst]:
    """A contender that has computed what it should, and the function that does a burst of steps."""
    name = spec["contender"].removesuffix(HANDED)
    parameters = mlp.initial_parameters(spec["batch_norm"])
    data = mlp.batches(PREPARED)
    contender = (mlp.CONTENDERS | peers.CONTENDERS)[name](parameters, framework.device)
    on_gpu = spec["device"] == "cuda" and name == spec["contender"]
    given = resident(framework, name, data) if on_gpu else data
    losses = losses_of(contender, given[:1])
    ready = time.monotonic()
    losses += losses_of(contender, given[1:CHECKED])
    expected = mlp.numpy_by_hand(parameters, float)
    right = losses_of(expected, data[:CHECKED])
    differences = {
        "loss_difference": max(abs(a - b) for a, b in zip(losses, right, strict=True)),
        "state_difference": mlp.largest_difference(contender.state(), expected.state()),
    }
    for what, difference in differences.items():
        if not difference <= TOLERANCE[spec["device"]]:
            raise RuntimeError(
                f"after {CHECKED} steps its {what.replace('_', ' ')} from those in float64 is up to {difference:.1e}, "
                f"at most {TOLERANCE[spec['device']]:g} was expected"
            )
    answer = {
        "first_step": ready - spec["began"],
        "since_start": ready - spec["started"],
        **differences,
        "compiled": framework.compiled(),
    }
    return answer, burst_of(framework, contender, given, settle=SETTLE, read_every=READ_EVERY)


def plan(run: Campaign) -> Iterator[tuple[str, Callable[[], dict]]]:
    """With each number of threads, with BN and without; on a GPU in float32."""
    on_gpu = run.sides[0].device == "cuda"
    length = {"rounds": 3, "steps": 50} if run.quick else {"rounds": 40, "steps": 200}
    if on_gpu and not run.quick:
        length = {"rounds": 15, "steps": 500}
    for side, batch_norm in itertools.product(run.sides[:1] if on_gpu else run.sides, (True, False)):
        what = f"training step, {in_words(side.setting)}, batch_norm={batch_norm}"
        yield what, lambda side=side, batch_norm=batch_norm: compare(side, batch_norm, **length)


def compare(side: Side, batch_norm: bool, *, rounds: int, steps: int, names: tuple[str, ...] | None = None) -> dict:
    """Time all contenders in turn, `rounds` times `steps` steps, each round starting with another one."""
    settings = {"batch_norm": batch_norm, "warm": True}
    rows = {name: (side, {"contender": name, **settings}) for name in names or CONTENDERS[side.device]}
    latest: dict[str, dict] = {}
    with taking_part("step", rows) as party:
        contenders = {label: w.answer for label, w in party.workers.items()}
        samples = party.rounds(rounds, {"step": {"steps": steps}}, latest)["step"]
        return {
            "batch_norm": batch_norm,
            **side.setting,
            "device": side.device,
            "left_out": party.left_out,
            "failed": party.failed,
            "contenders": {name: a | {"peak_memory": latest[name]["peak_memory"]} for name, a in contenders.items()},
            "samples": samples,
        }


def report(result: dict) -> str:
    """The table of one comparison."""
    samples, contenders = result["samples"], result["contenders"]
    fastest = samples.get(CAPTURED)
    rows = [
        [
            name,
            f"{median(values) * 1e6:.0f}",
            f"{spread(values):.0%}",
            f"{ratio(values, fastest):.2f}" if fastest else "",
            f"{contenders[name]['first_step']:.2f}",
            f"{contenders[name]['peak_memory'] / 2**20:.0f}",
        ]
        for name, values in samples.items()
    ]
    worst = max((max(a["loss_difference"], a["state_difference"]) for a in contenders.values()), default=0.0)
    norm = "with" if result["batch_norm"] else "without"
    title = f"Training step, {norm} Batch Normalization, batch {mlp.BATCH}, {in_words(result)}"
    return "\n".join(
        [
            table(title, ["", "us", "+-", "x captured", "first step s", "peak MiB"], rows),
            *left_out(result),
            f"Over {CHECKED} steps all agree with float64 within {worst:.0e} (losses, parameters, running statistics).\n",
        ]
    )


def targets(result: dict) -> list[dict]:
    """What is to be reached with Batch Normalization, as far as the contenders took part."""
    samples = result["samples"]
    return [
        target(
            f"BN step, {ours} against {theirs}, {in_words(result)}",
            ratio(samples[theirs], samples[ours]),
            limit,
            at_least=True,
            unit="x",
        )
        for ours, theirs, limit in WANTED[result["device"]]
        if result["batch_norm"] and {ours, theirs} <= samples.keys()
    ]
