"""The tables of speed that pages show, made from the files of results.

docs/results/benchmarks has a folder for each kind of machine that was measured, and in it what `benchmarks/compare.py` wrote,
a file for one or more of its sections. A page shows a table between two lines:

    <!-- speed: step -->
    <!-- /speed -->

`python tools/pages.py` writes anew what stands between them. Every table has its machines side by side, and below it the
command, the files and their dates. Numbers are the medians of the file's samples. A file that was measured while the machine
had other work is in the list of files and in no other table, unless each process's own time was counted (`--cpu-time`).
"""

import functools
import json
import os
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "benchmarks"
KINDS = {  # folders, in the order of the columns
    "avx512_zen5": "AVX-512 (Zen 5)",
    "avx512_zen4": "AVX-512 (Zen 4)",
    "avx2": "AVX2",
}
BLOCK = re.compile(r"^<!-- speed: (?P<name>[\w ]+) -->\n.*?^<!-- /speed -->$", re.MULTILINE | re.DOTALL)
BUSY = 0.5  # load from which on benchmarks/compare.py calls the machine busy and its numbers disturbed
LARGE = "1024 x 1024 x 1024"
SECTIONS = "step", "gemm", "start", "conv", "bfloat16", "recurrent", "vocabulary", "inception", "where", "contention"
NOT_YET = (
    "*Not measured on an idle machine yet; the [list of files](docs/results/benchmarks/README.md) has what there is.*"
)
SHOWN = 0.9  # of a step's time: kernels that take the rest are summed up

CONTENDERS = {
    "minigrad captured": "minigrad, captured",
    "minigrad eager": "minigrad, eager",
    "PyTorch eager": "PyTorch, eager",
    "PyTorch channels_last": "PyTorch, `channels_last`",
    "PyTorch channels_last, malloc as it comes": "PyTorch, `channels_last`, malloc as it comes",
    "PyTorch torch.compile": "PyTorch, `torch.compile`",
    "JAX jit": "JAX, `jit`",
    "NumPy by hand": "NumPy by hand",
}
NETWORKS = {(0.25, True): "width 0.25, BN", (0.25, False): "no BN", (1.0, True): "width 1, BN"}
AIMS = {  # what is said of a target, and what its name has, with ... between
    "captured step, times as fast as PyTorch eager": "captured against PyTorch eager",
    "captured step, times as fast as JAX": "captured against JAX jit",
    "eager step, times as fast as PyTorch eager": "eager against PyTorch eager",
    "product of 1024³, share of the micro-kernel's rate in L1": "share of the micro-kernel's rate",
    "the same on two threads, times as fast as on one": "2 threads against 1",
    "`import minigrad`, times `import numba`": "import minigrad",
    "start of Python to the first finished step, kernels cached": "warm start",
    "compiling all the MNIST experiment needs, once": "cold compile",
    "convolution forward, times as fast as PyTorch, geometric mean": "convolution, forward, ... geometric mean",
    "the same with both gradients": "convolution, forward + backward, ... geometric mean",
    "Inception step of width 0.25, times as fast as PyTorch's fastest": "width 0.25, batch 128, with BN, ... captured against",
    "Inception step of width 1, times as fast as PyTorch's fastest": "width 1, batch 50, with BN, ... captured against",
    "Inception of width 1, a step with BN against one without": "width 1, batch 50, without BN, 2 threads: a step with BN",
    "peak memory of that step, against PyTorch's least": "peak memory",
    "captured MNIST step, time against threads that spin, alone": "MNIST, captured, alone, against spinning",
    "the same beside a busy process, times a fair share": "MNIST, captured, beside 1 busy process",
    "the same beside two": "MNIST, captured, beside 2 busy processes",
    "the same beside another training, times as long as alone": "MNIST, captured, beside another training",
    "Inception step of width 0.25, time against threads that spin, alone": "Inception of width 0.25, captured, alone",
    "the same beside a busy process, times a fair share ": "Inception of width 0.25, captured, beside 1 busy process",
    "the same beside two ": "Inception of width 0.25, captured, beside 2 busy processes",
    "the same beside another training, times as long as alone ": "Inception of width 0.25, captured, beside another training",
}


@functools.cache
def all_files(kind: str) -> dict[str, dict]:
    """What was measured on a kind of machine, by the file's name."""
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted((RESULTS / kind).glob("*.json"))}


def is_busy(contents: dict) -> bool:
    """Whether the machine had other work that is in the numbers."""
    return contents["machine"]["load_before"] > BUSY and not own_time(contents)


def own_time(contents: dict) -> bool:
    """Whether each process's own time was counted, and not that of others."""
    return "--cpu-time" in contents["machine"].get("command", "")


