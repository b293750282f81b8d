"""The training step: every contender in its own process, checked against each other, then timed in turn."""

import contextlib
import statistics
import time

from benchmarks.comparison import contenders
from benchmarks.comparison.machine import peak_memory
from benchmarks.comparison.processes import Burst, Worker, in_turn
from benchmarks.comparison.tables import ratio, spread, table, target

CHECKED = 20  # steps whose losses must agree
TOLERANCE = 1e-5  # of losses, parameters and running statistics, against the same in float64
READ_EVERY = 50  # steps between two looks at the loss
PREPARED = 64  # batches that lie ready
SETTLE = 30  # steps at the start of a burst that are not timed


def prepare(spec: dict) -> tuple[dict, Burst]:
    """In the contender's process: its first step, the check, and the function that runs a burst."""
    name, threads = spec["contender"], spec["threads"]
    parameters = contenders.initial_parameters(spec["batch_norm"])
    data = contenders.batches(PREPARED)
    began = time.monotonic()
    contender = contenders.make(name, parameters, threads)
    losses = [contender.loss(contender.step(*data[0]))]
    ready = time.monotonic()
    losses += [contender.loss(contender.step(*batch)) for batch in data[1:CHECKED]]
    state = contender.state()
    expected = contenders.numpy_by_hand(parameters, float)
    right = [expected.loss(expected.step(*batch)) for batch in data[:CHECKED]]
    answer = {
        "first_step": ready - began,
        "since_start": ready - spec["started"],
        "loss_difference": max(abs(a - b) for a, b in zip(losses, right, strict=True)),
        "state_difference": contenders.largest_difference(state, expected.state()),
        "compiled": compiled_kernels() if name.startswith("minigrad") else None,
    }
    position = 0

    def burst(steps: int) -> dict:
        nonlocal position
        loss = None
        with forbid_compiling(name):
            for i in range(-SETTLE, steps):
                if i == 0:
                    contender.loss(loss)
                    start = time.perf_counter()
                loss = contender.step(*data[position])
                position = (position + 1) % PREPARED
                if (i + 1) % READ_EVERY == 0:
                    contender.loss(loss)
            contender.loss(loss)
            seconds = time.perf_counter() - start
        return {"seconds": seconds / steps, "peak_memory": peak_memory()}

    return answer, burst


def compiled_kernels() -> dict:
    """What minigrad compiled in this process, rather than loaded."""
    from minigrad.kernels.build.progress import progress

    return {"kernels": len(progress.compiled), "seconds": progress.total}


def forbid_compiling(name: str) -> contextlib.AbstractContextManager:
    """What makes a compilation during a burst an error, as far as the contender offers it."""
    if not name.startswith("minigrad"):
        return contextlib.nullcontext()
    import minigrad as mg

    return mg.no_compile()


def compare(batch_norm: bool, threads: int, *, rounds: int, steps: int) -> dict:
    """Time all contenders in turn, `rounds` times `steps` steps, each round starting with another one."""
    with contextlib.ExitStack() as stack:
        workers = []
        for name in contenders.CONTENDERS:
            with Worker("step", threads, contender=name, batch_norm=batch_norm):
                pass  # fills the caches on disk: files in memory, compiled code where the contender keeps it
            workers.append(stack.enter_context(Worker("step", threads, contender=name, batch_norm=batch_norm)))
        left_out = {w.name: w.missing for w in workers if w.missing}
        workers = [w for w in workers if not w.missing]
        for w in workers:
            worst = max(w.answer["loss_difference"], w.answer["state_difference"])
            if not worst <= TOLERANCE:
                raise RuntimeError(
                    f"{w.name} does not compute the same: after {CHECKED} steps its losses differ by up to "
                    f"{w.answer['loss_difference']:.1e} and its parameters or running statistics by up to "
                    f"{w.answer['state_difference']:.1e} from those in float64; at most {TOLERANCE:g} was expected"
                )
        samples: dict[str, list[float]] = {w.name: [] for w in workers}
        memory = {}
        for i in range(rounds):
            for w in in_turn(workers, i):
                result = w.burst(steps=steps)
                samples[w.name].append(result["seconds"])
                memory[w.name] = result["peak_memory"]
        return {
            "batch_norm": batch_norm,
            "threads": threads,
            "left_out": left_out,
            "contenders": {w.name: w.answer | {"peak_memory": memory[w.name]} for w in workers},
            "samples": samples,
        }


def report(result: dict) -> str:
    """The table of one comparison."""
    samples = result["samples"]
    fastest = samples["minigrad captured"]
    rows = [
        [
            name,
            f"{statistics.median(values) * 1e6:.0f}",
            f"{spread(values):.0%}",
            f"{ratio(values, fastest):.2f}",
            f"{result['contenders'][name]['first_step']:.2f}",
            f"{result['contenders'][name]['peak_memory'] / 2**20:.0f}",
        ]
        for name, values in samples.items()
    ]
    worst = max(max(answer["loss_difference"], answer["state_difference"]) for answer in result["contenders"].values())
    title = (
        f"Training step, {'with' if result['batch_norm'] else 'without'} Batch Normalization, batch "
        f"{contenders.BATCH}, {threads_in_words(result['threads'])}"
    )
    lines = [table(title, ["", "us", "+-", "x captured", "first step s", "peak MiB"], rows)]
    lines += [f"Left out: {name} ({why})" for name, why in result["left_out"].items()]
    lines.append(
        f"Over {CHECKED} steps all agree with float64 within {worst:.0e} (losses, parameters, running statistics).\n"
    )
    return "\n".join(lines)


def threads_in_words(threads: int) -> str:
    """1 thread, 2 threads."""
    return f"{threads} thread{'s' if threads != 1 else ''}"


def targets(result: dict) -> list[dict]:
    """What is to be reached with Batch Normalization, as far as the contenders took part."""
    if not result["batch_norm"]:
        return []
    samples = result["samples"]
    wanted = [
        ("minigrad captured", "PyTorch eager", 3.0),
        ("minigrad captured", "JAX jit", 1.5),
        ("minigrad eager", "PyTorch eager", 1.5),
    ]
    return [
        target(
            f"BN step, {ours} against {theirs}, {threads_in_words(result['threads'])}",
            ratio(samples[theirs], samples[ours]),
            limit,
            at_least=True,
            unit="x",
        )
        for ours, theirs, limit in wanted
        if theirs in samples
    ]
