"""Which machine this is, and which of its cores a measurement may use."""

import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

# glibc gives large blocks back to the system when they are freed and takes page faults when they come anew. A framework
# that allocates its activations in every step then spends a third of its time on that. These keep all memory.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "10000000000", "MALLOC_TRIM_THRESHOLD_": "10000000000"}

PACKAGES = ("minigrad", "numpy", "numba", "llvmlite", "torch", "jax", "jaxlib")


def physical_cores() -> list[int]:
    """One logical CPU of each physical core this process may use: two threads of one core share its arithmetic units."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    allowed = sorted(os.sched_getaffinity(0))
    cores: dict[str, int] = {}
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.is_file() else str(cpu), cpu)
    return list(cores.values())


def pin(cores: list[int]) -> bool:
    """Keep this process on these cores; False where the system has no such call."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    os.sched_setaffinity(0, cores)
    return True


def environment(threads: int) -> dict[str, str]:
    """The environment variables by which every library under test is told to use so many threads."""
    variables = {
        name: str(threads)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    }
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if threads == 1 else ""
    return {**os.environ, **variables, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def cpu_model() -> str:
    """The CPU as it calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def first_level_cache() -> int:
    """Bytes of a core's first-level data cache; 32 KB where the system does not tell."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache/index0")
    try:
        if (folder / "type").read_text().strip() == "Data":
            return int((folder / "size").read_text().strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        pass
    return 32 * 1024


def versions() -> dict[str, str]:
    """Versions of what takes part, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def peak_memory() -> int:
    """The most memory this process has had resident, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe() -> dict:
    """Everything that a reader needs to know about where the numbers come from."""
    import numpy as np

    from minigrad.kernels.cpu.vector.target import REGISTER_BITS

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "physical_cores": len(physical_cores()),
        "simd_bits": REGISTER_BITS,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "pinned": hasattr(os, "sched_setaffinity"),
        "numpy_blas": f"{blas.get('name')} {blas.get('version')}",
        "versions": versions(),
    }
