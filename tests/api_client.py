"""Requests to the API, and what they return."""

import base64

from app.serving.server import ServeSettings

SETTINGS = ServeSettings(page=False, precision="no", max_bytes=2_000_000, max_pixels=1_000_000, timeout=20)
PAGE_SETTINGS = ServeSettings(precision="no")
BASE = "http://localhost"


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(client, **pair):
    return client.post("/v1/predict", json={"inputs": [pair]})


def error_code(reply) -> str:
    """The error code of a reply, which explains itself without a stack trace."""
    error = reply.json()["error"]
    assert error["message"]
    assert "Traceback" not in reply.text
    assert 'File "' not in reply.text
    return error["code"]
