"""Seed one fault at a time into a copy of the sources, and see whether the tests notice.

    python tools/seed_faults.py              every fault against the default set of tests
    python tools/seed_faults.py --full       against all tests
    python tools/seed_faults.py checkpoint   those whose file or fault has this word

Each fault is tried on the test files named beside it, up to the first failure. A fault in a kernel of the CPU compiles
what it is part of anew. Whoever leaves tests out of the default set, or merges some, runs this before and after.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Fault(NamedTuple):
    """`old`, which occurs in the file, becomes `new` where it comes first."""

    what: str
    file: str
    old: str
    new: str
    tests: str  # in tests/


FAULTS = [
    # kernels of the CPU
    Fault("a factor of 2 lost", "kernels/cpu/lrn.py", "real(2 * alpha * beta)", "real(alpha * beta)", "kernels/test_lrn.py"),
    Fault("> for >=", "kernels/cpu/dropout.py", "words[i] >= threshold", "words[i] > threshold", "kernels/test_dropout.py"),
    Fault("one pixel too few", "kernels/cpu/augment.py", "range(w // 2)", "range(w // 2 - 1)", "kernels/test_augment.py"),
    Fault("Nesterov's step forgotten", "kernels/cpu/optim.py", "momentum, True,", "momentum, False,", "kernels/test_optim.py"),
    Fault("off by one on the edge", "kernels/window.py", "(place - size) // stride + number(1)", "(place - size) // stride", "kernels/test_pool.py"),
    Fault("NaN is no maximum", "kernels/cpu/reduce.py", "(not row[j] <= value[j]) and", "row[j] > value[j] and", "kernels/test_reduce.py"),
    Fault("last chunk lost", "kernels/cpu/reduce.py", "for chunk in range(1, chunks):\n                total", "for chunk in range(1, chunks - 1):\n                total", "kernels/test_reduce.py"),
    Fault("chunks weighed alike", "kernels/cpu/parts/norm_rows.py", "+ n * gap * gap", "+ gap * gap", "kernels/test_norm.py"),
    Fault("a logarithm left out", "kernels/cpu/loss.py", "or row + 1 == last", "", "kernels/test_loss.py"),
    Fault("only the first bits of exp", "kernels/formulas.py", "np.float32(0.041666362)", "np.float32(0.0416)", "kernels/test_formulas.py"),
    # kernels of CUDA, in the simulator
    Fault("wrong side of an even window", "kernels/cuda/lrn.py", "i = uint32(j - reach.after) if j > reach.after", "i = uint32(j - reach.before) if j > reach.before", "kernels/test_lrn.py"),
    Fault("odd one out in a tree", "kernels/cuda/reduce.py", "half = uint32((n + uint32(1)) >> uint32(1))", "half = uint32(n >> uint32(1))", "kernels/test_reduce.py"),
    Fault("threads do not wait", "kernels/cuda/reduce.py", "= lost\n    cuda.syncthreads()", "= lost", "kernels/test_reduce.py"),
    Fault(">= for >", "kernels/cuda/dropout.py", "if word > last_dropped", "if word >= last_dropped", "kernels/test_dropout.py"),
    Fault("label not looked at", "kernels/cuda/loss.py", "if label >= 0 and label < n", "if label < n", "kernels/test_loss.py"),
    Fault("third of four mixed up", "kernels/cuda/pool.py", "places[2] << uint32(16) | places[3]", "places[3] << uint32(16) | places[2]", "kernels/test_pool.py"),
    # kernels of the reference
    Fault("eps inside the root", "kernels/reference/optim.py", "(np.sqrt(v_hat) + eps)", "np.sqrt(v_hat + eps)", "kernels/test_optim.py"),
    Fault("places without the padding", "kernels/reference/pool.py", "+ row) * window.kw", "+ row) * covered.shape[2]", "kernels/test_pool.py"),
    Fault("window shifted", "kernels/reference/lrn.py", "(size - 1) // 2, size // 2)", "size // 2, (size - 1) // 2)", "ops/test_lrn.py"),
    # the engine
    Fault("changes in place go unseen", "minigrad/tape.py", "if version[0] != count", "if version[0] < count", "engine/test_versions.py"),
    Fault("a shared gradient is written into", "minigrad/gradients.py", "y = total if ours else", "y = total if True else", "engine"),
    Fault("the wrong op first", "minigrad/gradients.py", "(-source.order, source)", "(source.order, source)", "engine"),
    Fault("an own op may spoil a gradient", "minigrad/gradients.py", "dy = self.device.copy(dy)", "pass", "engine"),
    Fault("nothing is freed", "minigrad/tape.py", "            op.free()", "            pass", "engine"),
    # layers, optimizers, schedules
    Fault("statistics of half a batch", "minigrad/nn/statistics.py", "self.norm.decay = 0.0", "self.norm.decay = 0.5", "nn/test_statistics.py"),
    Fault("masks in evaluation", "minigrad/nn/layers.py", "self.p, training=self.training", "self.p, training=True", "nn/test_layers.py"),
    Fault("an offset ignored", "minigrad/optim/schedules.py", "(n + self.offset) // self.every", "n // self.every", "optim"),
    Fault("hyperparameters not loaded", "minigrad/optim/optimizer.py", 'np.copyto(self.hyper, np.asarray(found["hyper"]))', "pass", "optim"),
    # readers of data
    Fault("byte order", "minigrad/data/idx.py", 'np.dtype(">f4")', 'np.dtype("<f4")', "data/test_idx.py"),
    Fault("trailing bytes pass", "minigrad/data/idx.py", "if stream.read(1):", "if False:", "data/test_idx.py"),
    Fault("rows and columns exchanged", "minigrad/data/cifar10.py", "transpose(0, 2, 3, 1)", "transpose(0, 3, 2, 1)", "data/test_cifar10.py"),
    Fault("the same order in each epoch", "minigrad/data/batches.py", "self.seed, epoch)", "self.seed, 0)", "data/test_loader.py"),
    # training and checkpoints
    Fault("small batches count like large ones", "minigrad/train/evaluation.py", "+ value * rows", "+ value", "train/test_evaluation.py"),
    Fault("the model stays in evaluation mode", "minigrad/nn/module.py", "module.training = training", "pass", "train/test_evaluation.py"),
    Fault("predictions come in the order of a shuffle", "minigrad/train/prediction.py", "twin.shuffle = twin.drop_last", "twin.drop_last", "train/test_prediction.py"),
    Fault("what nobody measures is watched", "minigrad/train/settings.py", "checked_monitors(self.watchers, self.row_names())", "pass", "train/test_fit_arguments.py"),
    Fault("averages of ranks, not of samples", "minigrad/exchange/sums.py", "flat.dtype.type(weight)", "flat.dtype.type(1)", "distributed/test_sums.py"),
    Fault("parts with other means have no variance between them", "minigrad/exchange/sums.py", "squared + np.square(theirs - origin - offset)", "squared", "distributed/test_sums.py"),
    Fault("the gradient takes the sums of its own part", "minigrad/ops/sync_norm.py", "all_dgamma, all_dbeta, matrix", "dgamma, dbeta, matrix", "distributed/test_sums.py"),
    Fault("all ranks get the same part", "minigrad/data/batches.py", "rows[part(len(rows), rank, world)]", "rows[part(len(rows), 0, world)]", "data/test_loader.py"),
    Fault("metrics of rank 0 alone", "minigrad/train/ranks.py", "count = everyone[:, 0]", "count = everyone[:, 0] * (np.arange(self.world) == 0)", "distributed/test_fit.py"),
    Fault("a rank that hangs is waited for", "minigrad/exchange/watch.py", "elif now > since + self.session.timeout:", "elif False:", "distributed/test_faults.py"),
    Fault("a signal is known to one rank", "minigrad/train/ranks.py", "int(max(signals))", "int(signals[0])", "distributed/test_faults.py"),
    Fault("a signal waits for the next batch", "minigrad/train/signals.py", "if self.waiting and self.alone:", "if False:", "train/test_interruption.py"),
    Fault("a damaged file passes", "minigrad/checkpoint/contents.py", "if checksum(contents", "if False and checksum(contents", "checkpoint/test_damage.py"),
    Fault("written in place", "minigrad/checkpoint/files.py", 'open(part, "xb")', 'open(part := path, "wb")', "checkpoint/test_files.py"),
    Fault("one name for all writers", "minigrad/checkpoint/files.py", "{os.getpid()}-{secrets.token_hex(4)}", "1-0", "checkpoint/test_files.py"),
    Fault("a state is taken on trust", "minigrad/checkpoint/misfits.py", "target.load_state_dict(state)", "pass", "checkpoint/test_states.py"),
    Fault("others may write what is run", "kernels/build/owner.py", "found.st_mode & stat.S_IWOTH", "False", "runtime/test_cache_owner.py"),
]  # fmt: skip


def copied(folder: Path) -> None:
    """The sources and what tests read, such that Python run there imports them from there."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():  # the link minigrad/kernels is none
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "minigrad" / "kernels").symlink_to(folder / "kernels")


