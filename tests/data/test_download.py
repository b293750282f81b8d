import errno
import gzip
import hashlib
import subprocess
import sys
import threading
import time

import pytest

from minigrad.data import DownloadError, download, fetch

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
EXPECTED = {"sha256": SHA256, "size": len(CONTENT)}
FETCH = """
import sys
from minigrad.data import fetch
fetch(sys.argv[1], sys.argv[2:3], sha256=sys.argv[3], size=int(sys.argv[4]))
"""


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "data.bin"


def leftovers(target):
    """The files beside the target, but the lock."""
    return sorted(
        path.name for path in target.parent.iterdir() if path.name not in (target.name, target.name + ".lock")
    )


def in_another_process(target, url):
    return subprocess.Popen([sys.executable, "-c", FETCH, str(target), url, SHA256, str(len(CONTENT))])


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def half_then_hang_up(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT[: len(CONTENT) // 2])


def test_file_is_fetched_and_whole(site, target):
    site.answers["/data"] = CONTENT
    assert fetch(target, [site.url("/data")], **EXPECTED) == target
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == []


def test_a_file_that_is_right_is_not_fetched_again(site, target):
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    fetch(target, [site.url("/data")], **EXPECTED)
    assert site.asked == []


@pytest.mark.parametrize("present", [b"", CONTENT[:-1], b"X" + CONTENT[1:], b"<html>"])
def test_a_file_that_is_wrong_is_replaced(present, site, target):
    target.parent.mkdir()
    target.write_bytes(present)
    site.answers["/data"] = CONTENT
    fetch(target, [site.url("/data")], **EXPECTED)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "404"),
        (b"<!DOCTYPE html><html>Sign in</html>", "beginning with b'<!DOCTYPE html>"),
        (b"X" + CONTENT[1:], "SHA-256"),
        (CONTENT[:-1], "255,999 bytes came"),
        (CONTENT + b"\0", "more than 256,000 bytes came"),
        (bytes(10 * len(CONTENT)), "more than 256,320 bytes came"),
        (half_then_hang_up, "IncompleteRead"),
        (lambda handler: handler.wfile.write(b"not HTTP\r\n\r\n"), "BadStatusLine"),
        (lambda handler: None, "Remote end closed|RemoteDisconnected"),
    ],
    ids=["404", "error page", "flipped", "short", "long", "far too long", "hangs up", "not http", "no answer"],
)
def test_a_bad_mirror_is_passed_over(answer, message, site, target):
    site.answers.update({"/bad": answer, "/good": CONTENT})
    fetch(target, [site.url("/bad"), site.url("/good")], **EXPECTED)
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == []
    assert site.asked == ["/bad", "/good"]
    other = target.with_name("other.bin")
    with pytest.raises(DownloadError, match=f"(?s)other.bin could not be downloaded.*/bad: .*{message}"):
        fetch(other, [site.url("/bad")], **EXPECTED)
    assert not other.exists()


def test_an_endless_mirror_is_cut_off(site, target):
    sent = 0

    def endless(handler):
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(1 << 16))
            sent += 1 << 16

    site.answers["/endless"] = endless
    with pytest.raises(DownloadError, match="more than 256,320 bytes came"):
        fetch(target, [site.url("/endless")], **EXPECTED)
    assert leftovers(target) == []


def test_a_wrong_file_that_no_mirror_replaces_is_named_and_kept(site, target):
    target.parent.mkdir()
    target.write_bytes(b"<html>")
    with pytest.raises(DownloadError, match=r"(?s)data\.bin \(already there\): 6 bytes came.*/none: HTTPError"):
        fetch(target, [site.url("/none")], **EXPECTED)
    assert target.read_bytes() == b"<html>"


def test_mirrors_that_fail_are_all_named(site, target):
    site.answers["/page"] = b"<html>"
    with pytest.raises(DownloadError, match=r"(?s)/none: HTTPError: 404.*/page: 6 bytes came"):
        fetch(target, [site.url("/none"), site.url("/page")], **EXPECTED)


