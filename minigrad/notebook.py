"""What notebooks show of an object: small pieces of HTML, in which every text is escaped and nothing runs."""

from collections.abc import Collection, Sequence
from html import escape

# Of text in columns: notebooks have a letter of their own for `pre` in what they show, and no bounds for how long it is.
COLUMNS = (
    "margin: 0; max-height: 32em; overflow: auto; "
    "font-family: monospace; font-size: 13px; line-height: 1.35; white-space: pre"
)
MOST_ROWS = 200  # of a table; longer ones lose their middle


def preformatted(title: str, text: str) -> str:
    """A title, and text as it is."""
    return f'<div><b>{escape(title)}</b><pre style="{COLUMNS}">{escape(text)}</pre></div>'


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """A title and a table; the columns in `right` end flush right. Of very many rows the first and the last are shown."""

    def line(cells: Sequence[str], tag: str) -> str:
        sides = ["right" if i in right else "left" for i in range(len(cells))]
        return "".join(
            [f'<{tag} style="text-align: {s}">{escape(c)}</{tag}>' for c, s in zip(cells, sides, strict=True)]
        )

    body = [f"<tr>{line(row, 'td')}</tr>" for row in rows]
    if len(body) > MOST_ROWS:
        half, left_out = MOST_ROWS // 2, len(body) - MOST_ROWS
        body = [*body[:half], f'<tr><td colspan="{len(header)}">… {left_out} more …</td></tr>', *body[-half:]]
    return (
        f"<div><b>{escape(title)}</b><table><thead><tr>{line(header, 'th')}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