def files(kind: str) -> dict[str, dict]:
    """What was measured on an idle machine of a kind, by the file's name."""
    return {name: contents for name, contents in all_files(kind).items() if not is_busy(contents)}


def kinds() -> list[str]:
    """Those that were measured."""
    return [kind for kind in KINDS if files(kind)]


def section(kind: str, name: str) -> list[dict]:
    """The results of one of compare.py's sections; none if it was not measured."""
    return [result for file in files(kind).values() for result in file.get(name, ())]


def targets(kind: str, words: str) -> list[dict]:
    """Those whose name has these words, in the order of the threads."""
    parts = words.split("... ")
    return [
        target
        for file in files(kind).values()
        for target in file["targets"]
        if all(part.strip() in target["what"] for part in parts)
    ]


def median(samples: Iterable[float | None]) -> float:
    """Of the rounds in which the contender took part."""
    return statistics.median(sample for sample in samples if sample is not None)


def percent(share: float) -> str:
    """As text has it."""
    return f"{100 * share:.0f} %"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def side_by_side(columns: dict[str, dict[str, float]], form: str, best: Callable | None) -> str:
    """A row for each contender, a column for each place where it was measured; the best of a column is set in bold."""
    names = [name for name in CONTENDERS if any(name in column for column in columns.values())]
    names += dict.fromkeys(name for column in columns.values() for name in column if name not in CONTENDERS)
    chosen = {header: best(column.values()) if best and column else None for header, column in columns.items()}

    def cell(header: str, name: str) -> str:
        value = columns[header].get(name)
        if value is None:
            return ""
        return f"**{value:{form}}**" if value == chosen[header] else f"{value:{form}}"

    rows = [[CONTENDERS.get(name, name), *(cell(header, name) for header in columns)] for name in names]
    return table(["", *columns], rows)


def measured(*names: str) -> str:
    """Where, when and in what state of the machine these sections were measured."""
    words = []
    for kind in kinds():
        for file, contents in files(kind).items():
            if any(name in contents for name in names):
                about = contents["machine"]
                link = f"[{kind}/{file}](docs/results/benchmarks/{kind}/{file})"
                how = ", on a processor with wider vectors (`--simd avx2`)" if about.get("held_to") else ""
                how += ", each process's own time (`--cpu-time`)" if own_time(contents) else ""
                words.append(
                    f"{KINDS[kind]} on {about['date'][:10]}, load {about['load_before']:g} before{how} ({link})"
                )
    return f"Measured by `python benchmarks/compare.py --only {','.join(names)}`: {'; '.join(words)}."


def step(batch_norm: bool = True) -> str:
    """Microseconds of a training step of the MNIST network."""
    columns = {}
    for kind in kinds():
        for result in section(kind, "step"):
            if result["batch_norm"] == batch_norm:
                threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
                columns[f"{KINDS[kind]}, {threads}"] = {
                    name: 1e6 * median(samples) for name, samples in result["samples"].items()
                }
    return side_by_side(columns, ",.0f", min) + "\n\n" + measured("step")


def gemm() -> str:
    """GFLOP/s of a large product."""
    columns: dict[str, dict[str, float]] = {}
    for kind in kinds():
        for result in section(kind, "gemm"):
            for label, rates in result["rates"][LARGE].items():
                name, _, threads = label.rpartition(", ")
                header = f"{KINDS[kind]}, {threads} thread{'s' * (threads != '1')}"
                columns.setdefault(header, {})[name] = median(rates) / 1e9
    return side_by_side(columns, ",.0f", max) + "\n\n" + measured("gemm")


def convolution() -> str:
    """How many times as fast as others: geometric mean, least and most over the shapes."""
    columns: dict[str, dict[str, str]] = {}
    for kind in kinds():
        for result in section(kind, "conv"):
            for name, of_pass in result["ratios"].items():
                for other, found in of_pass.items():
                    shapes = found["shapes"].values()
                    cell = f"{found['geometric_mean']:.2f} ({min(shapes):.2f} to {max(shapes):.2f})"
                    columns.setdefault(KINDS[kind], {})[f"{name}, against {other}"] = cell
    rows = [[name, *(column.get(name, "") for column in columns.values())] for name in next(iter(columns.values()), {})]
    return table(["", *columns], rows) + "\n\n" + measured("conv")


