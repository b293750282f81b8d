"""A file put in another's place, on Windows too, where whoever reads the old one is in the way."""

import os
import time

WINDOWS = os.name == "nt"
PATIENCE = 10.0  # seconds


def replace(part, path):
    """`os.replace`; where Windows refuses it, as it does while somebody has the old file open, again for PATIENCE seconds."""
    deadline, pause = time.monotonic() + PATIENCE, 0.001
    while True:
        try:
            return os.replace(part, path)
        except PermissionError:
            if not WINDOWS or time.monotonic() >= deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
