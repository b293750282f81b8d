"""What the compilers make of every CUDA kernel, without a GPU: PTX by NVVM, machine code by ptxas.

    python -m minigrad.kernels.cuda.tools.machine_code            a line for each kernel
    python -m minigrad.kernels.cuda.tools.machine_code FILE       the same as JSON, which the tests compare with

Of each kernel: registers, bytes of shared memory of a block (with what a launch adds), bytes spilled (stored and loaded), bytes
of stack (local memory); and how many blocks of the most threads a multiprocessor has room for at once.
"""

import collections
import importlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

from minigrad.kernels.contract import FAMILIES
from minigrad.kernels.cuda.tools import launch


class Multiprocessor(NamedTuple):
    """What the blocks at work on it share; see "Technical Specifications per Compute Capability" in the CUDA C++ guide."""

    threads: int
    blocks: int
    shared: int  # bytes
    registers: int = 65536


ARCHITECTURES = {
    "sm_80": Multiprocessor(2048, 32, 164 * 1024),  # A100
    "sm_86": Multiprocessor(1536, 16, 100 * 1024),  # A10, RTX 30
    "sm_89": Multiprocessor(1536, 24, 100 * 1024),  # L4, L40, RTX 40
    "sm_90": Multiprocessor(2048, 32, 228 * 1024),  # H100, H200
    "sm_120": Multiprocessor(1536, 24, 100 * 1024),  # RTX 50, RTX PRO
}
WARP, OF_WARP = 32, 256  # threads; registers are handed out to warps by so many


def cases():
    """{id: (kernel, type)} of all of ours that can be launched; users may have made others."""
    for family in FAMILIES:
        importlib.import_module(f"minigrad.kernels.cuda.{family}")
    ours = [base for base in launch.kernels if base.function.__module__.startswith("minigrad.kernels.")]
    found = [kernel for base in ours for kernel in launch.final(base)]
    named = [(f"{kernel.name}:{real.name}", (kernel, real)) for kernel in found for real in kernel.types]
    if len(dict(named)) < len(named):  # the cache on disk goes by the names, too
        twice = [name for name, count in collections.Counter(name for name, _ in named).items() if count > 1]
        raise RuntimeError(f"there are several kernels named {', '.join(twice)}")
    return dict(named)


def find_ptxas():
    """The path of ptxas, from the PATH or from NVIDIA's Python package; None if there is none."""
    packaged = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/ptxas"))
    return shutil.which("ptxas") or (str(packaged[-1]) if packaged else None)


def assemble(ptx, architecture):
    """{"registers": .., "shared": .., "spills": .., "stack": ..} of the machine code."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [find_ptxas(), "-v", f"-arch={architecture}", str(source), "-o", str(Path(folder, "kernel.cubin"))]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    text = result.stderr
    stack, stores, loads = map(
        int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text).groups()
    )
    shared = re.search(r"(\d+) bytes smem", text)
    return {
        "registers": int(re.search(r"Used (\d+) registers", text)[1]),
        "shared": int(shared[1]) if shared else 0,
        "spills": stores + loads,
        "stack": stack,
    }


def blocks_at_once(kernel, found, limits):
    """How many blocks of a kernel a multiprocessor has room for."""
    warps = -(-kernel.threads // WARP)
    registers = -(-found["registers"] * WARP // OF_WARP) * OF_WARP * warps
    shared = found["shared"] + launch.RESERVED_SHARED
    return min(
        *(limits.blocks, limits.threads // (warps * WARP)),
        *(limits.registers // registers, limits.shared // shared),
    )


def measure(kernel, real):
    """(PTX, {architecture: what `assemble` says, and the blocks at once})."""
    ptx, _ = launch.cached_ptx(kernel, real)
    code = {}
    for architecture, limits in ARCHITECTURES.items():
        found = assemble(ptx, architecture)
        found["shared"] += kernel.shared_bytes
        code[architecture] = {**found, "blocks": blocks_at_once(kernel, found, limits)}
    return ptx, code


def main():
    table = {name: measure(*case)[1] for name, case in sorted(cases().items())}
    if len(sys.argv) > 1:
        lines = [f"  {json.dumps(name)}: {json.dumps(code)}" for name, code in table.items()]
        Path(sys.argv[1]).write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    for name, code in table.items():
        cells = [f"{arch} " + " ".join(f"{n} {what}" for what, n in found.items()) for arch, found in code.items()]
        print(f"{name:60} {'; '.join(cells)}")


if __name__ == "__main__":
    main()