def bfloat16() -> str:
    """GFLOP/s with factors in bfloat16, and how many times as fast as others; a table for each number of threads."""
    parts = []
    for kind in kinds():
        for result in section(kind, "bfloat16"):
            rows = []
            for case, taken in result["seconds"].items():
                ours = taken["minigrad bf16"]
                others = [taken[name] for name in ("minigrad", "PyTorch bf16", "PyTorch")]
                times = [
                    statistics.median(a / b for a, b in zip(other, ours, strict=True) if a and b) for other in others
                ]
                rate = result["operations"][case] / median(ours) / 1e9
                rows.append([case, f"{rate:,.0f}", *[f"{ratio:.2f}" for ratio in times]])
            header = ["", "GFLOP/s", "minigrad, float32", "PyTorch, autocast", "PyTorch, float32"]
            threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
            parts.append(f"{KINDS[kind]}, {threads}:\n\n{table(header, rows)}")
    return "\n\n".join([*parts, measured("bfloat16")])


def inception() -> str:
    """Images per second of training steps, and the memory they take."""
    columns: dict[str, dict[str, float]] = {}
    memory = {}
    for kind in kinds():
        for result in section(kind, "inception"):
            network = result["width"], result["batch_norm"]
            if network in NETWORKS:
                header = f"{KINDS[kind]}, {NETWORKS[network]}"
                contenders = {name: about for name, about in result["contenders"].items() if name in CONTENDERS}
                columns[header] = {name: about["images_per_second"] for name, about in contenders.items()}
                peaks = {name: about["peak_memory"] / 2**20 for name, about in contenders.items()}
                least = min((peak for name, peak in peaks.items() if name.startswith("PyTorch")), default=None)
                memory[header] = f"{peaks['minigrad captured']:,.0f}, {least:,.0f}" if least else ""
    last = "| memory of the step, MiB: minigrad, PyTorch's least | " + " | ".join(memory.values()) + " |"
    return side_by_side(columns, ",.0f", max) + "\n" + last + "\n\n" + measured("inception")


def aims() -> str:
    """What was aimed for, and what it is."""
    header = ["", "aim"]
    counts = dict.fromkeys(kinds(), 2)
    for kind in counts:
        header += [f"{KINDS[kind]}, 1 thread", "2 threads"]
    rows = []
    for label, words in AIMS.items():
        cells, aim = [], ""
        for kind in counts:
            found = {threads_of(target["what"]): target for target in targets(kind, words)}
            for target in found.values():
                limit = f"{target['target']:g} {target['unit'].strip().replace('x', '')}".rstrip()
                aim = f"{'≥' if target['at_least'] else '≤'} {limit}"
            cells += [reached(found[threads]) if threads in found else "" for threads in (1, 2)]
        if aim:
            rows.append([label, aim, *cells])
    return table(header, rows) + "\n\nThe files are those named below the other tables."


def threads_of(what: str) -> int:
    """Of a target; what is measured beside other work is so on two threads."""
    return 2 if "2 threads" in what or "beside" in what or "against spinning" in what else 1


def reached(target: dict) -> str:
    """What was measured, and whether it is enough."""
    digits = {"%": 0, "s": 1}.get(target["unit"].strip(), 2)
    if target["reached"]:
        return f"{target['measured']:.{digits}f}"
    return f"{target['measured']:.{digits + 1}f}, missed"  # one more, so that it does not look reached


def contention() -> str:
    """Microseconds of a step beside other work, a table for each kind of machine and each step."""
    parts = []
    for kind in kinds():
        for result in section(kind, "contention"):
            columns = {
                name: {label: 1e6 * median(samples) for label, samples in of_company.items()}
                for name, of_company in result["samples"].items()
            }
            parts.append(
                f"{KINDS[kind]}, {result['threads']} threads, {result['work']}, microseconds, medians of {result['rounds']} "
                f"bursts:\n\n{side_by_side(columns, ',.0f', None)}"
            )
    return "\n\n".join([*parts, measured("contention")])


def vocabulary() -> str:
    """Milliseconds of what small networks are made of, and how many times as fast as others; a table for each machine."""
    parts = []
    for kind in kinds():
        columns: dict[str, dict[str, list[str]]] = {}
        for result in section(kind, "vocabulary") + section(kind, "recurrent"):
            threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
            for case, taken in by_case(result["seconds"]):
                columns.setdefault(threads, {})[case] = captured_beside_others(taken)
        header = [name for threads in columns for name in (f"{threads}, ms", "eager", "PyTorch", "JAX")]
        names = list(dict.fromkeys(case for of_threads in columns.values() for case in of_threads))
        rows = [[name, *(cell for column in columns.values() for cell in column.get(name, [""] * 4))] for name in names]
        if rows:
            parts.append(f"{KINDS[kind]}:\n\n{table(['', *header], rows)}")
    return "\n\n".join([*parts, measured("vocabulary", "recurrent")])


def by_case(seconds: dict) -> list[tuple[str, dict]]:
    """(name, samples by contender) of a result's cases; those of recurrent layers are kept by pass."""
    if "forward" not in seconds:
        return list(seconds.items())
    return [(f"{layer}, {name}", taken) for name, of_pass in seconds.items() for layer, taken in of_pass.items()]


