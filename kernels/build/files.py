"""A file put in the place of another, on Windows too, where readers are in the way; and whose turn it is to make one."""

import os
import time

try:
    import fcntl
except ImportError:  # on Windows each makes its own
    fcntl = None

WINDOWS = os.name == "nt"
PATIENCE = 10.0  # seconds
LOOK = 0.02  # seconds from one look for what another process makes to the next


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


class Claim:
    """That this process makes a file, and others wait for it; it ends with `release`, or with the process.

    A lock on a file beside it. Where there are no locks, or none that other machines see, each makes the file, as all may.
    """

    def __init__(self, path):
        self.path = path.with_name(path.name + ".claim")
        self.file = None

    def take(self):
        """Whether nobody else has it."""
        if fcntl is None:
            return True
        try:
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.file)
            self.file = None
            return False
        except OSError:  # no locks here
            if self.file is not None:
                os.close(self.file)
                self.file = None
        return True

    def wait(self, patience):
        """Take it as soon as nobody else has it, or do without after `patience` seconds; whether there was somebody."""
        if self.take():
            return False
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            time.sleep(LOOK)
            if self.take():
                break
        return True

    def release(self):
        """Let another have it. Who has opened the file in this moment may make it once more, which does no harm."""
        if self.file is not None:
            self.path.unlink(missing_ok=True)
            fcntl.flock(self.file, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file too
            os.close(self.file)
            self.file = None
