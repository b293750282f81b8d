"""Which machine this is, and which of its cores a measurement may use."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUSY = 0.5  # load from which the numbers are said to be disturbed

# glibc gives large blocks back to the system when they are freed and takes page faults when they come anew. A framework
# that allocates its activations in every step then spends a third of its time on that. These keep all memory.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "10000000000", "MALLOC_TRIM_THRESHOLD_": "10000000000"}

AVX2_ONLY = {  # variables by which Numba, PyTorch, oneDNN, MKL and OpenBLAS use vectors of 256 bits
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}

PACKAGES = ("minigrad", "numpy", "numba", "llvmlite", "torch", "jax", "jaxlib")
GPU_PACKAGES = ("numba-cuda", "cuda-bindings", "cuda-core", "triton")


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


def held_to() -> str | None:
    """The vectors that the environment holds all libraries to, on a processor that may have wider ones; None for its own."""
    return "avx2" if all(os.environ.get(name) == value for name, value in AVX2_ONLY.items()) else None


def environment(threads: int) -> dict[str, str]:
    """The environment variables by which every library under test is told to use so many threads."""
    variables = {
        name: str(threads)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    }
    flags = ["--xla_cpu_multi_thread_eigen=false", "intra_op_parallelism_threads=1"] if threads == 1 else []
    flags += ["--xla_cpu_max_isa=AVX2"] if held_to() == "avx2" else []
    return {**os.environ, **variables, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}


def cpu_model() -> str:
    """The CPU as it calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def caches() -> dict[str, int]:
    """Bytes of the caches that the first core has or shares, by name, as in L1 data; empty where the system does not tell."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        found[f"L{level}" + (f" {kind.lower()}" if kind != "Unified" else "")] = int(size.removesuffix("K")) * 1024
    return found


def first_level_cache() -> int:
    """Bytes of a core's first-level data cache; 32 KB where the system does not tell."""
    return caches().get("L1 data", 32 * 1024)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in packages:
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


def told(*command: str) -> str | None:
    """What a command prints; None where it does not run."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def commit() -> str | None:
    """The commit of the sources, and "with changes" where there are uncommitted ones; None outside a repository."""
    head = told("git", "rev-parse", "HEAD")
    return f"{head} with changes" if head and told("git", "status", "--porcelain", "-uno") else head


def load() -> dict[str, Any]:
    """What else the machine does, taken before anything is measured.

    `load_before` is the load average of the last minute, so for a minute after another run it tells of that one;
    `cores_busy_before` are the cores that are at work during half a second in which this process sleeps.
    """
    if not hasattr(os, "getloadavg"):
        return {"load_before": None, "cores_busy_before": None, "busy": None}
    average = round(os.getloadavg()[0], 2)
    before = busy_seconds()
    start = time.monotonic()
    time.sleep(0.5)
    after = busy_seconds()
    cores = None if before is None or after is None else round((after - before) / (time.monotonic() - start), 2)
    return {"load_before": average, "cores_busy_before": cores, "busy": average > BUSY}


def busy_seconds() -> float | None:
    """Seconds for which the cores of this machine have been at work, all of them together; None if it does not tell."""
    try:
        line = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    user, nice, system, _, _, interrupts, soft, *_ = map(int, line.split()[1:])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def describe(load: dict[str, Any]) -> dict:
    """Everything that a reader needs to know about where the numbers come from."""
    import numpy as np

    from minigrad.kernels.cpu.vector.target import REGISTER_BITS

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": commit(),
        "command": shlex.join(["python", *sys.argv]),
        "cpu": cpu_model(),
        "physical_cores": len(physical_cores()),
        "simd_bits": REGISTER_BITS,
        "held_to": held_to(),
        "caches": caches(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **load,
        "pinned": hasattr(os, "sched_setaffinity"),
        "numpy_blas": f"{blas.get('name')} {blas.get('version')}",
        "versions": {"python": platform.python_version(), **versions(PACKAGES)},
    }


def describe_gpu(device: Any) -> dict:
    """The GPU of a device of minigrad's, its driver and what programs it."""
    driver = device.driver
    return {
        "name": driver.name,
        "capability": list(driver.capability),
        "multiprocessors": driver.multiprocessors,
        "memory": driver.memory,
        "second_level_cache": gpu_cache(device),
        "driver": told("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"),
        "driver_cuda": None if driver.is_simulated else driver.call("cuDriverGetVersion"),
        "versions": versions(GPU_PACKAGES),
    }


def gpu_cache(device: Any) -> int:
    """Bytes of the GPU's second-level cache."""
    driver = device.driver
    if driver.is_simulated:
        return 0
    return driver.attribute(driver.api.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)


def in_words(about: dict) -> str:
    """What `describe` found, for people, with a warning if the machine has other work."""

    def listed(versions: dict[str, str]) -> str:
        return ", ".join(f"{name} {version}" for name, version in versions.items())

    memory = ", ".join(f"{name} {size // 1024} KiB" for name, size in about["caches"].items())
    lines = [
        f"{about['cpu']}, {about['physical_cores']} cores, {about['simd_bits']} bit SIMD"
        f"{' (held to that)' if about.get('held_to') else ''}, {memory}, {about['system']}",
        f"{listed(about['versions'])}; NumPy's BLAS is {about['numpy_blas']}",
    ]
    if gpu := about.get("gpu"):
        lines += [
            f"{gpu['name']}, compute capability {'.'.join(map(str, gpu['capability']))}, {gpu['multiprocessors']} "
            f"multiprocessors, {gpu['memory'] / 2**30:.0f} GiB, {gpu['second_level_cache'] / 2**20:.0f} MiB of second-level "
            f"cache, driver {gpu['driver'] or 'unknown'}",
            listed(gpu["versions"]),
        ]
    if about["busy"]:
        lines.append(warning(about))
    if not about["pinned"]:
        lines.append(
            "This system cannot pin processes to cores: numbers of threads are only what the libraries were told."
        )
    return "\n".join(filter(None, lines)) + "\n"


def warning(about: dict) -> str:
    """What stands below every table that was measured on a busy machine."""
    return (
        f"The machine was busy before this was measured (load {about['load_before']}, {about['cores_busy_before']} cores at "
        "work): these numbers are disturbed."
    )
