"""The comparison on an NVIDIA GPU: minigrad beside PyTorch in one process, one at a time at work on the device."""

import importlib.metadata
import subprocess
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.comparison import gpu_conv, gpu_gemm, gpu_inception, gpu_kernels, gpu_limits, gpu_step, gpu_where
from benchmarks.comparison.gpu_sides import PRECISIONS, Ours, cache_bytes, pytorch
from benchmarks.comparison.gpu_timing import failures

SECTIONS = ("limits", "kernels", "gemm", "conv", "step", "inception", "where")
PACKAGES = ("numba-cuda", "cuda-bindings", "cuda-core", "triton")

Keep = Callable[[str, Any, dict], None]  # section, module, result


def describe(device: Any, torch: Any) -> dict:
    """The GPU, its driver and what programs it; `torch` is None where PyTorch takes no part."""
    driver = device.driver
    found = {
        "name": driver.name,
        "capability": list(driver.capability),
        "multiprocessors": driver.multiprocessors,
        "memory": driver.memory,
        "second_level_cache": cache_bytes(device),
        "driver": driver_version(),
        "driver_cuda": None if driver.is_simulated else driver.call("cuDriverGetVersion"),
        "versions": {},
    }
    for name in PACKAGES:
        try:
            found["versions"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch is not None:
        found["versions"] |= {"torch's CUDA": torch.version.cuda, "cuDNN": str(torch.backends.cudnn.version())}
    return found


def driver_version() -> str | None:
    """As nvidia-smi tells it; None where it does not."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def in_words(about: dict, missing: str) -> str:
    """For people, with a line for PyTorch where it is left out."""
    major, minor = about["capability"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"{about['name']}, compute capability {major}.{minor}, {about['multiprocessors']} multiprocessors, "
        f"{about['memory'] / 2**30:.0f} GiB, {about['second_level_cache'] / 2**20:.0f} MiB of second-level cache, "
        f"driver {about['driver'] or 'unknown'}",
        versions,
    ]
    if missing:
        lines.append(f"Left out: PyTorch ({missing})")
    return "\n".join(filter(None, lines)) + "\n"


def run(device: Any, only: list[str], quick: bool, results: dict, keep: Keep, note: Callable[[str], None]) -> None:
    """Measure the sections that are asked for; `keep` takes each result as it comes. What fails is told, and goes on."""
    theirs, missing = pytorch()
    sides = [Ours(device), *([theirs] if theirs else [])]
    results["machine"]["gpu"] = describe(device, theirs and theirs.torch)
    results["machine"]["left_out"] = {"PyTorch": missing} if missing else {}
    print(in_words(results["machine"]["gpu"], missing), flush=True)
    cache = cache_bytes(device)
    length = {"rounds": 3, "seconds": 0.005} if quick else {"rounds": 15, "seconds": 0.03}
    failed: list[str] = results.setdefault("failed", [])

    def section(name: str, what: str, module: Any, *given: Any, **settings: Any) -> dict:
        note(what)
        try:
            result = module.compare(sides, *given, **settings)
        except Exception as error:
            traceback.print_exc()
            failed.append(f"{what}: {type(error).__name__}: {error}")
            return {}
        failed.extend(failures(result))
        keep(name, module, result)
        return result

    limits = section("limits", "the limits of the GPU", gpu_limits, cache, **length)
    if "kernels" in only and limits:
        section("kernels", "kernels that move memory", gpu_kernels, cache, gpu_limits.bandwidth(limits), **length)
    if "gemm" in only:
        section("gemm", "matrix products", gpu_gemm, cache, **length)
    if "conv" in only:
        shapes = gpu_conv.SHAPES[:2] if quick else gpu_conv.SHAPES
        section("conv", "convolutions", gpu_conv, cache, shapes=shapes, **length)
    if "step" in only:
        steps = {"rounds": 3, "steps": 100} if quick else {"rounds": 15, "steps": 500}
        for batch_norm in (True, False):
            note_of = f"training step of the MNIST network, batch_norm={batch_norm}"
            section("step", note_of, gpu_step, batch_norm, **steps)
    if "inception" in only:
        steps = {"rounds": 3, "steps": 3} if quick else {"rounds": 9, "steps": 10}
        section("inception", "training step of Inception", gpu_inception, **steps)
    if "where" in only and limits:
        rates = {precision: gpu_limits.rate(limits, precision) for precision in PRECISIONS}
        if None in rates.values():
            note("not where the time goes: without PyTorch, the rate of products on this GPU is not known")
        else:
            bounds = {p: {"operations": rate, "bytes": gpu_limits.bandwidth(limits)} for p, rate in rates.items()}
            section("where", "launches of Inception", gpu_where, bounds, rounds=3 if quick else 9)
