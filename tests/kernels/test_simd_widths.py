"""Vector code of every width: what it computes, that widths agree to the bit, and that it stays inside its arrays."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minigrad.kernels.cpu.vector import target

HERE = Path(__file__).parent
AVX2 = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"
TARGETS = {  # name: (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES, bits in a register, features that must be there to run it)
    "256 bits": ("haswell", AVX2, 256, {"avx2", "fma"}),
    "128 bits": ("x86-64-v2", "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt", 128, {"sse4.2"}),
}
HOST = target.target_features()
pytestmark = [
    pytest.mark.skipif(target.MACHINE not in ("x86_64", "amd64"), reason="targets of x86"),
    pytest.mark.skipif("NUMBA_CPU_NAME" in os.environ, reason="runs on the target of the environment already"),
    pytest.mark.timeout(1500),  # in which the kernels are compiled anew
]
each_target = pytest.mark.parametrize("name", TARGETS)
OTHER_WIDTHS = [  # than this CPU's, on which all other tests run
    name for name, (_, _, bits, _) in TARGETS.items() if bits != target.REGISTER_BITS
]
each_other_width = pytest.mark.parametrize("name", OTHER_WIDTHS)


def environment_of(name):
    cpu, features, _, needed = TARGETS[name]
    if not needed <= HOST:
        pytest.skip(f"this CPU has no {', '.join(sorted(needed - HOST))}")
    return {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}


def run(*arguments, name=None, **variables):
    environment = {**(environment_of(name) if name else os.environ), **variables}
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, f"exit status {result.returncode}\n{result.stdout[-5000:]}\n{result.stderr[-5000:]}"
    return result.stdout


def run_tests(*arguments, **options):
    return run("-m", "pytest", "--full", "-q", "-p", "no:cacheprovider", "--timeout=0", *arguments, **options)


@each_target
def test_target_has_the_width_it_shall_have(name):
    code = "from minigrad.kernels.cpu.vector import target; print(target.REGISTER_BITS, target.HAS_FMA)"
    _, features, bits, _ = TARGETS[name]
    assert run("-c", code, name=name).split() == [str(bits), str("+fma" in features)]


@pytest.mark.parametrize(
    ("features", "machine", "expected"),
    [
        ({"avx", "fma", "avx512f"}, "x86_64", (512, 32)),
        ({"avx", "avx2", "fma"}, "x86_64", (256, 16)),
        ({"avx"}, "x86_64", (128, 16)),
        (set(), "x86_64", (128, 16)),
        ({"neon"}, "aarch64", (128, 32)),
        (set(), "arm64", (128, 32)),
    ],
)
def test_vector_units(features, machine, expected):
    assert target.vector_unit(features, machine) == expected


@pytest.mark.slow
@each_other_width
def test_matrix_products_of_each_width(name):
    chosen = "(every_small or small_sizes or chain or nan or parts or (sizes_around and float32)) and not cuda"
    files = [str(HERE / f"test_gemm{which}.py") for which in ("", "_add", "_parts")]
    assert " passed" in run_tests(*files, "-k", chosen, name=name)


@pytest.mark.slow
@each_other_width
def test_elementwise_functions_of_each_width(name):
    chosen = "(forward_matches or special_values_match) and (exp or log or tanh) and not cuda"
    output = run_tests(str(HERE / "test_elementwise.py"), "-k", chosen, name=name)
    assert " passed" in output


@pytest.mark.slow
@each_other_width
def test_convolutions_of_each_width(name):
    files = [str(HERE / file) for file in ("test_conv.py", "test_winograd.py")]
    assert " passed" in run_tests(*files, "-k", "layers or agree", name=name)


@pytest.mark.slow
@each_other_width
def test_normalization_of_each_width(name):
    chosen = "(activation_to_the_bit or of_the_normalization_to_the_bit or relu or backward_matches) and not cuda"
    output = run_tests(str(HERE / "test_norm_activations.py"), "-k", chosen, name=name)
    assert " passed" in output


@pytest.mark.slow
@each_other_width
def test_activation_of_rows_of_each_width(name):
    output = run_tests(str(HERE / "test_elementwise.py"), "-k", "activate and not cuda", name=name)
    assert " passed" in output


PRODUCTS = """
import hashlib
import numpy as np
from minigrad.kernels.cpu import gemm

digest = hashlib.sha256()
rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    sizes = (1, 1, 1), (3, 5, 7), (60, 100, 784), (33, 70, 300), (200, 17, 500), (129, 257, 65), (60, 10, 100), (9, 17, 5003)
    for m, n, k in sizes:
        a, b, bias = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (k, n), (n,)))
        c = np.empty((m, n), dtype)
        for shift in (bias, bias[:0]):
            gemm.gemm(a, b, shift, c, False, False)
            digest.update(c.tobytes())
            gemm.gemm(a.T.copy(), b, shift, c, True, False)
            digest.update(c.tobytes())
            gemm.gemm(a, b.T.copy(), shift, c, False, True)
            digest.update(c.tobytes())
        gemm.gemm_add(a, b, c, False, False)
        gemm.gemm_add(a.T.copy(), b, c, True, False)
        digest.update(c.tobytes())
print(digest.hexdigest())
"""

NORMALIZATION = """
import hashlib
import numpy as np
from minigrad.kernels.cpu import norm

digest = hashlib.sha256()
rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    for m, c in ((2, 1), (5, 7), (258, 17), (263, 100), (515, 48), (5, 4001)):
        x, dy, gamma, beta = (rng.standard_normal(s).astype(dtype) for s in ((m, c), (m, c), c, c))
        y, dx, mean, var, dgamma, dbeta = *np.empty((2, m, c), dtype), *np.empty((2, c)), *np.empty((2, c), dtype)
        for activation in range(3):
            running = np.zeros(c, dtype), np.ones(c, dtype)
            norm.batch_norm_forward(x, gamma, beta, 1e-5, activation, y, 0, mean, var, 0.9, *running)
            norm.batch_norm_backward(dy, x, y, 0, gamma, beta, mean, var, 1e-5, activation, dx, dgamma, dbeta)
            for array in (y, mean, var, *running, dx, dgamma, dbeta):
                digest.update(array.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(target.REGISTER_BITS != 512, reason="this CPU's own width is no wider")
@pytest.mark.parametrize("code", [PRODUCTS, NORMALIZATION], ids=["products", "normalization"])
def test_bits_are_the_same_with_registers_of_512_and_of_256(code):
    assert run("-c", code, name="256 bits") == run("-c", code)


needs_guard_pages = pytest.mark.skipif(sys.platform != "linux", reason="protects pages by Linux's mprotect")


@pytest.mark.slow
@needs_guard_pages
@pytest.mark.parametrize("name", [None, *OTHER_WIDTHS], ids=str)
def test_nothing_is_read_or_written_outside(name):
    assert run(str(HERE / "guard_pages.py"), name=name) == "inside\n"


@needs_guard_pages
def test_guard_pages_notice_one_byte():
    result = subprocess.run([sys.executable, HERE / "guard_pages.py", "--read-outside"], capture_output=True)
    assert result.returncode == -signal.SIGSEGV


@pytest.mark.slow
def test_bounds_checks_find_nothing():
    families = [
        HERE / f"test_{family}.py" for family in ("elementwise", "norm", "norm_activations", "reduce", "movement")
    ]
    chosen = "float32 and not cuda and (sigmoid or mul or inference_matches or max_matches or strided or activate)"
    output = run_tests(*map(str, families), "-k", chosen, NUMBA_BOUNDSCHECK="1", NUMBA_OPT="0")
    assert " passed" in output
