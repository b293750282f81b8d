"""A file put in the place of another, on Windows too, where readers are in the way; and whose turn it is to make one."""

import contextlib
import os
import time

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

    A lock of filelock on a file beside it. Where there are no locks, or none that other machines see, each makes the file, as
    all may: filelock's marks in their place would outlive a process that is killed.
    """

    def __init__(self, path):
        from filelock import FileLock  # which only a process needs that makes something

        self.path = path.with_name(path.name + ".claim")
        self.lock = FileLock(self.path, mode=0o600, thread_local=False, poll_interval=LOOK, fallback_to_soft=False)

    def take(self, patience=0):
        """Whether nobody else has it, or none any more after `patience` seconds."""
        try:
            self.lock.acquire(timeout=patience)
        except TimeoutError:
            return False
        except OSError:  # no locks here
            pass
        return True

    def release(self):
        """Let another have it. Who waits for the file that is removed here looks for a new one."""
        if self.lock.is_locked:
            with contextlib.suppress(OSError):  # on Windows an open file stays, until filelock has closed it
                self.path.unlink()
            self.lock.release()
