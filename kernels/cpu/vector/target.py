"""The vector unit code is compiled for: what Numba targets, which NUMBA_CPU_NAME and NUMBA_CPU_FEATURES can change."""

import platform

import llvmlite.binding as llvm
from numba.core import config


def target_features():
    """Names of the instruction-set extensions Numba compiles for."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    if config.CPU_NAME:
        return set()  # a named CPU without a list of features: assume no extension that is not in the base set
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


def vector_unit(features, machine):
    """(bits in a SIMD register, number of them) of a CPU with these features."""
    if "avx512f" in features:
        return 512, 32
    if "avx" in features and "fma" in features:
        return 256, 16
    if machine in ("aarch64", "arm64"):
        return 128, 32
    return 128, 16


def name():
    """The processor that code is compiled for, as LLVM calls it."""
    return config.CPU_NAME or llvm.get_host_cpu_name()


MACHINE = platform.machine().lower()
REGISTER_BITS, REGISTERS = vector_unit(target_features(), MACHINE)
HAS_FMA = "fma" in target_features() or MACHINE in ("aarch64", "arm64")
HAS_BFLOAT16 = REGISTER_BITS == 512 and "avx512bf16" in target_features()
# Elsewhere a store of some lanes of a register is emulated, or takes 12 cycles (AVX2, AMD up to Zen 4), full register or not.
HAS_MASKS = REGISTER_BITS == 512
