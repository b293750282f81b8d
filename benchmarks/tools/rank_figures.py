"""Figures of benchmarks/ranks.py, from its results."""

from pathlib import Path
from typing import Any

from benchmarks.tools.links import (
    LINKED,
    LINKS,
    WAYS,
    Machine,
    fitted_link,
    ours_seconds,
    place_of,
    said_of,
    sync_seconds,
)

NETWORKS = {"mnist": 60, "inception 0.25": 50, "inception 1.0": 16}  # by width, and the batch of one process
WORLDS = [2**i for i in range(1, 11)]


def draw(found: dict[str, Any], here: Machine, path: Path) -> None:
    """Time per step over the number of processes, of one network a panel, for each link and way."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "minigrad"
    figure, panels = plt.subplots(1, len(found["steps"]), figsize=(10, 4), layout="constrained")
    for axes, (name, steps) in zip(panels, found["steps"].items(), strict=True):
        compute = steps["side by side"]["seconds"]
        sync = steps["together, sync"]
        nbytes = 4 * steps["alone"]["parameters"]
        for i, (link_name, link) in enumerate(LINKS.items()):
            for way, style in (("minigrad", "-"), ("tree", ":")):
                y = [1e3 * (compute + WAYS[way](world, nbytes, link, here)) for world in WORLDS]
                axes.plot(WORLDS, y, style, color=f"C{i}", label=f"{link_name}, {way}")
            y = [
                1e3 * (compute + ours_seconds(w, nbytes, link, here) + sync_seconds(w, sync, link, here))
                for w in WORLDS
            ]  # fmt: skip
            axes.plot(WORLDS, y, "--", color=f"C{i}", linewidth=0.8, label=f"{link_name}, with SyncBatchNorm")
        axes.plot([1], [1e3 * compute], "ks", markersize=4, label="measured here: two side by side")
        axes.plot([2], [1e3 * steps["together"]["seconds"]], "ko", markersize=4, label="two together")
        axes.set(
            xscale="log",
            yscale="log" if name == "mnist" else "linear",
            xlabel="processes",
            ylabel="ms a step",
            title=f"{name}, {NETWORKS[name]} a process",
        )
    shown = panels[-1].get_legend_handles_labels()
    figure.legend(*shown, loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(path, metadata={"Date": None})
    print(f"\n{path}")


def draw_links(found: dict[str, Any], path: Path) -> None:
    """Messages and what was fitted to them; averages between hosts and what the model says of them."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "minigrad"
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    between = found["hosts"][place_of(2, None)]["link"]
    for i, (name, link) in enumerate((("in memory", found["link"]), ("TCP between namespaces", between))):
        sizes = [int(size) for size in link]
        left.plot(sizes, [1e6 * t for t in link.values()], "o", color=f"C{i}", markersize=4, label=name)
        left.plot(sizes, [1e6 * fitted_link(link).message(n) for n in sizes], color=f"C{i}", linewidth=0.9)
    left.set(xscale="log", yscale="log", xlabel="bytes of a message", ylabel="us", title="one message, and the fit")
    for i, linked_by in enumerate(LINKED):
        place = place_of(2, *linked_by)
        averages = found["hosts"][place]["averages"]
        sizes = [int(size) for size in averages]
        right.plot(sizes, [1e3 * t for t in averages.values()], "o", color=f"C{i}", markersize=4, label=place)
        right.plot(sizes, [1e3 * said_of(found, place, n) for n in sizes], color=f"C{i}", linewidth=0.9)
    right.set(xscale="log", yscale="log", xlabel="bytes of an average", ylabel="ms", title="an average, and the model")
    for axes in (left, right):
        axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
    print(path)
