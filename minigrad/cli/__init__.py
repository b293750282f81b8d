"""The command `minigrad`: info, warmup, verify, data, bench, cache, launch. Needs the extra `cli` (typer, rich)."""

import functools
import os
import platform
import re
import shutil
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np

import minigrad as mg
from minigrad.cli.steps import WORK, eager, experiment_step
from minigrad.cli.verification import (
    ERRORS,
    check_augmentation,
    check_capture,
    check_op,
    check_optimizers,
    check_precision,
    op_cases,
)
from minigrad.devices import Device, get_device
from minigrad.kernels.build.settings import install


def main() -> None:
    """Run the command line."""
    try:
        application()()
    except ImportError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"the minigrad command needs typer and rich: {install('cli')}")


def application() -> Any:
    """The command line, as typer has it."""
    import typer

    def options(
        version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.")] = False,
    ) -> None:
        if version:
            print(f"minigrad {mg.__version__}")
            raise typer.Exit

    app = typer.Typer(
        add_completion=False,
        invoke_without_command=True,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help=mg.__doc__,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def cache_options(
        clear: Annotated[bool, typer.Option("--clear", help="Remove the kernels of all versions.")] = False,
        clear_old: Annotated[bool, typer.Option("--clear-old", help="Remove those of other versions.")] = False,
    ) -> None:
        cache(clear, clear_old)

    app.callback()(options)
    for command in (info, warmup, verify, data, bench):
        app.command()(command)
    app.command("cache", help=cache.__doc__)(cache_options)

    def launch_options(
        command: Annotated[
            list[str], typer.Argument(metavar="SCRIPT [ARGUMENTS]...", help="A Python file, and its own.")
        ],
        processes: Annotated[int, typer.Option("-n", min=1, help="How many processes, on all machines together.")],
        hosts: Annotated[Path | None, typer.Option(help="A file of machines, as mpiexec takes it: one a line.")] = None,
    ) -> None:
        launch(command, processes, hosts)

    own_arguments = {"allow_interspersed_args": False}  # what comes after the script is the script's
    app.command("launch", help=launch.__doc__, context_settings=own_arguments)(launch_options)
    return app


def refuse(message: str) -> NoReturn:
    """End with a message about the arguments; exit status 2."""
    print(f"minigrad: {message}", file=sys.stderr)
    sys.exit(2)


def found_device(name: str) -> Device:
    """The device, or the end of the program, with what mends it."""
    try:
        return get_device(name)
    except ValueError as error:
        refuse(f"--device: {error}")
    except RuntimeError as error:
        sys.exit(f"minigrad: {error}")


def found_precision(name: str) -> mg.matmul_precision:
    """Products in this precision, to be left again; or the end of the program, with what mends it."""
    try:
        return mg.matmul_precision(name)
    except ValueError as error:
        refuse(f"--precision: {error}")
    except RuntimeError as error:
        sys.exit(f"minigrad: {error}")


def info() -> None:
    """Print versions, the machine, threads, and where compiled kernels are kept."""
    import llvmlite
    import numba

    from minigrad.kernels.build import cache, settings
    from minigrad.kernels.cpu.tools import threads
    from minigrad.kernels.cpu.vector import target

    folder = cache.cache_folder("cpu")
    kept = sorted(folder.glob("*.kernel")) if folder else []
    rows = {
        "minigrad": mg.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy, numba, llvmlite": f"{np.__version__}, {numba.__version__}, {llvmlite.__version__}",
        "vector unit": f"{target.REGISTERS} registers of {target.REGISTER_BITS} bits"
        + (", fma" if target.HAS_FMA else "")
        + (", bfloat16" if target.HAS_BFLOAT16 else ""),
        "threads": f"{mg.get_num_threads()} of {threads.available_threads()} available",
        "kernel cache": f"{folder}" if folder else "none (see the warning)",
        "": f"{amount(kept)} for this version; `minigrad cache` shows all" if folder else "",
        "downloaded data": f"{settings.cache_root()}",
        **{f"${v.name}": os.environ.get(v.name) or f"not set; {v.meaning}" for v in settings.VARIABLES},
        "GPU": gpu(),
    }
    for name, value in rows.items():
        if value:
            print(textwrap.fill(value, 80, initial_indent=f"{name:24}", subsequent_indent=" " * 24, **WHOLE_WORDS))


def launch(script: Sequence[str], processes: int, hosts: Path | None) -> None:
    """Run a script in several processes, which `mg.distributed.init()` in it lets work together.

    It starts `mpiexec`, and says which process it was if one is killed.
    """
    from minigrad.distributed.launch import command

    if not Path(script[0]).is_file():
        refuse(f"there is no file {script[0]}")
    if hosts is not None and not hosts.is_file():
        refuse(f"there is no file of hosts {hosts}")
    try:
        line = command(processes, script, None if hosts is None else str(hosts))
    except FileNotFoundError as error:
        sys.exit(f"minigrad: {error}")
    sys.stdout.flush()
    os.execv(line[0], line)


WHOLE_WORDS: Any = {"break_long_words": False, "break_on_hyphens": False}


def amount(files: Sequence[Path]) -> str:
    """How many files there are, and what they take on the disk."""
    size = sum(path.stat().st_size for path in files)
    return f"{len(files)} file{'s' * (len(files) != 1)}, {size / 1e6:.1f} MB"


def gpu() -> str:
    """What device="cuda" is here, or why there is none."""
    try:
        driver = get_device("cuda").driver  # type: ignore[attr-defined]
    except RuntimeError as error:
        return f"none ({error})"
    major, minor = driver.capability
    return f"{driver.name}, compute capability {major}.{minor}, {driver.memory / 2**30:.0f} GiB"


def warmup(model: str = "mnist", processes: int | None = None, device: str = "cpu", precision: str = "float32") -> None:
    """Compile, once for this machine, the kernels that "mnist", "inception" or "all" need, by as many processes as cores.

    The device is "cpu", "cuda", "reference" or "auto"; the precision is that of products, "float32", "bf16_3x", "tf32" or
    "bf16".
    """
    device = found_device(device).name
    from minigrad.kernels.build.progress import progress
    from minigrad.kernels.cpu.tools.ahead import compile_all, noted

    if model not in WORK:
        refuse(f"--model: unknown model {model!r}; there are {', '.join(map(repr, WORK))}")
    if processes is not None and processes < 1:
        refuse(f"--processes must be at least 1, not {processes}")
    start = time.perf_counter()
    with found_precision(precision):
        if device == "cpu":
            with noted() as wanted:
                for run in WORK[model]:
                    run(device)
            compile_all(wanted, processes)
        for run in WORK[model]:
            run(device)
    print(f"{len(progress.compiled)} kernels compiled, {time.perf_counter() - start:.1f} s")


def verify(device: str = "cpu") -> None:
    """Check a device here: every family of kernels against plain NumPy, gradients, capture against eager.

    On a GPU also products in each precision of tensor cores, to the error that it promises.

    The device is "cpu", "cuda", "reference" or "auto". The first time on a machine this compiles for some minutes.
    """
    device = found_device(device).name
    checks: dict[str, Callable[[], None]] = {
        **{name: functools.partial(check_op, device, *case) for name, case in op_cases().items()},
        **{f"products in {p}": functools.partial(check_precision, device, p) for p in ERRORS if device == "cuda"},
        "optim: sgd, adagrad, rmsprop, adam, averages, clipping": lambda: check_optimizers(device),
        "augment: affine maps, shifts, brightness": lambda: check_augmentation(device),
        "captured and eager steps give the same bits": lambda: check_capture(device),
    }
    failures = 0
    for name, check in checks.items():
        try:
            check()
            print(f"ok      {name}", flush=True)
        except AssertionError as error:
            failures += 1
            print(f"FAILED  {name}\n{textwrap.indent(str(error).strip(), ' ' * 8)}", flush=True)
    sys.exit(1 if failures else 0)


def data(name: str = "mnist", folder: Path | None = None) -> None:
    """Find a dataset's files or download them, check them, and say what they hold: "mnist" or "cifar10"."""
    from minigrad.data import load_cifar10, load_mnist

    datasets: dict[str, Callable[..., tuple[np.ndarray, ...]]] = {"mnist": load_mnist, "cifar10": load_cifar10}
    if name not in datasets:
        refuse(f"--name: unknown dataset {name!r}; there are {', '.join(map(repr, datasets))}")
    try:
        images, _, test_images, _ = datasets[name](folder)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"minigrad: {error}")
    print(f"{name}: {len(images):,} training and {len(test_images):,} test images, in order")