def test_a_silent_mirror_times_out(site, target, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    done = threading.Event()
    site.answers["/silent"] = lambda handler: done.wait(30)
    try:
        with pytest.raises(DownloadError, match="Timeout"):
            fetch(target, [site.url("/silent")], **EXPECTED)
    finally:
        done.set()


def test_no_server_at_all_is_a_download_error(site, target):
    with pytest.raises(DownloadError, match="ConnectionError"):
        fetch(target, ["http://127.0.0.1:9/data"], **EXPECTED)


def test_checksum_of_a_gzip_file_is_that_of_its_content(site, target):
    site.answers["/data.gz"] = gzip.compress(CONTENT)
    fetch(target, [site.url("/data.gz")], **EXPECTED, gunzip=True)
    assert target.read_bytes()[:2] == b"\x1f\x8b"
    assert gzip.decompress(target.read_bytes()) == CONTENT


def test_a_server_that_unpacks_gzip_by_itself_is_fine(site, target):
    site.answers["/data.gz"] = CONTENT
    fetch(target, [site.url("/data.gz")], **EXPECTED, gunzip=True)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (gzip.compress(CONTENT)[:-1], "damaged gzip data"),
        (gzip.compress(CONTENT)[:-8] + bytes(8), "damaged gzip data"),
        # Its CRC is wrong too, which only one who unpacks it to the end would notice.
        (gzip.compress(bytes(50_000_000))[:-8] + bytes(8), "more than 256,000 bytes came"),
    ],
    ids=["truncated", "bad crc", "bomb"],
)
def test_bad_gzip_is_refused(answer, message, site, target):
    site.answers["/data.gz"] = answer
    with pytest.raises(DownloadError, match=message):
        fetch(target, [site.url("/data.gz")], **EXPECTED, gunzip=True)
    assert not target.exists()


def test_two_processes_download_once(site, target):
    def slow(handler):
        time.sleep(0.5)
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT)

    site.answers["/data"] = slow
    other = in_another_process(target, site.url("/data"))
    wait_until(lambda: site.asked or other.poll() is not None)
    fetch(target, [site.url("/data")], **EXPECTED)
    assert other.wait(60) == 0
    assert site.asked == ["/data"]
    assert target.read_bytes() == CONTENT


def test_a_killed_download_leaves_no_file_and_no_lock(site, target):
    done = threading.Event()

    def stall(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT[:200_000])
        done.wait(60)

    site.answers.update({"/stall": stall, "/good": CONTENT})
    part = target.with_name(target.name + ".part")
    other = in_another_process(target, site.url("/stall"))
    try:
        wait_until(lambda: (part.exists() and part.stat().st_size > 0) or other.poll() is not None)
    finally:
        other.kill()
        other.wait(60)
        done.set()
    assert not target.exists()
    fetch(target, [site.url("/good")], **EXPECTED, lock_timeout=100)
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == []


def test_a_lock_held_for_too_long_is_an_error(site, target):
    target.parent.mkdir()
    with (
        download._locked(target.with_name("data.bin.lock"), timeout=1),
        pytest.raises(DownloadError, match=r"data\.bin\.lock"),
    ):
        fetch(target, [site.url("/data")], **EXPECTED, lock_timeout=0.1)


def test_a_full_disk_is_not_blamed_on_the_mirror(site, target, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download._Bounded, "write", full)
    site.answers.update({"/one": CONTENT, "/two": CONTENT})
    with pytest.raises(OSError, match="No space left"):
        fetch(target, [site.url("/one"), site.url("/two")], **EXPECTED)
    assert site.asked == ["/one"]
    assert leftovers(target) == []


def test_an_interrupt_removes_the_part(site, target, monkeypatch):
    def interrupt(url, part, size):
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_transfer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(target, [site.url("/data")], **EXPECTED)
    assert leftovers(target) == []


def test_without_pooch_the_error_says_how_to_install_it(target, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DownloadError, match=r"needs pooch: pip install 'minigrad-bn\[data\]'"):
        fetch(target, ["http://127.0.0.1:9/data"], **EXPECTED)


def test_importing_the_package_does_not_import_pooch():
    code = "import sys, minigrad.data; sys.exit('pooch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
