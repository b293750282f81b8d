"""Rows of a history, for tests that compare runs."""


def untimed(rows):
    """The rows without what differs from run to run."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]