def captured_beside_others(taken: dict[str, list]) -> list[str]:
    """Milliseconds of the captured call, and how many times as fast it is: medians of the rounds' ratios."""
    ours = taken["minigrad captured"]
    cells = [f"{1e3 * median(ours):.2f}"]
    for name in ("minigrad eager", "PyTorch", "JAX jit"):
        pairs = [(a, b) for a, b in zip(taken.get(name, ()), ours, strict=False) if a is not None and b is not None]
        cells.append(f"{statistics.median(a / b for a, b in pairs):.2f}" if pairs else "")
    return cells


def where() -> str:
    """The kernels that take most of an Inception step."""
    parts = []
    for kind, result in [(name, result) for name in kinds() for result in section(name, "where")]:
        kernels, limits = result["kernels"], result["limits"]
        total = sum(kernel["seconds"] for kernel in kernels)
        rows: list[list[str]] = []
        rest: dict[str, Any] = {"launches": 0, "seconds": 0.0}
        shown = 0.0
        for kernel in kernels:
            if shown < SHOWN * total:
                shown += kernel["seconds"]
                rate = f"{kernel['operations'] / kernel['seconds'] / 1e9:,.0f}" if kernel["operations"] else ""
                rows.append(
                    [
                        f"`{kernel['kernel']}`",
                        kernel["op"],
                        str(kernel["launches"]),
                        f"{kernel['seconds'] * 1e3:.0f}",
                        percent(kernel["seconds"] / total),
                        rate,
                        f"{kernel['bytes'] / kernel['seconds'] / 1e9:.0f}",
                        percent(kernel["least"] / kernel["seconds"]),
                    ]
                )
            else:
                rest = {name: rest[name] + kernel[name] for name in rest}
        share = percent(rest["seconds"] / total)
        rows.append(["all others", "", str(rest["launches"]), f"{rest['seconds'] * 1e3:.0f}", share, "", "", ""])
        norm = "with" if result["batch_norm"] else "without"
        parts.append(
            f"{KINDS[kind]}, width {result['width']:g}, batch {result['batch']}, {norm} BN, {result['threads']} threads: "
            f"{total * 1e3:.0f} ms. Limits: {limits['operations'] / 1e9:.0f} GFLOP/s, {limits['bytes'] / 1e9:.0f} GB/s.\n\n"
            + table(["kernel", "of", "launches", "ms", "share", "GFLOP/s", "GB/s", "of the limit"], rows)
        )
    return "\n\n".join([*parts, measured("where")])


def listed() -> str:
    """Every file: its machine, what is in it, when it was measured."""
    rows = []
    for kind in KINDS:
        for file, contents in all_files(kind).items():
            about = contents["machine"]
            names = [name for name in SECTIONS if name in contents]
            load = f"{about['load_before']:g}{', **busy**' if is_busy(contents) else ''}"
            most = " at most" if about.get("held_to") else ""
            cpu = f"{about['cpu']}, {about['simd_bits']} bits{most}, {about['physical_cores']} cores"
            versions = about["versions"]
            peers = f"{versions['numba']}, {versions.get('torch', '')}, {versions.get('jax', '')}"
            rows.append([f"[{kind}/{file}]({kind}/{file})", ", ".join(names), cpu, about["date"][:10], load, peers])
    return table(["file", "sections", "CPU", "measured", "load before", "Numba, PyTorch, JAX"], rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "step": step,
    "step without BN": lambda: step(batch_norm=False),
    "gemm": gemm,
    "convolution": convolution,
    "bfloat16": bfloat16,
    "inception": inception,
    "contention": contention,
    "aims": aims,
    "files": listed,
    "where": where,
    "vocabulary": vocabulary,
}


def is_there(name: str) -> bool:
    """Whether a table has anything to show."""
    needs = {"convolution": "conv", "step without BN": "step"}.get(name, name)
    return needs not in SECTIONS or any(section(kind, needs) for kind in kinds())


def with_tables(page: str, folder: Path) -> str:
    """The page, which lies in this folder, with its tables as the files of results say."""

    def anew(block: re.Match[str]) -> str:
        if block["name"] not in BLOCKS:
            raise LookupError(f"there is no table {block['name']!r}: {', '.join(BLOCKS)}")
        text = BLOCKS[block["name"]]() if is_there(block["name"]) else NOT_YET
        text = text.replace("(docs/results/benchmarks/", f"({os.path.relpath(RESULTS, folder)}/").replace("(./", "(")
        return f"<!-- speed: {block['name']} -->\n{text}\n<!-- /speed -->"

    return BLOCK.sub(anew, page)
