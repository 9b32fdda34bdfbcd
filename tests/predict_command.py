"""The command predict, as tests run it in their own process."""

from app.__main__ import main as app


def ask(*options) -> int:
    """Run predict and return its exit code."""
    try:
        app(["predict", *map(str, options)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
