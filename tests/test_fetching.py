"""Images by address: fetched only if the caller allows it, within limits of bytes and time."""

import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from asking import TEXT, png
from PIL import Image

from app import Predictor
from app.inference import download
from data import BadImageError

PICTURE = Image.effect_noise((40, 24), 80).convert("RGB")


@pytest.fixture
def server():
    """A host whose paths are pictures and faults."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/x.png")
                self.end_headers()
                return
            if self.path == "/to-a-file":
                self.send_response(302)
                self.send_header("Location", "file:///etc/hostname")
                self.end_headers()
                return
            if self.path == "/late":
                time.sleep(3)
            self.send_response(404 if self.path == "/gone" else 200)
            self.end_headers()
            if self.path == "/drip":
                for _ in range(30):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.1)
            elif self.path == "/endless":
                while True:
                    self.wfile.write(b"x" * 100_000)
            else:
                self.wfile.write(png(PICTURE))

        def handle_one_request(self):
            with suppress(OSError):  # the client has left
                super().handle_one_request()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_address_is_fetched_only_if_the_caller_allows_it(model, processor, server):
    allowed = Predictor(model, processor, "cpu", precision="no", fetch_urls=True)
    refused = Predictor(model, processor, "cpu", precision="no")
    for url in (f"{server}/x.png", f"{server}/moved"):
        assert allowed(url, TEXT) == allowed(PICTURE, TEXT)
        with pytest.raises(BadImageError, match="addresses are not fetched"):
            refused(url, TEXT)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/gone", "cannot be fetched: .*404"),
        ("/to-a-file", "cannot be fetched"),
        ("/endless", "more than 300,000 bytes"),
        ("/late", r"not fetched within 0\.5 s"),
        ("/drip", r"not fetched within 0\.5 s"),
    ],
)
def test_fetching_is_bounded_in_bytes_and_in_time(model, processor, server, monkeypatch, path, message):
    monkeypatch.setattr(download, "MAX_DOWNLOAD", 300_000)
    monkeypatch.setattr(download, "DOWNLOAD_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(BadImageError, match=message):
        Predictor(model, processor, "cpu", precision="no", fetch_urls=True)(server + path, TEXT)
    assert time.monotonic() - started < 2


def test_an_address_without_a_host_is_an_error_of_its_pair(model, processor):
    with pytest.raises(BadImageError, match="cannot be fetched"):
        Predictor(model, processor, "cpu", precision="no", fetch_urls=True)("http://", TEXT)
