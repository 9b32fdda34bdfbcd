"""Where a proxy shows the server, when that is not the root of its host."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import Scope

from data.errors import UserError

TAKEN = ("v1", "healthz", "readyz", "metrics", "openapi.json", "gradio_api", "assets", "static", "login", "config")
"""First parts of the server's own paths."""
FORM = re.compile(r"(https?://[\w.-]+(:\d+)?)?(/(?!\.{1,2}(/|$))[\w.~-]+)*/?", re.ASCII)


@dataclass(frozen=True)
class RootPath:
    """Path and address under which a proxy shows the server.

    Attributes:
        path: as ``/clf``, empty at the root of the host.
        scheme, netloc: of the whole address, empty where only the path is known: then they are what the request says.
    """

    path: str = ""
    scheme: str = ""
    netloc: str = ""

    @classmethod
    def parse(cls, root: str) -> RootPath:
        """From a path, as ``/clf``, or an address, as ``https://example.org/clf``; a slash at the end adds nothing.

        Raises:
            UserError: it is neither, or it begins like one of the server's own paths.
        """
        if FORM.fullmatch(root) is None:
            told = "expected a path, as /clf, or an address, as https://example.org/clf"
            raise UserError(f"root_path is {root!r}; {told}.")
        parts = urlsplit(root)
        if (first := parts.path.split("/")[1] if parts.path else "") in TAKEN:
            raise UserError(f"root_path is {root!r}; the server has a path /{first} of its own, choose another.")
        return cls(parts.path.rstrip("/"), parts.scheme, parts.netloc)

    @property
    def host(self) -> str | None:
        """The name in the address."""
        return urlsplit(f"//{self.netloc}").hostname

    def place(self, scope: Scope) -> Scope:
        """The request as ASGI has it, its path below this one whether or not the proxy took that off; it says that it
        came to the address, where that is known."""
        path = scope["path"]
        is_below = path == self.path or path.startswith(f"{self.path}/")
        headers = scope["headers"]
        if self.netloc:
            known = {b"x-forwarded-host": self.netloc.encode(), b"x-forwarded-proto": self.scheme.encode()}
            headers = [*((name, value) for name, value in headers if name not in known), *known.items()]
        return {**scope, "root_path": self.path, "path": path if is_below else self.path + path, "headers": headers}

    def strip(self, path: str) -> str:
        """A path below this one as it is without a proxy."""
        return path.removeprefix(self.path)
