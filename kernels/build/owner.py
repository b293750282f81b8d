"""Whether files and folders are out of the reach of other users: what is read from them is run.

As `ssh` and `sudo` have it: from the root down, every folder and link on the way must belong to the user, to root, or to
whom the root folder belongs, and others may write only where the sticky bit keeps them from what is not theirs (/tmp).
Systems without these owners, like Windows, are left to their own protection.
"""

import os
import stat
from pathlib import Path

HAS_OWNERS = hasattr(os, "getuid")
LINKS = 40  # followed on the way to a folder, as many as Linux does


class NotOursError(PermissionError):
    """A file or folder that another user can change or has made."""


def make_private(folder):
    """Make a folder, and those above it that are missing, for the user alone."""
    for path in reversed([folder, *folder.parents]):
        try:
            path.mkdir(mode=0o700)
        except OSError:
            if not path.is_dir():
                raise


def check_folder(folder):
    """Raise NotOursError unless the folder is the user's own and nobody else can put another in its place, or files in it."""
    if not HAS_OWNERS:
        return
    trusted = {os.getuid(), 0, os.stat(folder.anchor).st_uid}
    for path in passed_on_the_way(folder):
        found = os.lstat(path)
        if found.st_uid not in trusted:
            raise NotOursError(f"{path} belongs to another user (number {found.st_uid})")
        if stat.S_ISDIR(found.st_mode) and not found.st_mode & stat.S_ISVTX:
            check_writers(path, found)
    found = os.stat(folder)
    if found.st_uid != os.getuid():
        raise NotOursError(f"{folder} belongs to another user (number {found.st_uid})")
    check_writers(folder, found)


def check_writers(path, found):
    """Raise NotOursError if others than the owner may write; a group that is the owner's alone may."""
    by_group = found.st_mode & stat.S_IWGRP and not is_private_group(found.st_gid)
    if by_group or found.st_mode & stat.S_IWOTH:
        raise NotOursError(f"others may write to {path} (mode {stat.filemode(found.st_mode)}): chmod go-w {path}")


def is_private_group(number):
    """Whether a group has the user as its only member, by the custom that it is named as the user is."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return user.pw_gid == number and user.pw_name == group.gr_name and not set(group.gr_mem) - {user.pw_name}


def passed_on_the_way(folder):
    """Every folder and symbolic link that the system passes from the root to an absolute path, the links followed."""
    here, left, links = Path(folder.anchor), list(reversed(folder.parts[1:])), 0
    yield here
    while left:
        part = left.pop()
        if part == "..":
            here = here.parent
            continue
        step = here / part
        yield step
        if not step.is_symlink():
            here = step
            continue
        links += 1
        if links > LINKS:
            raise NotOursError(f"{folder} leads over more than {LINKS} symbolic links")
        target = Path(os.readlink(step))
        here = Path(target.anchor) if target.is_absolute() else here
        left.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))


def read_own(path):
    """The bytes of a file; NotOursError, by what the open file is, if it is no file, another user's, or others may write."""
    flags = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotOursError(f"{path} is no file")
        if HAS_OWNERS:
            if found.st_uid != os.getuid():
                raise NotOursError(f"{path} belongs to another user (number {found.st_uid})")
            check_writers(path, found)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)
