"""Numbers, shapes and tables as text."""

from collections.abc import Collection, Sequence

import numpy as np

LONGEST_SOURCE = 48  # characters of a line of user code


def number_of_bytes(n: int) -> str:
    """Bytes in a unit that fits: 48 B, 1.2 kB, 3.4 MB (powers of 1000)."""
    if n < 1000:
        return f"{n} B"
    value, unit = n / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}"


def described(array: np.ndarray) -> str:
    """Norm, smallest and largest element of an array, or that it is empty."""
    if not array.size:
        return "empty"
    wide = array.astype(np.float64)
    return f"norm {np.linalg.norm(wide):.4g}, {wide.min():.4g} to {wide.max():.4g}"


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """A table in columns two spaces apart, a line under the header; the columns in `right` end flush right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("─" * w for w in widths), *map(line, rows)])


def shortened(text: str) -> str:
    """A line of code, cut if it is long."""
    return text if len(text) <= LONGEST_SOURCE else text[: LONGEST_SOURCE - 1] + "…"
