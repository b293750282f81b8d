"""Compiled kernels are run, so they are taken only from files and folders that no other user can have made or changed."""

import os

import pytest

from minigrad.kernels.build import owner
from minigrad.kernels.build.owner import NotOursError, check_folder, make_private, read_own

pytestmark = pytest.mark.skipif(not owner.HAS_OWNERS, reason="files have no owners here")

OTHER = 12345  # a user that is neither root nor whoever runs the tests


@pytest.fixture
def folder(tmp_path):
    """A private folder two below another."""
    path = tmp_path / "above" / "cache" / "kernels"
    make_private(path)
    return path


@pytest.fixture(autouse=True)
def no_private_group(monkeypatch):
    """The user's group has other members too."""
    monkeypatch.setattr(owner, "is_private_group", lambda number: False)


def give_away(path):
    """Make a file or folder another user's; only root can."""
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, OTHER, -1, follow_symlinks=False)


def test_what_is_made_is_for_the_user_alone(tmp_path, monkeypatch):
    before = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert [os.stat(tmp_path / name).st_mode & 0o777 for name in ("a", "a/b")] == [0o700, 0o700]
    make_private(tmp_path / "a" / "b")
    check_folder(tmp_path / "a" / "b")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702, 0o1777])
def test_innermost_folder_that_others_may_write_is_refused(folder, mode):
    folder.chmod(mode)
    with pytest.raises(NotOursError, match=f"others may write to {folder} .*: chmod go-w {folder}$"):
        check_folder(folder)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_folder_above_that_others_may_write_is_refused(folder, mode):
    above = folder.parent.parent
    above.chmod(mode)
    with pytest.raises(NotOursError, match=f"others may write to {above} "):
        check_folder(folder)


def test_folder_above_with_the_sticky_bit_will_do(folder):
    folder.parent.parent.chmod(0o1777)
    check_folder(folder)


@pytest.mark.parametrize("mode", [0o755, 0o500, 0o711])
def test_folders_that_others_may_only_read_will_do(folder, mode):
    for path in (folder, folder.parent):
        path.chmod(mode)
    check_folder(folder)


def test_private_group_may_write(folder, monkeypatch):
    monkeypatch.setattr(owner, "is_private_group", lambda number: number == os.stat(folder).st_gid)
    folder.chmod(0o770)
    check_folder(folder)
    folder.chmod(0o772)
    with pytest.raises(NotOursError):
        check_folder(folder)


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_folder_of_another_user_is_refused_at_every_level(folder, levels):
    path = [folder, *folder.parents][levels]
    give_away(path)
    with pytest.raises(NotOursError, match=f"{path} belongs to another user"):
        check_folder(folder)


def test_folder_of_root_is_not_ours_but_may_lead_there(folder, monkeypatch):
    if os.getuid() != 0:
        pytest.skip("only root has folders of root's below the temporary one")
    monkeypatch.setattr(os, "getuid", lambda: OTHER)
    with pytest.raises(NotOursError, match=f"{folder} belongs to another user"):
        check_folder(folder)
    os.chown(folder, OTHER, -1)
    check_folder(folder)


def test_links_are_followed_and_what_they_lead_over_is_checked(folder, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link").symlink_to("../above/cache")
    (tmp_path / "link").symlink_to(tmp_path / "open" / "link")
    check_folder(tmp_path / "link" / "kernels")
    (tmp_path / "open").chmod(0o777)  # anybody could make the link inside lead elsewhere
    with pytest.raises(NotOursError, match=f"others may write to {tmp_path / 'open'} "):
        check_folder(tmp_path / "link" / "kernels")
    (tmp_path / "open").chmod(0o1777)
    check_folder(tmp_path / "link" / "kernels")
    give_away(tmp_path / "open" / "link")
    with pytest.raises(NotOursError, match="link belongs to another user"):
        check_folder(tmp_path / "link" / "kernels")


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(NotOursError, match="symbolic links"):
        check_folder(tmp_path / "a" / "kernels")


# Files


def test_own_file_is_read(folder):
    (folder / "file").write_bytes(b"code\r\n\x1a")
    (folder / "file").chmod(0o644)
    assert read_own(folder / "file") == b"code\r\n\x1a"


@pytest.mark.parametrize("mode", [0o666, 0o660, 0o602])
def test_file_that_others_may_write_is_refused(folder, mode):
    (folder / "file").write_bytes(b"code")
    (folder / "file").chmod(mode)
    with pytest.raises(NotOursError, match="others may write"):
        read_own(folder / "file")


def test_file_of_another_user_is_refused(folder, monkeypatch):
    (folder / "file").write_bytes(b"code")
    monkeypatch.setattr(os, "getuid", lambda: OTHER)
    with pytest.raises(NotOursError, match=r"belongs to another user \(number"):
        read_own(folder / "file")


def test_link_is_not_followed(folder, tmp_path):
    (tmp_path / "file").write_bytes(b"code")
    (folder / "file").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="symbolic link"):
        read_own(folder / "file")


def test_pipe_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "file")
    with pytest.raises(NotOursError, match="is no file"):
        read_own(folder / "file")


def test_folder_is_no_file(folder):
    with pytest.raises(NotOursError, match="is no file"):
        read_own(folder)


def test_without_owners_nothing_is_asked_for(folder, monkeypatch):
    monkeypatch.setattr(owner, "HAS_OWNERS", False)
    monkeypatch.delattr(os, "getuid")
    folder.chmod(0o777)
    (folder / "file").write_bytes(b"code")
    check_folder(folder)
    assert read_own(folder / "file") == b"code"
