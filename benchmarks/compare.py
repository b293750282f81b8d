"""minigrad beside PyTorch, JAX and hand-written NumPy on this machine, in one run.

    python benchmarks/compare.py                         everything, on 1 and 2 threads: about half an hour
    python benchmarks/compare.py --quick                 the same in short, to see that it runs; the numbers are rough
    python benchmarks/compare.py --only step --threads 1
    python benchmarks/compare.py --device cuda           the GPU, beside PyTorch on the same: ten minutes

Contenders that are not installed are left out, with a line that says so. README.md in this folder tells how it is measured
and how to read the tables.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

if (
    not __package__
):  # run as a script; at the end of the path, so that an installed minigrad is not hidden by the sources
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.comparison import conv, gemm, gpu, inception, machine, start, step, tables, where
from benchmarks.comparison.inception_networks import Network
from minigrad.devices import Device, get_device

SECTIONS = {"cpu": ("step", "gemm", "start", "conv", "inception", "where"), "cuda": gpu.SECTIONS}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="minigrad beside PyTorch, JAX and NumPy, measured in turn.")
    parser.add_argument("--device", choices=SECTIONS, default="cpu", help="what is measured (cpu)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="numbers of threads (1 2)")
    parser.add_argument("--only", type=lambda text: text.split(","), help="sections, as in gemm,conv")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("results/compare.json"), help="file for all numbers")
    options = parser.parse_args(argv)
    sections = SECTIONS[options.device]
    options.only = options.only or list(sections)
    unknown = [name for name in options.only if name not in sections]
    if unknown:
        parser.error(f"unknown section {unknown[0]!r}; with --device {options.device} there are {', '.join(sections)}")
    if min(options.threads) < 1:
        parser.error(f"--threads must be at least 1, not {min(options.threads)}")
    return options


def main(argv: list[str] | None = None) -> None:
    """Measure, print the tables and keep every number."""
    options = arguments(argv)
    quick = options.quick
    if options.device == "cuda":
        gpu_here()
    targets: list[dict] = []
    results = {"machine": machine.describe(), "quick": quick, "targets": targets}
    print(describe(results["machine"]))

    def keep(section: str, module, result: dict) -> None:
        print(module.report(result), flush=True)
        targets.extend(module.targets(result))
        results.setdefault(section, []).append(result)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=1) + "\n")

    if options.device == "cuda":
        gpu.run(gpu_here(), options.only, quick, results, keep, note)
    else:
        on_cpu(options, quick, results["machine"]["physical_cores"], keep)
    print(tables.target_table(targets))
    print(f"All numbers are in {options.output}.")
    if failed := results.get("failed"):
        sys.exit("\n".join(["", "Failed:", *failed]))


def gpu_here() -> Device:
    """The GPU; without one, or with the simulator in its place, which has no speed, the end, and why."""
    try:
        device = get_device("cuda")
    except RuntimeError as error:
        sys.exit(str(error))
    if device.driver.is_simulated:
        sys.exit("MINIGRAD_CUDA=simulator: there is no speed to compare")
    return device


def on_cpu(options: argparse.Namespace, quick: bool, cores: int, keep: gpu.Keep) -> None:
    """Measure the sections that are asked for, with each number of threads that this machine has cores for."""
    threads = [n for n in options.threads if n <= cores]
    for n in sorted(set(options.threads) - set(threads)):
        print(f"Left out: {n} threads (there are {cores} cores for this process)\n")
    if not threads:
        sys.exit("no number of threads is left to measure")
    if "step" in options.only:
        length = {"rounds": 3, "steps": 50} if quick else {"rounds": 40, "steps": 200}
        for n, batch_norm in itertools.product(threads, (True, False)):
            note(f"training step, {n} threads, batch_norm={batch_norm}")
            keep("step", step, step.compare(batch_norm, n, **length))
    if "gemm" in options.only:
        note("matrix products")
        length = {"rounds": 3, "seconds": 0.01} if quick else {"rounds": 25, "seconds": 0.05}
        keep("gemm", gemm, gemm.compare(threads, quick=quick, **length))
    if "start" in options.only:
        note("imports, first steps, cold compile")
        keep("start", start, start.compare(max(threads), rounds=2 if quick else 7))
    if "conv" in options.only:
        length = {"rounds": 3, "seconds": 0.01, "shapes": conv.QUICK} if quick else {"rounds": 11, "seconds": 0.05}
        for n in threads:
            note(f"convolutions, {n} threads")
            keep("conv", conv, conv.compare(n, **length))
    if "inception" in options.only:
        for network, length in inception.plan(quick):
            note(f"training step of Inception, {inception.described(network)}")
            keep("inception", inception, inception.compare(network, max(threads), **length))
    if "where" in options.only:
        for network in [Network(0.25, 128, True)] if quick else [Network(0.25, 128, True), Network(1.0, 50, True)]:
            note(f"launches of Inception, {inception.described(network)}")
            keep("where", where, where.measure(network, max(threads), rounds=3 if quick else 9))


def note(what: str) -> None:
    """Tell a waiting user what goes on; not part of the result."""
    print(f"measuring: {what}", file=sys.stderr, flush=True)


def describe(about: dict) -> str:
    """The machine in words, with a warning if it has other work."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"{about['cpu']}, {about['physical_cores']} cores, {about['simd_bits']} bit SIMD, {about['system']}",
        f"{versions}; NumPy's BLAS is {about['numpy_blas']}",
    ]
    if (about["load_before"] or 0) > 0.5:
        lines.append(f"The machine is busy (load {about['load_before']}): the numbers below are disturbed.")
    if not about["pinned"]:
        lines.append(
            "This system cannot pin processes to cores: numbers of threads are only what the libraries were told."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
