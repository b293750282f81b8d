"""What an experiment leaves behind: the machine it ran on, JSON, a table, and the look of its figures."""

import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import minigrad as mg

matplotlib.use("Agg")
from matplotlib import pyplot as plt

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})

WITH_BN = {"color": "tab:blue", "linestyle": "-"}
WITHOUT_BN = {"color": "black", "linestyle": "--"}


def machine() -> dict[str, Any]:
    """What this runs on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    return {"cpu": cpu, "system": platform.system(), "threads": mg.get_num_threads()}


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON in one go, so that a kill leaves the file as it was or complete; NaN and infinity become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mg.checkpoint.write_atomically(path, (json.dumps(finite(value), indent=1) + "\n").encode())


def finite(value: Any) -> Any:
    """The value with None for every number in it that is NaN or infinite."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_table(path: Path, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, and write it as Markdown."""
    table = Table(box=SIMPLE)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(f"\n{title}", style="bold", soft_wrap=True)
    console.print(table)
    lines = [" | ".join(line) for line in (columns, ["---"] * len(columns), *rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{title}\n\n" + "".join(f"| {line} |\n" for line in lines), encoding="utf-8")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
