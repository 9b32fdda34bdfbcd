"""A reverse proxy that publishes a server under a path, as nginx does. Bodies are streamed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "host", "content-length")


@contextmanager
def proxied(target: str, path: str, strips: bool, **headers: str) -> Iterator[str]:
    """Run the proxy; yields the public address.

    Args:
        target: address of the server.
        path: path under which the server is published, for example ``/clf``.
        strips: whether the proxy removes the path from requests.
        headers: additional headers for the server, with ``_`` for ``-``. ``Host`` is the server's address by default.
    """
    client = httpx.Client(timeout=60, follow_redirects=False)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            if not self.path.startswith(f"{path}/") and self.path != path:
                self.send_error(404, "not found")
                return
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            forwarded = self.path.removeprefix(path) if strips else self.path
            own = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            own |= {"X-Forwarded-Host": self.headers["host"], "X-Forwarded-Proto": "http"}
            own |= {name.replace("_", "-"): value for name, value in headers.items()}
            request = client.build_request(self.command, f"{target}{forwarded or '/'}", headers=own, content=body)
            try:
                reply = client.send(request, stream=True)
            except httpx.HTTPError:
                self.send_error(502)
                return
            try:
                self.send_response(reply.status_code)
                for name, value in reply.headers.multi_items():
                    if name not in HOP_BY_HOP:
                        self.send_header(name, value)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for chunk in reply.iter_raw():
                    self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")
            except (OSError, httpx.HTTPError):  # the client has disconnected or the server has stopped
                self.close_connection = True
            finally:
                reply.close()

        do_GET = do_HEAD = do_POST = forward  # noqa: N815

        def log_message(self, *_) -> None:
            """Log nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}{path}"
    finally:
        proxy.shutdown()
        client.close()
