import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from minigrad.data.mnist import OFFICIAL

ROOT = Path(__file__).parents[2]
IDX_TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


@pytest.fixture(scope="session")
def idx_bytes():
    """A function that gives the bytes of an array's IDX file."""

    def convert(array):
        header = bytes([0, 0, IDX_TYPES[array.dtype.str[1:]], array.ndim])
        return header + np.array(array.shape, ">u4").tobytes() + array.astype(array.dtype.newbyteorder(">")).tobytes()

    return convert


@pytest.fixture(scope="session")
def flip():
    """A function that gives a copy of some bytes with one bit changed."""

    def flip_bit(data, bit):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    return flip_bit


@pytest.fixture(scope="session")
def official_folder():
    """The folder of the official MNIST files; the test is skipped where there is none."""
    places = [ROOT.parent / "shared" / "datasets" / "mnist"]
    if given := os.environ.get("MINIGRAD_DATA"):
        places += [Path(given), Path(given) / "mnist"]
    for place in places:
        if all((place / file.name).is_file() or (place / f"{file.name}.gz").is_file() for file in OFFICIAL.values()):
            return place
    pytest.skip("the official MNIST files are not at hand (set MINIGRAD_DATA to their folder)")


class Site:
    """A web server on 127.0.0.1 whose answers a test sets: bytes to send, or a function that takes the handler."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked.append(self.path)
                answer = site.answers.get(self.path)
                if answer is None:
                    self.send_error(404)
                elif callable(answer):
                    answer(self)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # the client hung up, as some tests mean it to

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def url(self, path):
        return f"http://127.0.0.1:{self.server.server_port}{path}"


@pytest.fixture
def site(monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site()
    site.thread.start()
    yield site
    site.server.shutdown()
    site.thread.join()
    site.server.server_close()