def bench(steps: int = 500, device: str = "cpu") -> None:
    """Time the training step of the MNIST experiment, captured and eager; comparisons are in benchmarks/compare.py.

    The device is "cpu", "cuda", "reference" or "auto".
    """
    if steps < 1:
        refuse(f"--steps must be at least 1, not {steps}")
    device = found_device(device).name
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 2, (60, 784)).astype(np.float32), rng.integers(0, 10, 60)
    where = f"{mg.get_num_threads()} threads" if device == "cpu" else device
    for batch_norm in (True, False):
        step = experiment_step(batch_norm, device)[1]
        for name, run in (("captured", step), ("eager", eager(step, device))):
            for _ in range(20):
                run(images, labels)
            times = []
            with mg.no_compile():
                for _ in range(10):
                    start = time.perf_counter()
                    for _ in range(max(1, steps // 10)):
                        run(images, labels)
                    get_device(device).synchronize()
                    times.append((time.perf_counter() - start) / max(1, steps // 10))
            kind = "with BN" if batch_norm else "without BN"
            print(f"{kind:12}{name:10}{statistics.median(times) * 1e6:8.0f} us a step, {where}")


def cache(clear: bool = False, clear_old: bool = False) -> None:
    """Show the compiled kernels that are kept on disk, and the data that was downloaded; --clear removes the kernels.

    Both are in the folder $MINIGRAD_CACHE, else in "minigrad" in your cache folder. A version is one of minigrad's kernels,
    Python, NumPy and Numba. What was removed is compiled again when it is needed. Data stays.
    """
    from minigrad.kernels.build.cache import sources_hash
    from minigrad.kernels.build.settings import cache_root

    targets = {"cpu": "CPU", "cuda": "GPU", "cuda/host": "GPU on the host"}
    current = {sources_hash(target): f"this version, {name}" for target, name in targets.items()}
    root = cache_root() / "kernels"
    folders = sorted(p for p in root.glob("*") if p.is_dir() and not p.is_symlink() and VERSION.fullmatch(p.name))
    print(f"compiled kernels in {root}" + ("" if folders else ": none"))
    for folder in folders:
        files = [path for path in folder.rglob("*") if path.is_file()]
        about = f"  {folder.name}  {amount(files):>19}  {current.get(folder.name, 'another version')}"
        if clear or (clear_old and folder.name not in current):
            try:
                shutil.rmtree(folder)
            except OSError as error:
                sys.exit(f"{about}\nminigrad: cannot be removed: {error}")
            about += ", removed"
        print(about)
    kept = [path for path in cache_root().rglob("*") if path.is_file() and root not in path.parents]
    print(f"downloaded data in {cache_root()}: {amount(kept)}")


VERSION = re.compile("[0-9a-f]{20}")  # the name of a folder of compiled kernels
