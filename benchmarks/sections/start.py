"""What a user waits for before the first step: imports, loading compiled kernels, compiling them."""

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from benchmarks.tools.machine import ROOT
from benchmarks.tools.sides import Campaign, Process
from benchmarks.tools.tables import left_out, ratio, table, target

IMPORTS = ("minigrad", "numba", "numpy", "torch", "jax")
STARTERS = ("minigrad captured", "minigrad eager", "PyTorch eager", "PyTorch torch.compile", "JAX jit")
EXPERIMENT = ROOT / "examples" / "mnist_batchnorm.py"
EXPERIMENT_NEEDS = ("typer", "rich", "matplotlib")


def import_seconds(module: str) -> float | None:
    """The time `import module` takes in a fresh interpreter, without that of starting it; None if it is not installed."""
    code = (
        "import time, importlib; start = time.perf_counter(); "
        f"importlib.import_module({module!r}); print(time.perf_counter() - start)"
    )
    # bytecode is kept, as it is for everybody: where Python may not write it, sources would be compiled at every import
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=variables)
    if run.returncode and f"No module named {module!r}" in run.stderr:
        return None
    if run.returncode:
        raise RuntimeError(f"`import {module}` fails:\n{run.stderr}")
    return float(run.stdout)


def first_step(contender: str, threads: int, variables: dict[str, str]) -> dict:
    """The answer of a fresh process that did its first training step (with BN); `since_start` are the seconds it took."""
    with Process("step", threads, variables, contender=contender, batch_norm=True) as one:
        if "failed" in one.answer:
            raise RuntimeError(f"{contender}: {one.answer['failed']}")
        return one.answer


def missing_for_experiment() -> list[str]:
    """What the MNIST experiment needs and is not installed; all of it comes with the extra `examples`."""
    return [name for name in EXPERIMENT_NEEDS if importlib.util.find_spec(name) is None]


def experiment_seconds(cache: str) -> float:
    """Wall time of the MNIST experiment cut down to one step of each network, its evaluation and its figure."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        run = subprocess.run(
            [sys.executable, str(EXPERIMENT), "--steps", "1", "--output", folder],
            env={**os.environ, "MINIGRAD_CACHE": cache},
            capture_output=True,
            text=True,
        )
        seconds = time.monotonic() - start
    if run.returncode:
        raise RuntimeError(f"{EXPERIMENT.name} fails:\n{run.stderr[-2000:]}")
    return seconds


def cold_and_warm_experiment() -> dict[str, float]:
    """Wall time of the shortened experiment with an empty kernel cache and again with the filled one."""
    with tempfile.TemporaryDirectory() as cache:
        return {"cold": experiment_seconds(cache), "warm": experiment_seconds(cache)}


def plan(run: Campaign) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Once, with the largest number of threads."""
    yield "imports, first steps, cold compile", lambda: compare(run.sides[-1].threads, rounds=2 if run.quick else 7)


def compare(threads: int, *, rounds: int) -> dict:
    """Imports, first steps with caches filled and empty, and the cold compile, contenders in turn."""
    imports: dict[str, list[float]] = {}
    warm: dict[str, list[float]] = {}
    cold: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name in IMPORTS:
        if import_seconds(name) is None:  # this first time also writes bytecode, and brings the files into memory
            missing[f"import {name}"] = "not installed"
        else:
            imports[name] = []
    with tempfile.TemporaryDirectory() as folder:
        caches = {
            name: {"MINIGRAD_CACHE": f"{folder}/{i}/minigrad", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/{i}/torch"}
            for i, name in enumerate(STARTERS)
        }
        for name in STARTERS:
            answer = first_step(name, threads, caches[name])
            if "missing" in answer:
                missing[name] = answer["missing"]
            else:
                cold[name], warm[name] = answer["since_start"], []
        for _ in range(rounds):
            for name, seconds in imports.items():
                seconds.append(import_seconds(name))
            for name, seconds in warm.items():
                answer = first_step(name, threads, caches[name])
                if answer["compiled"] and answer["compiled"]["kernels"]:
                    raise RuntimeError(
                        f"{name} compiled {answer['compiled']['kernels']} kernels although its cache is filled"
                    )
                seconds.append(answer["since_start"])
    if packages := missing_for_experiment():
        missing["the MNIST experiment"] = f"{', '.join(packages)} not installed"
        experiment = []
    else:
        experiment = [cold_and_warm_experiment() for _ in range(min(rounds, 3))]
    return {
        "threads": threads,
        "left_out": missing,
        "imports": imports,
        "first_step_warm": warm,
        "first_step_cold": cold,
        "experiment": experiment,
    }


def cold_compile(result: dict) -> float:
    """Seconds that an empty cache adds to the experiment."""
    return statistics.median(run["cold"] - run["warm"] for run in result["experiment"])


def report(result: dict) -> str:
    """The tables of what was measured."""
    base = result["imports"]["numba"]
    lines = [
        table(
            "Import, in a fresh interpreter",
            ["", "ms", "x numba"],
            [
                [name, f"{statistics.median(values) * 1e3:.0f}", f"{ratio(values, base):.2f}"]
                for name, values in result["imports"].items()
            ],
        ),
        table(
            "From starting Python to the first finished training step (with BN), s",
            ["", "caches filled", "caches empty"],
            [
                [name, f"{statistics.median(values):.2f}", f"{result['first_step_cold'][name]:.2f}"]
                for name, values in result["first_step_warm"].items()
            ],
        ),
    ]
    if result["experiment"]:
        cold = statistics.median(run["cold"] for run in result["experiment"])
        lines.append(
            f"The MNIST experiment cut down to one step of each network: {cold:.1f} s with an empty kernel cache, of which "
            f"{cold_compile(result):.1f} s are compiling."
        )
    return "\n".join([*lines, *left_out(result), ""])


def targets(result: dict) -> list[dict]:
    """What is to be reached, as far as it was measured."""
    imports = ratio(result["imports"]["minigrad"], result["imports"]["numba"])
    warm = statistics.median(result["first_step_warm"]["minigrad captured"])
    found = [
        target("import minigrad against numba", imports, 1.3, at_least=False, unit="x"),
        target("warm start to the first finished training step", warm, 2.0, at_least=False, unit=" s"),
    ]
    if result["experiment"]:
        what = "cold compile of everything in the MNIST experiment"
        found.append(target(what, cold_compile(result), 30.0, at_least=False, unit=" s"))
    return found
