"""minigrad beside PyTorch, JAX and hand-written NumPy on this machine, in one run.

    python benchmarks/compare.py                         everything, on 1 and 2 threads: about half an hour
    python benchmarks/compare.py --quick                 the same in short, to see that it runs; the numbers are rough
    python benchmarks/compare.py --only step --threads 1
    python benchmarks/compare.py --device cuda           the GPU, beside PyTorch on the same: ten minutes

Contenders that are not installed are left out, with a line that says so. README.md in this folder tells how it is measured
and how to read the tables.
"""

import argparse
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

if not __package__:  # run as a script; at the end of the path: an installed minigrad is not hidden by the sources
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.sections import (
    bfloat16,
    contention,
    conv,
    gemm,
    inception,
    kernels,
    limits,
    recurrent,
    start,
    step,
    vocabulary,
    where,
)
from benchmarks.tools import machine, tables
from benchmarks.tools.copies import check_copy
from benchmarks.tools.frameworks import CLOCK, OURS, PRECISIONS, Minigrad, Torch
from benchmarks.tools.sides import Campaign, Here, Processes, Side

SECTIONS = {
    "cpu": {
        "step": step,
        "gemm": gemm,
        "start": start,
        "conv": conv,
        "bfloat16": bfloat16,
        "recurrent": recurrent,
        "vocabulary": vocabulary,
        "inception": inception,
        "where": where,
        "contention": contention,
    },
    "cuda": {
        "limits": limits,  # always measured: others go by them
        "kernels": kernels,
        "gemm": gemm,
        "conv": conv,
        "step": step,
        "inception": inception,
        "where": where,
    },
}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="minigrad beside PyTorch, JAX and NumPy, measured in turn.")
    parser.add_argument("--device", choices=SECTIONS, default="cpu", help="what is measured (cpu)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="numbers of threads (1 2)")
    parser.add_argument("--only", type=lambda text: text.split(","), help="sections, as in gemm,conv")
    parser.add_argument(
        "--simd", choices=["avx2"], help="hold all libraries to these vectors, where the CPU has wider ones"
    )
    parser.add_argument("--cpu-time", action="store_true", help="count each process's own time, on one thread")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("results/compare.json"), help="file for all numbers")
    options = parser.parse_args(argv)
    sections = SECTIONS[options.device]
    options.only = options.only or list(sections)
    unknown = [name for name in options.only if name not in sections]
    if unknown:
        parser.error(f"unknown section {unknown[0]!r}; with --device {options.device} there are {', '.join(sections)}")
    if options.cpu_time and (options.device != "cpu" or options.threads != [1]):
        parser.error(
            "--cpu-time goes with --device cpu --threads 1: of several threads it is the sum, of a GPU nothing"
        )
    if min(options.threads) < 1:
        parser.error(f"--threads must be at least 1, not {min(options.threads)}")
    return options


def main(argv: list[str] | None = None) -> None:
    """Measure, print the tables and keep every number. What fails is told, and the others go on."""
    options = arguments(argv)
    if options.simd and not machine.held_to():  # Numba has read the environment already
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **machine.AVX2_ONLY})
    try:
        check_copy()
    except ImportError as error:
        sys.exit(str(error))
    load = machine.load()  # before anything is run that would be part of it
    if options.cpu_time:
        os.environ[CLOCK] = "cpu"
    about = machine.describe(load)
    sides, left_out = on_gpu(about) if options.device == "cuda" else on_cpu(options.threads)
    about["left_out"] = left_out
    targets: list[dict] = []
    failed: list[str] = []
    results: dict[str, Any] = {"machine": about, "quick": options.quick, "targets": targets, "failed": failed}
    print(machine.in_words(about), *(f"Left out: {name} ({why})\n" for name, why in left_out.items()), sep="\n")
    run = Campaign(sides, options.quick, results)
    for name, section in SECTIONS[options.device].items():
        if name not in options.only and section is not limits:
            continue
        measured = False
        for what, measure in section.plan(run):
            print(f"measuring: {what}", file=sys.stderr, flush=True)  # for who waits; not part of the result
            measured = True
            try:
                result = measure()
                failed += [f"{what}: {why}" for why in result.get("failed", ())]
                results.setdefault(name, []).append(result)
                targets += section.targets(result)
                shown(section.report(result), about)
            except Exception as error:
                traceback.print_exc()
                failed.append(f"{what}: {type(error).__name__}: {error}")
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(results, indent=1) + "\n")
        if not measured:
            print(f"Left out: {name} (it goes by limits that are not known here)\n")
    shown(tables.target_table(targets), about)
    print(f"All numbers are in {options.output}.")
    if failed:
        sys.exit("\n".join(["", "Failed:", *failed]))


def shown(text: str, about: dict) -> None:
    """Print a table; below it, what a reader must know of the machine."""
    print(text + (machine.warning(about) + "\n" if about["busy"] else ""), flush=True)


def on_cpu(threads: list[int]) -> tuple[list[Side], dict[str, str]]:
    """The CPU with each number of threads that it has cores for, and why others are left out."""
    cores = len(machine.physical_cores())
    sides: list[Side] = [Processes(n) for n in sorted(set(threads)) if n <= cores]
    if not sides:
        sys.exit(f"no number of threads is left to measure: there are {cores} cores for this process")
    return sides, {f"{n} threads": f"there are {cores} cores for this process" for n in threads if n > cores}


def on_gpu(about: dict) -> tuple[list[Side], dict[str, str]]:
    """The GPU with each precision, and why PyTorch is left out if it is. Describes the GPU in `about`.

    Without one, or with the simulator in its place, which has no speed: the end, and why.
    """
    from minigrad.devices import get_device

    try:
        device = get_device("cuda")
    except RuntimeError as error:
        sys.exit(str(error))
    if device.driver.is_simulated:
        sys.exit("MINIGRAD_CUDA: there is no GPU here, and so no speed of one to compare")
    return sides_of(device, about)


def sides_of(device: Any, about: dict) -> tuple[list[Side], dict[str, str]]:
    """minigrad's device and PyTorch, if that finds the GPU too, in each precision."""
    frameworks, left_out = {OURS: Minigrad(home=device)}, {}
    about["gpu"] = machine.describe_gpu(device)
    torch, why = pytorch()
    if torch is None:
        left_out["PyTorch"] = why
    else:
        frameworks["PyTorch"] = torch
        cudnn = str(torch.torch.backends.cudnn.version())
        about["gpu"]["versions"] |= {"torch's CUDA": torch.torch.version.cuda, "cuDNN": cudnn}
    return [Here(frameworks, precision, machine.gpu_cache(device)) for precision in PRECISIONS], left_out


def pytorch() -> tuple[Torch | None, str]:
    """(PyTorch on the GPU, "") or (None, why it is left out)."""
    try:
        import torch
    except ModuleNotFoundError as error:
        return None, str(error)
    if not torch.cuda.is_available():
        return None, f"PyTorch {torch.__version__} finds no GPU"
    return Torch(device="cuda"), ""


if __name__ == "__main__":
    main()
