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


def rate_table(
    title: str,
    header: str,
    ours: str,
    seconds: dict[str, dict[str, Samples]],
    work: dict[str, float],
    errors: dict[str, dict[str, float]],
) -> str:
    """Of each case: how long ours takes, the rates of all contenders, and how many times as fast as each ours is.

    `seconds` are by case and contender, `work` is what one call does, `errors` are relative ones. The last rows are the
    geometric mean and the lowest of the ratios.
    """
    against = ratios_of(ours, seconds)
    names = [ours, *against]
    rows = []
    for case, taken in seconds.items():
        first = [f"{median(taken[ours]) * 1e6:.1f}", f"{spread(taken[ours]):.0%}"] if ours in taken else ["", ""]
        rates = [f"{work[case] / median(taken[name]) / 1e9:,.1f}" if name in taken else "" for name in names]
        times = [f"{ratios[case]:.2f}" if case in ratios else "" for ratios in against.values()]
        off = [f"{errors[case][name]:.0e}" if name in errors[case] else "" for name in names]
        rows.append([case, *first, *rates, *times, *off])
    for label, of_all in (("geometric mean", statistics.geometric_mean), ("lowest", min)):
        times = [f"{of_all(ratios.values()):.2f}" if ratios else "" for ratios in against.values()]
        rows.append([label, "", "", *[""] * len(names), *times, *[""] * len(names)])
    columns = [header, "us", "+-", *names, *(f"x {name}" for name in against), *(f"{name}'s error" for name in names)]
    return table(title, columns, rows)


def ratios_of(ours: str, seconds: dict[str, dict[str, Samples]]) -> dict[str, dict[str, float]]:
    """How many times as fast as another contender ours is: by contender, and by case where both took part."""
    names = dict.fromkeys(name for taken in seconds.values() for name in taken if name != ours)
    return {
        name: {case: ratio(s[name], s[ours]) for case, s in seconds.items() if ours in s and name in s}
        for name in names
    }


def left_out(result: dict) -> list[str]:
    """A line for each contender that takes no part."""
    return [f"Left out: {name} ({why})" for name, why in result["left_out"].items()]


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
