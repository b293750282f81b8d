"""Medians, ratios, and tables in plain text."""

import statistics
from collections.abc import Sequence

Samples = Sequence[float | None]  # one number for each round; None where a contender did not take part


def ratio(slow: Samples, fast: Samples) -> float:
    """How many times longer: the median of the rounds' ratios, in which what slows a whole round down cancels.

    Rounds that one of the two sat out are left out.
    """
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True) if s is not None and f is not None)


def median(values: Samples) -> float:
    """The median over the rounds in which the contender took part."""
    return statistics.median(v for v in values if v is not None)


def spread(values: Samples) -> float:
    """Half the distance of the quartiles as a share of the median: how far to trust the number."""
    values = [v for v in values if v is not None]
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / middle


def table(title: str, header: list[str], rows: list[list[str]]) -> str:
    """Columns aligned, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return "  ".join([cells[0].ljust(widths[0]), *padded[1:]]).rstrip()

    return "\n".join([title, line(header), line(["-" * w for w in widths]), *map(line, rows), ""])


def target(what: str, measured: float, limit: float, *, at_least: bool, unit: str) -> dict:
    """One line of what is to be reached."""
    return {
        "what": what,
        "measured": measured,
        "target": limit,
        "at_least": at_least,
        "unit": unit,
        "reached": measured >= limit if at_least else measured <= limit,
    }


def target_table(targets: list[dict]) -> str:
    """All targets, what was measured, and whether it was reached."""
    rows = [
        [
            t["what"],
            f"{t['measured']:.2f}{t['unit']}",
            f"{'>=' if t['at_least'] else '<='} {t['target']:g}{t['unit']}",
            "yes" if t["reached"] else "NO",
        ]
        for t in targets
    ]
    return table("Targets", ["what", "measured", "target", "reached"], rows)
