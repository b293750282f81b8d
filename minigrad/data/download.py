"""Fetch a dataset's file once: mirrors in turn, checksum before the file gets its name, one process at a time."""

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from minigrad.data.idx import CHUNK, gunzipped, is_gzip
from minigrad.kernels.build.files import replace
from minigrad.kernels.build.settings import install

TIMEOUT = 30.0  # seconds a mirror may stay silent
LOCK_TIMEOUT = 1800.0  # seconds to wait for another process's download


class DownloadError(RuntimeError):
    """No mirror gave the file; the message says what each of them did."""


def fetch(
    target: str | os.PathLike[str],
    mirrors: Sequence[str],
    *,
    sha256: str,
    size: int,
    gunzip: bool = False,
    lock_timeout: float = LOCK_TIMEOUT,
) -> Path:
    """Make sure that `target` is there and right, downloading it from the first mirror that has it.

    A download is written to `<target>.part` and gets its name only when its checksum fits; what doesn't fit (an error
    page, half a file) is removed and the next mirror asked. `<target>.lock` keeps two processes from downloading at
    once: the second waits, then finds the file. A target that is there already is checked, and replaced if it is wrong.

    Args:
        target: the path of the file; its folder is made if need be.
        mirrors: complete http(s) addresses, the preferred one first.
        sha256: the SHA-256 of the content in hexadecimal.
        size: the content's size in bytes; no mirror can make us write or unpack more.
        gunzip: `sha256` and `size` describe what is inside a gzip file, which is kept compressed as it comes.
        lock_timeout: seconds to wait for another process that downloads the same file.

    Returns:
        `target` as a Path.

    Raises:
        DownloadError: no mirror had the file, pooch isn't installed, or another process held the lock for too long.
        OSError: the folder can't be written, or the disk is full.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(target.name + ".lock"), lock_timeout):
        failures = []
        if target.exists():
            failure = _mismatch(target, sha256, size, gunzip)
            if failure is None:
                return target
            failures.append(f"  {target} (already there): {failure}")
        part = target.with_name(target.name + ".part")
        for url in mirrors:
            try:
                failure = _transfer(url, part, size) or _mismatch(part, sha256, size, gunzip)
                if failure is None:
                    replace(part, target)
                    return target
                failures.append(f"  {url}: {failure}")
            finally:
                part.unlink(missing_ok=True)
    raise DownloadError(f"{target.name} could not be downloaded:\n" + "\n".join(failures))


def _transfer(url: str, part: Path, size: int) -> str | None:
    """Write what the address serves to `part`; what went wrong there, or None. A full disk is raised, as it is ours."""
    try:
        import pooch
        import requests  # pooch's own dependency
    except ImportError as error:
        raise DownloadError(f"downloading needs {error.name}: {install('data')}") from error
    print(f"minigrad: downloading {part.stem} from {url}", file=sys.stderr)
    # Without an accepted encoding the server sends the file as it is stored.
    headers = {"Accept-Encoding": "identity"}
    get = pooch.HTTPDownloader(chunk_size=1 << 16, timeout=TIMEOUT, headers=headers)
    with open(part, "wb") as file:
        try:
            get(url, _Bounded(file, size + size // 1000 + 64), None)  # gzip adds less where nothing compresses
        except requests.RequestException as error:
            return f"{type(error).__name__}: {error}"
        except _TooLong as error:
            return str(error)
        file.flush()
        os.fsync(file.fileno())
    return None


class _TooLong(Exception):
    """A mirror sent more than the file can have."""


class _Bounded:
    """A file to write to that refuses to grow past `limit` bytes."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.file, self.limit, self.written = file, limit, 0

    def write(self, data: bytes) -> None:
        self.written += len(data)
        if self.written > self.limit:
            raise _TooLong(f"more than {self.limit:,} bytes came, which is more than the file can have")
        self.file.write(data)

    def flush(self) -> None:
        """Leave the buffer alone: pooch asks for a flush after every chunk, `_transfer` does one at the end."""


def _mismatch(path: Path, sha256: str, size: int, gunzip: bool) -> str | None:
    """What tells the file's content from the one described, or None; reads at most `size` + 1 bytes of it."""
    digest, read = hashlib.sha256(), 0
    try:
        with open(path, "rb") as file:
            start = file.read(32)
        with gunzipped(path) if gunzip and is_gzip(path) else open(path, "rb") as stream:
            while chunk := stream.read(min(CHUNK, size + 1 - read)):
                digest.update(chunk)
                read += len(chunk)
    except ValueError as error:
        return str(error)
    if digest.hexdigest() == sha256:
        return None
    came = f"more than {size:,}" if read > size else f"{read:,}"
    return (
        f"{came} bytes came with SHA-256 {digest.hexdigest()}, beginning with {start!r}, "
        f"where {size:,} bytes with SHA-256 {sha256} were expected"
    )


@contextmanager
def _locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock file; the system lets go of it when the process dies, however it dies."""
    from filelock import FileLock  # not before something is fetched

    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except TimeoutError:
        raise DownloadError(
            f"another process has held {path} for {timeout:g} s; end it, or wait, and try again"
        ) from None
    try:
        yield
    finally:
        lock.release()
