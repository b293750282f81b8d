"""Files written in one go: a reader finds the old one or the new one, whoever else writes and whatever is killed."""

import contextlib
import os
import re
import secrets
from pathlib import Path
from typing import BinaryIO

from minigrad.kernels.build.files import replace


def write_atomically(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, on the disk, or leave it as it is; of several who write at once the last wins.

    Raises:
        OSError: the disk is full, the folder cannot be written, or, on Windows, another program has kept the file open for
            10 seconds; the file is as before.
    """
    part = None
    try:
        part, file = opened_beside(path)
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if os.name != "nt":
                replace(part, path)  # before it is closed, which gives up the lock on it
        if os.name == "nt":  # where an open file cannot be renamed
            replace(part, path)
    except OSError as error:
        if part is not None:
            part.unlink(missing_ok=True)
        raise OSError(error.errno, f"{error.strerror}; the file before is untouched", str(path)) from error
    except BaseException:
        if part is not None:
            part.unlink(missing_ok=True)
        raise
    if os.name != "nt":  # the rename itself lasts when the folder is on the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # not every network file system can
                os.fsync(folder)
        finally:
            os.close(folder)


def opened_beside(path: Path) -> tuple[Path, BinaryIO]:
    """A new file `<path>.<process>-<random>.part`, locked as long as it is open, and open for writing."""
    while True:
        part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        file = open(part, "xb")  # noqa: SIM115 - the caller closes it
        try:
            if lock(file) and (os.name == "nt" or os.fstat(file.fileno()).st_nlink):
                return part, file
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        file.close()  # another takes it for a leftover: it has locked the file before this process did, or removed it


def remove_leftovers(folder: str | os.PathLike[str], ending: str = ".safetensors") -> list[Path]:
    """Remove what killed processes have left in a folder of files whose names end so; return their paths.

    They are the `.part` files of `write_atomically`. One that a process is writing now stays.
    """
    pattern = re.compile(rf"{re.escape(ending)}(\.\d+-[0-9a-f]+)?\.part$")
    leftovers = sorted(path for path in Path(folder).glob("*.part") if pattern.search(path.name) and path.is_file())
    return [path for path in leftovers if removed(path)]


def removed(path: Path) -> bool:
    """Remove a file unless it is being written; whether it is gone."""
    try:
        with open(path, "r+b") as file:
            if not lock(file):
                return False
            if os.name != "nt":
                path.unlink()
        if os.name == "nt":
            path.unlink()
    except FileNotFoundError:
        pass
    except PermissionError:  # in use on Windows, or another user's
        return False
    return True


def lock(file: BinaryIO) -> bool:
    """Lock an open file until it is closed, where the system can; False if another one holds it."""
    from filelock import lock_descriptor  # not before something is written

    if os.name == "nt":  # where an open file cannot be removed anyway
        return True
    try:
        return lock_descriptor(file.fileno(), blocking=False)
    except OSError:  # a file system without locks
        return True
