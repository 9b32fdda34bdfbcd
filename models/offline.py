"""Errors of the HuggingFace Hub, told so that one knows the way out."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def explain_hub_errors(name: str, what: str, instead: str = "") -> Iterator[None]:
    """Turn a failed look-up of ``name`` into a ``ValueError`` that says how to go on without a connection."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Could not load {what} {name!r}. If it is a folder, it must hold config.json, model.safetensors and "
            "a tokenizer. If it is a HuggingFace Hub id, this machine may be offline: download it elsewhere with "
            f"`hf download {name} --local-dir FOLDER` and give FOLDER in its place{instead}. The cause: {error}"
        ) from error