def notices(folder: Path, fault: Fault, *options: str) -> tuple[str, float]:
    """("caught", "MISSED" or what else came, seconds) of the tests with the fault."""
    path = folder / fault.file
    right = path.read_text()
    if fault.old not in right:
        raise SystemExit(f"{fault.file} no longer has {fault.old!r}: mend this list")
    path.write_text(right.replace(fault.old, fault.new, 1))
    began = time.perf_counter()
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *options]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        result = subprocess.run([*command, f"tests/{fault.tests}"], cwd=folder, env=environment, capture_output=True)
    finally:
        path.write_text(right)
    outcome = {0: "MISSED", 1: "caught"}.get(result.returncode, f"exit status {result.returncode}")
    return outcome, time.perf_counter() - began


def main() -> None:
    """Try the faults that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only faults whose file or name has one of these")
    parser.add_argument("--full", action="store_true", help="try them on all tests")
    arguments = parser.parse_args()
    chosen = [
        fault for fault in FAULTS
        if not arguments.words or any(word in fault.file or word in fault.what for word in arguments.words)
    ]  # fmt: skip
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copied(Path(folder))
        for fault in chosen:
            outcome, seconds = notices(Path(folder), fault, *["--full"] * arguments.full)
            missed += outcome != "caught"
            print(f"{outcome:8} {seconds:5.0f} s  {fault.file}: {fault.what}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} faults caught")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
