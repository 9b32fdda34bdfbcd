"""Path or address under which a reverse proxy publishes the server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import Scope

from data.errors import UserError

RESERVED = ("v1", "healthz", "readyz", "metrics", "openapi.json", "gradio_api", "assets", "static", "login", "config")
"""First segments of the server's own paths."""
PATH_OR_ADDRESS = re.compile(r"(https?://[\w.-]+(:\d+)?)?(/(?!\.{1,2}(/|$))[\w.~-]+)*/?", re.ASCII)


@dataclass(frozen=True)
class RootPath:
    """Where a reverse proxy publishes the server.

    Attributes:
        path: for example ``/clf``; empty at the root of the host.
        scheme, netloc: parts of the public address; empty if only the path is known. The headers of each request then
            name the address.
    """

    path: str = ""
    scheme: str = ""
    netloc: str = ""

    @classmethod
    def parse(cls, root: str) -> RootPath:
        """Parse a path such as ``/clf`` or an address such as ``https://example.org/clf``. A final slash is ignored.

        Raises:
            UserError: neither a path nor an address, or its first segment is one of the server's own paths.
        """
        if PATH_OR_ADDRESS.fullmatch(root) is None:
            raise UserError(
                f"root_path is {root!r}; expected a path such as /clf or an address such as https://example.org/clf."
            )
        parts = urlsplit(root)
        if (first := parts.path.split("/")[1] if parts.path else "") in RESERVED:
            raise UserError(f"root_path is {root!r}; the server itself uses the path /{first}. Choose another.")
        return cls(parts.path.rstrip("/"), parts.scheme, parts.netloc)

    @property
    def host(self) -> str | None:
        """Host name in the address."""
        return urlsplit(f"//{self.netloc}").hostname

    def apply(self, scope: Scope) -> Scope:
        """Make a request look the same whether or not the proxy removed the path.

        Returns:
            The scope as ASGI defines it for a mounted application: ``path`` begins with ``root_path``. If the public
            address is known, it replaces the ``X-Forwarded-*`` headers.
        """
        path = scope["path"]
        is_below = path == self.path or path.startswith(f"{self.path}/")
        headers = scope["headers"]
        if self.netloc:
            forwarded = {b"x-forwarded-host": self.netloc.encode(), b"x-forwarded-proto": self.scheme.encode()}
            headers = [*((name, value) for name, value in headers if name not in forwarded), *forwarded.items()]
        return {**scope, "root_path": self.path, "path": path if is_below else self.path + path, "headers": headers}

    def strip(self, path: str) -> str:
        """Remove the root path from a path."""
        return path.removeprefix(self.path)
