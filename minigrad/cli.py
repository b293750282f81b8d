"""The command `minigrad`: info, warmup, verify, data, bench, cache, launch. Needs the extra `cli` (typer, rich)."""

import contextlib
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
from minigrad.capture import Captured
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
        + (", fma" if target.HAS_FMA else ""),
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


def training_step(model: mg.nn.Module, optimizer: mg.optim.Optimizer) -> Callable[[mg.Tensor, mg.Tensor], mg.Tensor]:
    """One step on a batch."""

    def step(images: mg.Tensor, labels: mg.Tensor) -> mg.Tensor:
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def experiment_step(batch_norm: bool, device: str) -> tuple[mg.models.MLP, Captured]:
    """(model, captured training step) of the MNIST experiment."""
    model = mg.models.MLP(batch_norm=batch_norm).to(device)
    step = training_step(model, mg.optim.SGD(model.parameters(), lr=0.5))
    return model, mg.capture(step, device=device)


def eager(step: Captured, device: str) -> Callable[..., mg.Tensor]:
    """A captured step's function, run as it stands."""
    return lambda *arrays: step.step(*[mg.tensor(array, device=device) for array in arrays])


def inception_step(device: str) -> Callable[[mg.Tensor, mg.Tensor], mg.Tensor]:
    """The training step of the small Inception."""
    model = mg.models.Inception(width=0.25).to(device)
    return training_step(model, mg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


def run_mnist(device: str) -> None:
    """Run once what the MNIST experiment runs."""
    images, labels = np.zeros((2_000, 784), np.float32), np.zeros(60, np.int64)
    for batch_norm in (False, True):
        model, step = experiment_step(batch_norm, device)
        eager(step, device)(images[:60], labels)
        with mg.no_grad():
            for rows in (2_000, 60):
                model.train()
                model(mg.tensor(images[:rows], device=device))
                model.eval()
                model(mg.tensor(images[:rows], device=device))


def run_inception(device: str) -> None:
    """Run a training step of the small Inception."""
    images, labels = np.zeros((32, 32, 32, 3), np.float32), np.zeros(32, np.int64)
    inception_step(device)(mg.tensor(images, device=device), mg.tensor(labels, device=device))


WORK = {"mnist": [run_mnist], "inception": [run_inception], "all": [run_mnist, run_inception]}


def warmup(model: str = "mnist", processes: int | None = None, device: str = "cpu") -> None:
    """Compile, once for this machine, the kernels that "mnist", "inception" or "all" need, by as many processes as cores.

    The device is "cpu", "cuda", "reference" or "auto".
    """
    device = found_device(device).name
    from minigrad.kernels.build.progress import progress
    from minigrad.kernels.cpu.tools.ahead import compile_all, noted

    if model not in WORK:
        refuse(f"--model: unknown model {model!r}; there are {', '.join(map(repr, WORK))}")
    if processes is not None and processes < 1:
        refuse(f"--processes must be at least 1, not {processes}")
    start = time.perf_counter()
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

    The device is "cpu", "cuda", "reference" or "auto". The first time on a machine this compiles for some minutes.
    """
    device = found_device(device).name
    checks: dict[str, Callable[[], None]] = {
        **{name: functools.partial(check_op, device, *case) for name, case in op_cases().items()},
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


OpCase = tuple[Callable[..., mg.Tensor], tuple[np.ndarray, ...]]  # a function of tensors, and its inputs


def op_cases() -> dict[str, OpCase]:
    """By family and op, what is computed of what."""
    rng = np.random.default_rng(0)
    x, w, g = rng.standard_normal((7, 19)), rng.standard_normal((19, 5)), rng.standard_normal(19)
    images, windows = rng.standard_normal((2, 7, 6, 3)), rng.standard_normal((3, 3, 3, 5))
    apart = rng.permutation(images.size).reshape(images.shape) / images.size  # no two alike: maxima are no ties
    labels = rng.integers(0, 5, 7)
    fixed = [mg.tensor(np.full(19, 0.5)), mg.tensor(np.full(19, 2.0))]

    def normalized(a: mg.Tensor, b: mg.Tensor) -> mg.Tensor:
        mean, var = (t.to(a.dtype).to(a.device) for t in fixed)
        return mg.batch_norm(a, b, None, mean, var, training=False)

    def recurrent(a: mg.Tensor, b: mg.Tensor) -> mg.Tensor:
        a, c, parts = a.reshape(1, *a.shape), b[:5], []
        for count, op in (1, mg.rnn), (4, functools.partial(mg.lstm, c0=None)), (3, mg.gru):
            parts.append(op(a, None, w_ih=mg.concat([b] * count), w_hh=mg.concat([c] * count))[0])
        return mg.concat(parts)

    return {
        "gemm: linear": (mg.linear, (x, w)),
        "gemm: matmul in batches": (lambda a: a @ a.transpose(0, 2, 1), (images[0],)),
        "elementwise: arithmetic": (lambda a, b: (a * b + a / (b * b + 1) - b).tanh(), (x, g)),
        "elementwise: relu, exp, log, sqrt": (lambda a: (mg.relu(a).exp() + (a * a + 1).log()).sqrt(), (x,)),
        "elementwise: sigmoid": (mg.sigmoid, (x,)),
        "pointwise: gelu, silu, softplus, clip": (
            lambda a: mg.gelu(a) + mg.silu(a) * mg.softplus(a).clip(0.1, 0.9),
            (x,),
        ),
        "pointwise: a formula, broadcast": (mg.elementwise(lambda a, b: a * mg.tanh(a + b) / (1 + b * b)), (x, g)),
        "reduce: sum, mean, max": (lambda a: a.sum(0) + a.mean(0) + a.max(0), (apart[0],)),
        "movement: transpose, index, concat": (lambda a: mg.concat([a[1:, ::2].T, a.T[::2, :6]]), (x,)),
        "loss: softmax": (mg.softmax, (x,)),
        "loss: cross_entropy": (lambda a, b: mg.cross_entropy(a @ b, labels), (x, w)),
        "loss: cross_entropy with options": (
            lambda a, b: mg.cross_entropy(a @ b, labels, weight=[0.5, 1, 2, 1, 3], ignore_index=2, label_smoothing=0.1),
            (x, w),
        ),
        "loss: huber, binary cross-entropy, divergence": (
            lambda a, b: (
                mg.huber_loss(a, a * b, delta=0.7)
                + mg.binary_cross_entropy_with_logits(a, mg.sigmoid(a * b), pos_weight=2.0)
                + mg.kl_div(a, mg.softmax(a * b), reduction="batchmean")
            ),
            (x, g),
        ),
        "norm: batch_norm": (lambda a, b: mg.batch_norm(a, b, None, None, None, training=True), (x, g)),
        "norm: batch_norm by fixed statistics": (normalized, (x, g)),
        "layer_norm: layer_norm, rms_norm": (lambda a, b: mg.layer_norm(a, b, b) + mg.rms_norm(a * b, b), (x, g)),
        "layer_norm: group_norm": (lambda a: mg.group_norm(a, 3), (images,)),
        "attention: scaled_dot_product_attention": (
            lambda a, b: mg.scaled_dot_product_attention(a, a * 0.5, a @ b, is_causal=True),
            (x, w),
        ),
        "recurrent: rnn, lstm, gru": (recurrent, (x, w)),
        "movement: embedding": (lambda a: mg.embedding([3, 0, 3, 6], a), (x,)),
        "conv: conv2d": (lambda a, b: mg.conv2d(a, b, padding=1), (images, windows)),
        "conv: conv2d, stride 2": (lambda a, b: mg.conv2d(a, b, stride=2), (images, windows)),
        "depthwise: conv2d of single channels": (
            lambda a, b: mg.conv2d(a, b[:, :, :1, :3], padding=1, groups=3),
            (images, windows),
        ),
        "depthwise: conv2d in groups": (
            lambda a, b: mg.conv2d(mg.concat([a, a]), b[..., :4], padding=1, groups=2),
            (images, windows),
        ),
        "conv: conv1d, conv_transpose2d": (
            lambda a, b: mg.conv_transpose2d(
                mg.conv1d(a[:, 0], b[0], padding=1)[:, :3, None], b.transpose(0, 1, 3, 2), stride=2
            ),
            (images, windows),
        ),
        "pool: max_pool2d": (lambda a: mg.max_pool2d(a, 3, stride=2, padding=1), (apart,)),
        "pool: avg_pool2d, global_avg_pool": (lambda a: mg.global_avg_pool(mg.avg_pool2d(a, 2)), (images,)),
        "resample: interpolate, adaptive_avg_pool2d": (
            lambda a: mg.adaptive_avg_pool2d(mg.interpolate(a, size=(9, 5), mode="bilinear"), (4, 3)),
            (images,),
        ),
        "lrn: local_response_norm": (mg.local_response_norm, (images,)),
        "dropout": (lambda a: mg.dropout(a, 0.5, training=True, seed=3), (x,)),
    }


def check_op(device: str, function: Callable[..., mg.Tensor], inputs: tuple[np.ndarray, ...]) -> None:
    """Hold gradients against finite differences, and results against plain NumPy in both precisions."""
    from minigrad.testing import check_grads

    check_grads(function, *inputs, device=device)
    for dtype, bound in ((np.float64, 1e-12), (np.float32, 1e-5)):
        ours, plain = (
            function(*[mg.tensor(a, dtype=dtype, device=home) for a in inputs]).numpy()
            for home in (device, "reference")
        )
        np.testing.assert_allclose(ours, plain, rtol=bound, atol=bound)


def check_optimizers(device: str) -> None:
    """Hold three steps of each optimizer against plain NumPy."""
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((9, 4)), rng.standard_normal((3, 9, 4))
    for make in (
        functools.partial(mg.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        mg.optim.AdaGrad,
        functools.partial(mg.optim.RMSprop, momentum=0.9, centered=True),
        mg.optim.Adam,
        functools.partial(mg.optim.AdamW, lr=0.1, weight_decay=0.1, ema=0.9),
    ):
        results = []
        for home in (device, "reference"):
            w = mg.tensor(start, dtype="float32", device=home, requires_grad=True)
            optimizer = make([w])
            for gradient in gradients:
                w.grad = mg.tensor(gradient, dtype="float32", device=home)
                mg.optim.clip_grad_norm([w], 3.0)
                mg.optim.clip_grad_value([w], 1.0)
                optimizer.step()
            with optimizer.averaged() if optimizer.ema else contextlib.nullcontext():
                results.append(w.numpy().copy())  # the average, which on the CPU is there only inside
        np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6, err_msg=repr(optimizer))


def check_augmentation(device: str) -> None:
    """Hold the kernels of augmentation against plain NumPy."""
    rng = np.random.default_rng(0)
    images = rng.random((3, 8, 7, 3), np.float32)
    maps = np.array([[1.0, 0, 0], [0, 1, 0]]) + rng.uniform(-0.3, 0.3, (3, 2, 3))
    shifts, flips = rng.integers(-2, 3, (3, 2)), np.array([True, False, True])
    each = rng.random(3).astype(np.float32)
    calls: dict[str, tuple[Any, ...]] = {
        "affine": (images, maps, 1.0),
        "shift_crop": (images, shifts, flips, True),
        "brightness_contrast": (images, each.astype(np.float64), each.astype(np.float64), 1.0),
        "normalize": (images, each, each),
    }
    for name, arguments in calls.items():
        results = []
        for home in map(get_device, (device, "reference")):
            y = home.zeros(images.shape, images.dtype)
            given = [home.from_host(a) if isinstance(a, np.ndarray) else a for a in arguments]
            getattr(home.kernels.augment, name)(*given, y)
            results.append(home.to_host(y))
        np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-5, err_msg=name)


def check_capture(device: str) -> None:
    """Hold five captured steps of the MNIST experiment against eager ones."""
    rng = np.random.default_rng(0)
    images, labels = rng.random((60, 784), np.float32), rng.integers(0, 10, 60)
    losses = []
    for captured in (False, True):
        mg.manual_seed(0)
        step = experiment_step(True, device)[1]
        run = step if captured else eager(step, device)
        losses.append([run(images, labels).item() for _ in range(5)])
    assert losses[0] == losses[1], f"losses of eager steps {losses[0]}, of captured ones {losses[1]}"


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
