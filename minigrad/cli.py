"""The command `minigrad`: info, warmup, verify, data, bench. Needs the extra `cli` (typer, rich)."""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import minigrad as mg
from minigrad.capture import Captured
from minigrad.devices import get_device


def main() -> None:
    """Run the command line."""
    try:
        import typer
    except ImportError:
        sys.exit("the minigrad command needs typer and rich: pip install 'minigrad[cli]'")
    app = typer.Typer(add_completion=False, no_args_is_help=True, help=mg.__doc__)
    for command in (info, warmup, verify, data, bench):
        app.command()(command)
    app()


def info() -> None:
    """Print versions, the machine, threads, and where compiled kernels are kept."""
    import llvmlite
    import numba

    from minigrad.kernels.build import cache
    from minigrad.kernels.cpu.tools import threads
    from minigrad.kernels.cpu.vector import target

    folder = cache.cache_folder("cpu")
    kept = sorted(folder.glob("*.kernel")) if folder else []
    rows = {
        "minigrad": mg.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy, numba, llvmlite": f"{np.__version__}, {numba.__version__}, {llvmlite.__version__}",
        "vector unit": f"{target.REGISTERS} registers of {target.REGISTER_BITS} bits"
        + (", fma" if target.HAS_FMA else ""),
        "threads": f"{mg.get_num_threads()} of {threads.available_threads()} available",
        "kernel cache": f"{folder}: {len(kept)} kernels, {sum(p.stat().st_size for p in kept) / 1e6:.1f} MB"
        if folder
        else "none (see the warning)",
        "GPU": gpu(),
    }
    for name, value in rows.items():
        print(f"{name:24}{value}")


def gpu() -> str:
    """What device="cuda" is here, or why there is none."""
    try:
        driver = get_device("cuda").driver  # type: ignore[attr-defined]
    except RuntimeError as error:
        return f"none ({error})"
    major, minor = driver.capability
    return f"{driver.name}, compute capability {major}.{minor}, {driver.memory / 2**30:.0f} GiB"


def experiment_step(batch_norm: bool, device: str) -> tuple[mg.models.MLP, Captured]:
    """(model, captured training step) of the MNIST experiment."""
    model = mg.models.MLP(batch_norm=batch_norm).to(device)
    optimizer = mg.optim.SGD(model.parameters(), lr=0.5)

    def step(images: mg.Tensor, labels: mg.Tensor) -> mg.Tensor:
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return model, mg.capture(step, device=device)


def eager(step: Captured, device: str) -> Callable[..., mg.Tensor]:
    """A captured step's function, run as it stands."""
    return lambda *arrays: step.step(*[mg.tensor(array, device=device) for array in arrays])


def warmup(device: str = "cpu") -> None:
    """Compile, once for this machine, the kernels that the MNIST experiment needs, and keep them on disk."""
    from minigrad.kernels.build.progress import progress

    start = time.perf_counter()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (2_000, 784)).astype(np.float32)
    labels = rng.integers(0, 10, 60)
    for batch_norm in (False, True):
        model, step = experiment_step(batch_norm, device)
        step(images[:60], labels)
        with mg.no_grad():
            for rows in (2_000, 60):
                model.train()
                model(mg.tensor(images[:rows], device=device))
                model.eval()
                model(mg.tensor(images[:rows], device=device))
    seconds = time.perf_counter() - start
    print(f"{len(progress.compiled)} kernels compiled, {seconds:.1f} s")


def verify(device: str = "cpu") -> None:
    """Check a device here: ops against plain NumPy, gradients by finite differences, capture against eager."""
    from minigrad.testing import check_grads

    rng = np.random.default_rng(0)
    x, w, g = rng.standard_normal((7, 19)), rng.standard_normal((19, 5)), rng.standard_normal(19)
    labels = rng.integers(0, 5, 7)
    cases: dict[str, tuple[Callable[..., mg.Tensor], tuple[np.ndarray, ...]]] = {
        "linear": (mg.linear, (x, w)),
        "arithmetic": (lambda a, b: (a * b + a / (b * b + 1)).tanh(), (x, g)),
        "sigmoid": (mg.sigmoid, (x,)),
        "softmax": (mg.softmax, (x,)),
        "cross_entropy": (lambda a, b: mg.cross_entropy(a @ b, labels), (x, w)),
        "batch_norm": (lambda a, b: mg.batch_norm(a, b, None, None, None, training=True), (x, g)),
    }
    failures = 0
    for name, (function, inputs) in cases.items():
        try:
            check_grads(function, *inputs, device=device)
            for dtype, bound in ((np.float64, 1e-12), (np.float32, 1e-5)):
                ours, plain = (
                    function(*[mg.tensor(a, dtype=dtype, device=home) for a in inputs]).numpy()
                    for home in (device, "reference")
                )
                np.testing.assert_allclose(ours, plain, rtol=bound, atol=bound)
            print(f"ok      {name}")
        except AssertionError as error:
            failures += 1
            print(f"FAILED  {name}: {str(error).strip()}")
    images = rng.random((60, 784), np.float32)
    losses = []
    for captured in (False, True):
        mg.manual_seed(0)
        step = experiment_step(True, device)[1]
        run = step if captured else eager(step, device)
        losses.append([run(images, labels.repeat(9)[:60]).item() for _ in range(5)])
    same = losses[0] == losses[1]
    print(f"{'ok' if same else 'FAILED':8}captured and eager steps give the same bits")
    sys.exit(0 if same and not failures else 1)


def data(name: str = "mnist", folder: Path | None = None) -> None:
    """Find a dataset's files or download them, check them, and say where they are ("mnist")."""
    from minigrad.data import load_mnist

    if name != "mnist":
        sys.exit(f"unknown dataset {name!r}; there is 'mnist'")
    try:
        images, _, test_images, _ = load_mnist(folder)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(str(error))
    print(f"mnist: {len(images):,} training and {len(test_images):,} test images, in order")


def bench(steps: int = 500, device: str = "cpu") -> None:
    """Time the training step of the MNIST experiment, captured and eager; comparisons are in benchmarks/compare.py."""
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
